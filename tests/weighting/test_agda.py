"""AGDA against its algorithm on the gradients themselves."""

from __future__ import annotations

import numpy as np
import pytest
from support.calls import solve

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import AGDAWeighting


class TestAGDA:
    @staticmethod
    def by_hand(losses_of_steps, jacobians_of_steps, period, gamma):
        """Equations 16 to 18 and both steps of the algorithm, on the gradients themselves."""
        smooth = reference = None
        updates = []
        for step, (losses, jacobian) in enumerate(zip(losses_of_steps, jacobians_of_steps)):
            losses = np.asarray(losses)
            smooth = losses if smooth is None else gamma * smooth + (1 - gamma) * losses
            if step % period == 0:
                reference = smooth
            tilde = smooth / reference
            rates = tilde / tilde.sum()
            norms = np.linalg.norm(jacobian, axis=1)
            omega = (rates * (norms.mean() - norms) + norms) / norms
            first, second = omega[0] * jacobian[0], omega[1] * jacobian[1]
            if first @ second < 0:
                second = second - (first @ second) / (first @ first) * first
            updates.append(first + second)
        return updates

    @pytest.mark.parametrize("period", [1, 3, 100])
    def test_update_is_that_of_the_algorithm_from_the_first_step_on(self, period):
        random = np.random.default_rng(1)
        losses = random.uniform(0.1, 2, (10, 2))
        jacobians_ = random.standard_normal((10, 2, 5)) * [[1.0], [20.0]]
        method = AGDAWeighting(2, M=period, gamma=0.9)
        expected = self.by_hand(losses, jacobians_, period, 0.9)
        for loss, jacobian, update in zip(losses, jacobians_, expected):
            np.testing.assert_allclose(solve(method, jacobian, loss) @ jacobian, update)

    def test_second_loss_never_works_against_the_first(self):
        random = np.random.default_rng(2)
        for _ in range(50):
            jacobian = random.standard_normal((2, 3))
            weights = solve(AGDAWeighting(2), jacobian)
            balanced_first = jacobian[0]
            assert (weights @ jacobian) @ balanced_first >= -1e-12

    @pytest.mark.parametrize("losses", [[0.0, 1.0], [-1.0, 1.0], [0.0, 0.0]])
    def test_losses_without_a_rate_count_alike(self, losses):
        method = AGDAWeighting(2)
        for _ in range(3):
            weights = solve(method, np.array([[1.0, 0], [0, 4.0]]), losses)
            np.testing.assert_allclose(weights, [1.75, 0.8125])

    def test_a_loss_without_gradient_leaves_the_other_alone(self):
        assert solve(AGDAWeighting(2), np.array([[1.0, 2], [0, 0]])).tolist() == [1, 1]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_losses": 3}, "losses: AGDA expects 2 losses, found 3"),
            ({"M": 0}, "M: expected a positive integer, found 0"),
            ({"gamma": 1.5}, "gamma: expected a number from 0 to 1, found 1.5"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            AGDAWeighting(**arguments)
