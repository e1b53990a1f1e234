"""GradDrop against Algorithm 1 of the paper."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest
from support.calls import update
from support.samplers import steps

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import GradDropWeighting


class TestGradDrop:
    @staticmethod
    def by_hand(jacobian, uniform, leaks):
        found = np.zeros(jacobian.shape[1])
        for k, column in enumerate(jacobian.T):
            total = np.abs(column).sum()
            purity = 0.5 * (1 + column.sum() / total) if total else 0.5
            for g, leak in zip(column, leaks):
                kept = (purity > uniform[k] and g > 0) or (purity < uniform[k] and g < 0)
                found[k] += (leak + (1 - leak) * kept) * g
        return found

    @pytest.mark.parametrize("leak", [0.0, 0.3, [0.0, 0.5, 1.0]])
    def test_update_is_that_of_the_algorithm(self, leak):
        method = GradDropWeighting(3, leak=leak)
        method.draws.seed.set_value(np.asarray(7))
        leaks = leak if isinstance(leak, list) else [leak] * 3
        for step, (_, jacobian) in enumerate(steps(columns=300)):
            seed = int(np.random.default_rng([7, step]).integers(1, 2**31 - 1))
            uniform = paddle.uniform([300], min=0, max=1, seed=seed).numpy()
            expected = self.by_hand(jacobian, uniform, leaks)
            np.testing.assert_allclose(update(method, jacobian)[0], expected, rtol=1e-4, atol=1e-5)

    def test_signs_are_picked_as_often_as_they_should_be(self):
        """3 and -1: P = 3/4, so 3 in three of four cases, -1 otherwise."""
        count = 200_000
        found, _ = update(GradDropWeighting(2), np.tile([[3.0], [-1.0]], count))
        assert set(found) == {3.0, -1.0}
        assert (found == 3).mean() == pytest.approx(0.75, abs=4 * np.sqrt(3 / 16 / count))

    def test_coordinates_are_drawn_by_themselves(self):
        found, _ = update(GradDropWeighting(2), np.tile([[1.0], [-1.0]], 100_000))
        assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 4 / np.sqrt(100_000)

    def test_nothing_is_dropped_where_all_agree(self):
        random = np.random.default_rng(0)
        jacobian = np.abs(random.standard_normal((7, 100_000))) * random.choice([-1, 1], 100_000)
        found, weights = update(GradDropWeighting(7), jacobian)
        np.testing.assert_allclose(found, jacobian.sum(axis=0), rtol=1e-5)
        np.testing.assert_allclose(weights, np.ones(7), rtol=1e-4)

    def test_zeros_stay_zero(self):
        found, weights = update(GradDropWeighting(2), np.zeros((2, 5)))
        assert not found.any()
        assert not weights.any()

    def test_draws_neither_disturb_nor_follow_paddles_generator(self):
        jacobian = steps(columns=1000)[0][1]
        paddle.seed(3)
        method = GradDropWeighting(3)
        same = copy.deepcopy(method)
        first = paddle.rand([4]).numpy()
        one = update(method, jacobian)[0]
        second = paddle.rand([4]).numpy()
        paddle.seed(3)
        np.testing.assert_array_equal(paddle.rand([4]).numpy(), first)
        np.testing.assert_array_equal(paddle.rand([4]).numpy(), second)
        paddle.seed(99)
        np.testing.assert_array_equal(update(same, jacobian)[0], one)
        assert (update(same, jacobian)[0] != one).any()

    @pytest.mark.parametrize(
        ("leak", "message"),
        [
            (1.5, "leak: expected a number from 0 to 1, found 1.5"),
            ("high", "leak: expected a number, found 'high'"),
            ([0.5], "leak: expected one for each of 2 losses, found 1"),
        ],
    )
    def test_bad_arguments(self, leak, message):
        with pytest.raises(ConfigError, match=message):
            GradDropWeighting(2, leak=leak)
