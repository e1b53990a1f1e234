"""DCGD against the paper's constructions on vectors, and against methods that it is equal to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from support.calls import solve
from support.samplers import jacobians, unit

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import ConFIGWeighting, DCGDWeighting, DualProjWeighting

VARIANTS = ("center", "avg", "proj")
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def update(variant: str, jacobian: np.ndarray) -> np.ndarray:
    return solve(DCGDWeighting(2, variant), jacobian) @ jacobian


def on_line(vector: np.ndarray, line: np.ndarray) -> np.ndarray:
    return (vector @ line) / (line @ line) * line


def in_vectors(variant: str, jacobian: np.ndarray) -> np.ndarray:
    """The update in the space of the parameters, as the paper constructs it."""
    total = jacobian.sum(axis=0)
    if variant == "center":
        return on_line(total, unit(jacobian).sum(axis=0))
    against = [gradient for gradient in jacobian if gradient @ total < 0]
    if not against:
        return total
    planes = jacobian if variant == "avg" else against
    return np.mean([total - on_line(total, gradient) for gradient in planes], axis=0)


def draws(count: int):
    """Two gradients at all angles, of lengths that differ by up to 100 times."""
    random = np.random.default_rng(0)
    for angle in random.uniform(-3, 3, count):
        plane = np.linalg.qr(random.standard_normal((5, 2)))[0].T
        directions = np.array([[1, 0], [np.cos(angle), np.sin(angle)]])
        yield directions @ plane * 10.0 ** random.uniform(-1, 1, (2, 1))


@every_variant
def test_it_is_the_construction_of_the_paper(variant):
    kept = 0
    for jacobian in draws(60):
        expected = in_vectors(variant, jacobian)
        np.testing.assert_allclose(update(variant, jacobian), expected, atol=1e-9, rtol=1e-9)
        kept += np.allclose(expected, jacobian.sum(axis=0))
    assert kept == 0 if variant == "center" else 5 < kept < 55


@settings(max_examples=200, deadline=None)
@given(jacobian=jacobians(least=2, most=2))
def test_it_conflicts_with_no_gradient(jacobian):
    for variant in VARIANTS:
        weights = solve(DCGDWeighting(2, variant), jacobian)
        assert (weights >= 0).all()
        assert weights.sum() >= (1.5 if variant == "avg" else 2) - 1e-9
        size = weights @ np.linalg.norm(jacobian, axis=1)
        assert (unit(jacobian) @ (weights @ jacobian) >= -1e-12 * size).all(), variant


@pytest.mark.parametrize("variant", ["avg", "proj"])
def test_the_sum_is_kept_where_it_conflicts_with_nothing(variant):
    # The gradients conflict with each other, but not with their sum.
    for jacobian in ([[1.0, 0], [-0.9, 1]], [[2.0, 0], [0, 1]], [[1.0, 1], [2, 0]]):
        assert solve(DCGDWeighting(2, variant), np.array(jacobian)).tolist() == [1, 1]


def test_projections_of_a_sum_that_conflicts():
    """g = (-3, 1) conflicts with the first: <g_1, g_2> = -4, squared lengths 1 and 17."""
    jacobian = np.array([[1.0, 0], [-4, 1]])
    np.testing.assert_allclose(solve(DCGDWeighting(2, "proj"), jacobian), [4, 1])
    np.testing.assert_allclose(solve(DCGDWeighting(2, "avg"), jacobian), [5 / 2, 21 / 34])


def test_center_is_config_of_two_losses():
    for jacobian in draws(40):
        expected = solve(ConFIGWeighting(2), jacobian)
        np.testing.assert_allclose(solve(DCGDWeighting(2), jacobian), expected, rtol=1e-9)


def test_proj_is_dualproj_in_sum():
    for jacobian in draws(40):
        expected = 2 * solve(DualProjWeighting(2), jacobian)
        np.testing.assert_allclose(solve(DCGDWeighting(2, "proj"), jacobian), expected, rtol=1e-6)


def test_center_with_equal_lengths_is_the_sum():
    jacobian = np.array([[3.0, 4], [5, 0]])
    np.testing.assert_allclose(solve(DCGDWeighting(2), jacobian), [1, 1], rtol=1e-12)


@every_variant
@pytest.mark.parametrize("factor", [0.1, 1.0, 7.0])
def test_opposed_gradients_stop(variant, factor):
    gradient = np.array([1.0, -2, 0.5])
    np.testing.assert_allclose(
        update(variant, np.stack([gradient, -factor * gradient])), 0, atol=1e-14
    )


@every_variant
@pytest.mark.parametrize("jacobian", [[[0.0, 0], [3, 4]], [[3.0, 4], [0, 0]], [[0.0, 0], [0, 0]]])
def test_a_gradient_of_0_changes_nothing(variant, jacobian):
    assert solve(DCGDWeighting(2, variant), np.array(jacobian)).tolist() == [1, 1]


def test_avg_jumps_where_the_sum_leaves_the_cone():
    """At <g, g_1> = 0 and g_2 = (-1, 1): the mean of both projections is not the sum."""
    inside, outside = (np.array([[1.0, 0], [-1 + t, 1]]) for t in (1e-9, -1e-9))
    np.testing.assert_allclose(update("avg", inside), [0, 1], atol=1e-8)
    np.testing.assert_allclose(update("avg", outside), [1 - 3 / 4, 3 / 4], atol=1e-8)
    np.testing.assert_allclose(update("proj", outside), [0, 1], atol=1e-8)


@every_variant
def test_permutation(variant):
    for jacobian in draws(20):
        weights = solve(DCGDWeighting(2, variant), jacobian)
        swapped = solve(DCGDWeighting(2, variant), jacobian[::-1])
        np.testing.assert_allclose(swapped, weights[::-1], rtol=1e-12)


def test_bad_arguments():
    with pytest.raises(ConfigError, match="variant: expected one of center, avg, proj, found 'up'"):
        DCGDWeighting(2, variant="up")
    with pytest.raises(ConfigError, match="losses: DCGD expects 2 losses, found 3"):
        DCGDWeighting(3)
