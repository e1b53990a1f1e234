"""SeparateBackward: the sum in one backward pass, or a step of the optimizer for each loss."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from support.assertions import close
from support.calls import after_a_step
from support.networks import aggregate, flat_gradient, head_losses, network

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import SeparateBackwardWeighting


def test_separate_backward_is_plain_backward_of_the_sum():
    """ "Add the losses up, or call backward on each?"  It is the same."""
    model, plain = network(), network()
    losses = head_losses(model)
    aggregate(model, losses, SeparateBackwardWeighting(4))(losses).backward()
    sum(head_losses(plain).values()).backward()
    close(flat_gradient(model), flat_gradient(plain))


class TestStepEach:
    """SeparateBackward with an optimizer step for each loss, against steps taken by hand."""

    @staticmethod
    def network():
        model = network()
        # Batch norm leaves its gradient to rounding, which Adam blows up.
        model.body[0].bias.stop_gradient = True
        return model

    @staticmethod
    def by_hand(make_optimizer, rates, steps):
        model = TestStepEach.network()
        optimizer = make_optimizer(model.parameters())
        for _ in range(steps):
            for row, rate in zip(TestStepEach.rows(model), rates):
                for parameter, gradient in zip(model.parameters(), row):
                    if parameter.stop_gradient:
                        continue
                    parameter.clear_gradient(False)
                    if gradient is not None:
                        parameter.grad = gradient
                optimizer.set_lr(0.1 * rate)
                optimizer.step()
            optimizer.clear_grad()
        return model

    @staticmethod
    def rows(model):
        losses = head_losses(model).values()
        trainable = [p for p in model.parameters() if not p.stop_gradient]
        rows = [paddle.grad(x, trainable, retain_graph=True, allow_unused=True) for x in losses]
        everywhere = []
        for row in rows:
            gradients = iter(row)
            everywhere.append(
                [None if p.stop_gradient else next(gradients) for p in model.parameters()]
            )
        return everywhere

    @pytest.mark.parametrize("grouped", [False, True])
    @pytest.mark.parametrize("kind", ["SGD", "Momentum", "Adam", "AdamW"])
    def test_each_loss_steps_in_turn_with_its_own_rate(self, kind, grouped):
        rates = [1.0, 0.1, 2.0, 0.5]

        def make_optimizer(parameters):
            clip = nn.ClipGradByGlobalNorm(0.5)
            trainable = [p for p in parameters if not p.stop_gradient]
            groups = [{"params": trainable[:3]}, {"params": trainable[3:]}]
            return getattr(paddle.optimizer, kind)(
                0.1, parameters=groups if grouped else trainable, grad_clip=clip
            )

        model = self.network()
        names = list(head_losses(network()))
        aggregator = LossAggregator(names, SeparateBackwardWeighting(4, lr_mult=rates, step="each"))
        optimizer = make_optimizer(model.parameters())
        aggregator.bind(model.parameters(), optimizer)
        for _ in range(3):
            aggregator(head_losses(model)).backward()
            optimizer.step()
            optimizer.clear_grad()
        expected = self.by_hand(make_optimizer, rates, 3)
        for one, other in zip(model.parameters(), expected.parameters()):
            if not one.stop_gradient:
                np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-6)
        aggregator.unbind()
        assert optimizer.step == type(optimizer).step.__get__(optimizer)

    def test_needs_an_optimizer(self):
        model = network()
        losses = head_losses(model)
        with pytest.raises(ConfigError, match="step: each needs the optimizer"):
            aggregate(model, losses, SeparateBackwardWeighting(4, step="each"))

    def test_needs_every_gradient_at_every_step(self):
        for options in ({"level": "logits"}, {"update_interval": 2}):
            with pytest.raises(ConfigError, match="step: each needs level parameters"):
                LossAggregator(["a", "b"], SeparateBackwardWeighting(2, step="each"), **options)


@pytest.mark.parametrize(("reduction", "factor"), [(None, 1), ("sum", 1), ("mean", 1 / 3)])
@pytest.mark.parametrize("scale", [None, 64.0])
def test_reduction_scales_every_step(reduction, factor, scale):
    """Plain gradient descent takes K steps at once: the sum of the gradients times the rates."""
    weighting = SeparateBackwardWeighting(3, lr_mult=[1, 0.5, 2], step="each")
    x = after_a_step(LossAggregator(["a", "b", "c"], weighting, reduction=reduction), scale)
    gradients = np.array([[1, 0], [0, 4], [3, 3]])
    moved = 0.1 * factor * np.array([1, 0.5, 2]) @ gradients
    np.testing.assert_allclose(x, [1, 2] - moved, rtol=1e-5)
