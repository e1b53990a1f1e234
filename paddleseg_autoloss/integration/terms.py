"""The terms of a loss config: every inner loss of every head, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from paddle import Tensor, nn
from paddleseg.models.losses import MixedLoss

from paddleseg_autoloss.gradients.aggregator import LossAggregator, unique_names
from paddleseg_autoloss.losses import WeightedLoss

__all__ = ["Term", "aggregators_of", "loss_layers", "own_parameters", "terms_of"]


#: Most numbers of one parameter that are shown.
_MOST_NUMBERS = 16


@dataclass(frozen=True)
class Term:
    """One loss of one head.

    Args:
        name: its name in logs and curves, such as ``head0/DiceLoss``; without the head if there is
            only one.
        head: index of the model output, and of the entry of ``loss.types``.
        layer: the loss layer.
        coef: product of the fixed coefficients that apply to it.
        sources: where its weights come from: pairs of an aggregator and an index into its weights.
    """

    name: str
    head: int
    layer: nn.Layer
    coef: float
    sources: tuple[tuple[LossAggregator, int], ...] = ()

    @property
    def is_learned(self) -> bool:
        """Whether the loss itself learns, and no method weighs it; so it has no weight to show."""
        return not self.sources and any(True for _ in _few_numbers(self.layer))


def terms_of(losses: dict[str, list[Any]]) -> list[Term]:
    """Return the terms of PaddleSeg's loss dict, which has the keys ``types`` and ``coef``."""
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
    """Return the aggregators that weigh the terms, each with the prefix of its names."""
    several_heads = len({term.head for term in terms}) > 1
    found: dict[int, tuple[str, LossAggregator]] = {}
    for term in terms:
        for aggregator, _ in term.sources:
            own_names = term.name in aggregator.names
            prefix = f"head{term.head}/" if several_heads and not own_names else ""
            found.setdefault(id(aggregator), (prefix, aggregator))
    return list(found.values())


def own_parameters(layer: nn.Layer) -> dict[str, float]:
    """Return a loss's own learned numbers by name; ``sigma[1]`` is one element of a parameter.

    Args:
        layer: a loss, for example a user's loss that learns its own weights.
    """
    numbers: dict[str, float] = {}
    for name, parameter in _few_numbers(layer):
        values = parameter.numpy().reshape([-1]).tolist()
        several = len(values) > 1
        numbers |= {f"{name}[{i}]" if several else name: v for i, v in enumerate(values)}
    return numbers


def _few_numbers(layer: nn.Layer) -> Iterator[tuple[str, Tensor]]:
    """Yield the learned parameters that are shown: not those of a whole network inside a loss."""
    for name, parameter in layer.named_parameters():
        if not parameter.stop_gradient and parameter.size <= _MOST_NUMBERS:
            yield name, parameter


def loss_layers(losses: dict[str, list[Any]]) -> dict[str, nn.Layer]:
    """Return the losses by paths such as ``types.0``, so that all their parameters can be found.

    ``MixedLoss`` keeps its losses in a plain list, in which Paddle does not find parameters and
    buffers.  So its inner losses are returned one by one.
    """
    layers: dict[str, nn.Layer] = {}
    pending = [(f"types.{i}", loss) for i, loss in enumerate(losses["types"])]
    for path, loss in pending:
        if isinstance(loss, MixedLoss):
            pending += [(f"{path}.losses.{i}", inner) for i, inner in enumerate(loss.losses)]
        elif isinstance(loss, nn.Layer):
            layers[path] = loss
    return layers
