"""Train a tiny network for long with every method in turn: do memory and step time stay flat?

Each method trains through PaddleSeg's own loop, in a process of its own. A method passes if the
resident memory at the end is within 5 % of that after 200 iterations, and the median step in the
last quarter takes at most 10 % longer than in the second. After every step the same piece of work
is timed, and steps are measured in units of it: a machine that slows down slows both. What slows
the whole process down alike is not seen. Give the same command again to continue.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # isort: skip  before paddle

import numpy as np
import paddle
import paddleseg.core
from _processes import emit, run_each
from paddle import nn
from paddleseg.cvlibs import manager
from paddleseg.models.losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    LovaszSoftmaxLoss,
    MixedLoss,
)

METHODS = paddleseg_autoloss.weighting.METHODS
#: What is soaked: PaddleSeg's own mix to compare with, every method, and what is costly in its way.
CASES: dict[str, dict[str, Any]] = {
    "MixedLoss": {"type": "MixedLoss"},
    # The images are noise in memory, of which no part can be held out.
    **{name: {"type": name} for name, method in METHODS.items() if not method.uses_held_out},
    "FAMO, exact": {"type": "FAMO", "exact": True},
    "CAGrad, level: logits": {"type": "CAGrad", "level": "logits"},
}
LOSSES = [CrossEntropyLoss, DiceLoss, LovaszSoftmaxLoss, FocalLoss]
SIZE, BATCH = 16, 2
MEMORY, TIME = 1.05, 1.10


class Noise(paddle.io.Dataset):
    """Images and labels drawn once."""

    num_classes, ignore_index = 2, 255

    def __init__(self, length: int = 40) -> None:
        random = np.random.default_rng(0)
        self.images = random.standard_normal((length, 3, SIZE, SIZE)).astype("float32")
        self.labels = (self.images[:, 0] > 0).astype("int64")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"img": self.images[index], "label": self.labels[index], "trans_info": []}


class TinyNet(nn.Layer):
    """A network with batch norm, dropout and one output."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Conv2D(8, 2, 1))

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """Return the output."""
        return [self.head(self.body(images))]


@dataclass
class Samples:
    """What one run measured.

    Args:
        memory: resident bytes after every iteration.
        seconds: processor time of every iteration, which other programs disturb less than the
            clock's.
        reference: processor time of the same piece of work after every iteration.
    """

    memory: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)


class Work:
    """A network of its own, forward and backward: the same work whenever it is called."""

    def __init__(self) -> None:
        self.layers = nn.Sequential(*(nn.Linear(64, 64) for _ in range(8)))
        self.x = paddle.ones([16, 64])

    def __call__(self) -> None:
        """Do it."""
        self.layers(self.x).sum().backward()
        self.layers.clear_gradients()


