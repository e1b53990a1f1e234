"""The methods that solve a small problem of the Gramian: golden values, and what holds for all."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from support.calls import solve
from support.samplers import J, jacobians, well_conditioned

from paddleseg_autoloss.weighting import (
    DualProjWeighting,
    FairGradWeighting,
    MGDAWeighting,
    NashMTLWeighting,
    PCDWeighting,
    UPGradWeighting,
)

METHODS = [
    DualProjWeighting,
    FairGradWeighting,
    MGDAWeighting,
    NashMTLWeighting,
    PCDWeighting,
    UPGradWeighting,
]
GOLDEN = {
    "MGDA": (MGDAWeighting(2), [0.6, 0.4]),
    "UPGrad": (UPGradWeighting(2), [1.1109, 0.7894]),
    "DualProj": (DualProjWeighting(2), [0.6109, 0.5]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_weights(name):
    method, expected = GOLDEN[name]
    # The published values are those of a problem with 1e-4 added to its diagonal.
    np.testing.assert_allclose(solve(method, J), expected, atol=3e-4)


@pytest.mark.parametrize("method", METHODS)
class TestAnyGramian:
    @settings(max_examples=40, deadline=None)
    @given(jacobian=jacobians(most=9))
    def test_weights_are_finite_and_not_negative(self, method, jacobian):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            weights = solve(method(len(jacobian)), jacobian)
        assert weights.shape == (len(jacobian),)
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()

    @pytest.mark.parametrize("seed", range(10))
    def test_parallel_gradients_whose_gramian_is_rounded(self, method, seed):
        """Single precision may leave such a Gramian with negative eigenvalues."""
        random = np.random.default_rng(seed)
        rows = np.outer(random.standard_normal(5), random.standard_normal(3000)).astype("float32")
        weights = method(5).solve(np.ones(5), (rows @ rows.T).astype("float64"))
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()

    def test_gradients_too_small_to_square(self, method):
        for gramian in ([[1, -1e-25], [-1e-25, 0]], [[1, -1e-25], [-1e-25, 1e-60]]):
            weights = method(2).solve(np.ones(2), np.array(gramian))
            assert np.isfinite(weights).all()

    def test_a_loss_without_gradient_leaves_the_others_their_update(self, method):
        jacobian = well_conditioned(3, seed=1)
        with_zero = np.insert(jacobian, 2, 0, axis=0)
        expected = solve(method(3), jacobian) @ jacobian
        update = solve(method(4), with_zero) @ with_zero
        if method in (UPGradWeighting, DualProjWeighting):  # the mean over K losses
            update *= 4 / 3
        np.testing.assert_allclose(
            update, expected * np.linalg.norm(update) / np.linalg.norm(expected)
        )
        if method is not NashMTLWeighting:
            np.testing.assert_allclose(update, expected)

    def test_no_loss_has_a_gradient(self, method):
        assert np.isfinite(method(3).solve(np.ones(3), np.zeros((3, 3)))).all()
