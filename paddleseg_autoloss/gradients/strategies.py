"""How a `LossAggregator` computes the weights of a step: one strategy for each kind of method."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.optimizer import Optimizer
from paddleseg.utils import logger

from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.gradients.differences import slopes_along
from paddleseg_autoloss.gradients.features import Features
from paddleseg_autoloss.gradients.injection import inject
from paddleseg_autoloss.gradients.jacobian import Jacobian, gradients_of
from paddleseg_autoloss.gradients.optimizer_scaling import OptimizerScaling
from paddleseg_autoloss.gradients.substeps import Substeps
from paddleseg_autoloss.ranks import mean_over_ranks
from paddleseg_autoloss.tensors import describe_broken, tensors_in
from paddleseg_autoloss.weighting import (
    AlignmentWeighting,
    GramianWeighting,
    HeldOutLossWeighting,
    JacobianWeighting,
    LossWeighting,
    Weighting,
)

if TYPE_CHECKING:
    from paddleseg_autoloss.gradients.aggregator import LossAggregator

__all__ = [
    "LossesOfStep",
    "Network",
    "Strategy",
    "WeightedLosses",
    "choose_strategy",
    "factor_to_sum",
]


class LossesOfStep(NamedTuple):
    """The losses of a step, before they are weighed.

    Args:
        each: the K losses, with one element each.
        values: the losses as a vector, shape [K].
        outputs: the outputs of the network, or None if they are not known.
    """

    each: Sequence[Tensor]
    values: Tensor
    outputs: Any


class WeightedLosses(NamedTuple):
    """The losses of a step and their weights.

    Args:
        values: the losses, shape [K]; they are detached if ``update`` is not None.
        weights: their weights, shape [K].
        update: 0 as a tensor whose ``backward`` adds the update to the gradients of the parameters;
            None if ``backward`` through the losses computes the update.
    """

    values: Tensor
    weights: Tensor
    update: Tensor | None = None


class Network(NamedTuple):
    """The network that the losses train.

    Args:
        trainable: its trainable parameters.
        optimizer: the optimizer that trains them, or None if that is not known.
        model: the network itself, or None if only its parameters are known.
    """

    trainable: list[Tensor]
    optimizer: Optimizer | None
    model: nn.Layer | None


class Strategy(ABC):
    """Computes the weights of a step.  It has no state; the aggregator stores all state."""

    #: Whether the strategy needs gradients.
    uses_gradients = True
    #: Whether the optimizer takes a step for each loss.
    steps_each = False
    #: Whether the strategy evaluates losses beside the parameters, after a step.
    learns_from_differences = False

    @abstractmethod
    def weigh(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        """Return the losses of a step with their weights.

        Args:
            aggregator: has the state.
            losses: the losses of the step.
        """

    def bind(self, aggregator: LossAggregator, network: Network) -> None:  # noqa: B027
        """Prepare for a network; most strategies do nothing.

        Args:
            aggregator: has the state.
            network: the network.
        """

    def look(self, aggregator: LossAggregator, found: Tensor) -> None:
        """Take in what a method looks at on held-out data, see `LossAggregator.look`.

        Args:
            aggregator: has the state.
            found: the target or the losses.

        Raises:
            ConfigError: the method looks at no held-out data.
        """
        raise ConfigError(f"{aggregator.weighting.class_name}: it looks at no held-out data")

    def learn_from_differences(
        self, aggregator: LossAggregator, evaluate: Callable[[], Any]
    ) -> None:
        """Learn from losses beside the parameters, see `LossAggregator.learn_from_differences`.

        Args:
            aggregator: has the state.
            evaluate: calls the aggregator with the losses of the batch of the step.

        Raises:
            ConfigError: the method does not learn from them.
        """
        raise ConfigError(f"{aggregator.weighting.class_name}: it learns from no differences")


class FromLosses(Strategy):
    """Computes the weights from the values of the losses."""

    uses_gradients = False

    def __init__(self, weighting: LossWeighting) -> None:
        self._weighting = weighting

    def weigh(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        """Return the weights for the means of the losses over all cards.

        A call that trains nothing leaves the method's memory as it was.
        """
        shared = _mean_over_cards(losses.values)
        if aggregator.loss_range.refuses:
            aggregator.check_loss_range(shared)
        if _trains(aggregator):
            return WeightedLosses(losses.values, self._weighting(shared))
        with _buffers_restored(self._weighting):
            # Use a copy, because some methods return one of their buffers.
            weights = self._weighting(shared).clone()
        return WeightedLosses(losses.values, weights)


class Gradients(NamedTuple):
    """The inputs of a method that needs gradients; they are the same on all cards.

    Args:
        jacobian: the gradients of the losses, multiplied by the loss scale of a gradient scaler.
        shared: the means of the losses over all cards, shape [K].
        losses: the same means on the host, shape [K].
        gramian: the inner products of the gradients without the loss scale, shape [K, K].
        is_finite: whether all losses and inner products are finite.
    """

    jacobian: Jacobian
    shared: Tensor
    losses: np.ndarray
    gramian: np.ndarray
    is_finite: bool


class FromGradients(Strategy):
    """Computes the weights from gradients, in the steps in which an update is due."""

    def weigh(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        """Return the weights; they are computed again if an update is due.

        Raises:
            ConfigError: the parameters or outputs for the gradients are missing; or weights can be
                negative, and only some of the losses depend on some of the targets.
            TrainingDiverged: a gradient is NaN or infinite, there is no gradient scaler to skip the
                step, and no session guards the steps.
        """
        if _is_due(aggregator):
            return self._update(aggregator, losses)
        # Use a copy, because later updates must not change the graph.
        return WeightedLosses(losses.values, aggregator.weights.clone())

    @abstractmethod
    def _update(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        """Return the losses with new weights; if a number is not finite, the weights stay."""


class FromGramian(FromGradients):
    """Computes the weights from the Gramian; the update is the sum of the weighted gradients."""

    def __init__(self, weighting: GramianWeighting) -> None:
        self._weighting = weighting

    def _update(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        gradients = _take_gradients(aggregator, losses)
        factor = self._solve(aggregator, gradients)
        update = gradients.jacobian.inject_combination(aggregator.weights * factor)
        return WeightedLosses(losses.values.detach(), aggregator.weights.clone(), update)

    def _solve(self, aggregator: LossAggregator, gradients: Gradients) -> float | Tensor:
        """Find new weights, which stay if a number is not finite; return the network's factor."""
        if gradients.is_finite:
            weights = self._weighting.solve(gradients.losses, gradients.gramian)
            aggregator.weights.set_value(weights.astype("float32"))
        if aggregator.constant_sum is None:
            return aggregator.scale_factor
        return factor_to_sum(aggregator.weights, aggregator.constant_sum)


