"""What each level of a gradient method costs on a network, and what its weights are worth there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from paddleseg_autoloss.data_checks import read_batch
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.gradients.features import Features
from paddleseg_autoloss.gradients.levels import (
    LevelGramian,
    fidelities,
    gramians_of_levels,
    replay,
)
from paddleseg_autoloss.integration.loss_trial import as_batch, outputs_for
from paddleseg_autoloss.integration.monitor import TermMonitor
from paddleseg_autoloss.integration.parts import Parts
from paddleseg_autoloss.integration.session import stock_losses
from paddleseg_autoloss.integration.terms import terms_of
from paddleseg_autoloss.tensors import as_vector, tensors_in
from paddleseg_autoloss.weighting import METHODS, GramianWeighting, Weighting
from paddleseg_autoloss.weighting.base import own_arguments

__all__ = ["ANOTHER_BATCH", "EQUAL", "Fidelity", "Levels", "measure_levels", "methods_of"]

#: The methods that are judged if the config has no method that uses the Gramian.
_REPRESENTATIVE = ("CAGrad", "UPGrad", "NashMTL", "MGDA")
#: Batches that fidelities are measured on, and rounds of alternating steps that are timed.
_BATCHES, _ROUNDS = 8, 5
#: What else gives weights: none at all, and the exact ones of the batch before.
EQUAL, ANOTHER_BATCH = "equal weights", "weights of the batch before"

Makers = dict[str, Callable[[int], GramianWeighting]]


@dataclass(frozen=True)
class Fidelity:
    """How much of a method's exact update is left; see `paddleseg_autoloss.gradients.fidelity`.

    Args:
        median: over the batches; NaN if the method is refused at the level.
        worst: the smallest.
    """

    median: float
    worst: float


@dataclass(frozen=True)
class Levels:
    """Cost and fidelity of each level.

    Args:
        costs: for each level, the time of a step as a multiple of that of a plain step.
        fidelities: for each method, the fidelity of `EQUAL`, of each cheap level, and of
            `ANOTHER_BATCH`.
        layer: the layer of level ``features``; None if the network has none that fits.
        batches: number of batches.
    """

    costs: Mapping[str, float]
    fidelities: Mapping[str, Mapping[str, Fidelity]]
    layer: str | None
    batches: int


def methods_of(losses: dict[str, Any]) -> Makers:
    """Return the methods to judge: those of the config, otherwise a representative few.

    Args:
        losses: PaddleSeg's loss dict.
    """
    own: list[Weighting] = [
        aggregator.weighting for term in terms_of(losses) for aggregator, _ in term.sources
    ]
    given = losses.get("loss_aggregator")
    if isinstance(given, LossAggregator):
        own.append(given.weighting)
    found: Makers = {one.short_name: _again(one) for one in own if _is_judged(type(one))}
    if isinstance(given, Mapping) and _is_judged(method := METHODS[given["type"]]):
        options = {key: given[key] for key in given.keys() & own_arguments(method).keys()}
        found[given["type"]] = lambda count: method(count, **options)
    return found or {name: METHODS[name] for name in _REPRESENTATIVE}


def _is_judged(method: type[Weighting]) -> bool:
    """Whether its weights follow from one Gramian alone."""
    return issubclass(method, GramianWeighting) and method.parameter_name is None


def _again(method: Weighting) -> Callable[[int], Any]:
    options = {name: getattr(method, name) for name in own_arguments(type(method))}
    return lambda count: type(method)(count, **options)


def measure_levels(parts: Parts, losses: dict[str, Any], makers: Makers, size: int) -> Levels:
    """Measure on the network as it is; its parameters do not change.

    Args:
        parts: the network and the training data.
        losses: PaddleSeg's loss dict, with fixed coefficients.
        makers: the methods to judge, see `methods_of`.
        size: images per batch.
    """
    steps = _Steps(parts, losses, size)
    with _features(parts.model) as features:
        values, gramians = steps.record(features)
        layer = features.name if features else None
    levels = [*gramians]
    first = next(iter(makers.values()))
    costs = steps.time([one for one in levels if _allows(first, steps.names, gramians[one])], first)
    found = {name: _fidelities(make, values, gramians) for name, make in makers.items()}
    return Levels(costs, found, layer, _BATCHES)


def _allows(make: Any, names: Sequence[str], level: list[LevelGramian]) -> bool:
    return level[0].is_shared or not make(len(names)).may_be_negative


@contextmanager
def _features(model: paddle.nn.Layer) -> Iterator[Features | None]:
    """Give the features of the network's backbone, or None if it has no usable one."""
    try:
        features = Features(model, None)
    except ConfigError:
        yield None
        return
    try:
        yield features
    finally:
        features.remove()


