"""Judge cheap weights by recorded trainings: their cost, and how much is left of the exact update.

Reads the recordings of record_gramians.py and the costs of benchmark_gradients.py --csv. For every
Gramian method and every scheme it writes the median and the tenth percentile of the fidelity, which
is the cosine between the update with the cheap weights and the exact one. Methods with state keep
it from step to step, as in a training; the trajectory is that of the plain sum of the losses.

    python tools/benchmarks/measure_fidelity.py --recordings output/gramians --costs costs.csv
    python docs/write_fidelity.py
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import numpy as np
import pandas as pd
from record_gramians import DATA, NETWORKS
from tqdm import tqdm

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.files import write_file
from paddleseg_autoloss.gradients.levels import fidelities, replay
from paddleseg_autoloss.weighting import METHODS, GramianWeighting

_ROOT = Path(__file__).resolve().parents[2]
#: Steps between looks for the schemes that improve on an interval.
_INTERVALS = (5, 10)


class Recording(NamedTuple):
    """What every level showed in each of T steps.

    Args:
        losses: shape [T, K].
        gramians: for each level, shape [T, K, K].
        is_shared: whether all losses depend on the same targets, at every level.
    """

    losses: np.ndarray
    gramians: dict[str, np.ndarray]
    is_shared: bool


class View(NamedTuple):
    """What a scheme sees of a recording.

    Args:
        gramians: what the method gets, shape [T, K, K].
        updates: in which steps it updates the weights, shape [T].
        cost: what a step costs as a multiple of the plain step, from what each level costs.
    """

    gramians: np.ndarray
    updates: np.ndarray
    cost: Callable[[pd.Series], float]


class Scheme(NamedTuple):
    """A way to get the weights.

    Args:
        family: what it is a variant of.
        name: its name.
        view: what it sees of a recording; None if the weights are equal.
    """

    family: str
    name: str
    view: Callable[[Recording], View] | None


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--recordings", type=Path, required=True, help="folder of the recordings")
    add("--costs", type=Path, required=True, help="file of the costs of the levels")
    add(
        "--output",
        type=Path,
        default=_ROOT / "docs/evidence/fidelity/fidelity.csv",
        help="file of the figures",
    )
    return parser.parse_args(argv)


def read_recording(path: Path) -> Recording:
    """Read a recording.

    Args:
        path: the file.
    """
    with np.load(path) as found:
        levels = [name for name in found if f"{name}_shared" in found]
        return Recording(
            found["losses"],
            {level: found[level] for level in levels},
            all(bool(found[f"{level}_shared"].all()) for level in levels),
        )


def every(steps: int, interval: int) -> np.ndarray:
    """Return whether each step is a look, if every ``interval``-th is.

    Args:
        steps: T, the number of steps.
        interval: steps from one look to the next.
    """
    return np.arange(steps) % interval == 0


def ever_rarer(steps: int, growth: float, most: int) -> np.ndarray:
    """Return whether each step is a look, if the way to the next one grows with the step.

    Args:
        steps: T, the number of steps.
        growth: the way to the next look as a share of the steps so far.
        most: the longest way.
    """
    looks, step = np.zeros(steps, dtype=bool), 0
    while step < steps:
        looks[step] = True
        step += min(max(1, int(growth * step)), most)
    return looks


def when_losses_move(losses: np.ndarray, bound: float, smoothing: float) -> np.ndarray:
    """Return whether each step is a look, if one follows when the losses' proportions have changed.

    The proportions are those of a running mean of the losses.  A look is due if one of them has
    changed by a factor of more than exp(bound) since the last look.

    Args:
        losses: shape [T, K].
        bound: how far the logarithm of a proportion may move.
        smoothing: share of the old value in the running mean.
    """
    looks = np.zeros(len(losses), dtype=bool)
    mean, seen = losses[0], None
    for step, values in enumerate(losses):
        mean = smoothing * mean + (1 - smoothing) * values
        now = np.log(mean / mean.sum())
        if seen is None or np.abs(now - seen).max() > bound:
            looks[step], seen = True, now
    return looks


def averaged(gramians: np.ndarray, looks: np.ndarray, momentum: float) -> np.ndarray:
    """Return the running mean over looks of the Gramians, each divided by its trace.

    Without the division the long gradients of the first steps would count for all others.

    Args:
        gramians: shape [T, K, K].
        looks: shape [T]; the first step is one.
        momentum: share of the old value.
    """
    scaled = gramians / np.trace(gramians, axis1=1, axis2=2)[:, None, None]
    mean, means = scaled[0], []
    for gramian, is_look in zip(scaled, looks):
        if is_look:
            mean = momentum * mean + (1 - momentum) * gramian
        means.append(mean)
    return np.stack(means)


def with_lengths(
    gramians: np.ndarray, looks: np.ndarray, logits: np.ndarray, momentum: float = 0.0
) -> np.ndarray:
    """Return Gramians of the angles of the last look and of lengths that follow the logits.

    Since the last look, the length of a gradient is taken to change by the same factor as the
    length of the gradient for the logits.

    Args:
        gramians: shape [T, K, K].
        looks: shape [T]; the first step is one.
        logits: the Gramians for the logits, shape [T, K, K].
        momentum: share of the old value in a running mean of the cosines over looks.
    """
    last = np.maximum.accumulate(np.where(looks, np.arange(len(looks)), 0))
    exact = _lengths_of(gramians)
    cosines = gramians / (exact[:, :, None] * exact[:, None, :])
    cosines = averaged(cosines, looks, momentum) * gramians.shape[1]
    lengths = exact[last] * _lengths_of(logits) / _lengths_of(logits[last])
    return cosines * lengths[:, :, None] * lengths[:, None, :]


def _lengths_of(gramians: np.ndarray) -> np.ndarray:
    """Return the lengths of the gradients, shape [T, K]; a loss without a gradient has 1."""
    lengths = np.sqrt(np.diagonal(gramians, axis1=1, axis2=2))
    return np.where(lengths > 0, lengths, 1.0)


def _level(level: str, recording: Recording) -> View:
    updates = np.ones(len(recording.losses), dtype=bool)
    return View(recording.gramians[level], updates, lambda costs: costs[level])


def _looking(recording: Recording, looks: np.ndarray, gramians: np.ndarray | None = None) -> View:
    seen = recording.gramians["parameters"] if gramians is None else gramians
    share = float(looks.mean())
    return View(seen, looks, lambda costs: 1 + share * (costs["parameters"] - 1))


def _interval(interval: int, recording: Recording) -> View:
    return _looking(recording, every(len(recording.losses), interval))


def _momentum(interval: int, momentum: float, recording: Recording) -> View:
    looks = every(len(recording.losses), interval)
    return _looking(recording, looks, averaged(recording.gramians["parameters"], looks, momentum))


def _rarer(growth: float, most: int, recording: Recording) -> View:
    return _looking(recording, ever_rarer(len(recording.losses), growth, most))


def _moved(bound: float, smoothing: float, recording: Recording) -> View:
    return _looking(recording, when_losses_move(recording.losses, bound, smoothing))


def _lengths(looks_of: Callable[[int], np.ndarray], momentum: float, recording: Recording) -> View:
    looks, exact = looks_of(len(recording.losses)), recording.gramians["parameters"]
    seen = with_lengths(exact, looks, recording.gramians["logits"], momentum)
    share = float(looks.mean())

    def cost(costs: pd.Series) -> float:
        return costs["logits"] + share * (costs["parameters"] - 1)

    return View(seen, np.ones_like(looks), cost)


#: Name, looks in so many steps, and momentum of the angles.
_LENGTHS: list[tuple[str, Callable[[int], np.ndarray], float]] = [
    *((f"lengths, every {n} steps", partial(every, interval=n), 0.0) for n in (5, 10, 20, 50)),
    *(
        (f"lengths, every {n} steps, momentum 0.5", partial(every, interval=n), 0.5)
        for n in (10, 20)
    ),
    *(
        (f"lengths, growth {g}, at most {most}", partial(ever_rarer, growth=g, most=most), 0.0)
        for g, most in ((0.1, 10), (0.1, 20), (0.1, 50))
    ),
]

SCHEMES = [
    Scheme("equal weights", "equal weights", None),
    *(
        Scheme("level", f"level: {level}", partial(_level, level))
        for level in ("logits", "features")
    ),
    *(
        Scheme("update_interval", f"update_interval: {n}", partial(_interval, n))
        for n in (2, 5, 10, 15, 20, 50)
    ),
    *(
        Scheme("averaged Gramian", f"every {n} steps, momentum {m}", partial(_momentum, n, m))
        for n in _INTERVALS
        for m in (0.5, 0.9)
    ),
    *(
        Scheme("ever rarer", f"growth {g}, at most {most} steps", partial(_rarer, g, most))
        for g, most in ((0.1, 10), (0.1, 20), (0.1, 50))
    ),
    *(
        Scheme("losses moved", f"bound {b}, smoothing {s}", partial(_moved, b, s))
        for b, s in ((0.1, 0.0), (0.3, 0.0), (0.05, 0.9), (0.1, 0.9))
    ),
    *(
        Scheme("lengths from logits", name, partial(_lengths, looks_of, momentum))
        for name, looks_of, momentum in _LENGTHS
    ),
]


def make_method(name: str, count: int) -> GramianWeighting | None:
    """Return a method with its default arguments, or None if it isn't one to judge.

    Args:
        name: its name in a config.
        count: K, the number of losses.
    """
    try:
        method = METHODS[name](count)
    except ConfigError:
        # It needs another number of losses.
        return None
    return method if isinstance(method, GramianWeighting) else None


def judge(recording: Recording, name: str) -> Iterator[dict[str, Any]]:
    """Yield the fidelity of each scheme for a method.

    Args:
        recording: what every level showed.
        name: name of the method; nothing if it isn't one to judge, or is refused here.
    """
    count = recording.losses.shape[1]
    method = make_method(name, count)
    if method is None or (method.may_be_negative and not recording.is_shared):
        return
    exact_gramians = recording.gramians["parameters"]
    exact = replay(method, recording.losses, exact_gramians)
    for scheme in SCHEMES:
        cost, weights = (lambda _: 1.0), np.ones_like(exact)
        if scheme.view is not None:
            seen, updates, cost = scheme.view(recording)
            fresh = make_method(name, count)
            assert fresh is not None, "it was one to judge"
            weights = replay(fresh, recording.losses, seen, updates)
        found = fidelities(exact_gramians, weights, exact)
        low, median = np.nanpercentile(found, [10, 50])
        yield {
            "method": name,
            "family": scheme.family,
            "scheme": scheme.name,
            "median": median,
            "tenth_percentile": low,
            "cost": cost,
        }


def read_costs(path: Path) -> dict[tuple[str, int], pd.Series]:
    """Return what each level costs as a multiple of the plain step, by network and heads.

    Args:
        path: file of benchmark_gradients.py; of several measurements the last counts.
    """
    table = pd.read_csv(path)
    table = table[(table.losses == 2) & table.variant.str.startswith("level: ")]
    table["level"] = table.variant.str.removeprefix("level: ")
    return {
        key: own.drop_duplicates("level", keep="last").set_index("level").ratio
        for key, own in table.groupby(["model", "heads"])
    }


def figures(folder: Path, costs: dict[tuple[str, int], pd.Series]) -> pd.DataFrame:
    """Return the table of all figures.

    Args:
        folder: of the recordings.
        costs: what each level costs, see `read_costs`.
    """
    rows = []
    for network, setting in NETWORKS.items():
        for data in DATA:
            path = folder / f"{network}_{data}.npz"
            if not path.exists():
                continue
            recording = read_recording(path)
            steps, count = recording.losses.shape
            for name in tqdm(METHODS, desc=path.stem):
                for row in judge(recording, name):
                    row["cost"] = row["cost"](costs[setting.model, setting.heads])
                    rows.append(
                        {"network": network, "data": data, "steps": steps, "K": count} | row
                    )
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    table = figures(args.recordings, read_costs(args.costs))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_file(args.output, table.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
