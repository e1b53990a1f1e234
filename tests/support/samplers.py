"""What the methods are given: Jacobians with their awkward kinds, and losses over time."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

#: J = [[-4, 1, 1], [6, 1, 1]], the example whose weights TorchJD publishes.
J = np.array([[-4.0, 1, 1], [6, 1, 1]])
KINDS = ["random", "rank one", "duplicate rows", "zero row", "badly scaled", "tiny", "huge"]


@st.composite
def jacobians(draw, least=1, most=5):
    """Matrices of K gradients, the awkward kinds included."""
    count, columns = draw(st.integers(least, most)), draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(KINDS))
    matrix = random.standard_normal((count, columns))
    if kind == "rank one":
        matrix = np.outer(random.standard_normal(count), matrix[0])
    elif kind == "duplicate rows":
        matrix[-1] = matrix[0]
    elif kind == "zero row":
        matrix[random.integers(count)] = 0
    elif kind == "badly scaled":
        matrix *= 10.0 ** random.uniform(-4, 4, (count, 1))
    elif kind == "tiny":
        matrix *= 1e-8
    elif kind == "huge":
        matrix *= 1e8
    return matrix


def units(jacobian: np.ndarray) -> np.ndarray:
    return jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True)


def with_gradient(jacobian: np.ndarray) -> np.ndarray:
    return jacobian[np.abs(jacobian).sum(axis=1) > 0]


def in_single_precision(jacobian: np.ndarray) -> np.ndarray:
    rows = jacobian.astype("float32")
    return (rows @ rows.T).astype("float64")


def rounding(count: int, seed: int) -> np.ndarray:
    """What single precision multiplies a Gramian by."""
    noise = np.random.default_rng(seed).uniform(-1e-7, 1e-7, (count, count))
    return 1 + (noise + noise.T) / 2


def unit(jacobian):
    """The rows with length 1; rows of 0 stay."""
    lengths = np.linalg.norm(jacobian, axis=1, keepdims=True)
    return jacobian / np.where(lengths > 0, lengths, 1)


def well_conditioned(count, seed, conflict=0.3):
    """Gradients with some conflict, far from dependent."""
    random = np.random.default_rng(seed)
    return random.standard_normal((count, 4 * count)) - conflict * random.standard_normal(4 * count)


NAN, INF = float("nan"), float("inf")


def walk(count: int, steps: int, seed: int = 0) -> np.ndarray:
    """Losses that fall at different rates, with noise, shape [steps, count]."""
    random = np.random.default_rng(seed)
    rates = np.linspace(0.02, 0.1, count)
    noise = 0.2 * random.standard_normal((steps, count))
    losses = np.exp(noise - rates * np.arange(steps)[:, None]) * np.linspace(0.3, 3, count)
    return losses.astype("float32").astype("float64")


positive_losses = st.lists(st.floats(2**-6, 128, width=32), min_size=1, max_size=5)


def steps(count=3, columns=40, number=8, seed=0):
    """Losses and Jacobians of some steps."""
    random = np.random.default_rng(seed)
    scales = 10.0 ** random.uniform(-1, 1, (count, 1))
    return [
        (random.uniform(0.1, 3, count), random.standard_normal((count, columns)) * scales)
        for _ in range(number)
    ]
