"""UncertaintyWeightedLoss against the likelihoods of the paper."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from support.learned import LOSSES, finite_differences, gradient, set_parameter, total, total_loss

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import UncertaintyWeighting


def kendall(forms):
    factor = {"classification": 1.0, "regression": 0.5}

    def formula(s) -> float:
        terms = zip(LOSSES, s, forms)
        return sum(factor[form] * math.exp(-x) * loss + x / 2 for loss, x, form in terms)

    return formula


FORMS = ["classification", "regression", "classification"]


class TestUncertaintyWeighting:
    @pytest.mark.parametrize("s", [[0, 0, 0], [-1.5, 2, 0.3], [-6.9, 6.9, 1], [-7, 0, 0]])
    def test_value_and_gradient_are_those_of_the_paper(self, s):
        weighting = set_parameter(UncertaintyWeighting(3, form=FORMS), s)
        assert total(weighting) == pytest.approx(kendall(FORMS)(s), rel=1e-5)
        expected = finite_differences(kendall(FORMS), s)
        np.testing.assert_allclose(gradient(weighting), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(("form", "scale"), [("regression", 1), ("classification", 2)])
    @pytest.mark.parametrize("loss", [0.01, 1.0, 50.0])
    def test_stationary_point(self, form, scale, loss):
        """exp(s) = L or 2 L, and the weight is 1 / (2 L) in both forms."""
        s = math.log(scale * loss)
        weighting = set_parameter(UncertaintyWeighting(1, form=form), [s])
        assert gradient(weighting, [loss])[0] == pytest.approx(0, abs=1e-6)
        weight = float(weighting(paddle.to_tensor([loss])))
        assert weight == pytest.approx(1 / (2 * loss), rel=1e-5)

    def test_same_form_for_all(self):
        one = UncertaintyWeighting(2, form="regression")
        each = UncertaintyWeighting(2, form=["regression", "regression"])
        assert total(one, [1, 2]) == total(each, [1, 2]) == 1.5

    @pytest.mark.parametrize("loss", [0.0, 1e-9, 1e9])
    @pytest.mark.parametrize("rate", [0.01, 0.3])
    def test_weight_neither_explodes_nor_vanishes(self, loss, rate):
        weighting = UncertaintyWeighting(1)
        optimizer = paddle.optimizer.Adam(rate, parameters=weighting.parameters())
        for _ in range(2000):
            total_loss(weighting, paddle.to_tensor([loss])).backward()
            optimizer.step()
            optimizer.clear_grad()
        weight = float(weighting(paddle.to_tensor([loss])))
        assert math.exp(-7) * 0.99 <= weight <= 2.5 * math.exp(7)
        assert abs(float(weighting.s)) < 8.5

    def test_comes_back_from_the_bound(self):
        weighting = set_parameter(UncertaintyWeighting(1), [-7.4])
        optimizer = paddle.optimizer.SGD(0.01, parameters=weighting.parameters())
        for _ in range(2000):
            total_loss(weighting, paddle.to_tensor([1.0])).backward()
            optimizer.step()
            optimizer.clear_grad()
        assert float(weighting.s) == pytest.approx(math.log(2), abs=0.01)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"form": "dice"}, "form: expected one of classification, regression, found 'dice'"),
            ({"form": ["regression"]}, "form: expected one for each of 2 losses, found 1"),
            ({"init": 9}, "init: expected a number in"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            UncertaintyWeighting(2, **arguments)
