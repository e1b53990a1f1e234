"""Compare the gradient methods with TorchJD and with LibMTL's way, in one run.

Makes an environment of its own with TorchJD and Torch for the CPU, in a folder outside of the
repository, and trains the same small network in both frameworks.  What counts is the ratio of a
step with K gradients to the framework's own plain step, the sum of the losses; the steps take turns
in one process, and the processes of the frameworks take turns too.  Then all solvers get the same
Gramians.  Times are those that the processor spent on the process, with one thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import numpy as np
from _peers_exact import EXACT
from _peers_shared import CLASSES, STRIDE
from benchmark_solvers import COUNTS, KINDS, make_gramian
from tqdm import tqdm

from paddleseg_autoloss.errors import AutoLossError, ConfigError, RunsFailed

HERE = Path(__file__).resolve().parent
TORCH, TORCHJD = "2.13.0+cpu", "0.18.0"
#: The columns of the tables, with the words that results begin with.
SIDES = {"ours": "this package", "TorchJD": "TorchJD", "LibMTL": "LibMTL's way"}

Results = Mapping[str, Any]


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    home = Path.home() / ".cache" / "paddleseg_autoloss" / "peers"
    add("--environment", type=Path, default=home, help="folder of the environment with TorchJD")
    add("--index", help="package index with wheels of Torch for the CPU, where pip's has none")
    add("--size", type=int, default=64, help="height and width of the images, multiples of 16")
    add("--batch_size", type=int, default=4, help="images per step")
    add("--rounds", type=int, default=10, help="steps of each kind in each process")
    add("--gramians", type=int, default=90, help="how many for each K")
    add("--repeats", type=int, default=3, help="processes of each framework for each K")
    args = parser.parse_args(argv)
    if args.size < STRIDE or args.size % STRIDE:
        parser.error(f"--size: expected a multiple of {STRIDE}, found {args.size}")
    return args


def last_words(text: str) -> str:
    """Return the last line that says something."""
    spoken = [line.strip() for line in text.splitlines() if line.strip()]
    return spoken[-1] if spoken else "it said nothing"


def call(*command: str | Path) -> str:
    """Run a command with one thread and return what it printed.

    Raises:
        RunsFailed: it failed; with its last words.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        name = " ".join([Path(words[0]).name, *words[1:3]])
        raise RunsFailed(
            f"{name}: expected status 0, found {done.returncode}: {last_words(done.stderr)}"
        )
    return done.stdout


def make_environment(folder: Path, index: str | None) -> Path:
    """Return the Python of the environment with TorchJD, which is made if it is not there yet.

    Args:
        folder: of the environment.
        index: a package index beside that of pip.

    Raises:
        ConfigError: this Python is too old for TorchJD.
        RunsFailed: pip finds no Torch for the CPU, or fails otherwise.
    """
    python = folder / "bin" / "python"
    if is_complete(python):
        return python
    if sys.version_info < (3, 10):
        raise ConfigError(
            f"Python: expected 3.10 or newer for TorchJD, found {sys.version.split()[0]}"
        )
    print(f"TorchJD {TORCHJD} and Torch {TORCH} go to {folder}", file=sys.stderr)
    call(sys.executable, "-m", "venv", folder)
    indexes = [f"--extra-index-url={index}"] if index else []
    wanted = [f"torch=={TORCH}", f"torchjd[full]=={TORCHJD}"]
    try:
        call(python, "-m", "pip", "install", "--quiet", *indexes, *wanted)
    except RunsFailed as error:
        if f"torch=={TORCH}" not in str(error):
            raise
        raise RunsFailed(
            f"--index: expected an index that has Torch {TORCH}, found none; "
            "pass --index https://download.pytorch.org/whl/cpu"
        ) from error
    return python


def is_complete(python: Path) -> bool:
    """Return whether an environment has what is compared."""
    if not python.exists():
        return False
    look = "import torch, torchjd, cvxpy, ecos, quadprog, scipy, importlib.metadata as found\n"
    look += "print(found.version('torchjd'))"
    done = subprocess.run([str(python), "-c", look], capture_output=True, text=True)
    return done.stdout.strip() == TORCHJD


def run_worker(python: str | Path, worker: str, *flags: object) -> Results:
    """Return what a worker measured."""
    return json.loads(call(python, HERE / worker, *map(str, flags)).splitlines()[-1])


def compare_networks(ours: Results, theirs: Results) -> None:
    """Check that both frameworks have the same network, batch and losses.

    Raises:
        RunsFailed: a loss or the length of the gradient differs.
    """
    here, there = ([*result["losses"], result["gradient"]] for result in (ours, theirs))
    if not np.allclose(here, there, rtol=1e-3):
        raise RunsFailed(f"network: expected the same losses and gradient, found {here}, {there}")


def ratio(runs: Sequence[Results], name: str) -> str:
    """Return how many plain steps a step takes, with the middle half over all rounds.

    Args:
        runs: the results of the processes of a framework.
        name: of the step.
    """
    medians, rounds = [], []
    for run in runs:
        seconds, plain = (np.asarray(run["seconds"][key]) for key in (name, "plain"))
        medians.append(np.median(seconds) / np.median(plain))
        rounds.extend(seconds / plain)
    low, high = np.percentile(rounds, [25, 75])
    return f"{np.median(medians):.2f} ({low:.2f} to {high:.2f})"