class _Steps:
    """Steps of training without the optimizer.

    Args:
        parts: the network and the training data.
        losses: PaddleSeg's loss dict, with fixed coefficients.
        size: images per batch.
    """

    def __init__(self, parts: Parts, losses: dict[str, Any], size: int) -> None:
        self._model, self._losses = parts.model, losses
        self._terms = terms_of(losses)
        self.names = [term.name for term in self._terms]
        self._monitor = TermMonitor(self._terms, ".", 0)
        self._parameters = [p for p in parts.model.parameters() if not p.stop_gradient]
        count = len(parts.train_dataset)
        order = np.random.default_rng(0).permutation(count)
        self._batches = [
            as_batch(read_batch(parts.train_dataset, np.take(order, rows, mode="wrap").tolist()))
            for rows in np.arange(_BATCHES * min(size, count)).reshape(_BATCHES, -1)
        ]
        self._model.train()

    def _forward(self, batch: dict[str, Any]) -> tuple[list[Tensor], Any]:
        outputs = outputs_for(self._model, batch)
        compute = getattr(self._model, "loss_computation", None) or stock_losses
        compute(outputs, self._losses, batch)
        values = self._monitor.collect()
        each = [v * term.coef for v, term in zip(values, self._terms) if v is not None]
        return each, outputs

    def record(self, features: Features | None) -> tuple[np.ndarray, dict[str, list[LevelGramian]]]:
        """Return the losses of each batch, and what a method sees at each level."""
        values, found = [], dict[str, list[LevelGramian]]()
        for batch in self._batches:
            each, outputs = self._forward(batch)
            targets = {
                "parameters": self._parameters,
                "features": features.tensors() if features else [],
                "logits": [t for t in tensors_in(outputs) if not t.stop_gradient],
            }
            values.append(as_vector(each).detach().numpy().astype("float64"))
            for level, gramian in gramians_of_levels(each, **targets).items():
                found.setdefault(level, []).append(gramian)
            self._model.clear_gradients()
        return np.stack(values), found

    def time(self, levels: Sequence[str], make: Callable[[int], Any]) -> dict[str, float]:
        """Return the cost of each level: medians of alternating steps, over a plain one's."""
        seconds: dict[str, list[float]] = {name: [] for name in ("plain", *levels)}
        for _ in range(_ROUNDS + 1):
            for name, taken in seconds.items():
                taken.append(self._step(None if name == "plain" else self._aggregator(name, make)))
        # The first round warms up.
        medians = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
        return {level: medians[level] / medians["plain"] for level in levels}

    def _aggregator(self, level: str, make: Callable[[int], Any]) -> LossAggregator:
        found = LossAggregator(self.names, make(len(self.names)), level=level)
        found.bind(self._model.parameters(), model=self._model)
        return found

    def _step(self, aggregator: LossAggregator | None) -> float:
        if aggregator is not None and aggregator.level == "features":
            # The first step of this level finds out which parameters are below the layer.
            self._backward(aggregator)
        start = time.perf_counter()
        self._backward(aggregator)
        taken = time.perf_counter() - start
        if aggregator is not None:
            aggregator.unbind()
        return taken

    def _backward(self, aggregator: LossAggregator | None) -> None:
        each, outputs = self._forward(self._batches[0])
        if aggregator is None:
            total = as_vector(each).sum()
        else:
            total = aggregator(dict(zip(self.names, each)), outputs)
        total.backward()
        # Reading a number waits for the device.
        float(total)
        self._model.clear_gradients()


def _fidelities(
    make: Callable[[int], GramianWeighting],
    values: np.ndarray,
    gramians: Mapping[str, list[LevelGramian]],
) -> dict[str, Fidelity]:
    count = values.shape[1]
    exact_gramians = np.stack([one.gramian for one in gramians["parameters"]])
    exact = replay(make(count), values, exact_gramians)
    found = {EQUAL: _fidelity(exact_gramians, np.ones_like(values), exact)}
    for level, seen in gramians.items():
        if level == "parameters":
            continue
        if make(count).may_be_negative and not seen[0].is_shared:
            found[level] = Fidelity(float("nan"), float("nan"))
            continue
        cheap = replay(make(count), values, np.stack([one.gramian for one in seen]))
        found[level] = _fidelity(exact_gramians, cheap, exact)
    found[ANOTHER_BATCH] = _fidelity(exact_gramians[1:], exact[:-1], exact[1:])
    return found


def _fidelity(gramians: np.ndarray, weights: np.ndarray, exact: np.ndarray) -> Fidelity:
    found = fidelities(gramians, weights, exact)
    known = found[~np.isnan(found)]
    if not known.size:
        return Fidelity(float("nan"), float("nan"))
    return Fidelity(float(np.median(known)), float(known.min()))
