"""What each level of a gradient method costs on a network, and what its weights are worth there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor

from paddleseg_autoloss.data_checks import read_batch
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.aggregator import LossAggregator, unique_names
from paddleseg_autoloss.gradients.features import Features
from paddleseg_autoloss.gradients.levels import (
    LevelGramian,
    fidelities,
    gramians_of_levels,
    replay,
)
from paddleseg_autoloss.integration.joint import joint_aggregation
from paddleseg_autoloss.integration.loss_trial import as_batch, outputs_for
from paddleseg_autoloss.integration.monitor import TermMonitor
from paddleseg_autoloss.integration.parts import Parts
from paddleseg_autoloss.integration.session import stock_losses
from paddleseg_autoloss.integration.terms import Term, terms_of
from paddleseg_autoloss.tensors import as_vector, tensors_in
from paddleseg_autoloss.weighting import METHODS, GramianWeighting, Weighting
from paddleseg_autoloss.weighting.base import own_arguments

__all__ = [
    "ANOTHER_BATCH",
    "EQUAL",
    "Fidelity",
    "Judged",
    "Levels",
    "Methods",
    "check_layer",
    "measure_levels",
    "methods_of",
]

#: The methods that are judged if the config has no method that uses the Gramian.
_REPRESENTATIVE = ("CAGrad", "UPGrad", "NashMTL", "MGDA")
#: Batches that fidelities are measured on, and rounds of alternating steps that are timed.
_BATCHES, _ROUNDS = 8, 5
#: What else gives weights: none at all, and the exact ones of the batch before.
EQUAL, ANOTHER_BATCH = "equal weights", "weights of the batch before"

#: For each loss of a method, the indices of the terms that it is the sum of.
Rows = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Judged:
    """A method to judge.

    Args:
        make: creates it in its first state.
        names: its losses.
        rows: the terms of each of them.
    """

    make: Callable[[], GramianWeighting]
    names: tuple[str, ...]
    rows: Rows

    def is_refused(self, level: str, seen: LevelGramian) -> bool:
        """Whether training refuses the method at a level; at that of the parameters it never does.

        Args:
            level: the level, or `ANOTHER_BATCH` for steps between updates.
            seen: what the method sees there.
        """
        return level != "parameters" and not seen.is_shared and self.make().may_be_negative


@dataclass(frozen=True)
class Methods:
    """The methods that the levels are measured with.

    Args:
        judged: by name.
        left_out: the methods of the config that are not judged.
        layer: the layer of level ``features`` that the config names, or None.
    """

    judged: Mapping[str, Judged]
    left_out: tuple[str, ...] = ()
    layer: str | None = None


@dataclass(frozen=True)
class Fidelity:
    """How much of a method's exact update is left; see `paddleseg_autoloss.gradients.fidelity`.

    Args:
        median: over the batches; NaN if there is none.
        worst: the smallest.
        is_refused: whether training refuses the method at the level.
    """

    median: float
    worst: float
    is_refused: bool = False


@dataclass(frozen=True)
class Levels:
    """Cost and fidelity of each level.

    Args:
        costs: for each level, the time of a step, with all methods of the config at this level, as
            a multiple of that of a plain step.
        fidelities: for each method, the fidelity of `EQUAL`, of each cheap level, and of
            `ANOTHER_BATCH`.
        layer: the layer of level ``features``; None if the network has none that fits.
        batches: number of batches.
        left_out: the methods of the config that are not judged.
    """

    costs: Mapping[str, float]
    fidelities: Mapping[str, Mapping[str, Fidelity]]
    layer: str | None
    batches: int
    left_out: tuple[str, ...] = ()


def methods_of(losses: dict[str, Any]) -> Methods:
    """Return the methods to judge: those of the config, otherwise a representative few.

    A component of ``loss.types`` is judged on its own losses, ``loss_aggregator`` on all.

    Args:
        losses: PaddleSeg's loss dict.

    Raises:
        ConfigError: several methods of level ``features`` name different layers.
    """
    terms = terms_of(losses)
    own = _components(terms)
    joint = joint_aggregation(losses.get("loss_aggregator"), terms)
    if joint is not None:
        own.append((joint.aggregator.weighting.short_name, joint.aggregator, _all(terms)))
    names = unique_names([name for name, _, _ in own])
    judged = {
        name: Judged(_again(aggregator), tuple(aggregator.names), rows)
        for name, (_, aggregator, rows) in zip(names, own)
        if _is_judged(aggregator)
    }
    left_out = tuple(name for name in names if name not in judged)
    layer = _common_layer([one for _, one, _ in own if one.level == "features"])
    if not judged:
        of_terms = [term.name for term in terms]
        judged = {name: _example(name, of_terms, _all(terms)) for name in _REPRESENTATIVE}
    return Methods(judged, left_out, layer)


def _common_layer(aggregators: Sequence[LossAggregator]) -> str | None:
    layers = {one.layer for one in aggregators}
    if len(layers) > 1:
        found = ", ".join(sorted(layer or "none" for layer in layers))
        raise ConfigError(
            f"layer: expected one layer in all methods for --levels, which measures at one, found "
            f"{found}"
        )
    return next(iter(layers), None)


def check_layer(model: paddle.nn.Layer, methods: Methods) -> None:
    """Check that the network has the layer that the config names, before anything is measured.

    Args:
        model: the network.
        methods: the methods to judge.

    Raises:
        ConfigError: it has no such layer, or several.
    """
    if methods.layer is not None:
        Features(model, methods.layer).remove()


def _components(terms: Sequence[Term]) -> list[tuple[str, LossAggregator, Rows]]:
    """Return what weighs losses in ``loss.types``; the name of each begins with its head."""
    found: dict[tuple[int, int], tuple[LossAggregator, dict[int, list[int]]]] = {}
    for position, term in enumerate(terms):
        for aggregator, index in term.sources:
            _, own = found.setdefault((term.head, id(aggregator)), (aggregator, {}))
            own.setdefault(index, []).append(position)
    several_heads = len({term.head for term in terms}) > 1
    return [
        (
            f"head{head}/{one.weighting.short_name}" if several_heads else one.weighting.short_name,
            one,
            tuple(tuple(own[index]) for index in sorted(own)),
        )
        for (head, _), (one, own) in found.items()
    ]


def _all(terms: Sequence[Term]) -> Rows:
    return tuple((index,) for index in range(len(terms)))


def _is_judged(aggregator: LossAggregator) -> bool:
    """Whether the weights of its one update follow from one Gramian alone."""
    method = aggregator.weighting
    learns = method.parameter_name is not None
    return isinstance(method, GramianWeighting) and not learns and not aggregator.steps_each


def _again(aggregator: LossAggregator) -> Callable[[], Any]:
    method = aggregator.weighting
    options = {name: getattr(method, name) for name in own_arguments(type(method))}

    def make() -> Weighting:
        again = type(method)(method.num_losses, **options)
        again.take_names(aggregator.names)
        return again

    return make


def _example(method: str, names: Sequence[str], rows: Rows) -> Judged:
    kind: Any = METHODS[method]
    return Judged(lambda: kind(len(names)), tuple(names), rows)


def measure_levels(parts: Parts, losses: dict[str, Any], methods: Methods, size: int) -> Levels:
    """Measure on the network as it is; its parameters do not change.

    Args:
        parts: the network and the training data.
        losses: PaddleSeg's loss dict, with fixed coefficients.
        methods: the methods to judge, see `methods_of`.
        size: images per batch.
    """
    steps = _Steps(parts, losses, size)
    judged = methods.judged
    with _features(parts.model, methods.layer) as features:
        seen = steps.record(
            features, {one.rows for one in judged.values()}, is_named=methods.layer is not None
        )
    levels = next(iter(seen.values())).gramians
    layer = features.name if features and "features" in levels else None
    timed = {level: _timed(judged.values(), level, seen) for level in levels}
    found = {name: _fidelities(one, seen[one.rows]) for name, one in judged.items()}
    return Levels(steps.time(timed, methods.layer), found, layer, _BATCHES, methods.left_out)


class _Seen(NamedTuple):
    """What a method sees in each batch: its losses, shape [T, K], and the Gramians by level."""

    values: np.ndarray
    gramians: dict[str, list[LevelGramian]]


def _timed(methods: Iterable[Judged], level: str, seen: Mapping[Rows, _Seen]) -> list[Judged]:
    """Return what weighs the losses in a step that is timed: one method for each loss at most.

    The cost of a level that refuses a method is measured with one that it does not refuse.
    """
    found: list[Judged] = []
    taken: set[int] = set()
    for one in methods:
        own = {index for row in one.rows for index in row}
        if own & taken:
            continue
        taken |= own
        if one.is_refused(level, seen[one.rows].gramians[level][0]):
            one = _example(_REPRESENTATIVE[0], one.names, one.rows)
        found.append(one)
    return found


@contextmanager
def _features(model: paddle.nn.Layer, layer: str | None) -> Iterator[Features | None]:
    """Give the features of a layer, by default the backbone; None if there is no backbone."""
    try:
        features = Features(model, layer)
    except ConfigError:
        if layer is not None:
            raise
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
        with self._monitor.attached():
            compute(outputs, self._losses, batch)
        values = self._monitor.collect()
        each = [v * term.coef for v, term in zip(values, self._terms) if v is not None]
        return each, outputs

    def record(
        self, features: Features | None, groups: Iterable[Rows], is_named: bool = False
    ) -> dict[Rows, _Seen]:
        """Return what a method sees in each batch, for each group of losses.

        Args:
            features: the layer of level ``features``, or None.
            groups: the groups.
            is_named: whether the config names the layer; if not, one that does not fit is left out.
        """
        values: dict[Rows, list[np.ndarray]] = {rows: [] for rows in groups}
        gramians: dict[Rows, dict[str, list[LevelGramian]]] = {rows: {} for rows in values}
        for batch in self._batches:
            each, outputs = self._forward(batch)
            if features and not is_named and not self._fits(features, each):
                features = None
            targets = {
                "parameters": self._parameters,
                "features": features.tensors() if features else [],
                "logits": [t for t in tensors_in(outputs) if not t.stop_gradient],
            }
            for rows, found in gramians.items():
                own = _sums(each, rows)
                values[rows].append(as_vector(own).detach().numpy().astype("float64"))
                for level, gramian in gramians_of_levels(own, **targets).items():
                    found.setdefault(level, []).append(gramian)
            self._model.clear_gradients()
        return {rows: _Seen(np.stack(values[rows]), found) for rows, found in gramians.items()}

    def _fits(self, features: Features, each: Sequence[Tensor]) -> bool:
        try:
            features.tensors()
            features.split(self._parameters, each)
        except ConfigError:
            return False
        return True

    def time(self, levels: Mapping[str, Sequence[Judged]], layer: str | None) -> dict[str, float]:
        """Return the cost of each level: medians of alternating steps, over a plain one's."""
        seconds: dict[str, list[float]] = {name: [] for name in ("plain", *levels)}
        for _ in range(_ROUNDS + 1):
            for name, taken in seconds.items():
                methods = levels.get(name, [])
                taken.append(self._step([self._weighed(one, name, layer) for one in methods]))
        # The first round warms up.
        medians = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
        return {level: medians[level] / medians["plain"] for level in levels}

    def _weighed(self, method: Judged, level: str, layer: str | None) -> _Weighed:
        layer = layer if level == "features" else None
        found = LossAggregator(method.names, method.make(), level=level, layer=layer)
        found.bind(self._model.parameters(), model=self._model)
        return _Weighed(found, method.rows)

    def _step(self, weighed: Sequence[_Weighed]) -> float:
        if any(one.aggregator.level == "features" for one in weighed):
            # The first step of this level finds out which parameters are below the layer.
            self._backward(weighed)
        start = time.perf_counter()
        self._backward(weighed)
        taken = time.perf_counter() - start
        for one in weighed:
            one.aggregator.unbind()
        return taken

    def _backward(self, weighed: Sequence[_Weighed]) -> None:
        each, outputs = self._forward(self._batches[0])
        weighed_terms = {index for one in weighed for row in one.rows for index in row}
        parts = [value for index, value in enumerate(each) if index not in weighed_terms]
        for one in weighed:
            own = dict(zip(one.aggregator.names, _sums(each, one.rows)))
            parts.append(one.aggregator(own, outputs))
        total = as_vector(parts).sum()
        total.backward()
        # Reading a number waits for the device.
        float(total)
        self._model.clear_gradients()


