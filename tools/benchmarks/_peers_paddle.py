"""Worker of benchmark_peers.py: steps and solvers of this package, in Paddle."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import numpy as np
import paddle
from _peers_shared import CONVOLUTIONS, LEARNING_RATE, STRIDE, C, Steps, Task, run_worker
from benchmark_solvers import PROBLEMS
from paddle import Tensor, nn

from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import METHODS, GramianWeighting

#: The methods of the steps, with the arguments that the peers have.
ARGUMENTS: dict[str, dict] = {
    "UPGrad": {},
    "MGDA": {},
    "CAGrad": {"calpha": C, "rescale": 0},
    "NashMTL": {"max_norm": 0},
    "FairGrad": {},
    "PCGrad": {},
}


def make_network(task: Task) -> nn.Layer:
    """Return the network of the task."""
    layers: list[nn.Layer] = []
    for before, after, stride in CONVOLUTIONS:
        layers.append(nn.Conv2D(before, after, 3, stride, padding=1, bias_attr=False))
        layers += [nn.BatchNorm2D(after), nn.ReLU()]
    layers.append(nn.Conv2D(CONVOLUTIONS[-1][1], task.masks[0].shape[1], 1, bias_attr=False))
    layers.append(nn.Upsample(scale_factor=STRIDE, mode="bilinear"))
    kernels = [layer.weight for layer in layers if isinstance(layer, nn.Conv2D)]
    for parameter, kernel in zip(kernels, task.kernels):
        parameter.set_value(kernel)
    return nn.Sequential(*layers)


class Training:
    """A network, its optimizer and a batch."""

    def __init__(self, task: Task) -> None:
        self.network = make_network(task)
        self.parameters = self.network.parameters()
        self.optimizer = paddle.optimizer.SGD(LEARNING_RATE, parameters=self.parameters)
        self.images = paddle.to_tensor(task.images)
        self.masks = [paddle.to_tensor(mask) for mask in task.masks]

    def losses(self) -> list[Tensor]:
        """Return the K losses of the batch."""
        logs = nn.functional.log_softmax(self.network(self.images), axis=1)
        return [-(logs * mask).sum() for mask in self.masks]

    def finish(self) -> None:
        """Let the optimizer step."""
        self.optimizer.step()
        self.optimizer.clear_grad()


def plain_step(training: Training) -> float:
    """Take a step with the sum of the losses; return the seconds of the backward pass."""
    total = sum(training.losses())
    start = time.process_time()
    total.backward()
    seconds = time.process_time() - start
    training.finish()
    return seconds


def method_step(task: Task, name: str) -> Callable[[], None]:
    """Return a function that takes a step with a method."""
    training, count = Training(task), len(task.masks)
    names = [f"loss {i}" for i in range(count)]
    aggregator = LossAggregator(names, METHODS[name](count, **ARGUMENTS[name]))
    aggregator.bind(training.parameters)

    def step() -> None:
        aggregator(dict(zip(names, training.losses()))).backward()
        training.finish()

    return step


def make_steps(task: Task, count: int) -> Steps:
    """Return the steps of this package."""
    training = Training(task)
    losses = training.losses()
    sum(losses).backward()
    gradients = [p.grad for p in training.parameters if not p.stop_gradient]
    squares = [float((gradient * gradient).sum()) for gradient in gradients]
    training.optimizer.clear_grad()
    return Steps(
        lambda: plain_step(training),
        {f"ours {name}": method_step(task, name) for name in ARGUMENTS},
        [float(loss) for loss in losses],
        float(np.sqrt(sum(squares))),
    )


def make_solvers(count: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return the solvers of this package for K losses."""

    def solver(name: str) -> Callable[[np.ndarray], np.ndarray]:
        method, ours = METHODS[name](count, **PROBLEMS[name].arguments), PROBLEMS[name].ours
        assert isinstance(method, GramianWeighting)
        return lambda gramian: ours(method, gramian)

    return {f"ours {name}": solver(name) for name in PROBLEMS}


if __name__ == "__main__":
    found = {"Paddle": paddle.__version__, "Python": platform.python_version()}
    sys.exit(run_worker(make_steps, make_solvers, found))
