"""AutoWeightedLoss against hand-computed values, closed forms and finite differences."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.learned import LOSSES, finite_differences, gradient, set_parameter, total, total_loss

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import AutoWeighting


def liebel(c) -> float:
    return sum(loss / (2 * x * x) + math.log(1 + x * x) for loss, x in zip(LOSSES, c))


class TestAutoWeighting:
    def test_starts_at_one(self):
        weighting = AutoWeighting(3)
        assert weighting.c.numpy().tolist() == [1, 1, 1]
        assert total(weighting) == pytest.approx(3.8 / 2 + 3 * math.log(2), rel=1e-6)

    @pytest.mark.parametrize("c", [[1, 1, 1], [0.5, 2, -0.7], [-3, 0.11, 10]])
    def test_value_and_gradient_are_those_of_the_paper(self, c):
        weighting = set_parameter(AutoWeighting(3), c)
        assert total(weighting) == pytest.approx(liebel(c), rel=1e-5)
        expected = finite_differences(liebel, c)
        np.testing.assert_allclose(gradient(weighting), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(("loss", "c2"), [(0.1, 0.25), (1.0, 1.0), (100.0, 50.98076)])
    def test_stationary_point(self, loss, c2):
        """c^2 = (L + sqrt(L^2 + 8 L)) / 4."""
        weighting = set_parameter(AutoWeighting(1), [math.sqrt(c2)])
        assert gradient(weighting, [loss])[0] == pytest.approx(0, abs=1e-5 * max(loss, 1))
        assert c2 == pytest.approx((loss + math.sqrt(loss**2 + 8 * loss)) / 4, rel=1e-6)

    def test_descent_reaches_the_stationary_point(self):
        weighting = AutoWeighting(1)
        optimizer = paddle.optimizer.Adam(0.01, parameters=weighting.parameters())
        for _ in range(1500):
            total_loss(weighting, paddle.to_tensor([0.1])).backward()
            optimizer.step()
            optimizer.clear_grad()
        assert float(weighting.c**2) == pytest.approx(0.25, rel=1e-3)

    @settings(max_examples=50, deadline=None)
    @given(
        c=st.floats(-0.09375, 0.09375, width=32, allow_subnormal=False), loss=st.floats(1e-3, 100)
    )
    def test_near_zero_it_stays_finite_and_is_pushed_outwards(self, c, loss):
        weighting = set_parameter(AutoWeighting(1), [c])
        assert 0 < float(weighting(paddle.to_tensor([loss]))) <= 100.001
        slope = gradient(weighting, [loss])[0]
        assert abs(slope) <= 1001 * loss + 1
        if loss > 1e-3 and abs(c) > 1e-6:
            assert (slope < 0) == (c > 0)

    def test_continuation_meets_the_formula_with_its_slope(self):
        inside = set_parameter(AutoWeighting(1), [0.1 - 1e-5])
        outside = set_parameter(AutoWeighting(1), [0.1 + 1e-5])
        assert total(inside, [1.0]) == pytest.approx(total(outside, [1.0]), rel=1e-3)
        assert gradient(inside, [1.0])[0] == pytest.approx(gradient(outside, [1.0])[0], rel=1e-2)

    def test_sgd_across_zero_recovers(self):
        """A loss that vanishes for long and comes back does not lose its weight for good."""
        weighting = set_parameter(AutoWeighting(1), [0.02])
        optimizer = paddle.optimizer.SGD(0.01, parameters=weighting.parameters())
        for loss in [0.0] * 200 + [0.5] * 2000:
            total_loss(weighting, paddle.to_tensor([loss])).backward()
            optimizer.step()
            optimizer.clear_grad()
        c2 = (0.5 + math.sqrt(0.25 + 4)) / 4
        assert float(weighting.c**2) == pytest.approx(c2, rel=0.05)

    def test_does_not_rest_on_zero(self):
        weighting = set_parameter(AutoWeighting(1), [0.0])
        assert gradient(weighting, [0.5])[0] == pytest.approx(-0.005, rel=1e-4)

    def test_sign_of_c_does_not_matter(self):
        plus = set_parameter(AutoWeighting(3), [0.5, 0.05, 2])
        minus = set_parameter(AutoWeighting(3), [-0.5, -0.05, -2])
        assert total(plus) == pytest.approx(total(minus), rel=1e-4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"init": 0}, "init: expected a number other than 0, found 0"),
            ({"init": "abc"}, "init: expected a number, found 'abc'"),
            ({"lr_mult": float("nan")}, "lr_mult: expected a number, found nan"),
            ({"lr_mult": 0}, "lr_mult: expected a positive number, found 0"),
            ({"lr_mult": "ten"}, "lr_mult: expected a number, found 'ten'"),
            ({"num_losses": 0}, "num_losses: expected a positive integer, found 0"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            AutoWeighting(**{"num_losses": 2, **arguments})
