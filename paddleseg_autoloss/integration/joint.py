"""The top-level key ``loss_aggregator``: one method over every term of every head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import paddle
from paddle import Tensor
from paddleseg.utils import logger

from paddleseg_autoloss.errors import ConfigError, root_cause
from paddleseg_autoloss.gradients.aggregator import LossAggregator, method_arguments
from paddleseg_autoloss.integration.terms import Term
from paddleseg_autoloss.tensors import as_vector
from paddleseg_autoloss.weighting import METHODS
from paddleseg_autoloss.weighting.base import own_arguments

__all__ = ["JointAggregation", "joint_aggregation"]

#: Largest relative difference between two totals that count as equal; it allows half precision.
_TOLERANCE = 1e-2


class JointAggregation:
    """Weighs all terms of all heads with one method, instead of adding them up.

    Args:
        config: the value of ``loss_aggregator``: a ``type`` and its arguments; or an aggregator,
            whose names are the names of the terms.
        terms: the terms of the loss.  Their coefficients still apply: the method gets coefficient
            times loss.

    Attributes:
        aggregator: the method over the terms.
        terms: the terms, with this aggregator as their source of weights.

    Raises:
        ConfigError: a term is already weighed by a component, the config is invalid, or the method
            could give a head a negative weight.
    """

    def __init__(self, config: Mapping[str, Any] | LossAggregator, terms: Sequence[Term]) -> None:
        for term in terms:
            if term.sources:
                raise ConfigError(
                    f"loss_aggregator: a component of loss.types already weighs {term.name}; "
                    "expected MixedLoss there, or no loss_aggregator"
                )
        self.aggregator = _aggregator(config, [term.name for term in terms])
        self._check_signs(len({term.head for term in terms}))
        self.terms = [
            replace(term, sources=((self.aggregator, index),)) for index, term in enumerate(terms)
        ]
        self._checked = False

    def _check_signs(self, heads: int) -> None:
        """Refuse negative weights for a head; a method with gradients can make them 0."""
        method = self.aggregator.weighting
        if heads > 1 and not self.aggregator.uses_gradients and method.may_be_negative:
            raise ConfigError(
                f"loss_aggregator.type: {method.short_name} can give negative weights, which would "
                f"increase the losses of one of the {heads} heads; expected another method"
            )

    def total(
        self, values: Sequence[Tensor | None], result: Sequence[Tensor], outputs: Any
    ) -> Tensor:
        """Return the total loss, which replaces the sum of ``result``.

        Args:
            values: what each term's loss returned, or None if it was not called.
            result: the list of losses that PaddleSeg or the model computed.
            outputs: what the network returned.

        Raises:
            ConfigError: at the first step, if ``result`` is not the sum of the terms.
        """
        weighted = {
            term.name: value * term.coef
            for term, value in zip(self.terms, values)
            if value is not None
        }
        if not self._checked:
            self._check(weighted, result)
        return self.aggregator(weighted, outputs)

    def _check(self, weighted: dict[str, Tensor], result: Sequence[Tensor]) -> None:
        for term in self.terms:
            if term.name not in weighted:
                raise ConfigError(f"loss_aggregator: the model never computes {term.name}")
        with paddle.amp.auto_cast(enable=False):
            ours = float(as_vector(list(weighted.values())).sum())
            theirs = float(as_vector(result).sum())
        # The guard reports values that are not finite, with the name of the term.
        if math.isfinite(theirs) and not math.isclose(ours, theirs, rel_tol=_TOLERANCE):
            raise ConfigError(
                f"loss_aggregator: the losses of loss.types times their coefficients sum to "
                f"{ours:.6g}, but the model trains on {theirs:.6g}: its loss_computation computes "
                "another total, which cannot be weighed; remove loss_aggregator"
            )
        self._checked = True


def joint_aggregation(
    config: Mapping[str, Any] | LossAggregator | None, terms: Sequence[Term]
) -> JointAggregation | None:
    """Return the joint aggregation of the terms, or None.

    It is None if the config asks for no method, or if there is only one term.  With a single term a
    method would only change the size of the steps.

    Args:
        config: the value of ``loss_aggregator``, see `JointAggregation`.
        terms: the terms of the loss.

    Raises:
        ConfigError: see `JointAggregation`.
    """
    if not config:
        return None
    if len(terms) == 1 and not isinstance(config, LossAggregator):
        logger.warning(
            f"loss_aggregator: {terms[0].name} is the only loss, so there is nothing to weigh; "
            "training goes on without loss_aggregator"
        )
        return None
    return JointAggregation(config, terms)


def _aggregator(config: Mapping[str, Any] | LossAggregator, names: list[str]) -> LossAggregator:
    if isinstance(config, LossAggregator):
        return config
    options = {key: value for key, value in config.items() if key != "type"}
    method = METHODS[config["type"]]
    shared = {key: options.pop(key) for key in options.keys() - own_arguments(method).keys()}
    try:
        return _Configured(names, method(len(names), **options), **shared)
    except ConfigError as error:
        raise ConfigError(f"loss_aggregator.{error}") from error
    except Exception as error:
        raise ConfigError(f"loss_aggregator: {root_cause(error)}") from error


class _Configured(LossAggregator):
    """The aggregator of the config key, which its errors name."""

    def bind(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().bind(*args, **kwargs)
        except ConfigError as error:
            self._raise_named(error)
            raise

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        try:
            return super().forward(*args, **kwargs)
        except ConfigError as error:
            self._raise_named(error)
            raise

    def _raise_named(self, error: ConfigError) -> None:
        """Put the key before an error that begins with an argument of the config."""
        known = {argument.name for argument in method_arguments(type(self.weighting))}
        if str(error).partition(":")[0] in known:
            raise ConfigError(f"loss_aggregator.{error}") from error
