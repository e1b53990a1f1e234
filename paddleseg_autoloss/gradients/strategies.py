"""How a `LossAggregator` finds the weights of a step: a strategy for each kind of method."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.optimizer import Optimizer

from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.gradients.jacobian import Jacobian
from paddleseg_autoloss.gradients.substeps import Substeps
from paddleseg_autoloss.ranks import mean_over_ranks
from paddleseg_autoloss.tensors import beyond_float32, describe_broken, tensors_in
from paddleseg_autoloss.weighting import (
    GramianWeighting,
    JacobianWeighting,
    LossWeighting,
    Weighting,
)

if TYPE_CHECKING:
    from paddleseg_autoloss.gradients.aggregator import LossAggregator

__all__ = ["LossesOfStep", "Strategy", "WeightedLosses", "choose_strategy"]


class LossesOfStep(NamedTuple):
    """The losses of a step, before they are weighed.

    Args:
        each: the K losses, of one element each.
        values: the same as a vector, shape [K].
        outputs: what the network returned, or None if that is not known.
    """

    each: Sequence[Tensor]
    values: Tensor
    outputs: Any


class WeightedLosses(NamedTuple):
    """What the total of a step is made of.

    Args:
        values: the losses, shape [K]; detached where ``update`` has the gradient.
        weights: their weights, shape [K].
        update: 0 as a tensor whose ``backward`` leaves the update in the parameters, or None where
            ``backward`` through the losses finds the update.
    """

    values: Tensor
    weights: Tensor
    update: Tensor | None = None


class Strategy(ABC):
    """Finds the weights of a step.  It remembers nothing: the aggregator has the state."""

    #: Whether it looks at gradients.
    uses_gradients = True
    #: Whether the optimizer takes a step for each loss.
    steps_each = False

    @abstractmethod
    def weigh(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        """Return the losses of a step with their weights.

        Args:
            aggregator: has the state.
            losses: the losses of the step.
        """

    def bind(  # noqa: B027  most strategies need no preparation
        self, aggregator: LossAggregator, trainable: list[Tensor], optimizer: Optimizer | None
    ) -> None:
        """Get ready for a network.

        Args:
            aggregator: has the state.
            trainable: the trainable parameters of the network.
            optimizer: the optimizer that trains them, or None if that is not known.
        """


class FromLosses(Strategy):
    """The weights follow from the values of the losses."""

    uses_gradients = False

    def __init__(self, weighting: LossWeighting) -> None:
        self._weighting = weighting

    def weigh(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        """Return the weights for the means of the losses over all cards."""
        shared = _mean_over_cards(losses.values)
        if aggregator.loss_range.refuses:
            aggregator.look_at_losses(shared)
        return WeightedLosses(losses.values, self._weighting(shared))


class Gradients(NamedTuple):
    """What a method that looks at gradients is asked about, the same on all cards.

    Args:
        jacobian: the gradients of the losses, multiplied by the factor of a gradient scaler.
        shared: the means of the losses over all cards, shape [K].
        losses: the same on the host, shape [K].
        gramian: the inner products of the gradients without that factor, shape [K, K].
        is_finite: whether all losses and inner products are.
    """

    jacobian: Jacobian
    shared: Tensor
    losses: np.ndarray
    gramian: np.ndarray
    is_finite: bool


class FromGradients(Strategy):
    """The weights follow from gradients, in the steps in which an update of them is due."""

    def weigh(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        """Return the weights, which are found anew where an update is due.

        Raises:
            ConfigError: what the gradients are to be taken for is not known, or weights can be
                negative where some targets are not reached by all losses.
            TrainingDiverged: a gradient is NaN or infinite, no gradient scaler will skip it, and
                no session guards the steps.
        """
        if _is_due(aggregator):
            return self._update(aggregator, losses)
        # A copy: the graph must not see later updates.
        return WeightedLosses(losses.values, aggregator.weights.clone())

    @abstractmethod
    def _update(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        """Find the weights anew, unless a number is not finite, and return the losses with them."""


class FromGramian(FromGradients):
    """The weights follow from the Gramian; the update is the sum of the weighted gradients."""

    def __init__(self, weighting: GramianWeighting) -> None:
        self._weighting = weighting

    def _update(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        gradients = _take_gradients(aggregator, losses)
        if gradients.is_finite:
            weights = self._weighting.solve(gradients.losses, gradients.gramian)
            aggregator.weights.set_value(weights.astype("float32"))
        update = gradients.jacobian.inject_combination(aggregator.weights * aggregator.scale_factor)
        return WeightedLosses(losses.values.detach(), aggregator.weights.clone(), update)


class FromGramianOfOutputs(FromGramian):
    """Likewise, but the gradients are those for the network's outputs."""

    def _update(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        gradients = _take_gradients(aggregator, losses)
        if gradients.is_finite:
            weights = self._weighting.solve(gradients.losses, gradients.gramian)
            aggregator.weights.set_value(weights.astype("float32"))
        return WeightedLosses(losses.values, aggregator.weights.clone())


class FromGramianInSubsteps(FromGramian):
    """Likewise, but every loss takes an optimizer step of its own."""

    steps_each = True

    def bind(
        self, aggregator: LossAggregator, trainable: list[Tensor], optimizer: Optimizer | None
    ) -> None:
        """Give the optimizer its further steps.

        Raises:
            ConfigError: there is no optimizer.
        """
        if optimizer is None:
            raise ConfigError("step: each needs the optimizer; call bind with it")
        aggregator.substeps = Substeps(optimizer, trainable, self._weighting.substep_rates or [])

    def _update(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        gradients, substeps = _take_gradients(aggregator, losses), aggregator.substeps
        assert substeps is not None, "without a network there are no gradients"
        factor = aggregator.scale_factor
        if gradients.is_finite:
            weights = self._weighting.solve(gradients.losses, gradients.gramian)
            aggregator.weights.set_value(weights.astype("float32"))
            update = substeps.inject(gradients.jacobian, factor)
        else:
            # A scaler looks at p.grad alone, so that is where any overflow has to be.
            update = gradients.jacobian.inject_combination(aggregator.weights * factor)
        return WeightedLosses(losses.values.detach(), aggregator.weights.clone(), update)


class FromJacobian(FromGradients):
    """The update follows from the gradients themselves."""

    def __init__(self, weighting: JacobianWeighting) -> None:
        self._weighting = weighting

    def bind(
        self, aggregator: LossAggregator, trainable: list[Tensor], optimizer: Optimizer | None
    ) -> None:
        """Let the method make room for what it remembers of gradients."""
        self._weighting.prepare(sum(math.prod(p.shape) for p in trainable))

    def _update(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        gradients = _take_gradients(aggregator, losses)
        jacobian, factor = gradients.jacobian, aggregator.scale_factor
        if gradients.is_finite:
            found, weights = self._weighting.update(gradients.shared, jacobian.matrix())
            aggregator.weights.set_value(weights)
            update = jacobian.inject_update(found * factor)
        else:
            update = jacobian.inject_combination(aggregator.weights * factor)
        return WeightedLosses(losses.values.detach(), aggregator.weights.clone(), update)


def choose_strategy(weighting: Weighting, level: str, update_interval: int) -> Strategy:
    """Return the strategy for a method.

    Args:
        weighting: the method.
        level: what gradients are taken for, ``"parameters"`` or ``"logits"``.
        update_interval: steps between updates of the weights.

    Raises:
        ConfigError: the method would ignore one of the options, or it is of no known kind.
    """
    name = weighting.short_name
    every_exact = (level, update_interval) == ("parameters", 1)
    if isinstance(weighting, LossWeighting):
        if not every_exact:
            raise ConfigError(f"level, update_interval: {name} looks at no gradients")
        return FromLosses(weighting)
    if isinstance(weighting, JacobianWeighting):
        if not every_exact:
            raise ConfigError(f"{name} needs level parameters and update_interval 1")
        return FromJacobian(weighting)
    if not isinstance(weighting, GramianWeighting):
        raise ConfigError(
            f"{weighting.class_name}: expected a LossWeighting, a GramianWeighting or a "
            "JacobianWeighting, found a Weighting of no kind"
        )
    if weighting.substep_rates is not None:
        if not every_exact:
            raise ConfigError("step: each needs level parameters and update_interval 1")
        return FromGramianInSubsteps(weighting)
    return FromGramianOfOutputs(weighting) if level == "logits" else FromGramian(weighting)


def _is_due(aggregator: LossAggregator) -> bool:
    """Count a call of training, and return whether it is one that updates the weights."""
    if not (aggregator.training and paddle.is_grad_enabled()):
        return False
    calls = int(aggregator.calls)
    aggregator.calls.set_value(np.asarray(calls + 1))
    return calls % aggregator.update_interval == 0


def _mean_over_cards(losses: Tensor) -> Tensor:
    losses = losses.detach()
    return mean_over_ranks(losses) if paddle.distributed.get_world_size() > 1 else losses


def _take_gradients(aggregator: LossAggregator, losses: LossesOfStep) -> Gradients:
    """Differentiate every loss by itself, and bring the Gramian to the host."""
    shared = _mean_over_cards(losses.values)
    exact, count = aggregator.level == "parameters", len(losses.each)
    targets = aggregator.network_parameters if exact else losses.outputs
    scale = None if aggregator.loss_scale is None else aggregator.loss_scale()
    jacobian = Jacobian(losses.each, _targets(aggregator, targets), scale, replicated=exact)
    if aggregator.weighting.may_be_negative and (not exact or aggregator.update_interval > 1):
        _check_shared(aggregator, jacobian)
    factor = paddle.ones([1], dtype="float32") if scale is None else scale.reshape([1])
    # The one transfer to the host.
    parts = [jacobian.gramian().flatten(), shared, factor]
    numbers = paddle.concat(parts).numpy().astype("float64")
    products, on_host = numbers[: -count - 1].reshape([count, count]), numbers[-count - 1 : -1]
    if beyond_float32(products.diagonal()):
        products = jacobian.gramian("float64").numpy()
    products = products / numbers[-1] ** 2
    aggregator.last_gramian = products
    is_finite = bool(np.isfinite(products).all() and np.isfinite(on_host).all())
    aggregator.not_finite = None
    if not is_finite:
        aggregator.not_finite = _name_not_finite(aggregator.names, on_host, products)
        if scale is None and not aggregator.in_session:
            raise TrainingDiverged(aggregator.not_finite)
    elif aggregator.loss_range.refuses:
        aggregator.loss_range.refuse(on_host)
    return Gradients(jacobian, shared, on_host, products, is_finite)


def _targets(aggregator: LossAggregator, given: Any) -> list[Tensor]:
    """Return the tensors to take gradients for, each of them once."""
    if given is None:
        level = aggregator.level
        missing = "bind with them" if level == "parameters" else "the aggregator with outputs"
        raise ConfigError(
            f"{aggregator.weighting.class_name}: level {level} needs the network's {level}: call "
            f"{missing}, or train with paddleseg.core.train"
        )
    targets = given if aggregator.level == "parameters" else tensors_in(given)
    unique = {id(target): target for target in targets}.values()
    return [target for target in unique if not target.stop_gradient]


def _check_shared(aggregator: LossAggregator, jacobian: Jacobian) -> None:
    if not jacobian.is_shared:
        expected = "update_interval: expected 1"
        if aggregator.level == "logits":
            expected = "level: expected parameters"
        raise ConfigError(
            f"{expected} with {aggregator.weighting.short_name}, whose weights can be negative, "
            "where some outputs have losses of their own: those would be made to get worse"
        )


def _name_not_finite(names: Sequence[str], losses: np.ndarray, gramian: np.ndarray) -> str:
    for name, value, square in zip(names, losses, np.diag(gramian)):
        if not np.isfinite(value):
            return f"{name} is {value}"
        if not np.isfinite(square):
            return f"the gradient of {name} is {describe_broken(square)}"
    return "a product of gradients is not finite"
