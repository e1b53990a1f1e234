"""CAGrad against its definition, by brute force, and theorems of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calls import solve
from support.samplers import J, jacobians

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import CAGradWeighting


class TestCAGrad:
    @staticmethod
    def objective(jacobian, w, c):
        """F(w) of the paper's dual."""
        mean = jacobian.mean(axis=0)
        mixed = w @ jacobian
        return mixed @ mean + c * np.linalg.norm(mean) * np.linalg.norm(mixed, axis=-1)

    @pytest.mark.parametrize("count", [2, 3])
    @pytest.mark.parametrize("c", [0.2, 0.5, 1.5])
    @pytest.mark.parametrize("scale", [1e-8, 1, 1e8])
    def test_no_point_of_a_fine_grid_is_better(self, count, c, scale):
        ticks = np.linspace(0, 1, 201)
        grid = np.stack(np.meshgrid(*[ticks] * (count - 1)), -1).reshape(-1, count - 1)
        grid = grid[grid.sum(axis=1) <= 1]
        grid = np.concatenate([grid, 1 - grid.sum(axis=1, keepdims=True)], axis=1)
        for seed in range(10):
            jacobian = scale * np.random.default_rng(seed).standard_normal((count, 4))
            correction = solve(CAGradWeighting(count, calpha=c, rescale=0), jacobian) - 1 / count
            own = self.objective(jacobian, correction / correction.sum(), c)
            best = min(self.objective(jacobian, w, c) for w in grid)
            assert own <= best + 1e-9 * scale**2

    @settings(max_examples=150, deadline=None)
    @given(jacobian=jacobians(), c=st.sampled_from([0.1, 0.5, 1.0, 2.0]))
    def test_update_solves_the_primal_problem(self, jacobian, c):
        """d is in the ball around the mean, and no w of the dual promises more than it gives."""
        weights = solve(CAGradWeighting(len(jacobian), calpha=c, rescale=0), jacobian)
        mean, update = jacobian.mean(axis=0), weights @ jacobian
        size = np.abs(jacobian).max() + 1e-300
        radius = c * np.linalg.norm(mean)
        assert np.linalg.norm(update - mean) <= radius * (1 + 1e-3) + 1e-7 * size
        correction = weights - 1 / len(jacobian)
        bounds = []
        if (np.abs(jacobian).sum(axis=1) == 0).any():
            # Nothing can be done for a loss without gradient: F is 0 at its corner.
            bounds.append(0.0)
        if correction.sum() > 1e-9:
            bounds.append(self.objective(jacobian, correction / correction.sum(), c))
        bound = min(bounds, default=0.0)
        # Weak duality: bound >= worst.  Near Pareto stationarity the added 1e-8 shows.
        worst = (jacobian @ update).min()
        assert bound - worst <= 2e-4 * size**2

    @settings(max_examples=60, deadline=None)
    @given(jacobian=jacobians(least=2))
    def test_no_loss_gets_worse_from_c_1_on(self, jacobian):
        """Liu et al.: for c >= 1 the update conflicts with no loss."""
        update = solve(CAGradWeighting(len(jacobian), calpha=1.0), jacobian) @ jacobian
        size = np.abs(jacobian).max() + 1e-300
        assert (jacobian @ update >= -1e-3 * size**2).all()

    @pytest.mark.parametrize("seed", range(20))
    def test_parallel_gradients_whose_gramian_is_rounded(self, seed):
        """Single precision may leave such a Gramian with negative eigenvalues."""
        random = np.random.default_rng(seed)
        rows = np.outer(random.uniform(0.1, 2, 3), random.standard_normal(3000)).astype("float32")
        gramian = (rows @ rows.T).astype("float64")
        weights = CAGradWeighting(3).solve(np.ones(3), gramian)
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()

    def test_c_of_0_is_the_mean(self):
        np.testing.assert_allclose(solve(CAGradWeighting(2, calpha=0), J), [0.5, 0.5])

    @pytest.mark.parametrize(("rescale", "divisor"), [(0, 1), (1, 1.25), (2, 1.5)])
    def test_rescale(self, rescale, divisor):
        weights = solve(CAGradWeighting(2, calpha=0.5, rescale=rescale), J)
        expected = solve(CAGradWeighting(2, calpha=0.5, rescale=0), J) / divisor
        np.testing.assert_allclose(weights, expected)

    def test_a_loss_without_gradient_does_not_keep_the_others_from_their_update(self):
        jacobian = np.array([[1.0, 0], [0, 0], [0.5, 1]])
        update = solve(CAGradWeighting(3, rescale=0), jacobian) @ jacobian
        np.testing.assert_allclose(update, jacobian.mean(axis=0))

    def test_opposed_losses_keep_the_mean(self):
        """Pareto stationary: g_w = 0 for w = (1/3, 2/3)."""
        jacobian = np.array([[2.0, 0], [-1.0, 0]])
        update = solve(CAGradWeighting(2, rescale=0), jacobian) @ jacobian
        assert np.linalg.norm(update - [0.5, 0]) <= 0.5 * 0.5 * (1 + 1e-3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"calpha": -1}, "calpha: expected a number of at least 0, found -1"),
            ({"rescale": 3}, "rescale: expected 0, 1 or 2, found 3"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            CAGradWeighting(2, **arguments)
