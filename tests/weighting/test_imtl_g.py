"""IMTL-G: equal projections, and the closed form of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from support.calls import solve
from support.samplers import in_single_precision, jacobians, units, with_gradient

from paddleseg_autoloss.weighting import IMTLGWeighting


class TestIMTLG:
    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians())
    def test_projections_are_equal(self, jacobian):
        """And positive, where the unit gradients are independent."""
        update = solve(IMTLGWeighting(len(jacobian)), jacobian) @ jacobian
        others = with_gradient(jacobian)
        if len(others) == 0 or np.linalg.svd(units(others))[1].min() < 0.01:
            return
        if len(others) > others.shape[1]:
            return
        projections = units(others) @ update
        assert (projections > 0).all()
        np.testing.assert_allclose(projections, projections[0], rtol=1e-6)

    @pytest.mark.parametrize("count", [2, 3, 4])
    def test_weights_are_those_of_the_paper(self, count):
        """Its closed form, alpha_2..K = g_1 U^T (D U^T)^-1, wherever the sum is no problem."""
        random = np.random.default_rng(0)
        compared = negative = 0
        for _ in range(200):
            jacobian = random.standard_normal((count, 6))
            u = units(jacobian)
            differences = u[0] - u[1:]
            products = (jacobian[0] - jacobian[1:]) @ differences.T
            rest = jacobian[0] @ differences.T @ np.linalg.inv(products)
            expected = np.array([1 - rest.sum(), *rest])
            # Dividing by a negative sum, the paper's d ascends.
            if np.abs(expected).sum() > 10 or u[0] @ (expected @ jacobian) < 0:
                continue
            compared, negative = compared + 1, negative + (expected < 0).any()
            np.testing.assert_allclose(solve(IMTLGWeighting(count), jacobian), expected, rtol=1e-6)
        assert compared > 150
        assert (negative > 0) == (count > 2)

    def test_a_negative_sum_does_not_turn_the_update_round(self):
        """x = C^-1 1 has a negative entry at a loss whose short gradient makes it weigh most."""
        u = units(np.array([[1.0, 0, 0.1], [0, 1, 0.1], [1, 1, 0.3]]))
        x = np.linalg.solve(u @ u.T, np.ones(3))
        jacobian = u * [[1.0], [1.0], [1e-3]]
        assert x[2] < 0
        weights = solve(IMTLGWeighting(3), jacobian)
        np.testing.assert_allclose(np.abs(weights).sum(), 10)
        assert (jacobian @ (weights @ jacobian) > 0).all()

    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians())
    def test_weights_sum_to_1_and_their_sizes_to_10_at_most(self, jacobian):
        weights = solve(IMTLGWeighting(len(jacobian)), jacobian)
        sizes = np.abs(weights).sum()
        assert sizes <= 10 + 1e-9
        assert sizes == pytest.approx(10) or weights.sum() == pytest.approx(1)

    @pytest.mark.parametrize("angle", [0, 1e-9, 1e-4, 0.3, 3.0, np.pi - 1e-4, np.pi])
    def test_two_losses_get_the_inverse_lengths_at_any_angle(self, angle):
        jacobian = np.array([[3.0, 0], [np.cos(angle), np.sin(angle)]])
        weights = solve(IMTLGWeighting(2), jacobian)
        np.testing.assert_allclose(weights, [0.25, 0.75], rtol=1e-6)

    def test_a_loss_without_gradient_gets_no_weight(self):
        jacobian = np.array([[3.0, 0], [0, 0], [0, 1]])
        np.testing.assert_allclose(solve(IMTLGWeighting(3), jacobian), [0.25, 0, 0.75])
        np.testing.assert_allclose(solve(IMTLGWeighting(2), np.zeros((2, 2))), [0.5, 0.5])

    @pytest.mark.parametrize("seed", range(10))
    def test_parallel_gradients_whose_gramian_is_rounded(self, seed):
        random = np.random.default_rng(seed)
        lengths, row = random.uniform(0.1, 2, 4), random.standard_normal(3000)
        gramian = in_single_precision(np.outer(lengths, row))
        weights = IMTLGWeighting(4).solve(np.ones(4), gramian)
        np.testing.assert_allclose(weights, 1 / lengths / (1 / lengths).sum(), rtol=1e-3)
