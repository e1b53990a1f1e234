"""The random state that data sets and transforms draw from, which reading by ourselves restores."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import paddle
from paddle.base.core import default_cpu_generator

__all__ = ["preserve_randomness", "seeded_randomness"]


@contextmanager
def preserve_randomness() -> Iterator[None]:
    """Restore the random state of Python, NumPy and Paddle after a block."""
    # Even on a GPU, some functions use the random generator of the CPU.
    of_cpu = default_cpu_generator()
    of_device, state_of_cpu = paddle.get_rng_state(), of_cpu.get_state()
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        of_cpu.set_state(state_of_cpu)
        paddle.set_rng_state(of_device)


@contextmanager
def seeded_randomness(*numbers: int) -> Iterator[None]:
    """Let a block draw numbers that follow from a seed, and restore the random state after it.

    Args:
        *numbers: the seed, integers of at least 0.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0]) % 2**31
    with preserve_randomness():
        random.seed(seed)
        np.random.seed(seed)
        paddle.seed(seed)
        yield
