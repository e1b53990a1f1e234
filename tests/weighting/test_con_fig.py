"""ConFIG against the pseudoinverse of the unit gradients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calls import solve
from support.samplers import jacobians, units, with_gradient

from paddleseg_autoloss.weighting import ConFIGWeighting


class TestConFIG:
    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(), prefers=st.booleans())
    def test_update_is_that_of_the_inverse_of_the_unit_gradients(self, jacobian, prefers):
        preference = np.arange(len(jacobian)) + 1.0 if prefers else np.ones(len(jacobian))
        method = ConFIGWeighting(len(jacobian), preference.tolist() if prefers else None)
        update = solve(method, jacobian) @ jacobian
        others = with_gradient(jacobian)
        preference = preference[np.abs(jacobian).sum(axis=1) > 0]
        if len(others) == 0:
            np.testing.assert_array_equal(update, 0)
            return
        singular = np.linalg.svd(units(others))[1]
        if ((singular**2 > 1e-9) & (singular**2 < 1e-3)).any():
            return
        v = np.linalg.pinv(units(others), rcond=1e-4) @ preference
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

    def test_cosines_are_in_the_ratio_of_the_preferences(self):
        random = np.random.default_rng(3)
        for preference in ([3, 1, 2], [1, 0, 0]):
            jacobian = random.standard_normal((3, 7)) * 10 ** random.uniform(-2, 2, (3, 1))
            update = solve(ConFIGWeighting(3, preference), jacobian) @ jacobian
            projections = units(jacobian) @ update
            expected = np.array(preference) * projections.sum() / sum(preference)
            np.testing.assert_allclose(projections, expected, atol=1e-6 * projections.max())
            assert projections.sum() > 0

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

    def test_opposed_gradients_and_preferences(self):
        """Least squares: v is along (3 - 1) / 2 of the first, so the sum of projections is too."""
        update = solve(ConFIGWeighting(2, [3, 1]), np.array([[2.0, 0], [-5, 0]])) @ [2.0, -5]
        assert update == pytest.approx(2 - 5)

    def test_preferences_of_nothing_but_a_loss_without_gradient(self):
        jacobian = np.array([[0.0, 0], [1, 2]])
        assert solve(ConFIGWeighting(2, [1, 0]), jacobian).tolist() == [0, 0]

    def test_a_loss_without_gradient_takes_no_part(self):
        jacobian = np.array([[3.0, 0], [0, 0], [0, 1]])
        np.testing.assert_allclose(solve(ConFIGWeighting(3), jacobian), [2 / 3, 0, 2])
        assert solve(ConFIGWeighting(2), np.zeros((2, 2))).tolist() == [1, 1]
