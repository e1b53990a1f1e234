"""IMTL-L: its objective and the losses of one scale."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calls import finite_differences, tensor, value_and_gradient, weights_of

from paddleseg_autoloss.weighting import IMTLLWeighting


class TestIMTLL:
    @staticmethod
    def at(s) -> IMTLLWeighting:
        method = IMTLLWeighting(len(s))
        method.s.set_value(np.asarray(s, "float32"))
        return method

    @classmethod
    def total(cls, s, losses) -> paddle.Tensor:
        method = cls.at(s)
        return method, method.total(tensor(losses), method(tensor(losses)))

    @classmethod
    def slope(cls, s, loss) -> float:
        method, total = cls.total([s], [loss])
        total.backward()
        return float(method.s.grad[0])

    @pytest.mark.parametrize("s", [[0, 0, 0], [-1.5, 2, 0.3], [-6.9, 6.9, 1]])
    def test_value_and_gradients_are_those_of_the_paper(self, s):
        losses = np.array([0.3, 1.0, 2.5])

        def formula(s):
            return np.sum(np.exp(s) * losses - s)

        method, total = self.total(s, losses)
        assert float(total) == pytest.approx(formula(np.array(s)), rel=1e-5)
        total.backward()
        expected = finite_differences(formula, s)
        np.testing.assert_allclose(method.s.grad.numpy(), expected, rtol=1e-4, atol=1e-5)
        _, gradient = value_and_gradient(method, losses)
        np.testing.assert_allclose(gradient, np.exp(s), rtol=1e-5)

    @pytest.mark.parametrize("loss", [0.01, 1.0, 300.0])
    def test_descent_reaches_the_stationary_point(self, loss):
        method = IMTLLWeighting(1)
        optimizer = paddle.optimizer.Adam(0.1, beta2=0.9, parameters=method.parameters())
        for _ in range(500):
            method.total(tensor([loss]), method(tensor([loss]))).backward()
            optimizer.step()
            optimizer.clear_grad()
        assert weights_of(method, [loss])[0] == pytest.approx(1 / loss, rel=1e-2)

    @settings(max_examples=60, deadline=None)
    @given(s=st.floats(-100, 100, width=32), loss=st.sampled_from([-100.0, 0.0, 1e-5, 1e3, 1e6]))
    def test_the_weight_can_neither_explode_nor_vanish(self, s, loss):
        weight = weights_of(self.at([s]), [loss])[0]
        assert math.exp(-7) * 0.999 <= weight <= 1.5 * math.exp(7) * 1.001
        slope = self.slope(s, loss)
        if loss < 0:
            assert slope == 0
        elif s > 7.51:
            assert slope > 0
        elif s < -7:
            assert slope < 0

    @pytest.mark.parametrize("bound", [-7, 7])
    def test_continuous_at_the_bounds(self, bound):
        for loss in (0.0, 1e-3, 1.0):
            inside, outside = (self.total([bound * f], [loss])[1] for f in (0.99999, 1.00001))
            assert float(inside) == pytest.approx(float(outside), rel=2e-3)

    def test_slope_is_continuous_above(self):
        below, above = self.slope(7 - 1e-5, 1.0), self.slope(7 + 1e-5, 1.0)
        assert above == pytest.approx(below, rel=1e-3)
