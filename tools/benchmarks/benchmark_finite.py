"""Measure ways to find out whether all gradients of a network are finite.

The time is that of the thread, so other jobs on the machine count little.

    OMP_NUM_THREADS=1 python tools/benchmarks/benchmark_finite.py --model FastSCNN
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import numpy as np
import paddle
from paddle import Tensor
from paddleseg.cvlibs import manager

from paddleseg_autoloss.integration import guard


def _each(tensors: list[Tensor]) -> bool:
    return bool(paddle.stack([tensor.isfinite().all() for tensor in tensors]).numpy().all())


#: The first was the guard's; it still names what is not finite.
WAYS: dict[str, Callable[[list[Tensor]], bool]] = {
    "isfinite and all of each": _each,
    "one fused operation": guard._are_finite_on_gpu,
    "sum of squares": guard._have_finite_length,
}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="FastSCNN", help="any model of PaddleSeg for 2 classes")
    parser.add_argument("--rounds", type=int, default=60, help="how often each way is measured")
    return parser.parse_args(argv)


@paddle.no_grad()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    tensors = [paddle.rand(p.shape) for p in manager.MODELS[args.model](num_classes=2).parameters()]
    print(f"{args.model}: {len(tensors)} tensors, {sum(t.size for t in tensors) / 1e6:.1f} million")
    seconds = np.zeros([args.rounds, len(WAYS)])
    for turn in range(args.rounds):
        for index, look in enumerate(WAYS.values()):
            start = time.thread_time()
            look(tensors)
            seconds[turn, index] = time.thread_time() - start
    for name, column in zip(WAYS, seconds.T):
        low, middle, high = np.percentile(column * 1000, [25, 50, 75])
        print(f"{name:26} {middle:.2f} ms (middle half {low:.2f} to {high:.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
