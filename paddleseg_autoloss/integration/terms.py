"""The terms of a loss config: every inner loss of every head, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from paddle import nn
from paddleseg.models.losses import MixedLoss

from paddleseg_autoloss.gradients.aggregator import LossAggregator, unique_names
from paddleseg_autoloss.losses import WeightedLoss

__all__ = ["Term", "aggregators_of", "loss_layers", "own_parameters", "terms_of"]


#: Numbers of one parameter that are shown.
_MOST_NUMBERS = 16


@dataclass(frozen=True)
class Term:
    """One loss of one head.

    Args:
        name: its name in logs and curves, such as ``head0/DiceLoss``; without the head where there
            is one only.
        head: index of the model output, and of the entry of ``loss.types``.
        layer: the loss itself.
        coef: product of the fixed coefficients that apply to it.
        sources: the weights that apply to it: an aggregator and the index therein.
    """

    name: str
    head: int
    layer: nn.Layer
    coef: float
    sources: tuple[tuple[LossAggregator, int], ...] = ()


def terms_of(losses: dict[str, list[Any]]) -> list[Term]:
    """List the terms of PaddleSeg's loss dict, with ``types`` and ``coef``."""
    single_head = len(losses["types"]) == 1
    terms: list[Term] = []
    for head, (loss, coef) in enumerate(zip(losses["types"], losses["coef"])):
        prefix = "" if single_head else f"head{head}/"
        found = list(_leaves(Term("", head, loss, float(coef))))
        names = unique_names([term.name or type(term.layer).__name__ for term in found])
        terms += [replace(term, name=prefix + name) for name, term in zip(names, found)]
    return terms


def _leaves(term: Term) -> Iterator[Term]:
    loss = term.layer
    if isinstance(loss, WeightedLoss):
        for index, (name, inner) in enumerate(zip(loss.names, loss.losses)):
            path = f"{term.name}/{name}" if term.name else name
            sources = (*term.sources, (loss.aggregator, index))
            yield from _leaves(replace(term, name=path, layer=inner, sources=sources))
    elif isinstance(loss, MixedLoss):
        for inner, coef in zip(loss.losses, loss.coef):
            path = f"{term.name}/{type(inner).__name__}" if term.name else ""
            yield from _leaves(replace(term, name=path, layer=inner, coef=term.coef * coef))
    else:
        yield term


def aggregators_of(terms: Sequence[Term]) -> list[tuple[str, LossAggregator]]:
    """Return the aggregators that weigh the terms, each with what its names are to begin with."""
    several_heads = len({term.head for term in terms}) > 1
    found: dict[int, tuple[str, LossAggregator]] = {}
    for term in terms:
        for aggregator, _ in term.sources:
            own_names = term.name in aggregator.names
            prefix = f"head{term.head}/" if several_heads and not own_names else ""
            found.setdefault(id(aggregator), (prefix, aggregator))
    return list(found.values())


def own_parameters(layer: nn.Layer) -> dict[str, float]:
    """Return the numbers that a loss learns by itself, by name; ``sigma[1]`` is one of several.

    Args:
        layer: a loss, such as one of the user's own with learned weights inside.
    """
    numbers: dict[str, float] = {}
    for name, parameter in layer.named_parameters():
        # A network inside of a loss has more parameters than anyone can read.
        if not parameter.stop_gradient and parameter.size <= _MOST_NUMBERS:
            values = parameter.numpy().reshape([-1]).tolist()
            several = len(values) > 1
            numbers |= {f"{name}[{i}]" if several else name: v for i, v in enumerate(values)}
    return numbers


def loss_layers(losses: dict[str, list[Any]]) -> dict[str, nn.Layer]:
    """Map a path such as ``types.0`` to every outermost loss that Paddle knows the insides of.

    ``MixedLoss`` keeps its losses in a plain list, where Paddle does not see their parameters and
    buffers; they are listed one by one.
    """
    layers: dict[str, nn.Layer] = {}
    pending = [(f"types.{i}", loss) for i, loss in enumerate(losses["types"])]
    for path, loss in pending:
        if isinstance(loss, MixedLoss):
            pending += [(f"{path}.losses.{i}", inner) for i, inner in enumerate(loss.losses)]
        elif isinstance(loss, nn.Layer):
            layers[path] = loss
    return layers
