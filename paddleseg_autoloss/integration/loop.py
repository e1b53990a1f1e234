"""PaddleSeg's training loop, and its sampler for a run that is continued."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from typing import Any

import paddle

__all__ = ["LOOP", "ContinuedSampler"]

#: The module of PaddleSeg's loop; as an attribute of its package, the function hides it.
LOOP = importlib.import_module("paddleseg.core.train")


class ContinuedSampler(paddle.io.DistributedBatchSampler):
    """PaddleSeg's sampler, whose first pass leaves out the batches that were seen already.

    Args:
        start_iter: iteration that the run continues from.
        *args: as Paddle's sampler takes them.
        **kwargs: likewise.
    """

    def __init__(self, start_iter: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epoch, self._seen = divmod(start_iter, max(len(self), 1))

    def __iter__(self) -> Iterator[list[int]]:
        seen, self._seen = self._seen, 0
        return itertools.islice(super().__iter__(), seen, None)
