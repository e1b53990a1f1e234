"""IMTL: balanced gradients of scaled losses."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from support.calls import solve

from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import IMTLGWeighting, IMTLWeighting


class TestIMTL:
    @staticmethod
    def call(method, losses, jacobian):
        gramian = paddle.to_tensor(jacobian @ jacobian.T, dtype="float32")
        return method(paddle.to_tensor(losses, dtype="float32"), gramian).numpy()

    def test_weights_are_those_of_the_balanced_scaled_losses(self):
        random = np.random.default_rng(0)
        for _ in range(30):
            jacobian, s = random.standard_normal((3, 8)), random.uniform(-1, 1, 3)
            method = IMTLWeighting(3)
            method.s.set_value(s.astype("float32"))
            scaled = np.exp(s)[:, None] * jacobian
            alpha = np.linalg.pinv(scaled @ scaled.T) @ np.linalg.norm(scaled, axis=1)
            expected = np.exp(s) * alpha / alpha.sum()
            if np.abs(alpha).sum() < 9 * alpha.sum():
                np.testing.assert_allclose(solve(method, jacobian), expected, rtol=1e-5)

    def test_scales_change_the_length_and_not_the_direction(self):
        jacobian = np.random.default_rng(1).standard_normal((3, 8))
        method = IMTLWeighting(3)
        method.s.set_value(np.array([-2.0, 0.5, 3.0], "float32"))
        update, plain = solve(method, jacobian) @ jacobian, solve(IMTLGWeighting(3), jacobian)
        direction = plain @ jacobian
        cosine = update @ direction / np.linalg.norm(update) / np.linalg.norm(direction)
        assert cosine == pytest.approx(1)
        assert np.linalg.norm(update) != pytest.approx(np.linalg.norm(direction), rel=0.01)

    @pytest.mark.parametrize("s", [[-7.6, 0.3, 7.4], [-6.9, 0.0, 6.9], [-12.0, 1.0, 9.0]])
    def test_gradient_of_s_is_that_of_its_objective(self, s):
        """By finite differences, beyond the bounds as in the docstring."""
        losses = np.array([0.7, 2.0, 0.001])

        def objective(s):
            bounded = np.clip(s, -7, 7)
            above = np.maximum(s - 7, 0)
            scales = np.exp(bounded) * (1 + np.minimum(above, 0.5))
            return (scales * losses - s + above**2).sum()

        method = IMTLWeighting(3)
        method.s.set_value(np.array(s, "float32"))
        self.call(method, losses, np.eye(3))
        penalty = method.penalty()
        assert float(penalty) == 0
        penalty.backward()
        at = method.s.numpy().astype("float64")
        steps = 1e-6 * np.eye(3)
        slopes = [(objective(at + e) - objective(at - e)) / 2e-6 for e in steps]
        np.testing.assert_allclose(method.s.grad.numpy(), slopes, rtol=1e-4, atol=1e-6)

    def test_a_constant_loss_is_scaled_to_1(self):
        method, losses = IMTLWeighting(3), np.array([0.05, 1.0, 4.0])
        optimizer = paddle.optimizer.SGD(0.1, parameters=method.parameters())
        for _ in range(300):
            self.call(method, losses, np.eye(3))
            method.penalty().backward()
            optimizer.step()
            optimizer.clear_grad()
        np.testing.assert_allclose(np.exp(method.s.numpy()) * losses, 1, rtol=1e-3)

    @pytest.mark.parametrize(("loss", "s"), [(0.0, 7.5), (-3.0, 0.0)])
    def test_a_loss_of_0_stops_at_the_bound_and_a_negative_one_stays(self, loss, s):
        method = IMTLWeighting(2)
        optimizer = paddle.optimizer.SGD(0.1, parameters=method.parameters())
        for _ in range(400):
            weights = self.call(method, [loss, 1.0], np.eye(2))
            method.penalty().backward()
            optimizer.step()
            optimizer.clear_grad()
        np.testing.assert_allclose(method.s.numpy(), [s, 0], atol=1e-3)
        assert np.isfinite(weights).all()

    def test_the_penalty_is_of_one_call_and_s_gets_nothing_else(self):
        method = IMTLWeighting(2)
        assert method.penalty() is None
        x = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
        aggregator = LossAggregator(["a", "b"], method)
        aggregator.bind([x])
        total = aggregator({"a": x[0] * 3, "b": x[1] * 0.25})  # lengths 3 and 1/4
        assert float(total) == pytest.approx((3 / 3 + 0.5 * 4) / (1 / 3 + 4))
        total.backward()
        assert method.s.grad.tolist() == [2.0, -0.5]
        np.testing.assert_allclose(x.grad.numpy(), np.array([1, 1]) / (1 / 3 + 4), rtol=1e-6)
        assert method.penalty() is None

    def test_a_loss_that_is_not_finite(self):
        method = IMTLWeighting(2)
        with pytest.raises(TrainingDiverged, match="not finite"):
            self.call(method, [float("nan"), 1.0], np.eye(2))
        assert method.penalty() is None

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"lr_mult": 0}, "lr_mult: expected a positive number, found 0"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            IMTLWeighting(2, **arguments)
