"""What the two workers of benchmark_peers.py share; it imports neither Paddle nor Torch.

A worker has two tasks, and prints its result as one line of JSON: `steps` times training steps of a
small network, `solvers` finds the weights for Gramians of a file.  Times are those that the
processor spent on the process: other programs on the machine do not count.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

CLASSES = 8
#: Channels before and after each convolution, and its stride.
CONVOLUTIONS = ((3, 32, 2), (32, 64, 2), (64, 128, 2), (128, 256, 2), (256, 256, 1))
#: By what the strides divide height and width.
STRIDE = 16
#: So small that all steps of a benchmark take place at about the same parameters.
LEARNING_RATE = 1e-6
#: The constant of CAGrad and the share of PCD, the same for all.
C, TAU = 0.5, 0.02


class Task(NamedTuple):
    """A small segmentation task with K losses.

    Loss i is the mean cross-entropy over the pixels of the classes i, i + K, i + 2 K and so on.

    Args:
        kernels: of the 3 x 3 convolutions and of the 1 x 1 convolution at the end.
        images: shape [N, 3, H, W].
        masks: for each loss the shares of the pixels in it, shape [N, CLASSES, H, W].
    """

    kernels: list[np.ndarray]
    images: np.ndarray
    masks: list[np.ndarray]


def make_task(losses: int, size: int, batch: int) -> Task:
    """Return the same task at every call.

    Args:
        losses: K, at most the number of classes.
        size: height and width of the images.
        batch: N, how many images.
    """
    random = np.random.default_rng(0)
    shapes = [(after, before, 3, 3) for before, after, _ in CONVOLUTIONS]
    shapes.append((CLASSES, CONVOLUTIONS[-1][1], 1, 1))
    kernels = [
        random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype("float32")
        for shape in shapes
    ]
    images = random.standard_normal((batch, 3, size, size)).astype("float32")
    labels = random.integers(0, CLASSES, (batch, size, size))
    hot = np.moveaxis(np.eye(CLASSES, dtype="float32")[labels], -1, 1)
    classes = np.arange(CLASSES) % losses
    masks = [hot * (classes == i).reshape(1, -1, 1, 1) for i in range(losses)]
    return Task(kernels, images, [(mask / mask.sum()).astype("float32") for mask in masks])


class Steps(NamedTuple):
    """What a worker times.

    Args:
        plain: takes a step with the sum of the losses; returns the seconds of its backward pass.
        others: each takes a step with a method.
        losses: the losses before the first step.
        gradient: the length of the gradient of their sum.
    """

    plain: Callable[[], float]
    others: Mapping[str, Callable[[], object]]
    losses: Sequence[float]
    gradient: float


def time_steps(steps: Steps, rounds: int) -> dict[str, Any]:
    """Time all steps in turn.

    Returns:
        ``seconds``: for each name, and for ``plain``, the seconds of each round; ``share``: the
        median share of the backward pass of the plain step; and the losses and the gradient.
    """
    functions: dict[str, Callable[[], Any]] = {"plain": steps.plain, **steps.others}
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    shares = []
    for function in functions.values():
        function()
    for turn in range(rounds):
        for index in np.roll(range(len(names)), turn):
            name = names[index]
            start = time.process_time()
            backward = functions[name]()
            seconds[name].append(time.process_time() - start)
            if name == "plain":
                shares.append(backward / seconds[name][-1])
    share = float(np.median(shares))
    return {
        "seconds": seconds, "share": share, "losses": steps.losses, "gradient": steps.gradient,
    }  # fmt: skip


def time_solver(
    solve: Callable[[Any], Any], gramians: Sequence[Any], repeats: int
) -> dict[str, Any]:
    """Solve each Gramian several times.

    Args:
        solve: of a Gramian, returns the weights as an array or a tensor.
        gramians: as the solver takes them.
        repeats: how often each is solved.

    Returns:
        ``seconds`` of each call, and the ``weights`` for each Gramian, None where there are none.
    """
    seconds: list[float] = []
    weights: list[list[float] | None] = []
    for gramian in gramians:
        found = None
        for _ in range(repeats):
            start = time.process_time()
            found = attempt(solve, gramian)
            seconds.append(time.process_time() - start)
        weights.append(found if found is None else finite(np.asarray(found, "float64")))
    return {"seconds": seconds, "weights": weights}


def attempt(solve: Callable[[Any], Any], gramian: Any) -> Any:
    """Return the weights, or None where the solver gives up."""
    try:
        return solve(gramian)
    except (ValueError, ArithmeticError):
        return None


def finite(weights: np.ndarray) -> list[float] | None:
    """Return weights as a list, or None where one isn't finite."""
    return weights.tolist() if np.isfinite(weights).all() else None


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line of a worker."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("task", choices=["steps", "solvers"])
    add("--losses", type=int, default=2, help="K, how many losses the network has")
    add("--size", type=int, default=64, help="height and width of the images")
    add("--batch_size", type=int, default=4, help="images per step")
    add("--rounds", type=int, default=3, help="steps of each kind")
    add("--gramians", help="file of the Gramians, an array for each K")
    add("--repeats", type=int, default=3, help="how often each Gramian is solved")
    return parser.parse_args(argv)


def run_worker(
    make_steps: Callable[[Task, int], Steps],
    make_solvers: Callable[[int], Mapping[str, Callable[[np.ndarray], Any]]],
    versions: Mapping[str, str],
    argv: Sequence[str] | None = None,
) -> int:
    """Do what the command line asks for, and print the result.

    Args:
        make_steps: of a task and K, returns the steps of the framework.
        make_solvers: of K, returns the solvers by their names.
        versions: of the packages that are measured.
        argv: the command line.
    """
    args = parse_args(argv)
    if args.task == "steps":
        task = make_task(args.losses, args.size, args.batch_size)
        result = time_steps(make_steps(task, args.losses), args.rounds)
    else:
        with np.load(args.gramians) as file:
            result = {
                name: {
                    solver: time_solver(solve, list(file[name]), args.repeats)
                    for solver, solve in make_solvers(int(name)).items()
                }
                for name in file.files
            }
    print(json.dumps({"versions": dict(versions), **result}))
    return 0
