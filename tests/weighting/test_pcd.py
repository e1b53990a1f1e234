"""PCD against the closed form of two losses and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from support.calls import RAISED, solve
from support.samplers import jacobians, unit, well_conditioned

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import PCDWeighting


class TestPCD:
    @staticmethod
    def by_hand(jacobians_of_steps, tau, beta, eps):
        """Two losses, on the vectors, with the closed form of the projection."""
        v, updates = np.zeros(2), []
        for step, jacobian in enumerate(jacobians_of_steps, start=1):
            v = beta * v + (1 - beta) * (jacobian**2).sum(axis=1)
            unbiased = v / (1 - beta**step)
            scales = 1 / np.sqrt(unbiased + eps * unbiased.mean())
            first, second = jacobian * scales[:, None]
            lacking = tau * second @ second - first @ second
            direction = first + max(lacking, 0) / (second @ second) * second
            length = np.linalg.norm(jacobian[0]) / np.linalg.norm(direction)
            updates.append(length * direction)
        return updates

    @pytest.mark.parametrize("tau", [0.0, 0.02, 0.5])
    @pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
    def test_two_losses_over_many_steps(self, tau, beta):
        random = np.random.default_rng(3)
        steps = [random.standard_normal((2, 3)) * [[5.0], [0.1]] for _ in range(20)]
        method = PCDWeighting(2, tau=tau, beta=beta, eps=1e-3)
        for jacobian, update in zip(steps, self.by_hand(steps, tau, beta, 1e-3)):
            np.testing.assert_allclose(solve(method, jacobian) @ jacobian, update, rtol=1e-7)

    @pytest.mark.parametrize("tau", [0.3, [0.5, 0.05, 0.3, 0.2]])
    @pytest.mark.parametrize("primary", [0, 2])
    @pytest.mark.parametrize("seed", range(6))
    def test_agrees_with_scipy_on_the_vectors(self, primary, seed, tau):
        jacobian = well_conditioned(4, seed, conflict=0)
        units = unit(jacobian)
        secondary = np.delete(units, primary, axis=0)
        least = tau if isinstance(tau, float) else np.delete(tau, primary)
        found = minimize(
            lambda d: 0.5 * (d - units[primary]) @ (d - units[primary]),
            units[primary],
            jac=lambda d: d - units[primary],
            method="SLSQP",
            constraints={
                "type": "ineq",
                "fun": lambda d: secondary @ d - least,
                "jac": lambda d: secondary,
            },
            options={"ftol": 1e-15, "maxiter": 1000},
        ).x
        expected = found * np.linalg.norm(jacobian[primary]) / np.linalg.norm(found)
        method = PCDWeighting(4, primary=primary, tau=tau, eps=0)
        np.testing.assert_allclose(solve(method, jacobian) @ jacobian, expected, atol=1e-5)

    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9), tau=st.sampled_from([0.0, 0.02, 0.4]))
    def test_every_secondary_loss_makes_its_progress_or_constraints_are_dropped(
        self, jacobian, tau
    ):
        weights = solve(PCDWeighting(len(jacobian), tau=tau, eps=0), jacobian)
        lengths = np.linalg.norm(jacobian, axis=1)
        shares = weights * lengths
        assert shares.max() <= 2e6 * lengths[0]
        if not shares[1:].any():
            return
        # The direction in the scale of the primary's normalised gradient, which has length 1.
        shares /= shares[0]
        slack = unit(jacobian) @ (shares @ unit(jacobian)) - tau
        some = lengths > 0
        some[0] = False
        near = RAISED * shares.sum() + 1e-9
        assert (slack[some] >= -near).all()
        assert (np.abs(slack * shares)[some] <= near * (shares[some] + 1e-6)).all()

    def test_primary_loss_can_be_named(self):
        """In the aggregator, which knows the names."""
        names = ["head0/CrossEntropyLoss", "head1/CrossEntropyLoss", "head1/DiceLoss"]
        named, numbered = PCDWeighting(3, primary=names[1]), PCDWeighting(3, primary=1)
        LossAggregator(names, named)
        jacobian = well_conditioned(3, seed=2, conflict=1.5)
        np.testing.assert_array_equal(solve(named, jacobian), solve(numbered, jacobian))
        with pytest.raises(ConfigError, match=r"primary: expected one of a, b, c, found 'head1"):
            LossAggregator(["a", "b", "c"], PCDWeighting(3, primary="head1/DiceLoss"))
        with pytest.raises(ConfigError, match="primary: expected an index without names"):
            solve(PCDWeighting(3, primary="a"), jacobian)

    def test_update_is_as_long_as_the_primary_gradient(self):
        jacobian = well_conditioned(5, seed=1, conflict=1.5)
        update = solve(PCDWeighting(5, tau=0.1), jacobian) @ jacobian
        assert np.linalg.norm(update) == pytest.approx(np.linalg.norm(jacobian[0]))

    def test_without_conflict_it_is_the_primary_gradient(self):
        jacobian = np.array([[1.0, 0], [5, 3], [1, -1]])
        np.testing.assert_allclose(solve(PCDWeighting(3), jacobian), [1, 0, 0])
        weights = solve(PCDWeighting(3, primary=1, tau=0.0), jacobian)
        np.testing.assert_allclose(weights, [0, 1, 0])

    def test_constraints_that_cannot_be_met_are_dropped(self):
        jacobian = np.array([[1.0, 0], [0, 1], [0, -3]])
        assert solve(PCDWeighting(3), jacobian).tolist() == [1, 0, 0]
        rows = np.array([[1.0, 0], [0.1, 1], [-0.3, -3]]) @ np.random.default_rng(0).random(
            (2, 999)
        )
        rows = rows.astype("float32")
        weights = PCDWeighting(3).solve(np.ones(3), (rows @ rows.T).astype("float64"))
        assert weights.tolist() == [1, 0, 0]

    def test_a_secondary_loss_opposed_to_the_primary_wins(self):
        """d = g_1 + mu g_2 with <g_2, d> = tau: the little of g_2 that is asked for is left."""
        jacobian = np.array([[2.0, 0], [-0.5, 0]])
        update = solve(PCDWeighting(2, tau=0.02), jacobian) @ jacobian
        np.testing.assert_allclose(update, [-2, 0])

    def test_opposed_losses_without_tau_stop(self):
        weights = solve(PCDWeighting(2, tau=0), np.array([[2.0, 0], [-0.5, 0]]))
        assert np.isfinite(weights).all()
        np.testing.assert_allclose(weights @ [2.0, -0.5], 0, atol=1e-7)

    def test_a_constant_factor_of_a_secondary_loss_does_not_matter(self):
        random = np.random.default_rng(6)
        method, scaled = PCDWeighting(3, eps=0), PCDWeighting(3, eps=0)
        factors = np.array([[1.0], [1e-3], [50]])
        for _ in range(5):
            jacobian = random.standard_normal((3, 4))
            update = solve(scaled, factors * jacobian) @ (factors * jacobian)
            np.testing.assert_allclose(update, solve(method, jacobian) @ jacobian, rtol=1e-6)

    def test_without_gradient_of_the_primary_there_is_no_update(self):
        jacobian = np.array([[0.0, 0], [1, 2]])
        assert (solve(PCDWeighting(2), jacobian) @ jacobian == 0).all()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"primary": 2}, "primary: expected an index below 2, found 2"),
            ({"primary": -1}, "primary: expected an integer of at least 0, found -1"),
            ({"tau": 1.1}, "tau: expected a number from 0 to 1, found 1.1"),
            ({"tau": [0.1, 2]}, "tau: expected a number from 0 to 1, found 2"),
            ({"tau": [0.1]}, "tau: expected one for each of 2 losses, found 1"),
            ({"beta": 1}, "beta: expected a number below 1, found 1"),
            ({"eps": -1}, "eps: expected a number of at least 0, found -1"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            PCDWeighting(2, **arguments)
