"""MGDA: the shortest combination of the gradients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import minimize
from support.calls import RAISED, solve
from support.samplers import jacobians, unit, well_conditioned

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import MGDAWeighting


class TestMGDA:
    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9))
    def test_optimality_conditions(self, jacobian):
        """All gradients in the combination gain |d|^2 along d, all others at least that."""
        weights = solve(MGDAWeighting(len(jacobian)), jacobian)
        assert weights.sum() == pytest.approx(1)
        lengths = np.linalg.norm(jacobian, axis=1)
        some = lengths > 0
        if not some.any():
            return
        update, shares = weights @ jacobian, (weights * lengths)[some]
        excess = unit(jacobian)[some] @ update - update @ update / lengths[some]
        least = shares @ shares / lengths[some] + np.linalg.norm(shares)
        assert (excess >= -RAISED * least).all()
        assert (excess * shares <= RAISED * least * shares).all()

    def test_two_losses_in_closed_form(self):
        random = np.random.default_rng(0)
        for _ in range(100):
            jacobian = random.standard_normal((2, 3)) * 10.0 ** random.uniform(-3, 3, (2, 1))
            (first, inner), (_, second) = jacobian @ jacobian.T
            gamma = np.clip((second - inner) / (first + second - 2 * inner), 0, 1)
            weights = solve(MGDAWeighting(2), jacobian)
            np.testing.assert_allclose(weights, [gamma, 1 - gamma], rtol=1e-6, atol=1e-12)

    @pytest.mark.parametrize("count", [2, 3])
    def test_no_point_of_a_fine_grid_is_shorter(self, count):
        ticks = np.linspace(0, 1, 201)
        grid = np.stack(np.meshgrid(*[ticks] * (count - 1)), -1).reshape(-1, count - 1)
        grid = grid[grid.sum(axis=1) <= 1]
        grid = np.concatenate([grid, 1 - grid.sum(axis=1, keepdims=True)], axis=1)
        for seed in range(20):
            jacobian = np.random.default_rng(seed).standard_normal((count, 4))
            own = np.linalg.norm(solve(MGDAWeighting(count), jacobian) @ jacobian)
            assert own <= np.linalg.norm(grid @ jacobian, axis=1).min() + 1e-9

    @pytest.mark.parametrize("count", [2, 4, 8])
    def test_agrees_with_scipy(self, count):
        jacobian = well_conditioned(count, seed=count)
        gramian = jacobian @ jacobian.T
        found = minimize(
            lambda w: w @ gramian @ w,
            np.full(count, 1 / count),
            jac=lambda w: 2 * gramian @ w,
            method="SLSQP",
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 1000},
        )
        np.testing.assert_allclose(solve(MGDAWeighting(count), jacobian), found.x, atol=1e-6)

    def test_orthogonal_unit_gradients_get_equal_weights(self):
        orthogonal, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((7, 7)))
        np.testing.assert_allclose(solve(MGDAWeighting(5), orthogonal[:5]), np.full(5, 0.2))

    def test_opposed_gradients_cancel(self):
        np.testing.assert_allclose(
            solve(MGDAWeighting(2), [[2.0, 0], [-1, 0]] * np.ones(1)), [1 / 3, 2 / 3]
        )

    def test_the_longer_of_two_parallel_gradients_gets_nothing(self):
        weights = solve(MGDAWeighting(2), np.array([[3.0, 0], [1, 0]]))
        np.testing.assert_allclose(weights, [0, 1], atol=1e-12)

    @pytest.mark.parametrize("normalization", ["none", "l2", "loss", "loss+"])
    def test_normalised_gradients_give_the_weights(self, normalization):
        """By a plain search for the shortest combination of the vectors that Sener's code has."""
        jacobian, losses = np.array([[3.0, 0], [0, 1.0]]), np.array([0.5, 2.0])
        divisors = {"none": 1, "l2": [3, 1], "loss": losses, "loss+": losses * [3, 1]}
        vectors = jacobian / np.reshape(divisors[normalization] * np.ones(2), (2, 1))
        ticks = np.linspace(0, 1, 100001)[:, None]
        best = ticks[np.linalg.norm(ticks * vectors[0] + (1 - ticks) * vectors[1], axis=1).argmin()]
        weights = solve(MGDAWeighting(2, normalization=normalization), jacobian, losses)
        np.testing.assert_allclose(weights, [best[0], 1 - best[0]], atol=1e-5)

    @pytest.mark.parametrize("normalization", ["loss", "loss+"])
    def test_losses_of_0_or_below(self, normalization):
        method = MGDAWeighting(2, normalization=normalization)
        jacobian = well_conditioned(2, seed=0)
        assert solve(method, jacobian, [0.0, 1.0]).tolist() == [0, 1]
        negative = solve(method, jacobian, [-0.5, 1.0])
        np.testing.assert_array_equal(negative, solve(method, jacobian, [0.5, 1.0]))
        assert np.isfinite(solve(method, jacobian, [0.0, 0.0])).all()

    def test_bad_arguments(self):
        with pytest.raises(ConfigError, match="normalization: expected one of none, l2, loss, los"):
            MGDAWeighting(2, normalization="l1")
