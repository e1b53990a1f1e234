"""Compare the solvers of the methods with the straightforward ones of scipy.optimize.

Both solve the same problems in turn, in one process on one core, so that a machine that speeds up
or slows down does so for both; what counts are the ratios of the medians.  Random Gramians are
mixed with awkward ones: parallel or opposed gradients, badly scaled, dependent, tiny, huge, rounded
to single precision.
"""

from __future__ import annotations

import os
import sys

# Before numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import numpy as np
from scipy.optimize import least_squares, lsq_linear, minimize, nnls

from paddleseg_autoloss.weighting import METHODS, GramianWeighting

COUNTS = (2, 4, 8)
KINDS = (
    "random",
    "conflict",
    "parallel",
    "opposed",
    "badly scaled",
    "dependent",
    "tiny",
    "huge",
    "rounded",
)
C, TAU = 0.5, 0.02


class Problem(NamedTuple):
    """The problem of a method.

    Attributes:
        arguments: of the method.
        straightforward: finds the solution for a Gramian, as the peers do.
        error: of a Gramian and a solution, says by how much it fails to solve the problem.
        solution: of a Gramian and the method's weights, returns the solution they were made from.
        ours: of the method and a Gramian, returns its weights.
    """

    arguments: dict
    straightforward: Callable[[np.ndarray], np.ndarray]
    error: Callable[[np.ndarray, np.ndarray], float]
    solution: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda gramian, weights: weights
    ours: Callable[[GramianWeighting, np.ndarray], np.ndarray] = lambda weighting, gramian: (
        weighting.solve(np.ones(len(gramian)), gramian)
    )


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--gramians", type=int, default=90, help="how many for each K")
    parser.add_argument("--repeats", type=int, default=5, help="turns on each of them")
    return parser.parse_args(argv)


def make_gramian(kind: str, count: int, random: np.random.Generator) -> np.ndarray:
    """Return the Gramian of random gradients, shape [count, count]."""
    jacobian = random.standard_normal((count, count - 1 if kind == "dependent" else 50))
    if kind == "conflict":
        jacobian -= 0.99 * jacobian.mean(axis=0)
    elif kind == "parallel":
        jacobian[-1] = jacobian[0]
    elif kind == "opposed":
        jacobian[-1] = -jacobian[0]
    elif kind == "badly scaled":
        jacobian *= 10.0 ** random.uniform(-2, 2, (count, 1))
    elif kind in ("tiny", "huge"):
        jacobian *= 1e-4 if kind == "tiny" else 1e4
    elif kind == "rounded":
        jacobian = jacobian.astype("float32")
    return (jacobian @ jacobian.T).astype("float64")


def over_simplex(objective: Callable, gramian: np.ndarray) -> np.ndarray:
    """Minimise over the simplex with SLSQP, starting from equal weights."""
    count = len(gramian)
    constraint = {"type": "eq", "fun": lambda w: 1 - w.sum()}
    start, bounds = np.full(count, 1 / count), [(0, 1)] * count
    return minimize(objective, start, method="SLSQP", bounds=bounds, constraints=constraint).x


def above(objective: Callable, least: np.ndarray) -> np.ndarray:
    """Minimise with SLSQP, no component below `least`, starting there."""
    return minimize(objective, least, method="SLSQP", bounds=[(low, None) for low in least]).x


def positive_root(equation: Callable, gramian: np.ndarray) -> np.ndarray:
    """Solve an equation by least squares, starting from equal weights."""
    start = np.full(len(gramian), 1 / len(gramian))
    return least_squares(equation, start, bounds=(0, np.inf)).x


