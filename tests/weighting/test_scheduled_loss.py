"""ScheduledLoss: its schedules."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.calls import value_and_gradient, weights_of
from support.samplers import NAN

from paddleseg_autoloss.weighting import ScheduledWeighting


class TestScheduledLoss:
    @staticmethod
    def second(steps, **arguments) -> list[float]:
        """What the second coefficient is over the iterations; the first is to stay 1."""
        method = ScheduledWeighting(2, **arguments)
        rows = [weights_of(method, [5.0, 7.0]) for _ in range(steps)]
        assert all(row[0] == 1 for row in rows)
        return [row[1] for row in rows]

    def test_constant(self):
        assert self.second(3) == [1, 1, 1]
        assert self.second(3, coef=[1, 0.5]) == [0.5, 0.5, 0.5]

    def test_linear(self):
        actual = self.second(
            8, coef=[1, 4], final_coef=[1, 0], schedule="linear", start_iter=2, end_iter=6
        )
        assert actual == [4, 4, 4, 3, 2, 1, 0, 0]

    def test_cosine(self):
        actual = self.second(
            7, coef=[1, 4], final_coef=[1, 0], schedule="cosine", start_iter=1, end_iter=5
        )
        half = 1 / math.sqrt(2)
        np.testing.assert_allclose(actual, [4, 4, 2 + 2 * half, 2, 2 - 2 * half, 0, 0], atol=1e-6)
        assert actual[-1] == 0

    def test_step(self):
        actual = self.second(4, coef=[1, 0], final_coef=[1, 3], schedule="step", start_iter=2)
        assert actual == [0, 0, 3, 3]

    def test_a_step_that_is_not_finite_does_not_count(self):
        method = ScheduledWeighting(2, final_coef=[1, 3], schedule="step", start_iter=1)
        assert weights_of(method, [NAN, 1.0]).tolist() == [1, 1]
        assert weights_of(method, [1.0, 1.0]).tolist() == [1, 1]
        assert weights_of(method, [1.0, 1.0]).tolist() == [1, 3]

    def test_total_is_the_weighted_sum(self):
        value, gradient = value_and_gradient(ScheduledWeighting(2, coef=[1, 0.4]), [5.0, 10.0])
        assert value == pytest.approx(9)
        np.testing.assert_allclose(gradient, [1, 0.4])

    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"coef": [1, 0.4]},
            {"final_coef": (2, 0.5), "schedule": "cosine", "start_iter": 3, "end_iter": 9},
            {"final_coef": [2, 0], "schedule": "step", "start_iter": 3},
        ],
    )
    def test_repr_rebuilds_it(self, arguments):
        method = ScheduledWeighting(2, **arguments)
        assert repr(eval(repr(method))) == repr(method)
