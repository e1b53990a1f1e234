"""Measure what looking at each loss's gradient costs, on a network of PaddleSeg.

Steps of all variants take turns in one process, so that a machine that speeds up or slows down
does so for all of them; what counts are the ratios to the plain step, the sum of the losses.
"""

from __future__ import annotations

import csv
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import numpy as np
import paddle
from _networks import feature_layer, make_network
from paddle import nn
from paddleseg.models.losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    LovaszSoftmaxLoss,
    MixedLoss,
)
from tqdm import trange

from paddleseg_autoloss.gradients.features import Features
from paddleseg_autoloss.integration.session import TrainingSession

INTERVAL = 10
CSV_HEADER = (
    "model", "heads", "losses", "size", "batch_size", "rounds",
    "variant", "ratio", "low", "high", "share_of_backward",
)  # fmt: skip
LOSSES = [CrossEntropyLoss, DiceLoss, LovaszSoftmaxLoss, FocalLoss]


def clock() -> float:
    """Return the seconds that the process has worked on a CPU; of the wall clock on a GPU."""
    return time.process_time() if paddle.get_device() == "cpu" else time.perf_counter()


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--model",
        default="PPLiteSeg",
        help="PPLiteSeg (with STDC1), UNet or any model of 2 classes",
    )
    add("--heads", type=int, default=1, help="how many outputs of the network get losses")
    add("--losses", type=int, choices=[2, 3, 4], default=2, help="how many losses of each output")
    add("--size", type=int, default=128, help="height and width of the input, pixels")
    add("--batch_size", type=int, default=4, help="images per step")
    add(
        "--rounds", type=int, default=30, help="steps of each variant; multiples of 10 count fairly"
    )
    add("--csv", type=Path, help="file to which a line for each variant is appended")
    return parser.parse_args(argv)


def variants_for(network: nn.Layer, layer: str) -> dict[str, dict | None]:
    """Return the value of ``loss_aggregator`` for each variant, None for the plain sum.

    Args:
        network: not every network has a layer for the features.
        layer: name of that layer.
    """
    variants: dict[str, dict | None] = {"plain": None, "level: parameters": {"type": "CAGrad"}}
    if layer in {name for name, _ in network.named_sublayers()}:
        variants["level: features"] = {"type": "CAGrad", "level": "features", "layer": layer}
    variants["level: logits"] = {"type": "CAGrad", "level": "logits"}
    variants[f"update_interval: {INTERVAL}"] = {"type": "CAGrad", "update_interval": INTERVAL}
    return variants


def make_step(args: Namespace, aggregator: dict | None, stack: ExitStack) -> Callable:
    """Return a function that takes one training step and returns the seconds of its backward.

    Args:
        args: the flags.
        aggregator: the value of ``loss_aggregator``, or None for the plain sum.
        stack: closes what was opened.
    """
    paddle.seed(0)
    model = make_network(args.model, heads=args.heads)
    model.train()
    images = paddle.rand([args.batch_size, 3, args.size, args.size])
    labels = paddle.randint(0, 2, [args.batch_size, args.size, args.size])
    optimizer = paddle.optimizer.SGD(1e-4, parameters=model.parameters())
    types = [
        MixedLoss([loss() for loss in LOSSES[: args.losses]], [1] * args.losses)
        for _ in range(args.heads)
    ]
    losses = {"types": types, "coef": [1] * args.heads, "loss_aggregator": aggregator}
    session = TrainingSession(model, None, optimizer, losses, "output/benchmark", 0, 10**9)
    stack.enter_context(session.attached())

    def step() -> float:
        terms = model.loss_computation(model(images), losses, {"label": labels})
        total = sum(terms)
        start = clock()
        total.backward()
        # A value of the first layer's gradient is there when the backward pass is over.
        model.parameters()[0].grad.sum().item()
        backward = clock() - start
        optimizer.step()
        model.clear_gradients()
        float(total)
        return backward

    return step