class FromGramianOfOutputs(FromGramian):
    """Computes the weights from the Gramian of gradients with respect to the network's outputs."""

    def _update(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        gradients = _take_gradients(aggregator, losses)
        self._solve(aggregator, gradients)
        return WeightedLosses(losses.values, aggregator.weights.clone())


class FromGramianOfFeatures(FromGramian):
    """Computes the weights from the Gramian of gradients with respect to the network's features.

    The K backward passes end at the features; one more, from the features' weighted gradient, goes
    on to the parameters below.
    """

    def bind(self, aggregator: LossAggregator, network: Network) -> None:
        """Find the layer whose outputs are the features.

        Raises:
            ConfigError: the network is not given, or has no such layer.
        """
        if network.model is None:
            raise ConfigError("level: features needs the network, found none; pass it to bind")
        aggregator.features = Features(network.model, aggregator.layer)

    def weigh(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        """Return the weights; see `FromGradients.weigh`."""
        try:
            return super().weigh(aggregator, losses)
        finally:
            if aggregator.features is not None:
                aggregator.features.clear()

    def _update(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        parameters = _targets(aggregator, aggregator.network_parameters)
        features = aggregator.features
        assert features is not None, "bind has found them"
        tensors, scale = features.tensors(), _scale(aggregator)
        below, above = features.split(parameters, losses.each)
        jacobian, above_jacobian = Jacobian.for_groups(losses.each, [tensors, above], scale)
        shared = _mean_over_cards(losses.values)
        gradients = _checked(aggregator, jacobian, shared, *jacobian.read(shared))
        if aggregator.weighting.may_be_negative:
            _check_shared(aggregator, jacobian)
            if aggregator.update_interval > 1:
                _check_shared(aggregator, above_jacobian)
        factor = self._solve(aggregator, gradients)
        factors = aggregator.weights * factor
        found = features.hand_down(jacobian.combine(factors), below)
        found += above_jacobian.combine(factors)
        update = inject(paddle.zeros([], dtype="float32"), [*below, *above], found, divisor=scale)
        return WeightedLosses(losses.values.detach(), aggregator.weights.clone(), update)


class FromGramianInSubsteps(FromGramian):
    """Computes the weights from the Gramian; every loss gets an optimizer step of its own."""

    steps_each = True

    def bind(self, aggregator: LossAggregator, network: Network) -> None:
        """Add the substeps to the optimizer.

        Raises:
            ConfigError: no optimizer is given.
        """
        if network.optimizer is None:
            raise ConfigError("step: each needs the optimizer, found none; pass it to bind")
        rates = self._weighting.substep_rates or []
        aggregator.substeps = Substeps(network.optimizer, network.trainable, rates)

    def _update(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        gradients, substeps = _take_gradients(aggregator, losses), aggregator.substeps
        assert substeps is not None, "bind has set the substeps"
        factor = self._solve(aggregator, gradients)
        if gradients.is_finite:
            update = substeps.inject(gradients.jacobian, factor)
        else:
            # A gradient scaler checks only p.grad, so an overflow must be visible there.
            update = gradients.jacobian.inject_combination(aggregator.weights * factor)
        return WeightedLosses(losses.values.detach(), aggregator.weights.clone(), update)


class FromJacobian(FromGradients):
    """Computes the update directly from the gradients."""

    def __init__(self, weighting: JacobianWeighting) -> None:
        self._weighting = weighting

    def bind(self, aggregator: LossAggregator, network: Network) -> None:
        """Let the method allocate its state, whose size depends on the network."""
        self._weighting.prepare(sum(math.prod(p.shape) for p in network.trainable))

    def _update(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        gradients = _take_gradients(aggregator, losses)
        jacobian, factor = gradients.jacobian, aggregator.scale_factor
        found = None
        if gradients.is_finite:
            found, weights = self._weighting.update(gradients.shared, jacobian.matrix())
            aggregator.weights.set_value(weights)
        if aggregator.constant_sum is not None:
            factor = factor_to_sum(aggregator.weights, aggregator.constant_sum)
        if found is None:
            update = jacobian.inject_combination(aggregator.weights * factor)
        else:
            update = jacobian.inject_update(found * factor)
        return WeightedLosses(losses.values.detach(), aggregator.weights.clone(), update)


class FromAlignments(FromGradients):
    """Computes the weights from the gradients of the losses and of a held-out target."""

    def __init__(self, weighting: AlignmentWeighting) -> None:
        self._weighting = weighting

    def bind(self, aggregator: LossAggregator, network: Network) -> None:
        """Find how the optimizer scales gradients, if the method asks for it.

        Raises:
            ConfigError: it asks for it, and no optimizer or one of an unknown kind is given.
        """
        if self._weighting.scaling == "optimizer":
            if network.optimizer is None:
                raise ConfigError(
                    "scaling: expected the optimizer for scaling: optimizer, found none; pass it "
                    "to bind, or set scaling: none"
                )
            aggregator.optimizer_scaling = OptimizerScaling(network.optimizer)

    def look(self, aggregator: LossAggregator, found: Tensor) -> None:
        """Differentiate the target; the next call of the aggregator uses its gradient.

        Raises:
            ConfigError: the parameters for the gradients are missing, or the target is no number.
        """
        if found.size != 1:
            raise ConfigError(
                f"look: expected one number, the target, found shape {list(found.shape)}"
            )
        targets = _targets(aggregator, aggregator.network_parameters)
        aggregator.target_gradient = gradients_of(found, targets, _scale(aggregator))

    def weigh(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        """Return the weights; they are computed again in the step after a look.

        Raises:
            ConfigError: a look is due and there was none.
            TrainingDiverged: see `FromGradients.weigh`.
        """
        is_due = _is_due(aggregator)
        if aggregator.has_looked and _trains(aggregator):
            return self._update(aggregator, losses)
        if is_due:
            _check_looked(aggregator)
        return WeightedLosses(losses.values, aggregator.weights.clone())

    def _update(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        shared, scale = _mean_over_cards(losses.values), _scale(aggregator)
        targets = _targets(aggregator, aggregator.network_parameters)
        of_target = aggregator.target_gradient
        assert of_target is not None, "look has set it"
        rows = [of_target] + [gradients_of(loss, targets, scale) for loss in losses.each]
        aggregator.target_gradient = None
        aggregator.has_looked = False
        jacobian = Jacobian([], targets, scale, rows=rows)
        products, on_host = jacobian.read(shared)
        gradients = _checked(aggregator, jacobian, shared, products[1:, 1:], on_host)
        if gradients.is_finite and _is_usable(aggregator, products[0]):
            scaling = aggregator.optimizer_scaling
            if scaling is not None:
                products, _ = jacobian.read(shared, scaling.factors(targets))
            aggregator.weights.set_value(self._weighting.solve(products).astype("float32"))
        factor: float | Tensor = aggregator.scale_factor
        if aggregator.constant_sum is not None:
            factor = factor_to_sum(aggregator.weights, aggregator.constant_sum)
        of_losses = aggregator.weights * factor
        update = jacobian.inject_combination(paddle.concat([paddle.zeros([1]), of_losses]))
        return WeightedLosses(losses.values.detach(), aggregator.weights.clone(), update)


class FromDifferences(FromAlignments):
    """Computes the weights from the losses at two points along the gradient of a held-out target.

    The step itself has the weights of the looks before, and needs one backward pass.
    """

    learns_from_differences = True

    def weigh(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        """Return the weights; `learn_from_differences` computes those of the next steps.

        Raises:
            ConfigError: a look is due and there was none, or nothing was learned from the last one;
                or the parameters are in half precision.
            TrainingDiverged: the gradient of the target is not finite, there is no gradient scaler
                to skip the step, and no session guards the steps.
        """
        update = None
        is_due = _is_due(aggregator)
        if _trains(aggregator):
            if is_due:
                _check_looked(aggregator)
            if aggregator.has_looked:
                update = self._take_direction(aggregator, losses)
        return WeightedLosses(losses.values, aggregator.weights.clone(), update)

    def _take_direction(self, aggregator: LossAggregator, losses: LossesOfStep) -> Tensor | None:
        """Turn the gradient of the target into the direction that the optimizer makes of it.

        Returns:
            None; if the gradient is not finite, what a gradient scaler sees, to skip the step.
        """
        targets = _targets(aggregator, aggregator.network_parameters)
        self._check_use(aggregator, targets)
        of_target, scale = aggregator.target_gradient, _scale(aggregator)
        assert of_target is not None, "look has set it"
        aggregator.target_gradient, aggregator.has_looked = None, False
        jacobian = Jacobian([], targets, scale, rows=[of_target])
        products, _ = jacobian.read(losses.values.detach())
        if not _is_usable(aggregator, products[0]):
            return jacobian.inject_combination(paddle.zeros([1]))
        scaling = aggregator.optimizer_scaling
        factors = [None] * len(targets) if scaling is None else scaling.factors(targets)
        unscaled = None if scale is None else 1 / scale
        aggregator.direction = [
            (target, _times(part, factor, unscaled))
            for target, part, factor in zip(targets, jacobian.row(0), factors)
            if part is not None
        ]
        return None

    def _check_use(self, aggregator: LossAggregator, targets: Sequence[Tensor]) -> None:
        """Check what the losses beside the parameters need.

        Raises:
            ConfigError: it is not there.
        """
        name = aggregator.weighting.short_name
        if aggregator.needs_differences and not aggregator.in_session:
            raise ConfigError(
                f"{name}: alignment: differences expects a call of learn_from_differences after "
                "each step with needs_differences, found none; add it behind optimizer.step()"
            )
        if any(p.dtype in (paddle.float16, paddle.bfloat16) for p in targets):
            raise ConfigError(
                f"{name}: expected alignment: gradients for parameters in half precision, in which "
                "small differences are lost, found differences"
            )

    def learn_from_differences(
        self, aggregator: LossAggregator, evaluate: Callable[[], Any]
    ) -> None:
        """Compute the weights from the losses at two points beside the parameters.

        If a loss is not finite there, the weights stay.

        Raises:
            ConfigError: there is no direction, or ``evaluate`` does not call the aggregator.
        """
        direction, aggregator.direction = aggregator.direction, None
        if direction is None:
            raise ConfigError(
                "learn_from_differences: expected a step with a look before it, see "
                "needs_differences; found none"
            )

        def losses() -> Tensor:
            with aggregator.collecting() as found:
                evaluate()
            if not found:
                raise ConfigError(
                    "learn_from_differences: expected a function that calls the aggregator with "
                    "the losses of the step, found one that does not call it"
                )
            return _mean_over_cards(found[0])

        # Half precision has too few digits for differences.
        with paddle.amp.auto_cast(enable=False):
            slopes = slopes_along(direction, losses).numpy().astype("float64")
        if np.isfinite(slopes).all():
            aggregator.weights.set_value(self._weighting.learn(slopes).astype("float32"))
            return
        name = aggregator.names[int(np.isfinite(slopes).argmin())]
        logger.warning(
            f"{aggregator.weighting.short_name}: {name} is not finite beside the parameters of the "
            "network, so nothing is learned from this look and the weights stay"
        )


class FromHeldOutLosses(Strategy):
    """Computes the weights from the values of the losses on held-out data."""

    uses_gradients = False

    def __init__(self, weighting: HeldOutLossWeighting) -> None:
        self._weighting = weighting

    def look(self, aggregator: LossAggregator, found: Tensor) -> None:
        """Compute the weights of the steps to come.

        Raises:
            ConfigError: there is not one loss for each name, or the method does not accept a loss.
        """
        if found.size != len(aggregator.names):
            raise ConfigError(
                f"look: expected {len(aggregator.names)} losses, found shape {list(found.shape)}"
            )
        shared = _mean_over_cards(found)
        if aggregator.loss_range.refuses:
            aggregator.check_loss_range(shared)
        aggregator.weights.set_value(self._weighting(shared))

    def weigh(self, aggregator: LossAggregator, losses: LossesOfStep) -> WeightedLosses:
        """Return the weights of the latest look."""
        if _is_due(aggregator):
            _check_looked(aggregator)
            aggregator.has_looked = False
        return WeightedLosses(losses.values, aggregator.weights.clone())


def choose_strategy(weighting: Weighting, level: str, update_interval: int) -> Strategy:
    """Return the strategy for a method.

    Args:
        weighting: the method.
        level: with respect to what gradients are computed: ``"parameters"``, ``"features"`` or
            ``"logits"``.
        update_interval: steps between updates of the weights.

    Raises:
        ConfigError: the method would ignore one of the options, or is of no known kind.
    """
    name = weighting.short_name
    every_exact = (level, update_interval) == ("parameters", 1)
    if isinstance(weighting, LossWeighting):
        if not every_exact:
            raise ConfigError(f"level, update_interval: {name} uses no gradients; remove the key")
        return FromLosses(weighting)
    if isinstance(weighting, (AlignmentWeighting, HeldOutLossWeighting)):
        return _for_held_out(weighting, level)
    if isinstance(weighting, JacobianWeighting):
        if not every_exact:
            raise ConfigError(f"{name} needs level parameters and update_interval 1")
        return FromJacobian(weighting)
    if not isinstance(weighting, GramianWeighting):
        raise ConfigError(
            f"{weighting.class_name}: expected a LossWeighting, a GramianWeighting, a "
            "JacobianWeighting, an AlignmentWeighting or a HeldOutLossWeighting, found another "
            "Weighting"
        )
    if weighting.substep_rates is not None:
        if not every_exact:
            raise ConfigError("step: each needs level parameters and update_interval 1")
        return FromGramianInSubsteps(weighting)
    kinds = {"logits": FromGramianOfOutputs, "features": FromGramianOfFeatures}
    return kinds.get(level, FromGramian)(weighting)


def _for_held_out(weighting: AlignmentWeighting | HeldOutLossWeighting, level: str) -> Strategy:
    if level != "parameters":
        # The outputs of the network for two batches have no common space.
        raise ConfigError(f"level: expected parameters for {weighting.short_name}, found {level}")
    if isinstance(weighting, AlignmentWeighting):
        differs = weighting.alignment == "differences"
        return FromDifferences(weighting) if differs else FromAlignments(weighting)
    return FromHeldOutLosses(weighting)


def factor_to_sum(weights: Tensor, constant_sum: float) -> Tensor:
    """Return the factor with which the weights' absolute values sum to a number, 0-D.

    Args:
        weights: shape [K]; if all are 0, the factor is finite.
        constant_sum: the number.
    """
    return constant_sum / weights.detach().abs().sum().clip(min=1e-30)


def _trains(aggregator: LossAggregator) -> bool:
    """Whether this call is a step of training and no evaluation."""
    return aggregator.training and paddle.is_grad_enabled()


@contextmanager
def _buffers_restored(layer: nn.Layer) -> Iterator[None]:
    """Context after which the buffers of a layer are as before."""
    before = [(buffer, buffer.clone()) for buffer in layer.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.set_value(value)


def _is_due(aggregator: LossAggregator) -> bool:
    """Count the calls of training, and return whether this one updates the weights."""
    if not _trains(aggregator):
        return False
    calls = int(aggregator.calls)
    aggregator.calls.set_value(np.asarray(calls + 1))
    return calls % aggregator.update_interval == 0


def _check_looked(aggregator: LossAggregator) -> None:
    """Check that there was a look before a step that needs one; the first step needs none.

    Raises:
        ConfigError: there was none.
    """
    if not aggregator.has_looked and int(aggregator.calls) > 1:
        raise ConfigError(
            f"{aggregator.weighting.short_name}: expected a look at held-out data every "
            f"{aggregator.update_interval} steps, found none; train with paddleseg.core.train and "
            "the key held_out, or call look in your own loop whenever needs_look is true"
        )


def _is_usable(aggregator: LossAggregator, products: np.ndarray) -> bool:
    """Whether the products with the gradient of the target are finite, and note if they are not."""
    if np.isfinite(products).all():
        return True
    aggregator.not_finite = (
        f"the gradient of the target on held-out data is {describe_broken(products[0])}"
    )
    if aggregator.loss_scale is None and not aggregator.in_session:
        raise TrainingDiverged(aggregator.not_finite)
    return False


def _times(part: Tensor, *factors: Tensor | None) -> Tensor:
    """Return a part of a gradient times the factors that there are."""
    for factor in factors:
        part = part if factor is None else part * factor
    return part


def _mean_over_cards(losses: Tensor) -> Tensor:
    losses = losses.detach()
    return mean_over_ranks(losses) if paddle.distributed.get_world_size() > 1 else losses


def _take_gradients(aggregator: LossAggregator, losses: LossesOfStep) -> Gradients:
    """Differentiate every loss separately, and copy the Gramian to the host."""
    shared = _mean_over_cards(losses.values)
    exact = aggregator.level == "parameters"
    targets = _targets(aggregator, aggregator.network_parameters if exact else losses.outputs)
    jacobian = Jacobian(losses.each, targets, _scale(aggregator), replicated=exact)
    if aggregator.weighting.may_be_negative and (not exact or aggregator.update_interval > 1):
        _check_shared(aggregator, jacobian)
    return _checked(aggregator, jacobian, shared, *jacobian.read(shared))


def _scale(aggregator: LossAggregator) -> Tensor | None:
    return None if aggregator.loss_scale is None else aggregator.loss_scale()


def _checked(
    aggregator: LossAggregator,
    jacobian: Jacobian,
    shared: Tensor,
    products: np.ndarray,
    on_host: np.ndarray,
) -> Gradients:
    """Check that the Gramian and the losses are finite and in the range of the method."""
    aggregator.last_gramian = products
    is_finite = bool(np.isfinite(products).all() and np.isfinite(on_host).all())
    if not is_finite:
        aggregator.not_finite = _name_not_finite(aggregator.names, on_host, products)
        if jacobian.scale is None and not aggregator.in_session:
            raise TrainingDiverged(aggregator.not_finite)
    elif aggregator.loss_range.refuses:
        aggregator.loss_range.refuse(on_host)
    return Gradients(jacobian, shared, on_host, products, is_finite)


def _targets(aggregator: LossAggregator, given: Any) -> list[Tensor]:
    """Return the tensors with respect to which to differentiate, without duplicates."""
    of_logits = aggregator.level == "logits"
    if given is None:
        level = "logits" if of_logits else "parameters"
        missing = "the aggregator with outputs" if of_logits else "bind with them"
        raise ConfigError(
            f"{aggregator.weighting.class_name}: level {level} needs the network's {level}: call "
            f"{missing}, or train with paddleseg.core.train"
        )
    targets = tensors_in(given) if of_logits else given
    unique = {id(target): target for target in targets}.values()
    return [target for target in unique if not target.stop_gradient]


def _check_shared(aggregator: LossAggregator, jacobian: Jacobian) -> None:
    if not jacobian.is_shared:
        expected = "level: expected parameters"
        if aggregator.level == "parameters":
            expected = "update_interval: expected 1"
        raise ConfigError(
            f"{expected} with {aggregator.weighting.short_name}, whose weights can be negative, "
            "if some heads have losses of their own: negative weights would increase those"
        )


def _name_not_finite(names: Sequence[str], losses: np.ndarray, gramian: np.ndarray) -> str:
    for name, value, square in zip(names, losses, np.diag(gramian)):
        if not np.isfinite(value):
            return f"{name} is {value}"
        if not np.isfinite(square):
            return f"the gradient of {name} is {describe_broken(square)}"
    return "a product of gradients is not finite"