def rows_of_steps(count: int, ours: Sequence[Results], theirs: Sequence[Results]) -> list[str]:
    """Return the rows of the table of steps for one K.

    Args:
        count: K.
        ours: the results of our processes.
        theirs: the results of the peers' processes.
    """
    sides = {"ours": ours, "TorchJD": theirs, "LibMTL": theirs}
    plain = [np.median([run["seconds"]["plain"] for run in runs]) for runs in sides.values()]
    shares = [np.median([run["share"] for run in runs]) for runs in sides.values()]
    rows = [
        ["plain step, ms", *(f"{seconds * 1e3:.0f}" for seconds in plain)],
        ["floor", *(f"{1 - share + count * share:.2f}" for share in shares)],
    ]
    found = [name for name in [*ours[0]["seconds"], *theirs[0]["seconds"]] if name != "plain"]
    for method in dict.fromkeys(name.split(" ", 1)[1] for name in found):
        names = {side: f"{side} {method}" for side in SIDES}
        cells = [ratio(sides[side], name) if name in found else "" for side, name in names.items()]
        rows.append([method, *cells])
    return [f"| {count} | " + " | ".join(row) + " |" for row in rows]


def report_steps(python: Path, args: Namespace) -> None:
    """Print what the steps cost, each K as soon as it is measured."""
    print(f"Processor: {processor()}, one thread.")
    print(f"Images {args.size} x {args.size}, batch {args.batch_size}, {CLASSES} classes.\n")
    print("\n".join(table_head("K", "Step", *SIDES.values())), flush=True)
    versions: dict[str, str] = {}
    for count in COUNTS:
        flags = ["--losses", count, "--size", args.size]
        flags += ["--batch_size", args.batch_size, "--rounds", args.rounds]
        ours, theirs = [], []
        for _ in tqdm(range(args.repeats), desc=f"steps, K = {count}"):
            ours.append(run_worker(sys.executable, "_peers_paddle.py", "steps", *flags))
            theirs.append(run_worker(python, "_peers_torch.py", "steps", *flags))
            compare_networks(ours[-1], theirs[-1])
        print("\n".join(rows_of_steps(count, ours, theirs)), flush=True)
        versions = {**ours[0]["versions"], **theirs[0]["versions"]}
    print("\nVersions: " + ", ".join(f"{name} {found}" for name, found in versions.items()) + ".")


def processor() -> str:
    """Return the name of the processor, as far as the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def table_head(*titles: str) -> list[str]:
    """Return the first two lines of a table in Markdown."""
    return ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]


def cells_of_solver(runs: Sequence[Results], exact: Sequence[Any]) -> tuple[str, str]:
    """Return the time of a solver, and its median error with the count of failures.

    Args:
        runs: its results in each process.
        exact: the solution for each Gramian, None where the problem has none.
    """
    seconds = np.concatenate([run["seconds"] for run in runs]) * 1e6
    low, middle, high = np.percentile(seconds, [25, 50, 75])
    pairs = [(e, w) for e, w in zip(exact, runs[-1]["weights"]) if e is not None]
    # Those that are nearer than rounding allows count as 1e-16.
    errors = [max(e.error(w), 1e-16) for e, w in pairs if w is not None]
    failed = f", {len(pairs) - len(errors)} failed" if len(errors) < len(pairs) else ""
    error = f"{np.median(errors):.0e}" if errors else "-"
    return f"{middle:.0f} ({low:.0f} to {high:.0f})", error + failed


def report_solvers(python: Path, args: Namespace) -> None:
    """Print how long the solvers take, and how far they are from the solutions."""
    random = np.random.default_rng(0)
    kinds = [KINDS[i % len(KINDS)] for i in range(args.gramians)]
    gramians = {
        str(count): np.stack([make_gramian(kind, count, random) for kind in kinds])
        for count in COUNTS
    }
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gramians.npz"
        np.savez(path, **gramians)
        for _ in tqdm(range(args.repeats), desc="solvers"):
            flags = ["solvers", "--gramians", path]
            ours.append(run_worker(sys.executable, "_peers_paddle.py", *flags))
            theirs.append(run_worker(python, "_peers_torch.py", *flags))
    print()
    print("\n".join(rows_of_solvers(gramians, ours, theirs)))


def rows_of_solvers(
    gramians: Mapping[str, np.ndarray], ours: Sequence[Results], theirs: Sequence[Results]
) -> list[str]:
    """Return the table of the solvers.

    Args:
        gramians: for each K.
        ours: the results of our processes.
        theirs: the results of the peers' processes.
    """
    sides = {"ours": ours, "TorchJD": theirs, "LibMTL": theirs}
    titles = [f"{title}, us" for title in SIDES.values()]
    titles += [f"error, {title}" for title in SIDES.values()]
    lines = table_head("Method", "K", *titles)
    for method, solve in EXACT.items():
        for count, stack in gramians.items():
            exact = [solve(gramian) for gramian in stack]
            times, errors = [], []
            for side, results in sides.items():
                name, there = f"{side} {method}", [result[count] for result in results]
                known = name in there[0]
                cells = cells_of_solver([run[name] for run in there], exact) if known else ("", "")
                times.append(cells[0])
                errors.append(cells[1])
            lines.append(f"| {method} | {count} | " + " | ".join([*times, *errors]) + " |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    try:
        python = make_environment(args.environment, args.index)
        report_steps(python, args)
        report_solvers(python, args)
    except AutoLossError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
