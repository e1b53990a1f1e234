"""Random draws that a checkpoint can continue."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

__all__ = ["Draws"]


class Draws(nn.Layer):
    """A random generator for every step, created from a seed and a step counter.

    Seed and counter are buffers.  So a resumed run draws the same numbers as an uninterrupted run,
    and ranks with equal buffers draw equal numbers.  The seed is that of Paddle's generator, which
    ``--seed`` or ``paddle.seed`` sets.

    Attributes:
        seed: the seed, an integer; set another one if two methods must draw different numbers.
        step: number of generators so far.
    """

    def __init__(self) -> None:
        super().__init__()
        # The buffers are on the host, so a read does not wait for the device.
        seed = paddle.framework.core.default_cpu_generator().initial_seed() % 2**32
        host = paddle.CPUPlace()
        self.register_buffer("seed", paddle.to_tensor(seed, dtype="int64", place=host))
        self.register_buffer("step", paddle.to_tensor(0, dtype="int64", place=host))

    def next(self) -> np.random.Generator:
        """Return the generator of the current step, and increase the step counter."""
        seed, step = int(self.seed), int(self.step)
        self.step.set_value(np.asarray(step + 1))
        return np.random.default_rng([seed, step])
