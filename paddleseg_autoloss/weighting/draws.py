"""Random draws that a checkpoint can continue."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

__all__ = ["Draws"]


class Draws(nn.Layer):
    """A random generator for every step, made from a seed and a step counter.

    The two are buffers, so that a resumed run draws what the uninterrupted one would have drawn,
    and ranks that share them draw alike.  The seed is that of Paddle's generator, as ``--seed`` or
    ``paddle.seed`` set it.

    Attributes:
        seed: the seed, an integer; set another where two methods are not to draw alike.
        step: how many generators were made.
    """

    def __init__(self) -> None:
        super().__init__()
        # On the host: a read waits for no device.
        seed = paddle.framework.core.default_cpu_generator().initial_seed() % 2**32
        host = paddle.CPUPlace()
        self.register_buffer("seed", paddle.to_tensor(seed, dtype="int64", place=host))
        self.register_buffer("step", paddle.to_tensor(0, dtype="int64", place=host))

    def next(self) -> np.random.Generator:
        """Return the generator of the present step, and go on to the next."""
        seed, step = int(self.seed), int(self.step)
        self.step.set_value(np.asarray(step + 1))
        return np.random.default_rng([seed, step])
