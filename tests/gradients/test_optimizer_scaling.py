"""What an optimizer makes of a gradient, against its own steps."""

from __future__ import annotations

import inspect

import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.optimizers.custom_optimizers import AdamWDL

from paddleseg_autoloss.gradients.optimizer_scaling import OptimizerScaling

RATE = 0.01


class Blocks(nn.Layer):
    """Layers with the names that layer-wise decay of the learning rate looks for."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.LayerList([nn.Linear(3, 3) for _ in range(2)])
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        for block in self.blocks:
            x = paddle.tanh(block(x))
        return self.head(x)


def adam(model, **options):
    return paddle.optimizer.Adam(
        RATE, beta1=0.0, beta2=0.5, parameters=model.parameters(), **options
    )


def adam_w(model, **options):
    return paddle.optimizer.AdamW(
        RATE, beta1=0.0, beta2=0.5, parameters=model.parameters(), weight_decay=0.0, **options
    )


def layerwise(model):
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    return AdamWDL(
        RATE, beta1=0.0, beta2=0.5, parameters=model.parameters(), layerwise_decay=0.5, n_layers=2,
        name_dict=names,
    )  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        lambda model: paddle.optimizer.SGD(RATE, parameters=model.parameters()),
        adam,
        adam_w,
        pytest.param(
            lambda model: adam(model, amsgrad=True),
            marks=pytest.mark.skipif(
                "amsgrad" not in inspect.signature(paddle.optimizer.Adam).parameters,
                reason="Paddle before 3 has no amsgrad",
            ),
        ),
        layerwise,
    ],
    ids=["SGD", "Adam", "AdamW", "amsgrad", "AdamWDL"],
)
def test_a_step_is_the_scaled_gradient(make):
    """Without momentum, and with the second moment after the step, exactly."""
    model = Blocks()
    model.blocks[0].bias.optimize_attr["learning_rate"] = 3.0
    optimizer = make(model)
    x = paddle.randn([4, 3])
    # The last gradient is small, so that the largest second moment is another one.
    for factor in (1.0, 5.0, 0.1):
        (factor * (model(x) - 1) ** 2).mean().backward()
        before = [parameter.numpy() for parameter in model.parameters()]
        gradients = [parameter.grad.numpy() for parameter in model.parameters()]
        optimizer.step()
        optimizer.clear_grad()
    factors = OptimizerScaling(optimizer).factors(model.parameters())
    for value, parameter, gradient, scale in zip(before, model.parameters(), gradients, factors):
        step = value - parameter.numpy()
        expected = RATE * scale.numpy() * gradient
        np.testing.assert_allclose(step, expected, rtol=2e-3, atol=2e-7)
    assert model.blocks[0].bias.optimize_attr["learning_rate"] == 3.0


def test_the_ratio_of_a_layer_counts():
    """Paddle has ``lr_ratio`` on a GPU only, so here it is set by hand, and no step has it."""
    model = Blocks()
    optimizer = adam_w(model)
    model(paddle.randn([4, 3])).mean().backward()
    optimizer.step()
    plain = OptimizerScaling(optimizer).factors(model.parameters())
    optimizer._lr_ratio = lambda parameter: 0.5 if parameter.shape == [3, 2] else 1.0
    for parameter, before, found in zip(
        model.parameters(), plain, OptimizerScaling(optimizer).factors(model.parameters())
    ):
        ratio = 0.5 if parameter.shape == [3, 2] else 1.0
        np.testing.assert_allclose(found.numpy(), ratio * before.numpy(), rtol=1e-6)
