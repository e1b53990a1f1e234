"""ConFIG against the pseudoinverse of the unit gradients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from support.calls import solve
from support.samplers import jacobians, units, with_gradient

from paddleseg_autoloss.weighting import ConFIGWeighting


class TestConFIG:
    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians())
    def test_update_is_that_of_the_inverse_of_the_unit_gradients(self, jacobian):
        update = solve(ConFIGWeighting(len(jacobian)), jacobian) @ jacobian
        others = with_gradient(jacobian)
        if len(others) == 0:
            np.testing.assert_array_equal(update, 0)
            return
        singular = np.linalg.svd(units(others))[1]
        if ((singular**2 > 1e-9) & (singular**2 < 1e-3)).any():
            return
        v = np.linalg.pinv(units(others), rcond=1e-4) @ np.ones(len(others))
        if np.linalg.norm(v) > 1e-6:
            v /= np.linalg.norm(v)
        size = np.abs(jacobian).max()
        expected = (others @ v).sum() * v
        np.testing.assert_allclose(update, expected, rtol=1e-6, atol=1e-6 * size)

    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_equal_positive_cosines_and_the_length_of_all_projections(self, count):
        """Equations of the paper: no conflict with any loss."""
        random = np.random.default_rng(0)
        for _ in range(50):
            jacobian = random.standard_normal((count, 7)) * 10 ** random.uniform(-2, 2, (count, 1))
            update = solve(ConFIGWeighting(count), jacobian) @ jacobian
            length = np.linalg.norm(update)
            cosines = units(jacobian) @ update / length
            assert cosines[0] > 0
            np.testing.assert_allclose(cosines, cosines[0], rtol=1e-6)
            np.testing.assert_allclose(length, (jacobian @ update).sum() / length)

    def test_two_losses_in_closed_form(self):
        """The direction is that of the sum of both normalised rejections."""
        random = np.random.default_rng(1)
        for _ in range(50):
            first, second = random.standard_normal((2, 5))
            of_first = first - (first @ second) / (second @ second) * second
            of_second = second - (first @ second) / (first @ first) * first
            direction = of_first / np.linalg.norm(of_first) + of_second / np.linalg.norm(of_second)
            direction /= np.linalg.norm(direction)
            expected = (first @ direction + second @ direction) * direction
            jacobian = np.stack([first, second])
            np.testing.assert_allclose(solve(ConFIGWeighting(2), jacobian) @ jacobian, expected)

    @pytest.mark.parametrize("angle", [0, 1e-4, 0.3, 3.0, np.pi - 1e-4, np.pi])
    def test_weights_of_two_losses_at_any_angle(self, angle):
        """mean |g_j| / |g_i|: the projections are equal, so the weights of u_i are."""
        jacobian = np.array([[3.0, 0], [np.cos(angle), np.sin(angle)]])
        weights = solve(ConFIGWeighting(2), jacobian)
        np.testing.assert_allclose(weights, [2 / 3, 2], rtol=1e-6)

    def test_gradients_that_add_up_to_nothing(self):
        angles = np.array([0, 2, 4]) * np.pi / 3
        jacobian = np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[1.0], [2.0], [3.0]]
        weights = solve(ConFIGWeighting(3), jacobian)
        np.testing.assert_allclose(weights, [2, 1, 2 / 3])
        np.testing.assert_allclose(weights @ jacobian, 0, atol=1e-12)

    def test_a_loss_without_gradient_takes_no_part(self):
        jacobian = np.array([[3.0, 0], [0, 0], [0, 1]])
        np.testing.assert_allclose(solve(ConFIGWeighting(3), jacobian), [2 / 3, 0, 2])
        assert solve(ConFIGWeighting(2), np.zeros((2, 2))).tolist() == [1, 1]
