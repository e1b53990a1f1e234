"""Kill trainings, and run the tests of broken disks, cards and files; write docs/reliability.md.

A small network trains through PaddleSeg's loop in a process of its own, which is killed again and
again and started with ``resume_model="latest"``, until it is done.  A kill counts as survived if
the next start finds a whole checkpoint no older than the last, and if in the end every number of
the network, the losses and the optimizer is that of a run which was left alone.

    python tools/benchmarks/try_failures.py --kills 60
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))

import paddleseg_autoloss  # isort: skip  before paddle

import numpy as np
import paddle
import paddleseg.core
from _noise import Noise
from markers import fill
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss

from paddleseg_autoloss.flags import run_command
from paddleseg_autoloss.integration.checkpoint import fault_of, whole_checkpoints

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
ITERS, SAVE_INTERVAL = 150, 5
#: What the tests try, by the files that hold them.
SUITES = {
    "Signals: Ctrl-C, SIGTERM, SIGHUP, twice, ignored, in an evaluation, two cards": [
        "tests/integration/test_stopping.py"
    ],
    "Disks: full, no inodes, limits, read-only folders": [
        "tests/integration/test_disks.py",
        "tests/integration/test_faults.py::TestDisk",
    ],
    "Locks: two processes and one folder": ["tests/test_locks.py"],
    "Cards: NaN on one, one that dies, uneven data, another number of them": [
        "tests/integration/test_several_cards.py",
        "tests/integration/test_distributed.py",
    ],
    "Checkpoints: bits flipped, holes, renamed, of another iteration, unproven": [
        "tests/integration/test_checkpoint_proof.py"
    ],
    "Weights of strangers: crafted pickles, archives, downloads, weights that fit nothing": [
        "tests/test_tensor_files.py",
        "tests/integration/test_load_gate.py",
        "tests/integration/test_safety.py",
    ],
    "YAML bombs: aliases, chains, diamonds, nesting, size": ["tests/test_yaml_files.py"],
}


class Network(nn.Layer):
    """Two convolutions with batch norm, whose state has to survive too."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU())
        self.head = nn.Conv2D(8, 2, 1)

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """Return one output."""
        return [self.head(self.body(images))]


def train(folder: Path) -> None:
    """Train in a folder, from its newest checkpoint if there is one."""
    paddle.seed(0)
    model = Network()
    optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters())
    losses = [paddleseg_autoloss.AutoWeightedLoss([CrossEntropyLoss(), DiceLoss()])]
    paddleseg.core.train(
        model,
        Noise(),
        optimizer=optimizer,
        losses={"types": losses, "coef": [1]},
        save_dir=str(folder),
        iters=ITERS,
        batch_size=4,
        save_interval=SAVE_INTERVAL,
        keep_checkpoint_max=3,
        log_iters=5,
        resume_model="latest" if whole_checkpoints(folder) else None,
    )


