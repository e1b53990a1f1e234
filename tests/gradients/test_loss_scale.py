"""Gradients under the factor of a gradient scaler."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.autograd import PyLayer
from support.training import enabled_scaler

from paddleseg_autoloss.errors import TrainingDiverged
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import CAGradWeighting, PCGradWeighting, SeparateBackwardWeighting


class _Half(PyLayer):
    """The identity, whose gradient goes through half precision as in a network under AMP."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return dy.astype("float16").astype("float32")


class TestLossScale:
    """There is no half precision on a CPU: gradients pass through it in one place instead."""

    @staticmethod
    def step(scaler, factor, weighting=None):
        x = paddle.to_tensor([1.0, 1.0], stop_gradient=False)
        half = _Half.apply(x)
        losses = {"a": half[0] * factor, "b": (half[1] - half[0]) * factor}
        aggregator = LossAggregator(["a", "b"], weighting or PCGradWeighting(2))
        aggregator.bind([x])
        aggregator.loss_scale = lambda: scaler._scale if scaler else None
        optimizer = paddle.optimizer.SGD(1.0, parameters=[x])
        state = {k: v.numpy().copy() for k, v in aggregator.state_dict().items() if k != "calls"}
        total = aggregator(losses)
        if scaler:
            scaled = scaler.scale(total)
            scaled.backward()
            scaler.minimize(optimizer, scaled)
        else:
            total.backward()
            optimizer.step()
        return x, aggregator, state

    def test_small_gradients_do_not_vanish(self):
        """1e-8 is 0 in half precision; times 65536 it is not."""
        x, aggregator, _ = self.step(enabled_scaler(65536.0), 1e-8)
        assert aggregator.last_gramian[0, 0] == pytest.approx(1e-16, rel=1e-2)
        # g = (1, 0) and (-1, 1) conflict: weights 1 + 1, 1 + 1/2, update (1/2, 3/2).
        np.testing.assert_allclose(aggregator.last_weights.numpy(), [2, 1.5], rtol=1e-2)
        np.testing.assert_allclose(x.numpy() - 1, [-0.5e-8, -1.5e-8], atol=1e-7)
        np.testing.assert_allclose(x.grad.numpy(), [0.5e-8, 1.5e-8], rtol=1e-2)

    def test_without_the_scale_they_would(self):
        _, aggregator, _ = self.step(None, 1e-8)
        assert aggregator.last_gramian[0, 0] == 0

    @pytest.mark.parametrize("method", [PCGradWeighting, CAGradWeighting])
    def test_an_overflow_skips_the_step_and_leaves_the_state(self, method):
        scaler = enabled_scaler(65536.0)
        x, aggregator, state = self.step(scaler, 10.0, method(2))
        assert scaler._found_inf
        np.testing.assert_array_equal(x.numpy(), [1, 1])
        for key, value in state.items():
            np.testing.assert_array_equal(aggregator.state_dict()[key].numpy(), value)

    def test_a_step_for_each_loss(self):
        """SGD adds up what the losses take by themselves: (-1, -0.5) and (0.1, -0.1), halved."""
        x = nn.Linear(1, 2).bias
        x.set_value(np.ones(2, "float32"))
        scaler, optimizer = enabled_scaler(1024.0), paddle.optimizer.SGD(0.5, parameters=[x])
        aggregator = LossAggregator(
            ["a", "b"], SeparateBackwardWeighting(2, lr_mult=[1, 0.1], step="each")
        )
        aggregator.bind([x], optimizer)
        aggregator.loss_scale = lambda: scaler._scale
        losses = {"a": x[0] + x[1] / 2, "b": x[1] - x[0]}
        scaled = scaler.scale(aggregator(losses))
        scaled.backward()
        scaler.minimize(optimizer, scaled)
        np.testing.assert_allclose(x.numpy(), [1 - 0.5 + 0.05, 1 - 0.25 - 0.05], rtol=1e-5)

    @pytest.mark.parametrize("spoiled", ["a", "b"])
    def test_an_overflow_of_either_loss_skips_the_steps_of_both(self, spoiled):
        x = nn.Linear(1, 2).bias
        x.set_value(np.ones(2, "float32"))
        scaler, optimizer = enabled_scaler(1024.0), paddle.optimizer.SGD(0.5, parameters=[x])
        aggregator = LossAggregator(["a", "b"], SeparateBackwardWeighting(2, step="each"))
        aggregator.bind([x], optimizer)
        aggregator.loss_scale = lambda: scaler._scale
        losses = {"a": x[0] * 1.0, "b": x[1] * 1.0}
        losses[spoiled] = _Half.apply(x)[0] * 1e6
        scaled = scaler.scale(aggregator(losses))
        scaled.backward()
        scaler.minimize(optimizer, scaled)
        assert scaler._found_inf
        np.testing.assert_array_equal(x.numpy(), [1, 1])

    def test_without_a_scaler_an_infinite_gradient_stops_training(self):
        with pytest.raises(TrainingDiverged, match="the gradient of a is infinite, an overflow"):
            self.step(None, 1e6)
