"""The methods whose weights are a formula of the Gramian: golden values, and what holds for all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calls import solve
from support.samplers import J, in_single_precision, jacobians

from paddleseg_autoloss.weighting import (
    METHODS,
    AlignedMTLWeighting,
    ConFIGWeighting,
    GradVacWeighting,
    IMTLGWeighting,
    IMTLWeighting,
    KrumWeighting,
    NTKWeighting,
)

#: What TorchJD publishes for J; of ConFIG the update, of Aligned-MTL with importances 1 / K.
GOLDEN = {
    "AlignedMTL": [2 * 0.5591, 2 * 0.4083],
    "GradVac": [2.2222, 1.5789],
    "IMTL": [0.5923, 0.4077],
    "IMTLG": [0.5923, 0.4077],
}
ANY_K = [AlignedMTLWeighting, ConFIGWeighting, GradVacWeighting, IMTLGWeighting, IMTLWeighting]
ANY_K += [NTKWeighting]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_weights(name):
    np.testing.assert_allclose(solve(METHODS[name](2), J), GOLDEN[name], atol=2e-4)


def test_golden_update():
    update = solve(ConFIGWeighting(2), J) @ J
    np.testing.assert_allclose(update, [0.1588, 2.0706, 2.0706], atol=1e-4)


@pytest.mark.parametrize("method", [*ANY_K, KrumWeighting])
class TestAnyGramian:
    @settings(max_examples=80, deadline=None)
    @given(jacobian=jacobians(least=3))
    def test_weights_are_finite_also_if_rounded(self, method, jacobian):
        for gramian in (jacobian @ jacobian.T, in_single_precision(jacobian)):
            weights = method(len(jacobian)).solve(np.ones(len(jacobian)), gramian)
            assert weights.shape == (len(jacobian),)
            assert np.isfinite(weights).all()
            assert method.may_be_negative or (weights >= 0).all()

    @settings(max_examples=50, deadline=None)
    @given(jacobian=jacobians(least=3), scale=st.sampled_from([1e-6, 1e6]))
    def test_the_scale_of_the_gradients_does_not_matter(self, method, jacobian, scale):
        expected = jacobian.T @ solve(method(len(jacobian)), jacobian)
        scaled = (scale * jacobian).T @ solve(method(len(jacobian)), scale * jacobian)
        size = np.abs(jacobian).max()
        np.testing.assert_allclose(scaled / scale, expected, rtol=1e-6, atol=1e-6 * size)

    def test_no_gradient_at_all(self, method):
        weights = solve(method(3), np.zeros((3, 2)))
        assert np.isfinite(weights).all()
        assert weights.sum() > 0


@pytest.mark.parametrize("method", [m for m in ANY_K if m is not GradVacWeighting])
@settings(max_examples=50, deadline=None)
@given(jacobian=jacobians(), seed=st.integers(0, 99))
def test_permuting_the_losses_permutes_the_weights(method, jacobian, seed):
    order = np.random.default_rng(seed).permutation(len(jacobian))
    straight = solve(method(len(jacobian)), jacobian)
    permuted = solve(method(len(jacobian)), jacobian[order])
    size = np.abs(straight).max()
    np.testing.assert_allclose(permuted, straight[order], rtol=1e-6, atol=1e-6 * size)


@pytest.mark.parametrize("method", ANY_K)
def test_one_loss(method):
    np.testing.assert_allclose(solve(method(1), np.array([[3.0, 4.0]])), [1.0])