def on_simplex(gramian: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return a solution as a point of the simplex."""
    w = np.maximum(w, 0)
    return w / w.sum()


def largest(gramian: np.ndarray) -> float:
    """Return the largest squared length."""
    return float(gramian.diagonal().max())


def mgda_error(gramian: np.ndarray, w: np.ndarray) -> float:
    """Return the duality gap |d|^2 - min <g_i, d>, relative to the longest gradient."""
    w = on_simplex(gramian, w)
    return (w @ gramian @ w - (gramian @ w).min()) / largest(gramian)


def cagrad_objective(gramian: np.ndarray) -> Callable:
    """Return F of CAGrad's dual problem."""
    towards = gramian.mean(axis=1)
    radius = C * np.sqrt(towards.mean())
    return lambda w: w @ towards + radius * np.sqrt(max(w @ gramian @ w, 0))


def cagrad_error(gramian: np.ndarray, w: np.ndarray) -> float:
    """Return the duality gap F(w) - min <g_i, d>, relative to the longest gradient."""
    w, towards = on_simplex(gramian, w), gramian.mean(axis=1)
    length = np.sqrt(max(w @ gramian @ w, 0))
    if length < 1e-3 * np.sqrt(largest(gramian)):
        # Pareto stationary: nothing better than 0 can be had for all.
        return abs(cagrad_objective(gramian)(w)) / largest(gramian)
    worst = (towards + C * np.sqrt(towards.mean()) / length * (gramian @ w)).min()
    return (cagrad_objective(gramian)(w) - worst) / largest(gramian)


def projected(gramian: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Minimise v^T G v over v >= start with SLSQP."""
    return above(lambda v: v @ gramian @ v, start)


def projection_error(gramian: np.ndarray, weights: np.ndarray, starts: np.ndarray) -> float:
    """Return the distance to the sum of projections, relative to the longest gradient.

    These are found by a third solver: least squares with bounds by active sets, on unit gradients.
    """
    lengths = np.sqrt(gramian.diagonal())
    values, vectors = np.linalg.eigh(gramian / np.outer(lengths, lengths))
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    exact = np.zeros(len(gramian))
    for start in starts * lengths:
        target = -root @ start / start.max()
        added = lsq_linear(root, target, (0, np.inf), "bvls", tol=1e-15, max_iter=1000).x
        exact += root @ (start + start.max() * added)
    return np.linalg.norm(root @ (weights * lengths) - exact) / lengths.max()


def equation_error(gramian: np.ndarray, w: np.ndarray) -> float:
    """Return max |w_i (G w)_i - 1|, or NaN where a combination vanishes: there is no solution."""
    lengths = np.sqrt(gramian.diagonal())
    values, vectors = np.linalg.eigh(gramian / np.outer(lengths, lengths))
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    ones = np.ones((1, len(w)))
    _, least = nnls(np.concatenate([root, ones]), np.append(np.zeros(len(w)), 1))
    return np.nan if least < 1e-3 else np.abs(w * (gramian @ w) - 1).max()


def pcd_parts(gramian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines between the secondary gradients, and what the primary lacks of tau."""
    lengths = np.sqrt(gramian.diagonal())
    cosines = gramian / np.outer(lengths, lengths)
    return cosines[1:, 1:], TAU - cosines[1:, 0]


def pcd_straightforward(gramian: np.ndarray) -> np.ndarray:
    """Return the multipliers of the constraints, on unit gradients.

    The problem is solved as the paper states it, for d as a combination of the gradients.
    """
    lengths = np.sqrt(gramian.diagonal())
    cosines = gramian / np.outer(lengths, lengths)
    start = np.eye(len(gramian))[0]
    constraint = {"type": "ineq", "fun": lambda w: cosines[1:] @ w - TAU}
    w = minimize(
        lambda w: (w - start) @ cosines @ (w - start) / 2,
        start,
        method="SLSQP",
        constraints=constraint,
    ).x
    return w[1:] / w[0]


def pcd_error(gramian: np.ndarray, x: np.ndarray) -> float:
    """Return the residual of the optimality conditions of the multipliers."""
    cosines, lacking = pcd_parts(gramian)
    slack = cosines @ x - lacking
    return max(-slack.min(), np.minimum(np.abs(slack), x).max())


def pcd_solution(gramian: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the multipliers that weights were made from."""
    shares = weights * np.sqrt(gramian.diagonal())
    return shares[1:] / shares[0]


def normalised(gramian: np.ndarray) -> np.ndarray:
    """Return a Gramian with the Frobenius norm 1, as Nash-MTL's authors have it."""
    return gramian / np.linalg.norm(gramian)


def rows(gramian: np.ndarray) -> np.ndarray:
    """Return the weights of each gradient by itself, shape [K, K]."""
    return np.eye(len(gramian)) / len(gramian)


def equal(gramian: np.ndarray) -> np.ndarray:
    """Return the weights of the mean, shape [1, K]."""
    return np.full((1, len(gramian)), 1 / len(gramian))


PROBLEMS = {
    "MGDA": Problem({}, lambda g: over_simplex(lambda w: w @ g @ w, g), mgda_error),
    "CAGrad": Problem(
        {"calpha": C, "rescale": 0},
        lambda g: over_simplex(cagrad_objective(g), g),
        cagrad_error,
        lambda g, weights: on_simplex(g, weights - 1 / len(g)),
    ),
    "UPGrad": Problem(
        {},
        lambda g: sum(projected(g, row) for row in rows(g)),
        lambda g, v: projection_error(g, v, rows(g)),
    ),
    "DualProj": Problem(
        {},
        lambda g: projected(g, equal(g)[0]),
        lambda g, v: projection_error(g, v, equal(g)),
    ),
    "NashMTL": Problem(
        {"max_norm": 0},
        lambda g: positive_root(lambda a: normalised(g) @ a - 1 / a, g),
        lambda g, a: equation_error(normalised(g), a),
    ),
    "FairGrad": Problem({}, lambda g: positive_root(lambda w: g @ w - 1 / w, g), equation_error),
    "PCD": Problem(
        {"tau": TAU, "eps": 0},
        pcd_straightforward,
        pcd_error,
        pcd_solution,
        # Without the running means.
        lambda weighting, g: weighting.combine(g, g.diagonal()),
    ),
}


def seconds(function: Callable, *arguments: object) -> tuple[float, np.ndarray]:
    """Return the time of a call, and what it returned."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def compare(name: str, gramians: Sequence[np.ndarray], repeats: int) -> str:
    """Return the row of the table for one method and one K."""
    problem, count = PROBLEMS[name], len(gramians[0])
    weighting = METHODS[name](count, **problem.arguments)
    times, errors = [], []
    for gramian in gramians:
        for turn in range(repeats):
            calls = [(problem.ours, weighting, gramian), (problem.straightforward, gramian)]
            order = [0, 1] if turn % 2 else [1, 0]
            taken = {index: seconds(*calls[index]) for index in order}
            times.append([taken[0][0], taken[1][0]])
        solutions = problem.solution(gramian, taken[0][1]), taken[1][1]
        errors.append([problem.error(gramian, solution) for solution in solutions])
    ours, theirs = np.median(times, axis=0) * 1e6
    # An error below rounding may come out negative.
    middle, worst = np.nanmedian(errors, axis=0), np.nanmax(errors, axis=0)
    middle, worst = np.maximum(middle, 1e-16), np.maximum(worst, 1e-16)
    return (
        f"| {name} | {count} | {ours:.0f} | {theirs:.0f} | {theirs / ours:.0f} "
        f"| {middle[0]:.0e} | {middle[1]:.0e} | {worst[0]:.0e} | {worst[1]:.0e} |"
    )


def report_problems(args: Namespace) -> None:
    """Print how our solvers compare."""
    print("| Method | K | ours, us | scipy, us | ratio | error | scipy | worst | scipy |")
    print("|---|---|---|---|---|---|---|---|---|")
    random = np.random.default_rng(0)
    for count in COUNTS:
        kinds = [KINDS[i % len(KINDS)] for i in range(args.gramians)]
        gramians = [make_gramian(kind, count, random) for kind in kinds]
        for name in PROBLEMS:
            print(compare(name, gramians, args.repeats), flush=True)


def report_times(args: Namespace) -> None:
    """Print how long every method that needs the Gramian takes for the largest K it can have."""
    print("| Method | K | median, ms | 95 % below, ms |\n|---|---|---|---|")
    random = np.random.default_rng(1)
    for name, method in METHODS.items():
        if not issubclass(method, GramianWeighting):
            continue
        count = int(min(COUNTS[-1], method.most_losses))
        weighting, times = method(count), []
        for turn in range(args.gramians * args.repeats):
            gramian = make_gramian(KINDS[turn % len(KINDS)], count, random)
            times.append(seconds(weighting.solve, random.uniform(0.1, 1, count), gramian)[0])
        median, most = np.percentile(times, [50, 95]) * 1e3
        print(f"| {name} | {count} | {median:.3f} | {most:.3f} |", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    with warnings.catch_warnings():
        # The straightforward solvers divide by 0 now and then.
        warnings.simplefilter("ignore", RuntimeWarning)
        report_problems(args)
    print()
    report_times(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
