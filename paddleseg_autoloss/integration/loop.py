"""PaddleSeg's training loop, and its sampler for a run that continues from a checkpoint."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from typing import Any

import paddle

__all__ = ["LOOP", "ContinuedSampler"]

#: The module of PaddleSeg's loop; ``paddleseg.core.train`` itself is the function, not the module.
LOOP = importlib.import_module("paddleseg.core.train")


class ContinuedSampler(paddle.io.DistributedBatchSampler):
    """PaddleSeg's sampler; in its first epoch it skips the batches that the run has already used.

    Args:
        start_iter: iteration that the run continues from.
        *args: positional arguments of Paddle's sampler.
        **kwargs: keyword arguments of Paddle's sampler.
    """

    def __init__(self, start_iter: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epoch, self._seen = divmod(start_iter, max(len(self), 1))

    def __iter__(self) -> Iterator[list[int]]:
        seen, self._seen = self._seen, 0
        return itertools.islice(super().__iter__(), seen, None)
