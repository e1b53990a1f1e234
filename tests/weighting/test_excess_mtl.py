"""ExcessMTL against the formulas of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from support.calls import update
from support.samplers import steps

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import ExcessMTLWeighting


class TestExcessMTL:
    @staticmethod
    def by_hand(run, eta, warmup=1, epsilon=0.0):
        squares, weights, first, shown = 0, np.ones(3), [], []
        for _, jacobian in run:
            squares = squares + jacobian**2
            excess = (jacobian**2 / np.sqrt(squares + epsilon)).sum(axis=1)
            if len(first) < warmup:
                first.append(excess)
            else:
                weights = weights * np.exp(eta * excess / np.mean(first, axis=0))
                weights = 3 * weights / weights.sum()
            shown.append(weights)
        return shown

    @pytest.mark.parametrize(("eta", "warmup"), [(0.01, 1), (1.0, 1), (0.5, 3)])
    def test_weights_are_those_of_the_paper(self, eta, warmup):
        run = steps(number=12)
        method = ExcessMTLWeighting(3, step_size=eta, n_warmup_steps=warmup)
        for (losses, jacobian), expected in zip(run, self.by_hand(run, eta, warmup)):
            found, weights = update(method, jacobian, losses)
            np.testing.assert_allclose(weights, expected, rtol=1e-4)
            np.testing.assert_allclose(found, expected @ jacobian, rtol=1e-3, atol=1e-4)
            assert weights.sum() == pytest.approx(3, rel=1e-6)

    def test_the_authors_epsilon_does_not_show_in_gradients_of_order_one(self):
        run = [(losses, 3 * jacobian + 1) for losses, jacobian in steps()]
        for one, other in zip(self.by_hand(run, 0.5), self.by_hand(run, 0.5, epsilon=1e-7)):
            np.testing.assert_allclose(one, other, rtol=1e-4)

    def test_a_loss_without_gradient_gives_way(self):
        method = ExcessMTLWeighting(2, step_size=0.1)
        for _ in range(3):
            _, weights = update(method, [[1.0], [0.0]])
        assert weights[0] > 1 > weights[1] > 0
        _, weights = update(method, [[0.0], [2.0]])
        assert method.initial_excess.tolist() == [1, 2]

    def test_a_wild_step_can_be_undone(self):
        """exp(1000) is infinite, and a weight of 0 would stay 0 for ever."""
        method = ExcessMTLWeighting(2, step_size=1.0)
        update(method, [[1e-3], [1.0]])
        _, weights = update(method, [[1.0], [1e-3]])
        np.testing.assert_allclose(weights, [2, 0], atol=1e-6)
        for _ in range(400):
            _, weights = update(method, [[0.0], [100.0]])
        np.testing.assert_allclose(weights, [0, 2], atol=1e-6)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"step_size": -1}, "step_size: expected a number of at least 0, found -1"),
            ({"n_warmup_steps": 0}, "n_warmup_steps: expected a positive integer, found 0"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            ExcessMTLWeighting(2, **arguments)