def start(folder: Path) -> int:
    """Start a training and return its process id; a fork has Paddle imported already."""
    child = os.fork()
    if child == 0:
        with open(folder.with_suffix(".log"), "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            os._exit(run_command(lambda: train(folder)))
    return child


def is_over(child: int) -> bool:
    """Return whether a process has ended, without waiting for it."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def at_random(folder: Path, child: int, seconds: float) -> int:
    """SIGKILL at a random moment."""
    time.sleep(random.uniform(0.05, 0.9) * seconds)
    return signal.SIGKILL


def in_a_save(folder: Path, child: int, seconds: float) -> int:
    """SIGKILL while a file of a checkpoint is being written."""
    for _ in range(random.randrange(1, 5)):
        while saves(folder) and not is_over(child):
            pass
        while not (saves(folder) or is_over(child)):
            pass
    return signal.SIGKILL


def saves(folder: Path) -> bool:
    """Return whether a file of a checkpoint is being written."""
    # A folder may be deleted while it is looked at.
    with suppress(FileNotFoundError):
        return any(folder.glob("iter_*/*.part"))
    return False


def asked_to_stop(folder: Path, child: int, seconds: float) -> int:
    """SIGTERM at a random moment, which leaves a checkpoint."""
    time.sleep(random.uniform(0.05, 0.9) * seconds)
    return signal.SIGTERM


def while_it_stops(folder: Path, child: int, seconds: float) -> int:
    """SIGKILL a moment after SIGTERM."""
    time.sleep(random.uniform(0.05, 0.9) * seconds)
    if not is_over(child):
        os.kill(child, signal.SIGTERM)
        time.sleep(random.uniform(0.0, 0.05))
    return signal.SIGKILL


KINDS: list[Callable[[Path, int, float], int]] = [
    at_random, in_a_save, asked_to_stop, while_it_stops,
]  # fmt: skip


def numbers_of(content: Any, path: str = "") -> dict[str, np.ndarray]:
    """Return all numbers of a file of weights by their path; their order may differ after a resume.

    Args:
        content: what was read.
        path: of the content.
    """
    if isinstance(content, dict):
        parts = (numbers_of(inner, f"{path}/{key}") for key, inner in content.items())
        return {name: value for part in parts for name, value in part.items()}
    return {path: np.asarray(content)}


def is_same(folder: Path, whole: Path) -> bool:
    """Return whether the last checkpoints of two runs hold the same, bit for bit."""
    for name in ("model.pdparams", "model.pdopt"):
        one, other = (
            numbers_of(paddle.load(str(run / f"iter_{ITERS}" / name), return_numpy=True))
            for run in (folder, whole)
        )
        if one.keys() != other.keys() or not one:
            return False
        if not all(np.array_equal(one[key], other[key]) for key in one):
            return False
    return True


def killed_run(
    folder: Path, kills: int, kinds: Iterator[Callable[[Path, int, float], int]], seconds: float
) -> tuple[Counter[str], list[str]]:
    """Train while processes are killed; return the kills of each kind, and what went wrong."""
    done, faults, newest = Counter[str](), [], 0
    while True:
        child = start(folder)
        kind = next(kinds) if sum(done.values()) < kills else None
        number = kind(folder, child, seconds) if kind is not None else 0
        if number and not is_over(child):
            os.kill(child, number)
            done[str(kind.__doc__)] += 1
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in (0, -number, 128 + number):
            faults.append(f"{folder.name}: exit status {status}")
        good = [int(one.name[5:]) for one in whole_checkpoints(folder) if fault_of(one) is None]
        if max(good, default=0) < newest:
            faults.append(f"{folder.name}: iteration {newest} is lost")
        newest = max(good, default=0)
        if status == 0:
            return done, faults


def try_kills(folder: Path, kills: int) -> tuple[Counter[str], list[str]]:
    """Kill so many times, over several runs; return the kills of each kind, and what went wrong."""
    whole, begun = folder / "whole", time.monotonic()
    os.waitpid(start(whole), 0)
    seconds, done, faults = time.monotonic() - begun, Counter[str](), []
    kinds = itertools.cycle(KINDS)
    while sum(done.values()) < kills:
        run = folder / f"killed{len(list(folder.glob('killed*.log')))}"
        some, wrong = killed_run(run, min(8, kills - sum(done.values())), kinds, seconds)
        faults += wrong if is_same(run, whole) else [*wrong, f"{run.name}: other numbers"]
        done += some
        print(f"{sum(done.values())} kills, {len(faults)} faults", flush=True)
    return done, faults


def try_suite(files: Sequence[str]) -> tuple[int, int, int]:
    """Run tests; return how many there are, how many passed, and how many were skipped."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", "0", f"--junitxml={report.name}", *files],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        suite = ElementTree.parse(report.name).getroot()[0]
    count = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    passed = count["tests"] - count["failures"] - count["errors"] - count["skipped"]
    return count["tests"], passed, count["skipped"]


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--kills", type=int, default=60, help="how many kills; default: %(default)s")
    add("--seed", type=int, default=0, help="seed of the moments; default: %(default)s")
    add("--without_tests", action="store_true", help="only kill")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        kills, faults = try_kills(Path(folder), args.kills)
    print(*faults, sep="\n")
    lines = ["| What was done | Times | As it should be |", "|---|---|---|"]
    lines += [f"| {what.rstrip('.')} | {times} | {times} |" for what, times in kills.items()]
    all_passed = not faults
    for what, files in {} if args.without_tests else SUITES.items():
        tests, passed, skipped = try_suite(files)
        note = f", {skipped} not possible here" if skipped else ""
        lines.append(f"| {what} | {tests} | {passed}{note} |")
        print(lines[-1], flush=True)
        all_passed = all_passed and passed + skipped == tests
    if not all_passed:
        print("error: something was not as it should be; the page stays as it is", file=sys.stderr)
        return 1
    print(*lines, sep="\n")
    if not args.without_tests:
        page = fill(PAGE.read_text(), "failures", "\n".join(lines))
        PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