class _Weighed(NamedTuple):
    """An aggregator and the terms of its losses."""

    aggregator: LossAggregator
    rows: Rows


def _sums(each: Sequence[Tensor], rows: Rows) -> list[Tensor]:
    return [as_vector([each[index] for index in row]).sum() for row in rows]


#: Of a level at which training refuses the method.
_REFUSED = Fidelity(float("nan"), float("nan"), is_refused=True)


def _fidelities(method: Judged, seen: _Seen) -> dict[str, Fidelity]:
    values, gramians = seen
    exact_gramians = np.stack([one.gramian for one in gramians["parameters"]])
    exact = replay(method.make(), values, exact_gramians)
    found = {EQUAL: _fidelity(exact_gramians, np.ones_like(values), exact)}
    for level, own in gramians.items():
        if level == "parameters":
            continue
        if method.is_refused(level, own[0]):
            found[level] = _REFUSED
            continue
        cheap = replay(method.make(), values, np.stack([one.gramian for one in own]))
        found[level] = _fidelity(exact_gramians, cheap, exact)
    found[ANOTHER_BATCH] = _fidelity(exact_gramians[1:], exact[:-1], exact[1:])
    if method.is_refused(ANOTHER_BATCH, gramians["parameters"][0]):
        found[ANOTHER_BATCH] = _REFUSED
    return found


def _fidelity(gramians: np.ndarray, weights: np.ndarray, exact: np.ndarray) -> Fidelity:
    found = fidelities(gramians, weights, exact)
    known = found[~np.isnan(found)]
    if not known.size:
        return Fidelity(float("nan"), float("nan"))
    return Fidelity(float(np.median(known)), float(known.min()))
