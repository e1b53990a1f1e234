"""Measure what looking at each loss's gradient costs, on a network of PaddleSeg.

Steps of all variants take turns in one process, so that a machine that speeds up or slows down
does so for all of them; what counts are the ratios to the plain step, the sum of the losses.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import numpy as np
import paddle
from paddle import nn
from paddleseg.cvlibs import manager
from paddleseg.models.losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    LovaszSoftmaxLoss,
    MixedLoss,
)
from tqdm import trange

from paddleseg_autoloss.integration.session import TrainingSession

INTERVAL = 10
VARIANTS: dict[str, dict | None] = {
    "plain": None,
    "level: parameters": {"type": "CAGrad"},
    "level: features": {"type": "CAGrad", "level": "features"},
    "level: logits": {"type": "CAGrad", "level": "logits"},
    f"update_interval: {INTERVAL}": {"type": "CAGrad", "update_interval": INTERVAL},
}
LOSSES = [CrossEntropyLoss, DiceLoss, LovaszSoftmaxLoss, FocalLoss]


class MainHead(nn.Layer):
    """A network of PaddleSeg without its auxiliary outputs."""

    def __init__(self, network: nn.Layer) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """Return the first output."""
        return list(self.network(images)[:1])


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--model",
        default="PPLiteSeg",
        help="PPLiteSeg (with STDC1), UNet or any model of 2 classes",
    )
    add("--losses", type=int, choices=[2, 3, 4], default=2, help="K, how many losses")
    add("--size", type=int, default=128, help="height and width of the input, pixels")
    add("--batch_size", type=int, default=4, help="images per step")
    add(
        "--layer",
        default="network.backbone",
        help="layer for level: features, of the model inside of 'network'",
    )
    add(
        "--rounds", type=int, default=30, help="steps of each variant; multiples of 10 count fairly"
    )
    return parser.parse_args(argv)


def make_network(name: str) -> nn.Layer:
    """Build a network of PaddleSeg for two classes."""
    backbone = {"backbone": manager.BACKBONES["STDC1"]()} if name == "PPLiteSeg" else {}
    return MainHead(manager.MODELS[name](num_classes=2, **backbone))


def variants_for(
    network: nn.Layer, variants: dict[str, dict | None], layer: str
) -> dict[str, dict | None]:
    """Return the variants that a network allows: not every network has the layer.

    Args:
        network: the network.
        variants: values of ``loss_aggregator``.
        layer: the layer for level ``features``.
    """
    has_layer = layer in {name for name, _ in network.named_sublayers()}
    found: dict[str, dict | None] = {}
    for name, config in variants.items():
        of_features = config is not None and config.get("level") == "features"
        if config is not None and of_features and has_layer:
            found[name] = {**config, "layer": layer}
        elif not of_features:
            found[name] = config
    return found


def make_step(args: Namespace, aggregator: dict | None, stack: ExitStack) -> Callable:
    """Return a function that takes one training step and returns the seconds of its backward.

    Args:
        args: the flags.
        aggregator: the value of ``loss_aggregator``, or None for the plain sum.
        stack: closes what was opened.
    """
    paddle.seed(0)
    model = make_network(args.model)
    model.train()
    images = paddle.rand([args.batch_size, 3, args.size, args.size])
    labels = paddle.randint(0, 2, [args.batch_size, args.size, args.size])
    optimizer = paddle.optimizer.SGD(1e-4, parameters=model.parameters())
    types = [MixedLoss([loss() for loss in LOSSES[: args.losses]], [1] * args.losses)]
    losses = {"types": types, "coef": [1], "loss_aggregator": aggregator}
    session = TrainingSession(model, None, optimizer, losses, "output/benchmark", 0, 10**9)
    stack.enter_context(session.attached())

    def step() -> float:
        terms = model.loss_computation(model(images), losses, {"label": labels})
        total = sum(terms)
        start = time.perf_counter()
        total.backward()
        # A value of the first layer's gradient is there when the backward pass is over.
        model.parameters()[0].grad.sum().item()
        backward = time.perf_counter() - start
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
                start = time.perf_counter()
                backward = steps[index]()
                seconds[turn, index] = time.perf_counter() - start
                if index == 0:
                    shares.append(backward / seconds[turn, index])
    return seconds, float(np.median(shares))


def report_steps(args: Namespace) -> None:
    """Measure the steps and print a table."""
    variants = variants_for(make_network(args.model), VARIANTS, args.layer)
    seconds, share = measure(args, variants)
    floor = 1 - share + args.losses * share
    print(f"{args.model}, {args.size} x {args.size}, batch {args.batch_size}, K = {args.losses}")
    print(f"plain step: median {np.median(seconds[:, 0]):.3f} s, backward {share:.0%} of it")
    print(f"floor of K backward passes: {floor:.3f}")
    for index, name in list(enumerate(variants))[1:]:
        ratios = seconds[:, index] / seconds[:, 0]
        low, high = np.percentile(ratios, [25, 75])
        # Means where the steps of one variant differ by design.
        average = np.mean if name.startswith("update_interval") else np.median
        ratio = average(seconds[:, index]) / average(seconds[:, 0])
        print(f"{name:22} {ratio:.3f} of plain (middle half by rounds {low:.3f} to {high:.3f})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    report_steps(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