def measure(args: Namespace, variants: dict[str, dict | None]) -> tuple[np.ndarray, float]:
    """Return the seconds of each step, shape [rounds, variants], and backward's share of plain."""
    with ExitStack() as stack:
        steps = [make_step(args, config, stack) for config in variants.values()]
        seconds, shares = np.zeros([args.rounds, len(steps)]), []
        for step in steps[:-1]:
            step()
        # The variant with an interval begins a whole cycle; its first step was not taken yet.
        for turn in trange(args.rounds, desc="rounds"):
            for index in np.roll(range(len(steps)), turn):
                start = clock()
                backward = steps[index]()
                seconds[turn, index] = clock() - start
                if index == 0:
                    shares.append(backward / seconds[turn, index])
    return seconds, float(np.median(shares))


def share_above(args: Namespace, layer: str) -> float:
    """Return h, the share of a backward pass that lies above the features, the median of rounds.

    Args:
        args: the flags.
        layer: name of the layer whose outputs are the features.
    """
    paddle.seed(0)
    model = make_network(args.model, heads=args.heads)
    model.train()
    features = Features(model, layer)
    images = paddle.rand([args.batch_size, 3, args.size, args.size])
    labels = paddle.randint(0, 2, [args.batch_size, args.size, args.size])
    parameters = [p for p in model.parameters() if not p.stop_gradient]
    shares = []
    for _ in range(args.rounds):
        outputs = model(images)
        total = sum(loss()(out, labels) for out in outputs for loss in LOSSES[: args.losses])
        _, above = features.split(parameters, [total])
        partial = _seconds_of_grad(total, [*features.tensors(), *above])
        shares.append(partial / _seconds_of_grad(total, parameters))
    return float(np.median(shares))


def _seconds_of_grad(total: paddle.Tensor, targets: list[paddle.Tensor]) -> float:
    start = clock()
    found = paddle.grad(total, targets, retain_graph=True, allow_unused=True)
    # Its value is there when the backward pass is over.
    next(gradient for gradient in found if gradient is not None).sum().item()
    return clock() - start


class Cost(NamedTuple):
    """What a step of a variant costs.

    Args:
        variant: its name.
        ratio: its time as a multiple of the plain step's.
        low: the lower end of the middle half of the rounds.
        high: the upper end.
    """

    variant: str
    ratio: float
    low: float
    high: float


def costs(variants: Sequence[str], seconds: np.ndarray) -> list[Cost]:
    """Return the cost of each variant but the first, which is the plain step.

    Args:
        variants: their names.
        seconds: of each step, shape [rounds, variants].
    """
    found = []
    for index, name in list(enumerate(variants))[1:]:
        low, high = np.percentile(seconds[:, index] / seconds[:, 0], [25, 75])
        # Means where the steps of one variant differ by design.
        average = np.mean if name.startswith("update_interval") else np.median
        ratio = average(seconds[:, index]) / average(seconds[:, 0])
        found.append(Cost(name, float(ratio), float(low), float(high)))
    return found


def report_steps(args: Namespace) -> None:
    """Measure the steps, print a table, and append it to a file if there is one."""
    network = make_network(args.model, heads=args.heads)
    variants = variants_for(network, feature_layer(args.model))
    seconds, share = measure(args, variants)
    count = args.heads * args.losses
    floor = 1 - share + count * share
    print(f"{args.model}, {args.size} x {args.size}, batch {args.batch_size}, K = {count}")
    print(f"plain step: median {np.median(seconds[:, 0]):.3f} s, backward {share:.0%} of it")
    found = [Cost("floor of K backward passes", floor, floor, floor)]
    if "level: features" in variants:
        above = share_above(args, feature_layer(args.model))
        formula = 1 - share + share * (count * above + 1 - above)
        found.append(Cost("floor of level: features", formula, formula, formula))
    found += costs(list(variants), seconds)
    for cost in found:
        print(
            f"{cost.variant:27} {cost.ratio:.3f} of plain "
            f"(middle half by rounds {cost.low:.3f} to {cost.high:.3f})"
        )
    if args.csv is not None:
        _append(args, found, share)


def _append(args: Namespace, found: list[Cost], share: float) -> None:
    setting = [args.model, args.heads, args.losses, args.size, args.batch_size, args.rounds]
    is_new = not args.csv.exists()
    with args.csv.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(CSV_HEADER)
        for cost in found:
            figures = [f"{number:.4f}" for number in (*cost[1:], share)]
            writer.writerow([*setting, cost.variant, *figures])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    report_steps(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
