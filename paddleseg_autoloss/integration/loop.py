"""PaddleSeg's training loop, and two parts of it that a run continues or calls by itself."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import paddle
from paddle import Tensor

from paddleseg_autoloss.errors import ConfigError

__all__ = ["LOOP", "ContinuedSampler", "stock_losses"]

#: The module of PaddleSeg's loop; as an attribute of its package, the function hides it.
LOOP = importlib.import_module("paddleseg.core.train")

#: Computes the losses of what the network returned: ``compute(outputs, losses, data)``.
LossComputation = Callable[[Any, dict[str, Any], dict[str, Tensor]], list[Tensor]]


def stock_losses(
    outputs: list[Tensor], losses: dict[str, Any], data: dict[str, Tensor]
) -> list[Tensor]:
    """Compute the losses as the loop does for a model without a ``loss_computation``.

    Args:
        outputs: what the network returned.
        losses: PaddleSeg's loss dict.
        data: the batch.

    Raises:
        ConfigError: there is not one entry of the loss dict for each output.
    """
    count = len(losses["types"])
    if len(outputs) != count:
        raise ConfigError(
            f"loss.coef: expected {len(outputs)}, one per output of the model, found {count}"
        )
    edges = data["edge"].astype("int64") if "edge" in data else None
    labels = data["label"].astype("int64")
    return LOOP.loss_computation(outputs, labels, edges, losses)


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
