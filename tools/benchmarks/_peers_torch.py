"""Worker of benchmark_peers.py: steps and solvers of TorchJD and of LibMTL's way, in Torch.

It runs in the environment that benchmark_peers.py makes, without Paddle and this package.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import _peers_libmtl as libmtl
import numpy as np
import torch
from _peers_shared import CONVOLUTIONS, LEARNING_RATE, STRIDE, TAU, C, Steps, Task, run_worker
from torch import Tensor, nn
from torchjd import aggregation, autojac
from torchjd.autogram import Engine

#: The methods of TorchJD, with the arguments that this package has; NashMTL needs K too.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "UPGrad": {},
    "MGDA": {},
    "CAGrad": {"c": C},
    "NashMTL": {"max_norm": 0.0},
    "FairGrad": {"alpha": 1.0},
    "PCGrad": {},
}


def make_network(task: Task) -> nn.Module:
    """Return the network of the task."""
    layers: list[nn.Module] = []
    for before, after, stride in CONVOLUTIONS:
        layers.append(nn.Conv2d(before, after, 3, stride, padding=1, bias=False))
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
    layers.append(nn.Conv2d(CONVOLUTIONS[-1][1], task.masks[0].shape[1], 1, bias=False))
    layers.append(nn.Upsample(scale_factor=STRIDE, mode="bilinear"))
    kernels = [layer.weight for layer in layers if isinstance(layer, nn.Conv2d)]
    for parameter, kernel in zip(kernels, task.kernels):
        parameter.data.copy_(torch.from_numpy(kernel))
    return nn.Sequential(*layers)


class Training:
    """A network, its optimizer and a batch."""

    def __init__(self, task: Task) -> None:
        self.network = make_network(task)
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, LEARNING_RATE)
        self.images = torch.from_numpy(task.images)
        self.masks = [torch.from_numpy(mask) for mask in task.masks]

    def losses(self) -> list[Tensor]:
        """Return the K losses of the batch."""
        logs = torch.log_softmax(self.network(self.images), dim=1)
        return [-(logs * mask).sum() for mask in self.masks]

    def finish(self) -> None:
        """Let the optimizer step."""
        self.optimizer.step()
        self.optimizer.zero_grad()


def plain_step(training: Training) -> float:
    """Take a step with the sum of the losses; return the seconds of the backward pass."""
    total = torch.stack(training.losses()).sum()
    start = time.process_time()
    total.backward()
    seconds = time.process_time() - start
    training.finish()
    return seconds


def aggregator_for(name: str, count: int) -> aggregation.Aggregator:
    """Return a method of TorchJD for K losses."""
    needed = {"n_tasks": count} if name == "NashMTL" else {}
    return getattr(aggregation, name)(**needed, **ARGUMENTS[name])


def autojac_step(task: Task, name: str, chunk: int | None) -> Callable[[], None]:
    """Return a function that takes a step with TorchJD's Jacobians.

    Args:
        task: the task.
        name: of the method.
        chunk: how many losses TorchJD differentiates at once, None for all.
    """
    training, aggregator = Training(task), aggregator_for(name, len(task.masks))

    def step() -> None:
        autojac.backward(training.losses(), parallel_chunk_size=chunk)
        autojac.jac_to_grad(training.parameters, aggregator)
        training.finish()

    return step


def autogram_step(task: Task) -> Callable[[], None]:
    """Return a function that takes a step of UPGrad with TorchJD's Gramian."""
    training, weighting = Training(task), aggregation.UPGradWeighting()
    engine = Engine(training.network, batch_dim=None)

    def step() -> None:
        losses = torch.stack(training.losses())
        losses.backward(weighting(engine.compute_gramian(losses)))
        training.finish()

    return step


def libmtl_step(task: Task, name: str) -> Callable[[], None]:
    """Return a function that takes a step as LibMTL does."""
    training, method = Training(task), libmtl.make_step(name, len(task.masks))

    def step() -> None:
        method(training.losses(), training.parameters)
        # LibMTL's trainer fills the gradients with 0 and keeps them.
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=False)

    return step


def make_steps(task: Task, count: int) -> Steps:
    """Return the steps of both peers."""
    training = Training(task)
    losses = training.losses()
    torch.stack(losses).sum().backward()
    squares = [float(p.grad.square().sum()) for p in training.parameters if p.grad is not None]
    training.optimizer.zero_grad()
    others: dict[str, Callable[[], object]] = {
        "TorchJD UPGrad, one loss at a time": autojac_step(task, "UPGrad", 1),
        "TorchJD UPGrad, autogram": autogram_step(task),
    }
    for name in ARGUMENTS:
        others[f"TorchJD {name}"] = autojac_step(task, name, None)
        others[f"LibMTL {name}"] = libmtl_step(task, name)
    return Steps(
        lambda: plain_step(training),
        others,
        [loss.item() for loss in losses],
        float(np.sqrt(sum(squares))),
    )


def make_solvers(count: int) -> dict[str, Callable[[np.ndarray], Any]]:
    """Return the solvers of both peers for K losses; all get the Gramian in double precision."""
    nash = aggregation.NashMTL(count, max_norm=0.0)
    pcd = aggregation.PCDWeighting(TAU)

    def solve_pcd(gramian: Tensor) -> Tensor:
        # Without the running means.
        pcd.reset()
        return pcd(gramian)

    weightings: dict[str, Callable] = {
        "UPGrad": aggregation.UPGradWeighting(),
        "DualProj": aggregation.DualProjWeighting(),
        "MGDA": aggregation.MGDAWeighting(),
        "CAGrad": aggregation.CAGradWeighting(C),
        "FairGrad": aggregation.FairGradWeighting(1.0),
        "PCD": solve_pcd,
    }
    solvers: dict[str, Callable[[np.ndarray], Any]] = {
        f"TorchJD {name}": partial(on_tensor, weighting) for name, weighting in weightings.items()
    }
    # It takes gradients only; K of them with K numbers each have the same Gramian.
    solvers["TorchJD NashMTL"] = lambda gramian: nash.weighting(torch.from_numpy(root_of(gramian)))
    for name, solve in libmtl.make_solvers(count).items():
        solvers[f"LibMTL {name}"] = partial(on_tensor, solve)
    return solvers


def on_tensor(solve: Callable[[Tensor], Any], gramian: np.ndarray) -> Any:
    """Solve for a Gramian that is an array."""
    return solve(torch.from_numpy(gramian))


def root_of(gramian: np.ndarray) -> np.ndarray:
    """Return K gradients with K numbers each that have a Gramian."""
    values, vectors = np.linalg.eigh(gramian)
    return vectors * np.sqrt(np.maximum(values, 0))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the worker and return its exit status."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    names = {"Torch": "torch", "TorchJD": "torchjd", "cvxpy": "cvxpy", "quadprog": "quadprog"}
    found = {name: version(package) for name, package in names.items()}
    found["Python"] = platform.python_version()
    return run_worker(make_steps, make_solvers, found, argv)


if __name__ == "__main__":
    sys.exit(main())
