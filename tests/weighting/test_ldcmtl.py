"""LDC-MTL: the objective of the paper, its slopes, and where two constant losses end."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from support.calls import finite_differences as slopes_of
from support.calls import softmax, tensor, value_and_gradient, weights_of
from support.learned import set_parameter

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import LDCMTLWeighting

FIRST = np.array([0.9, 0.3, 2.4])
LOSSES = np.array([0.5, 0.29, 0.6])
XI = np.array([0.4, -1.1, 0.2])


def objective(losses, xi, lamda, first=FIRST) -> float:
    """The authors' total: the weighted mean, plus lambda times the differences of neighbours."""
    shares = softmax(np.asarray(xi))
    normalised = np.asarray(losses) / (first / first.min())
    weighted = shares * normalised
    return weighted.sum() / shares.sum() + lamda * np.abs(weighted[:-1] - weighted[1:]).sum()


def begun(lamda: float = 0.05, first=FIRST, xi=None) -> LDCMTLWeighting:
    """A method after its first step."""
    method = LDCMTLWeighting(len(first), lamda)
    method(tensor(first))
    return method if xi is None else set_parameter(method, xi)


@pytest.mark.parametrize("lamda", [0.0, 0.05, 0.5])
def test_value_and_gradients_are_those_of_the_objective(lamda):
    method = begun(lamda, xi=XI)
    value, gradient = value_and_gradient(method, LOSSES)
    assert value == pytest.approx(objective(LOSSES, XI, lamda), rel=1e-5)
    expected = slopes_of(lambda losses: objective(losses, XI, lamda), LOSSES)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)
    np.testing.assert_allclose(weights_of(method, LOSSES), expected, rtol=1e-4)
    expected = slopes_of(lambda xi: objective(LOSSES, xi, lamda), XI)
    np.testing.assert_allclose(method.xi.grad.numpy(), expected, rtol=1e-3, atol=1e-6)


def test_at_the_first_step_all_normalised_losses_are_the_smallest():
    method = LDCMTLWeighting(3, lamda=0.5)
    # Nothing differs: 1/3 each, over the ratios 3, 1 and 8.
    np.testing.assert_allclose(weights_of(method, FIRST), 1 / np.array([9, 3, 24]), rtol=1e-5)
    value, _ = value_and_gradient(method, FIRST)
    assert value == pytest.approx(0.3, rel=1e-5)


def learn(method: LDCMTLWeighting, losses, steps: int = 150) -> np.ndarray:
    """The shares after training on constant losses."""
    schedule = paddle.optimizer.lr.CosineAnnealingDecay(0.2, steps)
    optimizer = paddle.optimizer.Adam(schedule, beta2=0.9, parameters=method.parameters())
    for _ in range(steps):
        method.total(tensor(losses), method(tensor(losses))).backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    return softmax(method.xi.numpy().clip(-3, 3))


class TestTwoConstantLosses:
    """l = (1, 1.5): their difference is 1 / 5 of their sum."""

    @pytest.mark.parametrize("lamda", [0.25, 0.5])
    def test_with_a_lambda_above_that_the_weighted_losses_become_equal(self, lamda):
        shares = learn(begun(lamda, np.ones(2)), [1.0, 1.5])
        np.testing.assert_allclose(shares, [0.6, 0.4], atol=0.01)

    @pytest.mark.parametrize("lamda", [0.0, 0.15])
    def test_with_a_lambda_below_that_the_larger_loss_gets_the_least(self, lamda):
        shares = learn(begun(lamda, np.ones(2)), [1.0, 1.5])
        assert 1 / 404 <= shares[1] / shares[0] < 1 / 300


def test_weights_of_any_logits_are_bounded_and_come_back():
    for xi in ([100, -100, 0], [-4, -3.5, 50], [3.1, 3.2, 3.3]):
        method = begun(0.5, np.ones(3), xi)
        for losses in ([1.0, 1, 1], [0, 1e6, 3], [5, 0, 1e-6]):
            weights = weights_of(method, losses)
            assert (weights >= 0).all()
            assert weights.max() <= 2
            method.clear_gradients()
            method.total(tensor(losses), method(tensor(losses))).backward()
            beyond = np.abs(xi) > 3
            expected = 2 * (np.array(xi) - np.clip(xi, -3, 3))
            np.testing.assert_allclose(method.xi.grad.numpy()[beyond], expected[beyond], rtol=1e-5)


def test_reversing_the_losses_reverses_the_weights():
    weights = weights_of(begun(0.1, xi=XI), LOSSES)
    reversed_ = weights_of(begun(0.1, FIRST[::-1], XI[::-1]), LOSSES[::-1])
    np.testing.assert_allclose(reversed_[::-1], weights, rtol=1e-5)


def test_a_first_loss_of_0_has_no_ratio():
    method = begun(0.0, np.array([0.0, 1, 4]))
    np.testing.assert_allclose(weights_of(method, LOSSES), 1 / np.array([3, 3, 12]), rtol=1e-5)


def test_the_first_losses_are_the_first_that_are_finite():
    method = LDCMTLWeighting(3)
    assert np.isfinite(weights_of(method, [np.nan, 1, 1])).all()
    assert method.initial_losses.isnan().all()
    for losses in (FIRST, LOSSES, [np.inf, 1, 1]):
        weights_of(method, losses)
    np.testing.assert_allclose(method.initial_losses.numpy(), FIRST, rtol=1e-6)


def test_a_negative_loss_keeps_its_logit():
    method = begun(0.05, xi=XI)
    losses = tensor([-0.5, 0.29, 0.6])
    method.total(losses, method(losses)).backward()
    gradient = method.xi.grad.numpy()
    assert gradient[0] == 0
    assert (gradient[1:] != 0).all()


def test_the_optimizer_learns_the_logits_faster():
    assert LDCMTLWeighting(2, lr_mult=10).learned().optimize_attr["learning_rate"] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lamda": -0.1}, "lamda: expected a number from 0 to 0.5, found -0.1"),
        ({"lamda": 0.6}, "lamda: expected a number from 0 to 0.5, found 0.6"),
        ({"lr_mult": 0}, "lr_mult: expected a positive number, found 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        LDCMTLWeighting(2, **arguments)
