"""Watches the terms of the loss while PaddleSeg's loop trains."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddleseg.utils import logger

from paddleseg_autoloss.errors import TrainingDiverged
from paddleseg_autoloss.integration.checkpoint import whole_checkpoints
from paddleseg_autoloss.integration.gradient_statistics import GradientStatistics, PairRow
from paddleseg_autoloss.integration.history import Row
from paddleseg_autoloss.integration.terms import Term, aggregators_of, current_weights
from paddleseg_autoloss.ranks import is_writing_rank
from paddleseg_autoloss.tensors import as_vector

__all__ = ["TermMonitor"]

#: Iterations after which a loss that never changes is reported.
_LONG = 200


class TermMonitor:
    """Collects the raw value and the weight of every term, and stops at one that is not finite.

    The values of a step are on the device until someone calls `settle`, in one tensor.  Where
    gradients are taken one by one, it collects their lengths and angles too.

    Args:
        terms: the terms.  A loss that serves several heads is expected to be called once for each.
        save_dir: folder of the run, whose last good checkpoint an error names.
        start_iter: iteration that the run continues from.
    """

    def __init__(self, terms: list[Term], save_dir: str | Path, start_iter: int) -> None:
        self.terms = terms
        self.save_dir = save_dir
        self.iteration = start_iter
        self.gradients = [
            GradientStatistics(prefix, aggregator)
            for prefix, aggregator in aggregators_of(terms)
            if aggregator.weighting.needs != "losses"
        ]
        self._returned: dict[int, list[Tensor]] = {}
        self._pending: Tensor | None = None
        self._ran: list[bool] = []
        self._window: list[np.ndarray] = []
        self._same = np.zeros(len(terms), "int64")
        self._last_raw = np.full(len(terms), np.nan)
        self._constants: set[int] = set()
        layers = {id(term.layer): term.layer for term in terms}.values()
        self._hooks = [layer.register_forward_post_hook(self._record) for layer in layers]

    def _record(self, layer: nn.Layer, inputs: Any, output: Any) -> None:
        # A model with a loss_computation of its own may get something else out of a loss.
        if isinstance(output, Tensor) and output.size == 1:
            self._returned.setdefault(id(layer), []).append(output)

    def watch(
        self,
        compute: Callable[[], list[Tensor]],
        total: Callable[[list[Tensor | None], list[Tensor]], Tensor] | None = None,
    ) -> list[Tensor]:
        """Call ``compute``, which computes the losses of one step, and return what it returns.

        Args:
            compute: computes the losses.
            total: makes one loss, to return instead, from the values of all terms and from what
                ``compute`` returned.

        Raises:
            TrainingDiverged: a gradient is not finite.
        """
        self.settle()
        self.iteration += 1
        try:
            result = compute()
            values = self._values()
            if total is not None:
                result = [total(values, result)]
        except TrainingDiverged as error:
            self._returned.clear()
            raise self.divergence(error.what) from error
        self._pending = self._gather(values, result)
        for statistics in self.gradients:
            statistics.note()
        return result

    def peek(self, compute: Callable[[], list[Tensor]]) -> tuple[list[Tensor | None], list[Tensor]]:
        """Call ``compute`` without recording it; return the terms' values and what it returned."""
        result = compute()
        return self._values(), result

    def _values(self) -> list[Tensor | None]:
        """What each term's loss returned, in the order of the terms; the graph is let go."""
        queues = {key: iter(values) for key, values in self._returned.items()}
        self._returned.clear()
        return [next(queues.get(id(term.layer), iter(())), None) for term in self.terms]

    def _gather(self, values: list[Tensor | None], result: list[Tensor]) -> Tensor:
        """The raw values of all terms, and what the network is trained on, in one tensor."""
        self._ran = [value is not None for value in values]
        missing = None if all(self._ran) else paddle.full([1], math.nan)
        filled = [missing if value is None else value.detach() for value in values]
        return as_vector([*filled, as_vector(result).sum().detach()])

    def settle(self) -> None:
        """Read the values of the latest step.

        Raises:
            TrainingDiverged: one is NaN or infinite.
        """
        if self._pending is None:
            return
        (*values, total), self._pending = self._pending.numpy(), None
        raw, weights = np.array(values), current_weights(self.terms)
        for term, value, weight, ran in zip(self.terms, raw, weights, self._ran):
            if ran and not math.isfinite(value * weight):
                raise self.divergence(f"{term.name} is {value} (weight {weight:.4g})")
        if not math.isfinite(total):
            raise self.divergence(f"the total loss is {total}")
        if is_writing_rank():
            self._window.append(np.stack([raw, weights, raw * weights]))
            self._warn_of_constants(raw)

    def _warn_of_constants(self, raw: np.ndarray) -> None:
        """Say once of every term that never changes."""
        self._same = np.where(raw == self._last_raw, self._same + 1, 1)
        self._last_raw = raw
        for index in np.flatnonzero(self._same == _LONG):
            if index not in self._constants:
                self._constants.add(index)
                logger.warning(
                    f"{self.terms[index].name} has been exactly {raw[index]:g} for {_LONG} "
                    "iterations: it trains nothing"
                )

    def divergence(self, what: str) -> TrainingDiverged:
        """Make the error that says what is not finite, when, and from where to go on."""
        whole = whole_checkpoints(self.save_dir)
        rescue = f"the last good checkpoint is {whole[-1]}" if whole else "no checkpoint was saved"
        return TrainingDiverged(f"iteration {self.iteration}: {what}", rescue)

    def log_window(self) -> list[Row]:
        """Return the means since the last call, a row for each term that ran."""
        self.settle()
        window, self._window = self._window, []
        if not window:
            return []
        means = np.mean(window, axis=0)
        return [
            Row(self.iteration, term.name, *map(float, means[:, column]))
            for column, term in enumerate(self.terms)
            if self._ran[column]
        ]

    def gradient_window(self) -> list[PairRow]:
        """Return the lengths and angles since the last call, a row for each pair of losses."""
        return [row for s in self.gradients for row in s.window(self.iteration)]

    def close(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()
