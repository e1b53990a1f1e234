"""The formulas, against hand-computed values, closed forms and finite differences."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import AutoWeighting, SumWeighting, UncertaintyWeighting

LOSSES = [0.3, 1.0, 2.5]


def total_loss(weighting, losses) -> paddle.Tensor:
    return weighting.total(losses, weighting(losses))


def total(weighting, losses=LOSSES) -> float:
    return float(total_loss(weighting, paddle.to_tensor(losses, dtype="float32")))


def set_parameter(weighting, values):
    weighting.learned().set_value(np.asarray(values, "float32"))
    return weighting


def gradient(weighting, losses=LOSSES) -> np.ndarray:
    weighting.clear_gradients()
    total_loss(weighting, paddle.to_tensor(losses, dtype="float32")).backward()
    return weighting.learned().grad.numpy()


def finite_differences(formula, values, step=1e-6) -> np.ndarray:
    slopes = []
    for index in range(len(values)):
        up, down = np.array(values, float), np.array(values, float)
        up[index] += step
        down[index] -= step
        slopes.append((formula(up) - formula(down)) / (2 * step))
    return np.array(slopes)


def liebel(c) -> float:
    return sum(loss / (2 * x * x) + math.log(1 + x * x) for loss, x in zip(LOSSES, c))


def kendall(forms):
    factor = {"classification": 1.0, "regression": 0.5}

    def formula(s) -> float:
        terms = zip(LOSSES, s, forms)
        return sum(factor[form] * math.exp(-x) * loss + x / 2 for loss, x, form in terms)

    return formula


FORMS = ["classification", "regression", "classification"]


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


@pytest.mark.parametrize("method", [AutoWeighting, UncertaintyWeighting, SumWeighting])
class TestEveryMethod:
    def test_gradient_of_the_losses_is_the_weights(self, method):
        weighting = method(3)
        losses = paddle.to_tensor(LOSSES, stop_gradient=False)
        total_loss(weighting, losses).backward()
        np.testing.assert_allclose(losses.grad.numpy(), weighting(losses).numpy(), rtol=1e-6)

    def test_permutation(self, method):
        order = [2, 0, 1]
        straight, permuted = method(3), method(3)
        if straight.learned() is not None:
            values = np.array([0.4, 0.9, 1.7], "float32")
            set_parameter(straight, values)
            set_parameter(permuted, values[order])
        assert total(straight) == pytest.approx(total(permuted, [LOSSES[i] for i in order]), 1e-6)

    def test_state_dict_restores_it(self, method):
        saved, restored = method(2), method(2)
        if saved.learned() is not None:
            set_parameter(saved, [0.7, 1.3])
        restored.set_state_dict(saved.state_dict())
        assert total(saved, [1, 2]) == total(restored, [1, 2])

    def test_a_weight_for_the_optimizer_to_learn_faster(self, method):
        if method is SumWeighting:
            assert method(2).parameters() == []
        else:
            assert method(2, lr_mult=10).learned().optimize_attr["learning_rate"] == 10


def test_sum_is_the_sum():
    assert total(SumWeighting(3)) == pytest.approx(3.8)
