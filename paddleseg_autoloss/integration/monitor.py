"""Records the terms of the loss while PaddleSeg's loop trains."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddleseg.utils import logger

from paddleseg_autoloss.errors import TrainingDiverged
from paddleseg_autoloss.gradients.loss_range import LossRange
from paddleseg_autoloss.integration.checkpoint import newest_good_checkpoint
from paddleseg_autoloss.integration.gradient_statistics import GradientStatistics, PairRow
from paddleseg_autoloss.integration.history import Row
from paddleseg_autoloss.integration.terms import Term, aggregators_of
from paddleseg_autoloss.ranks import is_writing_rank
from paddleseg_autoloss.tensors import as_vector

__all__ = ["TermMonitor", "current_weights"]

#: Iterations after which a loss that never changes is reported.
_LONG = 200


class TermMonitor:
    """Collects the raw value and the weight of every term, and reports values that are not finite.

    The values of a step stay on the device, in one tensor, until `check_latest` reads them.  If the
    method computes the gradient of each loss, the monitor also collects their norms and angles.

    Args:
        terms: the terms.  A loss object that is used for several heads must be called once per
            head.
        save_dir: folder of the run; errors name the last good checkpoint in it.
        start_iter: iteration that the run continues from.

    Attributes:
        resumed: the checkpoint that the run continues from, if there is one.
    """

    def __init__(self, terms: list[Term], save_dir: str | Path, start_iter: int) -> None:
        self.terms = terms
        self.save_dir = save_dir
        self.iteration = start_iter
        self.resumed: Path | None = None
        self._begun = time.time()
        self.gradients = [
            GradientStatistics(prefix, aggregator)
            for prefix, aggregator in aggregators_of(terms)
            if aggregator.uses_gradients and not aggregator.learns_from_differences
        ]
        self._ranges = _loss_ranges(terms)
        self._marked: list[LossRange] = []
        self._returned: dict[int, list[Tensor]] = {}
        self._latest: Tensor | None = None
        self._writes = is_writing_rank()
        self._num_results = 0
        self._ran: list[bool] = []
        self._window: list[np.ndarray] = []
        self._same = np.zeros(len(terms), "int64")
        self._last_raw = np.full(len(terms), np.nan)
        self._constants: set[int] = set()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Context in which the values of the losses are kept for `collect`."""
        layers = {id(term.layer): term.layer for term in self.terms}.values()
        with ExitStack() as stack:
            for layer in layers:
                stack.callback(layer.register_forward_post_hook(self._record).remove)
            yield

    def _record(self, layer: nn.Layer, inputs: Any, output: Any) -> None:
        # A loss inside a model's own loss_computation may return something other than one number.
        if isinstance(output, Tensor) and output.size == 1:
            self._returned.setdefault(id(layer), []).append(output)

    def collect(self) -> list[Tensor | None]:
        """Return the value of each term since the last call, in the order of the terms.

        It is None for a term whose loss was not called.
        """
        queues = {key: iter(values) for key, values in self._returned.items()}
        self._returned.clear()
        return [next(queues.get(id(term.layer), iter(())), None) for term in self.terms]

    def record(self, values: list[Tensor | None], result: list[Tensor]) -> None:
        """Record one step; the numbers stay on the device until `check_latest`.

        Args:
            values: the raw value of every term, as `collect` returned them.
            result: the losses that the network is trained on.

        Raises:
            TrainingDiverged: a number of the step before is NaN or infinite, and was not read yet.
            ConfigError: a loss of that step is negative, and its method does not accept this.
        """
        self.check_latest()
        self.iteration += 1
        self._ran = [value is not None for value in values]
        missing = None if all(self._ran) else paddle.full([1], math.nan)
        filled = [missing if value is None else value.detach() for value in values]
        latest = as_vector([*filled, *(one.detach() for one in result)])
        marks = [(one, one.weighting.frozen if one.warns else one.noted) for one in self._ranges]
        self._marked = [one for one, losses in marks if losses is not None]
        # All numbers in one tensor need one transfer to the host.
        self._latest = paddle.concat([latest, *(m for _, m in marks if m is not None)])
        for one in self._marked:
            one.noted = None
        self._num_results = len(result)
        for statistics in self.gradients:
            statistics.note()

    def check_latest(self) -> None:
        """Read and check the numbers of the latest step; a second call does nothing.

        Raises:
            TrainingDiverged: a number is NaN or infinite.
            ConfigError: a loss is negative, and its method does not accept negative losses.
        """
        if self._latest is None:
            return
        numbers, self._latest = self._latest.numpy(), None
        sizes = [len(self.terms), self._num_results, *(len(r.names) for r in self._marked)]
        raw, result, *marks = np.split(numbers, np.cumsum(sizes)[:-1])
        weights = current_weights(self.terms)
        for term, value, weight, ran in zip(self.terms, raw, weights, self._ran):
            if ran and not math.isfinite(value * weight):
                raise self.divergence(f"{term.name} is {value} (weight {weight:.4g})")
        total = result.sum()
        if not math.isfinite(total):
            raise self.divergence(f"the total loss is {total}")
        for loss_range, mark in zip(self._marked, marks):
            if not np.isnan(mark).all():
                loss_range.judge(mark)
        if self._writes:
            self._window.append(np.stack([raw, weights, raw * weights]))
            self._warn_of_constants(raw)

    def _warn_of_constants(self, raw: np.ndarray) -> None:
        """Warn once of every term whose value never changes."""
        self._same = np.where(raw == self._last_raw, self._same + 1, 1)
        self._last_raw = raw
        for index in np.flatnonzero(self._same == _LONG):
            if index not in self._constants:
                self._constants.add(index)
                logger.warning(
                    f"{self.terms[index].name} has been exactly {raw[index]:g} for {_LONG} "
                    "iterations: it does not train the network"
                )

    def divergence(self, what: str) -> TrainingDiverged:
        """Return the error that names the iteration, the fault, and the last good checkpoint."""
        good = self.newest_checkpoint()
        rescue = f"the last good checkpoint is {good}" if good else "no good checkpoint was saved"
        return TrainingDiverged(f"iteration {self.iteration}: {what}", rescue)

    def newest_checkpoint(self) -> Path | None:
        """Return the newest good checkpoint of this run, not of an older one in its folder."""
        return newest_good_checkpoint(self.save_dir, self._begun) or self.resumed

    def log_window(self) -> list[Row]:
        """Return the means since the last call, one row for each term that was computed.

        A loss that learns its own weights has NaN as weight.
        """
        self.check_latest()
        window, self._window = self._window, []
        if not window:
            return []
        raw, weights, weighted = np.mean(window, axis=0)
        weights[[term.is_learned for term in self.terms]] = math.nan
        return [
            Row(self.iteration, term.name, *map(float, numbers))
            for term, ran, *numbers in zip(self.terms, self._ran, raw, weights, weighted)
            if ran
        ]

    def gradient_window(self) -> list[PairRow]:
        """Return the norms and angles since the last call, one row per pair of losses."""
        return [row for s in self.gradients for row in s.window(self.iteration)]


def _loss_ranges(terms: Sequence[Term]) -> list[LossRange]:
    """Return the range checks that can warn or fail, with the names of the terms."""
    ranges = []
    for prefix, aggregator in aggregators_of(terms):
        aggregator.loss_range.prefix = prefix
        if aggregator.loss_range.warns or aggregator.loss_range.refuses:
            ranges.append(aggregator.loss_range)
    return ranges


def current_weights(terms: Sequence[Term]) -> np.ndarray:
    """Return the weight of every term in the latest step.

    It is the term's coefficient times the weight of the method.

    It is NaN if the method has not been called yet.
    """
    last: dict[int, np.ndarray] = {}
    weights = np.array([term.coef for term in terms])
    for row, term in enumerate(terms):
        for aggregator, index in term.sources:
            if aggregator.last_weights is None:
                weights[row] = math.nan
                continue
            if id(aggregator) not in last:
                last[id(aggregator)] = aggregator.last_weights.numpy()
            weights[row] *= last[id(aggregator)][index]
    return weights