class Probe(paddle.optimizer.lr.LRScheduler):
    """A constant learning rate; PaddleSeg's loop steps it once in every iteration."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self._work = Work()
        self._last = time.process_time()
        super().__init__(0.001)
        # The scheduler's own first step is none of the loop's.
        for measured in (samples.memory, samples.seconds, samples.reference):
            measured.clear()

    def get_lr(self) -> float:
        """Return the learning rate."""
        return self.base_lr

    def step(self, epoch: int | None = None) -> None:
        """Note the time and the memory."""
        super().step(epoch)
        now = time.process_time()
        self.samples.seconds.append(now - self._last)
        self.samples.memory.append(resident_bytes())
        start = time.process_time()
        self._work()
        self._last = time.process_time()
        self.samples.reference.append(self._last - start)


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize()


def make_loss(case: dict[str, Any]) -> nn.Layer:
    """Build a loss over as few terms as the method takes, two if it can."""
    options = {key: value for key, value in case.items() if key != "type"}
    if case["type"] == "MixedLoss":
        return MixedLoss([CrossEntropyLoss(), DiceLoss()], [0.8, 0.2])
    count = max(2, METHODS[case["type"]].least_losses)
    return manager.LOSSES[case["type"]]([loss() for loss in LOSSES[:count]], **options)


def measure(name: str, iters: int) -> Samples:
    """Train a tiny network through PaddleSeg's loop and return what every iteration took."""
    paddle.seed(0)
    model, samples = TinyNet(), Samples()
    optimizer = paddle.optimizer.Adam(Probe(samples), parameters=model.parameters())
    losses = {"types": [make_loss(CASES[name])], "coef": [1]}
    with tempfile.TemporaryDirectory() as folder:
        paddleseg.core.train(
            model, Noise(), optimizer=optimizer, save_dir=folder, iters=iters, batch_size=BATCH,
            losses=losses, log_iters=10, save_interval=max(1, iters // 4), keep_checkpoint_max=2,
        )  # fmt: skip
    return samples


def judge(samples: Samples, settled: int = 200) -> dict[str, Any]:
    """Compare the end of a run with what came before.

    Args:
        samples: what was measured.
        settled: iterations after which memory must not grow any more.

    Returns:
        ``memory_mib`` at the end, ``memory_ratio`` to that after ``settled`` iterations,
        ``growth`` in bytes per iteration since then, ``step_ms``, ``time_ratio`` of the last
        quarter to the second, ``memory_flat`` and ``time_flat``.
    """
    memory, seconds = np.array(samples.memory, float), np.array(samples.seconds)
    count = len(seconds)
    if count <= settled or count < 8:
        raise ValueError(f"expected more than {max(settled, 7)} iterations, found {count}")
    units = seconds / np.array(samples.reference)
    second, last = (np.median(units[count * i // 4 : count * (i + 1) // 4]) for i in (1, 3))
    ratio, slower = memory[-1] / memory[settled - 1], last / second
    return {
        "iters": count,
        "memory_mib": memory[-1] / 2**20,
        "memory_ratio": ratio,
        "growth": (memory[-1] - memory[settled - 1]) / (count - settled),
        "step_ms": 1000 * float(np.median(seconds)),
        "time_ratio": float(slower),
        # Less memory at the end is no leak.
        "memory_flat": bool(ratio <= MEMORY),
        "time_flat": bool(slower <= TIME),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the results as a markdown table."""
    lines = [
        "| Method | Iterations | Resident, MiB | End to settled | Growth, bytes per iteration"
        " | Step, ms | Last to second quarter | Verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        if "error" in row:
            lines.append(f"| {name} | | | | | | | {row['error']} |")
            continue
        lines.append(
            f"| {name} | {row['iters']} | {row['memory_mib']:.0f} | {row['memory_ratio']:.3f}"
            f" | {row['growth']:.0f} | {row['step_ms']:.1f} | {row['time_ratio']:.2f}"
            f" | {verdict(row)} |"
        )
    return "\n".join(lines)


def verdict(row: dict[str, Any]) -> str:
    """Say in a few words what a result means."""
    if not row["memory_flat"]:
        return "memory grows"
    return "flat" if row["time_flat"] else "steps slow down"


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--methods", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    add("--iters", type=int, default=2000, help="iterations of each")
    add("--settled", type=int, default=200, help="iterations until memory must be flat")
    add("--timeout", type=float, default=1800, help="seconds for each")
    add("--results", type=Path, default=Path("output/soak.jsonl"), help="file of results")
    add("--only", choices=CASES, help="measure this one here, without a process of its own")
    args = parser.parse_args(argv)
    if args.iters <= max(args.settled, 7):
        parser.error(f"--iters: expected more than {max(args.settled, 7)}, found {args.iters}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 1 if a method failed or is not flat."""
    args = parse_args(argv)
    if args.only:
        emit({"name": args.only, **judge(measure(args.only, args.iters), args.settled)})
        return 0
    flags = ["--iters", str(args.iters), "--settled", str(args.settled)]
    results = run_each(__file__, args.methods, args.results, args.timeout, flags)
    print(table(results))
    flat = [row.get("memory_flat", False) and row["time_flat"] for row in results.values()]
    return 0 if all(flat) else 1


if __name__ == "__main__":
    sys.exit(main())
