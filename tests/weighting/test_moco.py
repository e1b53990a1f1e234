"""MoCo against the formulas of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from support.calls import update
from support.samplers import J, steps

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import MoCoWeighting
from paddleseg_autoloss.weighting.simplex import onto_simplex


class TestMoCo:
    @settings(max_examples=200, deadline=None)
    @given(
        point=st.lists(
            st.floats(-10, 10, allow_subnormal=False) | st.sampled_from([0.0, 0.5, 1e-9]),
            min_size=1,
            max_size=8,
        )
    )
    def test_projection_onto_the_simplex(self, point):
        """Its optimality condition: no vertex lies beyond the tangent plane at the projection."""
        point = np.array(point)
        projection = onto_simplex(point)
        assert (projection >= 0).all()
        assert projection.sum() == pytest.approx(1, abs=1e-9)
        towards = point - projection
        assert (towards - projection @ towards <= 1e-9).all()

    @staticmethod
    def shortest(rows):
        """The weights of MGDA, by a solver of its own."""
        gramian = rows @ rows.T
        gramian = gramian / np.trace(gramian)
        found = minimize(
            lambda w: w @ gramian @ w,
            np.full(len(rows), 1 / len(rows)),
            jac=lambda w: 2 * gramian @ w,
            method="SLSQP",
            bounds=[(0, 1)] * len(rows),
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return found.x

    @pytest.mark.parametrize("case", ["golden", 0, 1, 2])
    def test_on_gradients_that_stand_still_it_becomes_mgda(self, case):
        rows = J if case == "golden" else steps(3, columns=4, seed=case)[0][1]
        expected = [0.6, 0.4] if case == "golden" else self.shortest(rows)
        method = MoCoWeighting(len(rows), gamma_sigma=0, gamma=0.5)
        for _ in range(300):
            found, weights = update(method, rows)
        np.testing.assert_allclose(weights, expected, atol=2e-3)
        np.testing.assert_allclose(found, weights @ rows, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        "options",
        [{}, {"beta": 0.2, "beta_sigma": 0, "gamma": 1.0, "gamma_sigma": 0.2, "rho": 0.5}],
    )
    def test_update_is_that_of_the_algorithm(self, options):
        defaults = {"beta": 0.5, "beta_sigma": 0.5, "gamma": 0.1, "gamma_sigma": 0.5, "rho": 0}
        o = {**defaults, **options}
        method, tracked, weights = MoCoWeighting(3, **options), None, np.full(3, 1 / 3)
        for t, (losses, jacobian) in enumerate(steps(), start=1):
            beta, gamma = o["beta"] / t ** o["beta_sigma"], o["gamma"] / t ** o["gamma_sigma"]
            tracked = jacobian if t == 1 else tracked - beta * (tracked - jacobian)
            products = tracked @ tracked.T
            products = products / (np.trace(products) / 3) + o["rho"] * np.eye(3)
            target = weights - gamma * products @ weights
            weights = minimize(
                lambda w, target=target: ((w - target) ** 2).sum(),
                weights,
                method="SLSQP",
                bounds=[(0, 1)] * 3,
                constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
                options={"ftol": 1e-15},
            ).x
            found, shown = update(method, jacobian, losses)
            np.testing.assert_allclose(shown, weights, atol=1e-5)
            np.testing.assert_allclose(found, weights @ tracked, rtol=1e-3, atol=1e-3)

    def test_rho_draws_the_weights_together(self):
        method = MoCoWeighting(2, gamma=0.1, gamma_sigma=0, rho=9.0)
        for _ in range(100):
            _, weights = update(method, [[3.0, 0.0], [0.0, 1.0]])
        # (1.8 + 9) w_1 = (0.2 + 9) w_2
        np.testing.assert_allclose(weights, [0.46, 0.54], atol=1e-6)

    @pytest.mark.parametrize("name", ["beta_sigma", "gamma", "gamma_sigma", "rho"])
    def test_bad_arguments(self, name):
        with pytest.raises(ConfigError, match=f"{name}: expected a number of at least 0, found -1"):
            MoCoWeighting(2, **{name: -1})
        with pytest.raises(ConfigError, match=r"beta: expected a number from 0 to 1, found 1\.5"):
            MoCoWeighting(2, beta=1.5)
