"""How many operations the package adds to a step: not more for a larger network."""

from __future__ import annotations

import paddleseg_autoloss  # isort: skip  before paddle

from contextlib import ExitStack
from unittest import mock

import numpy as np
import paddle
import pytest
from paddle import nn, profiler
from paddleseg.models.losses import CrossEntropyLoss
from support import ce_and_dice

from paddleseg_autoloss.integration import guard
from paddleseg_autoloss.integration.loop import LOOP
from paddleseg_autoloss.integration.session import TrainingSession

#: The profiler's name of an operation that Python launches has this ending.
LAUNCHED = " dygraph"


class Deep(nn.Layer):
    """Convolutions with batch norm: 4 parameters a block."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        layers = [layer for _ in range(blocks) for layer in (nn.Conv2D(3, 3, 1), nn.BatchNorm2D(3))]
        self.body = nn.Sequential(*layers, nn.Conv2D(3, 2, 1))

    def forward(self, x):
        return [self.body(x)]


def operations_of_step(blocks: int, folder) -> int:
    """Count what one step launches; without a folder it is a step of stock PaddleSeg."""
    model = Deep(blocks)
    optimizer = paddle.optimizer.SGD(1e-3, parameters=model.parameters())
    loss = paddleseg_autoloss.AutoWeightedLoss(ce_and_dice()) if folder else CrossEntropyLoss()
    losses = {"types": [loss], "coef": [1]}
    images, labels = paddle.rand([1, 3, 4, 4]), paddle.zeros([1, 4, 4], "int64")

    def step():
        outputs = model(images)
        if folder:
            terms = model.loss_computation(outputs, losses, {"label": labels})
        else:
            terms = LOOP.loss_computation(outputs, labels, None, losses)
        sum(terms).backward()
        optimizer.step()
        model.clear_gradients()

    with ExitStack() as stack:
        if folder:
            session = TrainingSession(model, None, optimizer, losses, folder, 0, 10**9)
            stack.enter_context(session.attached())
        # The first steps prepare what later ones reuse.
        for _ in range(3):
            step()
        return counted(step)


def counted(step) -> int:
    recorder = profiler.Profiler(
        targets=[profiler.ProfilerTarget.CPU], on_trace_ready=lambda recorder: None
    )
    recorder.start()
    step()
    recorder.stop()
    nodes = list(recorder.profiler_result.get_data().values())
    for node in nodes:
        nodes.extend(node.children_node)
    return sum(node.name.endswith(LAUNCHED) for node in nodes)


def added(blocks: int, folder) -> int:
    return operations_of_step(blocks, folder) - operations_of_step(blocks, None)


def test_those_on_a_gpu_do_not_depend_on_the_number_of_parameters(tmp_path):
    """With 50 and 302 parameters, on a CPU: the guard is told that they are on a GPU."""
    with mock.patch.object(guard, "_is_on_gpu", return_value=True):
        small, large = (added(blocks, tmp_path) for blocks in (12, 75))
    assert 0 < small == large


@pytest.mark.parametrize("found", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("look", ["_are_finite_on_gpu", "_have_finite_length"])
def test_every_way_to_look_finds_every_kind(look, found):
    def gradients(last):
        shapes, types = [[2, 3], [], [4]], ["float32", "float32", "float64"]
        some = [paddle.full(shape, 0.1, dtype) for shape, dtype in zip(shapes, types)]
        return [*some, paddle.to_tensor([1e18, 1.0, last], dtype="float32")]

    look = getattr(guard, look)
    sound = gradients(1e-40)
    before = [gradient.numpy() for gradient in sound]
    assert look(sound)
    for gradient, array in zip(sound, before):
        np.testing.assert_array_equal(gradient.numpy(), array)
    assert not look(gradients(found))
