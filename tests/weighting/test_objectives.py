"""The methods whose total is an objective: GLS, ScaleInvariant, STCH, PBI and COSMOS."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calls import finite_differences, tensor, value_and_gradient, weights_of
from support.samplers import NAN, positive_losses, walk

from paddleseg_autoloss.weighting import (
    COSMOSWeighting,
    GLSWeighting,
    PBIWeighting,
    ScaleInvariantWeighting,
    STCHWeighting,
)


def rising(count: int) -> np.ndarray:
    """Preferences 1, 2, 3, ..."""
    return np.arange(1.0, count + 1)


def warm_stch(count: int, mu: float, **arguments) -> STCHWeighting:
    """Past its warm-up, with nadir 1, 2, 3, ..."""
    method = STCHWeighting(count, mu=mu, warmup=2, **arguments)
    for factor in (0.5, 1.5):
        method(tensor(factor * np.arange(1, count + 1)))
    return method


def smooth_maximum(losses, mu) -> float:
    ratios = np.asarray(losses) / np.arange(1, len(losses) + 1)
    return len(losses) * mu * math.log(np.sum(ratios ** (1 / mu)))


def cosine(first, second) -> float:
    return first @ second / (np.linalg.norm(first) * np.linalg.norm(second))


def stch_of_torchjd(values, weights, mu) -> float:
    return mu * math.log(np.sum(np.exp(weights * values / mu)))


def preferred_stch(losses) -> float:
    """TorchJD's definition of the logarithms, in this package's scale; all losses above -1/2."""
    count = len(losses)
    values = np.log((losses + 0.5) / (rising(count) + 0.5))
    shares = rising(count) / rising(count).sum()
    return count**2 * stch_of_torchjd(values, shares, 0.6 / count)


def preferred_cosmos(losses) -> float:
    shares = rising(len(losses)) / rising(len(losses)).sum()
    return shares @ losses - 2 * cosine(losses, shares)


def pbi(losses, theta, weights=None) -> float:
    """As in MOEA/D, step by step."""
    weights = np.ones(len(losses)) if weights is None else weights
    direction = weights / np.linalg.norm(weights)
    d1 = losses @ direction
    return d1 + theta * np.linalg.norm(losses - d1 * direction)


OBJECTIVES = {
    "GLS": (GLSWeighting, lambda losses: np.prod(losses) ** (1 / len(losses))),
    "ScaleInvariant": (ScaleInvariantWeighting, lambda losses: np.sum(np.log(losses))),
    "STCH, warming up": (STCHWeighting, lambda losses: np.sum(np.log(losses))),
    "STCH": (lambda k: warm_stch(k, 1.0), lambda losses: smooth_maximum(losses, 1.0)),
    "STCH 0.3": (lambda k: warm_stch(k, 0.3), lambda losses: smooth_maximum(losses, 0.3)),
    "PBI": (PBIWeighting, lambda losses: pbi(losses, 5)),
    "PBI 0.2": (lambda k: PBIWeighting(k, theta=0.2), lambda losses: pbi(losses, 0.2)),
    "PBI, preferred": (
        lambda k: PBIWeighting(k, 0.7, weights=rising(k).tolist(), reference=[-0.5] * k),
        lambda losses: pbi(losses + 0.5, 0.7, rising(len(losses))),
    ),
    "STCH, preferred": (
        lambda k: warm_stch(k, 0.6, weights=rising(k).tolist(), reference=[-0.5] * k),
        preferred_stch,
    ),
    "COSMOS, preferred": (
        lambda k: COSMOSWeighting(k, weights=rising(k).tolist()),
        preferred_cosmos,
    ),
    "COSMOS": (
        COSMOSWeighting,
        lambda losses: np.mean(losses) - 2 * cosine(losses, np.ones(len(losses))),
    ),
    "COSMOS 0": (lambda k: COSMOSWeighting(k, lamda=0), np.mean),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(max_examples=40, deadline=None)
@given(losses=positive_losses)
def test_weights_are_the_derivatives_of_the_objective(name, losses):
    make, formula = OBJECTIVES[name]
    losses = np.array(losses)
    ratios = (losses + 0.5) / rising(len(losses)) if name == "PBI, preferred" else losses
    if name.startswith("PBI") and np.ptp(ratios) < 1e-3 * ratios.max():
        return  # It has no derivative where the losses are proportional to the preferences.
    method = make(len(losses))
    value, gradient = value_and_gradient(method, losses)
    size = np.abs(gradient).max()
    assert value == pytest.approx(formula(losses), rel=1e-4, abs=1e-4)
    expected = finite_differences(formula, losses)
    np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=1e-4 * size)


class TestSTCH:
    @pytest.mark.parametrize("mu", [0.2, 1.0])
    def test_against_plain_numpy_over_the_warm_up_and_beyond(self, mu):
        rows, warmup = walk(3, 15), 6
        nadir = rows[:warmup].mean(axis=0)
        method = STCHWeighting(3, mu=mu, warmup=warmup)
        for index, row in enumerate(rows):
            ratios = row / nadir
            maximum = 3 * mu * math.log(np.sum(ratios ** (1 / mu)))
            weights = 3 * ratios ** (1 / mu) / np.sum(ratios ** (1 / mu)) / row
            if index < warmup:
                maximum, weights = np.log(row).sum(), 1 / row
            if index in (0, 2, 6, 9):
                method(tensor([NAN, 1.0, 1.0]))
            value, gradient = value_and_gradient(method, row)
            np.testing.assert_allclose(gradient, weights, rtol=1e-4)
            assert value == pytest.approx(maximum, rel=1e-4, abs=1e-5)

    def test_the_warm_up_has_the_preferences(self):
        method = STCHWeighting(2, warmup=2, weights=[1, 3], reference=[-1, 0.5])
        value, gradient = value_and_gradient(method, [1.0, 2.5])
        assert value == pytest.approx((math.log(2) + 3 * math.log(2)) / 2)
        np.testing.assert_allclose(gradient, [0.5 / 2, 1.5 / 2], rtol=1e-6)

    def test_a_small_mu_leaves_the_worst_loss(self):
        method = STCHWeighting(3, mu=1e-3, warmup=1)
        method(tensor([1.0, 2.0, 1.0]))
        np.testing.assert_allclose(weights_of(method, [0.5, 1.5, 0.6]), [0, 2, 0], atol=1e-6)

    def test_a_loss_that_was_0_all_through_the_warm_up(self):
        method = STCHWeighting(2, warmup=1)
        method(tensor([0.0, 2.0]))
        weights = weights_of(method, [0.5, 1.0])  # L / z is 0.5 for both
        np.testing.assert_allclose(weights, [2, 1], rtol=1e-5)


class TestPBI:
    @settings(max_examples=60, deadline=None)
    @given(losses=positive_losses, theta=st.sampled_from([0, 0.3, 5]))
    def test_mean_plus_standard_deviation(self, losses, theta):
        method, losses = PBIWeighting(len(losses), theta=theta), np.array(losses)
        expected = math.sqrt(len(losses)) * (losses.mean() + theta * losses.std())
        value, gradient = value_and_gradient(method, losses)
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert gradient.sum() == pytest.approx(math.sqrt(len(losses)), abs=1e-4)

    @pytest.mark.parametrize("value", [0.0, 0.1, 1e-7, 3e5])
    @pytest.mark.parametrize("count", [1, 3, 7])
    def test_equal_losses_have_equal_weights(self, value, count):
        """Rounding of their mean would give them any sign."""
        weights = weights_of(PBIWeighting(count), [value] * count)
        np.testing.assert_allclose(weights, 1 / math.sqrt(count), rtol=1e-6)

    @pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e25])
    def test_the_scale_of_the_losses_does_not_matter(self, scale):
        losses = np.array([0.5, 2.0, 0.7])
        expected = weights_of(PBIWeighting(3), losses)
        np.testing.assert_allclose(weights_of(PBIWeighting(3), scale * losses), expected, rtol=1e-5)

    def test_losses_in_the_ratio_of_the_preferences_get_these_as_weights(self):
        method = PBIWeighting(2, weights=[3, 4], reference=[0.5, 0.0])
        np.testing.assert_allclose(weights_of(method, [0.8, 0.4]), [0.6, 0.8], rtol=1e-6)

    def test_from_which_theta_on_weights_can_be_negative(self):
        losses = [0.0, 1.0, 1.0, 1.0]
        assert weights_of(PBIWeighting(4, theta=0.99 / math.sqrt(3)), losses).min() > 0
        assert weights_of(PBIWeighting(4, theta=1.01 / math.sqrt(3)), losses).min() < 0


class TestCOSMOS:
    @pytest.mark.parametrize("value", [0.0, 0.1, 1e-7, 3e5])
    @pytest.mark.parametrize("count", [1, 3, 7])
    def test_equal_losses_have_equal_weights(self, value, count):
        weights = weights_of(COSMOSWeighting(count), [value] * count)
        np.testing.assert_allclose(weights, 1 / count, rtol=1e-6)

    @pytest.mark.parametrize("size", [1e-6, 0.1, 3e5])
    def test_losses_in_the_ratio_of_the_preferences_get_these_as_weights(self, size):
        method = COSMOSWeighting(3, weights=[3, 1, 0.7])
        weights = weights_of(method, size * np.array([3, 1, 0.7]))
        np.testing.assert_allclose(weights, np.array([3, 1, 0.7]) / 4.7, rtol=1e-5)

    def test_the_cosine_counts_less_for_large_losses(self):
        losses = np.array([0.5, 2.0, 0.7])
        excess = weights_of(COSMOSWeighting(3), losses) - 1 / 3
        smaller = weights_of(COSMOSWeighting(3), losses / 10) - 1 / 3
        np.testing.assert_allclose(smaller, 10 * excess, rtol=1e-4)

    def test_a_descent_brings_the_losses_together(self):
        losses = np.array([2.0, 0.5])
        for _ in range(200):
            losses = losses - 0.005 * weights_of(COSMOSWeighting(2, lamda=8), losses)
        assert cosine(losses, np.ones(2)) > 0.99
