"""Compare the step times of two configs, step by step in turn, in one process.

The machine may speed up or slow down while it runs: the figure to quote is the ratio, whose median
and spread over the pairs of steps are printed.
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
from paddleseg.cvlibs import SegBuilder
from tqdm import trange

from paddleseg_autoloss.flags import run_command
from paddleseg_autoloss.installation import CONFIG_DIR
from paddleseg_autoloss.integration.config import find_config, load_config
from paddleseg_autoloss.integration.loop import LOOP
from paddleseg_autoloss.integration.session import TrainingSession


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--config", default="auto_ce_dice_demo.yml", help="config to measure")
    add("--baseline", default="fixed_ce_dice_demo.yml", help="config to measure it against")
    add("--size", type=int, default=128, help="height and width of the input, pixels")
    add("--batch_size", type=int, default=4, help="images per step")
    add("--iters", type=int, default=60, help="pairs of steps that count")
    add("--warmup", type=int, default=5, help="pairs of steps before")
    add("--opts", nargs="+", help="config keys to change in both")
    return parser.parse_args(argv)


def make_step(args: Namespace, name: str, with_session: bool, stack: ExitStack) -> Callable:
    """Build a config and return a function that takes one training step.

    Args:
        args: the flags.
        name: the config.
        with_session: train as ``tools/train.py`` does; otherwise as stock PaddleSeg does.
        stack: closes what was opened.
    """
    paddle.seed(0)
    builder = SegBuilder(load_config(find_config(name, CONFIG_DIR), opts=args.opts))
    model, optimizer, losses = builder.model, builder.optimizer, builder.loss
    model.train()
    images = paddle.rand([args.batch_size, 3, args.size, args.size])
    labels = paddle.randint(0, 2, [args.batch_size, args.size, args.size])
    if with_session:
        session = TrainingSession(model, None, optimizer, losses, "output/benchmark", 0, 10**9)
        stack.enter_context(session.attached())

    def step() -> None:
        logits = model(images)
        if with_session:
            terms = model.loss_computation(logits, losses, {"label": labels})
        else:
            terms = LOOP.loss_computation(logits, labels, None, losses)
        total = sum(terms)
        total.backward()
        optimizer.step()
        model.clear_gradients()
        # PaddleSeg's loop reads these at every step.
        float(total)
        [term.numpy() for term in terms]

    return step


def measure(args: Namespace) -> np.ndarray:
    """Return the seconds of each step, shape [pairs, 2]: config, baseline."""
    with ExitStack() as stack:
        steps = [
            make_step(args, args.config, True, stack),
            make_step(args, args.baseline, False, stack),
        ]
        seconds = np.zeros([args.warmup + args.iters, 2])
        for pair in trange(len(seconds), desc="pairs of steps"):
            # Whoever goes second finds warmer caches: they take turns.
            for index in (0, 1) if pair % 2 else (1, 0):
                start = time.perf_counter()
                steps[index]()
                seconds[pair, index] = time.perf_counter() - start
    return seconds[args.warmup :]


def report(args: Namespace) -> None:
    """Measure and print."""
    seconds = measure(args)
    low, middle, high = np.percentile(seconds[:, 0] / seconds[:, 1], [25, 50, 75])
    for name, column in ((args.config, 0), (args.baseline, 1)):
        print(f"{name}: median {np.median(seconds[:, column]) * 1000:.1f} ms per step")
    print(f"ratio of medians {np.median(seconds[:, 0]) / np.median(seconds[:, 1]):.3f}")
    print(f"ratio by pairs: median {middle:.3f}, middle half {low:.3f} to {high:.3f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    return run_command(lambda: report(args))


if __name__ == "__main__":
    sys.exit(main())
