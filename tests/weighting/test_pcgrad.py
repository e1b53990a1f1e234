"""PCGrad against the projections of Algorithm 1."""

from __future__ import annotations

import numpy as np
import paddle
from hypothesis import given, settings
from support.calls import solve
from support.samplers import jacobians

from paddleseg_autoloss.weighting import PCGradWeighting


class TestPCGrad:
    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians())
    def test_same_as_projecting_the_gradients_themselves(self, jacobian):
        """Algorithm 1 of the paper on vectors, in the same random order."""
        method = PCGradWeighting(len(jacobian))
        method.draws.seed.set_value(np.asarray(7))
        random = np.random.default_rng([7, 0])
        projected = jacobian.copy()
        for i in range(len(jacobian)):
            for j in random.permutation(len(jacobian)):
                inner = projected[i] @ jacobian[j]
                # Rounding decides about gradients that are orthogonal by now.
                lengths = np.linalg.norm(projected[i]) * np.linalg.norm(jacobian[j])
                if j != i and inner < -1e-9 * lengths:
                    projected[i] -= inner / (jacobian[j] @ jacobian[j]) * jacobian[j]
        update = solve(method, jacobian) @ jacobian
        size = np.abs(jacobian).max() + 1e-300
        np.testing.assert_allclose(update, projected.sum(axis=0), atol=1e-5 * size, rtol=1e-5)

    def test_a_gradient_too_small_to_square(self):
        gramian = np.array([[1, -1e-25], [-1e-25, 0]])
        assert PCGradWeighting(2).solve(np.ones(2), gramian)[0] == 1
        assert np.isfinite(PCGradWeighting(2).solve(np.ones(2), gramian)).all()

    def test_without_conflict_it_is_the_sum(self):
        jacobian = np.array([[1.0, 0], [1, 1], [0, 1]])
        np.testing.assert_array_equal(solve(PCGradWeighting(3), jacobian), [1, 1, 1])

    def test_two_conflicting_losses_in_closed_form(self):
        """Each g_i - <g_i, g_j> / |g_j|^2 g_j: weights 1 + |<g_1, g_2>| / |g_i|^2."""
        random = np.random.default_rng(0)
        for _ in range(50):
            first, second = random.standard_normal((2, 5))
            second = second if first @ second < 0 else -second
            inner = -(first @ second)
            expected = [1 + inner / (first @ first), 1 + inner / (second @ second)]
            weights = solve(PCGradWeighting(2), np.stack([first, second]))
            np.testing.assert_allclose(weights, expected, rtol=1e-12)

    def test_order_is_drawn_anew_at_every_step_and_set_by_the_seed(self):
        jacobian = np.random.default_rng(3).standard_normal((4, 3))
        paddle.seed(5)
        method, same = PCGradWeighting(4), PCGradWeighting(4)
        drawn = [tuple(solve(method, jacobian)) for _ in range(12)]
        assert len(set(drawn)) > 1
        assert drawn == [tuple(solve(same, jacobian)) for _ in range(12)]
