"""Combines named losses into one tensor, on which training calls ``backward``."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.amp import auto_cast
from paddle.optimizer import Optimizer

from paddleseg_autoloss.checks import checked_choice, checked_integer, is_number, number_hint
from paddleseg_autoloss.errors import ConfigError, shown
from paddleseg_autoloss.gradients.features import Features
from paddleseg_autoloss.gradients.held_parameters import HeldParameter
from paddleseg_autoloss.gradients.loss_range import LossRange
from paddleseg_autoloss.gradients.optimizer_scaling import OptimizerScaling
from paddleseg_autoloss.gradients.stale_gradients import StaleGradient
from paddleseg_autoloss.gradients.strategies import (
    LossesOfStep,
    Network,
    choose_strategy,
    factor_to_sum,
)
from paddleseg_autoloss.gradients.substeps import Substeps
from paddleseg_autoloss.ranks import mean_over_ranks
from paddleseg_autoloss.tensors import as_vector
from paddleseg_autoloss.weighting import JacobianWeighting, LossWeighting, Weighting
from paddleseg_autoloss.weighting.base import own_arguments

__all__ = [
    "LossAggregator",
    "method_arguments",
    "unique_names",
]

#: Bounds of ``constant_sum``; beyond them single precision or a learning rate fails.
_SMALLEST_SUM, _LARGEST_SUM = 1e-6, 1e6


class LossAggregator(nn.Layer):
    r"""Weighs named losses and adds them up: ``aggregator({"ce": ce, "dice": dice}).backward()``.

    If the method needs gradients, the call of the aggregator computes the gradient :math:`g_i` of
    each loss separately.  ``backward`` then adds :math:`\sum_i w_i g_i` to the gradients of the
    parameters.

    An auxiliary head has parameters on which only its own losses depend.  A negative weight would
    increase these losses, so negative weights count as 0 for such parameters.  This is impossible
    with ``level: logits``, with ``level: features`` if the heads use different features, and in the
    steps between updates; methods with negative weights are then refused.

    Most methods change two things: the proportion of the losses, and the sum of their weights,
    which has the effect of another learning rate.  ``constant_sum`` leaves only the proportion.
    The network then gets :math:`S \, w_i / \sum_j |w_j|`, where S is the constant sum.  The method
    does not notice this: what it remembers changes as before, and its learned parameters get the
    gradient of the paper's total.  The absolute values are summed because a sum of weights of both
    signs can be 0 or negative: dividing by it would make the update infinite or turn it round.  For
    all other methods they are the weights themselves.  Weights that are all 0 stay 0.

    Args:
        names: the K names of the losses, all different.
        weighting: the method, constructed for K losses.
        level: the tensors with respect to which gradients are computed.  ``"parameters"``: all
            trainable parameters of the network; this is exact and needs K backward passes.
            ``"features"``: the outputs of ``layer``; this needs K backward passes through what
            follows the layer and one through what comes before it, and the update is exact for
            these weights. ``"logits"``: the outputs of the network; this needs little more than one
            backward pass, and losses of different outputs never conflict. (Sener and Koltun,
            NeurIPS 2018, section 3.3, show that the problem for features gives an upper bound of
            the exact one, if they are a representation that all losses share.)
        update_interval: number of steps from one update of the weights to the next, at least 1.
            The steps between two updates keep the weights and need only one backward pass.  By
            default it is ``weighting.default_interval``.
        reduction: ``"sum"`` or ``"mean"`` multiplies the total, so that its gradient has the scale
            of the sum or of the mean of the losses.  By default it has the scale of the method's
            paper, which is ``weighting.scale``.
        layer: for level ``"features"``, the name of the layer, see `Features`; by default
            ``backbone``.
        constant_sum: the constant sum S of the weights' absolute values, a number from 1e-6 to
            1e6, or ``True`` for K; ``False``: the sum is the method's.  It excludes
            ``reduction``, and methods whose `Weighting.update_is_weighted_sum` is false.

    Attributes:
        constant_sum: S, or None if the sum is the method's.
        held_by_optimizer: True if an optimizer is known to hold the learned weights, or if the
            method has none.
        last_weights: the weights of the latest call, shape [K], detached; None before the first.
        last_gramian: the inner products of the gradients in the latest call, shape [K, K]; None if
            it computed none, as between two updates.
        scale_factor: factor by which ``reduction`` multiplies the total.
        network_parameters: the parameters that `bind` got; None before `bind`.
        features: what the layer of level ``"features"`` returned; None for other levels.
        substeps: the additional optimizer steps for ``step: each``; None for other methods.
        optimizer_scaling: how the optimizer scales gradients, for methods that ask for it.
        target_gradient: the gradient of the target of the latest `look`, until it is used.
        direction: for ``alignment: differences``, the direction in the space of the parameters
            along which the losses are to be evaluated after the step, as pairs of a parameter and
            its part; None if they need not be.
        has_looked: whether there was a `look` that no step has used yet.
        loss_scale: function that returns the loss scale of the gradient scaler, or None; it is None
            if there is no scaler.
        in_session: whether ``paddleseg.core.train`` guards the steps.  A gradient that is NaN or
            infinite then raises no error: it reaches the parameters, and `not_finite` describes it.
        not_finite: text that says what was NaN or infinite in the latest call, or None.
        loss_range: checks that the losses are in the range that the method accepts.

    Raises:
        ConfigError: two names are equal, the method was constructed for another number of losses,
            an argument is out of its range, or two arguments exclude each other.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.gradients.aggregator import LossAggregator
        >>> from paddleseg_autoloss.weighting import PCGradWeighting
        >>> x = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
        >>> aggregator = LossAggregator(["a", "b"], PCGradWeighting(2))
        >>> aggregator.bind([x])
        >>> total = aggregator({"a": x[0] - x[1], "b": x[1] * 2})  # gradients (1, -1) and (0, 2)
        >>> total.backward()
        >>> x.grad.tolist()  # projected to (1, 0) and (1, 1)
        [2.0, 1.0]
    """

    def __init__(
        self,
        names: Sequence[str],
        weighting: Weighting,
        level: str = "parameters",
        update_interval: int | None = None,
        reduction: str | None = None,
        layer: str | None = None,
        constant_sum: bool | float = False,
    ) -> None:
        super().__init__()
        if len(set(names)) != len(names):
            repeated = next(name for name, count in Counter(names).items() if count > 1)
            raise ConfigError(f"names: expected different names, found {repeated!r} more than once")
        if weighting.num_losses != len(names):
            raise ConfigError(
                f"names: expected {weighting.num_losses} names, one per loss, found {len(names)}"
            )
        self.names = list(names)
        weighting.take_names(self.names)
        self.weighting = weighting
        self.level = checked_choice("level", level, ["parameters", "features", "logits"])
        if layer is not None and level != "features":
            raise ConfigError(f"layer: expected level: features with it, found level: {level}")
        if layer is not None and not isinstance(layer, str):
            raise ConfigError(f"layer: expected the name of a layer, found {layer!r}")
        self.layer = layer
        if update_interval is None:
            update_interval = weighting.default_interval
        self.update_interval = checked_integer("update_interval", update_interval, least=1)
        self.reduction = reduction
        self.scale_factor = 1.0
        if reduction is not None:
            checked_choice("reduction", reduction, ["sum", "mean"])
            wanted = len(self.names) if reduction == "sum" else 1
            self.scale_factor = wanted / weighting.scale_relative_to_mean()
        self.constant_sum = _checked_constant_sum(constant_sum, weighting, reduction)
        self._strategy = choose_strategy(weighting, level, self.update_interval)
        if self.uses_gradients or weighting.uses_held_out:
            first = paddle.to_tensor(weighting.first_weights(), dtype="float32")
            self.register_buffer("weights", first)
            host = paddle.CPUPlace()
            self.register_buffer("calls", paddle.to_tensor(0, dtype="int64", place=host))
        self.last_weights: Tensor | None = None
        self.last_gramian: np.ndarray | None = None
        self.loss_scale: Callable[[], Tensor | None] | None = None
        self.in_session = False
        self.not_finite: str | None = None
        self.network_parameters: list[Tensor] | None = None
        self.features: Features | None = None
        self.substeps: Substeps | None = None
        self.optimizer_scaling: OptimizerScaling | None = None
        self.target_gradient: list[Tensor | None] | None = None
        self.direction: list[tuple[Tensor, Tensor]] | None = None
        self.has_looked = False
        self.held_by_optimizer = weighting.learned() is None
        self._held_parameter = HeldParameter(weighting)
        self._stale_gradient = StaleGradient(weighting)
        self.loss_range = LossRange(self.names, weighting)
        self._observer: Callable[[Tensor], None] | None = None

    @property
    def uses_gradients(self) -> bool:
        """Whether the method needs the gradients of the losses."""
        return self._strategy.uses_gradients

    @property
    def learns_from_differences(self) -> bool:
        """Whether the method needs `learn_from_differences` after some of the steps."""
        return self._strategy.learns_from_differences

    @property
    def steps_each(self) -> bool:
        """Whether the optimizer takes a step for each loss."""
        return self._strategy.steps_each

    def bind(
        self,
        parameters: Iterable[Tensor],
        optimizer: Optimizer | None = None,
        model: nn.Layer | None = None,
    ) -> None:
        """Set the network that the losses train; within PaddleSeg's loop this is already done.

        Args:
            parameters: all parameters of the network; frozen ones are ignored.
            optimizer: the optimizer that trains them, for ``step: each``.
            model: the network, for level ``"features"``.

        Raises:
            ConfigError: the optimizer or the network is needed and not given, or the network has no
                such layer.
        """
        self.unbind()
        self.network_parameters = list(parameters)
        unique = {id(p): p for p in self.network_parameters if not p.stop_gradient}
        self._strategy.bind(self, Network(list(unique.values()), optimizer, model))

    @property
    def needs_look(self) -> bool:
        """Whether the next step of training needs a `look` first; the first step never does."""
        if not self.weighting.uses_held_out or self.has_looked:
            return False
        calls = int(self.calls)
        return calls > 0 and calls % self.update_interval == 0

    def look(self, found: Tensor) -> None:
        """Look at a batch that is held out of training, for methods that do.

        The next step of training then learns from it.  ``paddleseg.core.train`` calls this itself.
        Your own loop has to call it before a step whenever `needs_look` is true.

        Args:
            found: for an `AlignmentWeighting`, what you want to improve, one number that depends on
                the parameters of the network; for a `HeldOutLossWeighting`, the losses in the order
                of the names, shape [K].

        Raises:
            ConfigError: the method looks at no held-out data, the shape is another one, or the
                parameters for the gradients are missing.
        """
        self._strategy.look(self, found)
        self.has_looked = True

    @property
    def needs_differences(self) -> bool:
        """Whether the method needs `learn_from_differences` after this step of training."""
        return self.direction is not None

    def learn_from_differences(self, evaluate: Callable[[], Any]) -> None:
        """Learn from the losses at two points beside the parameters, for methods that do.

        ``paddleseg.core.train`` calls this itself.  Your own loop has to call it after the
        optimizer's step whenever `needs_differences` is true.

        Args:
            evaluate: calls this aggregator with the losses of the batch of the step; what it
                returns is ignored.  It is called twice, with the same random numbers, and no
                weights are computed meanwhile.

        Raises:
            ConfigError: `needs_differences` is false, or ``evaluate`` does not call this
                aggregator.
        """
        self._strategy.learn_from_differences(self, evaluate)

    def forget_step(self) -> None:
        """Forget what was prepared for a step that was not taken, as ``clear_grad`` does."""
        self.direction = None
        if self.substeps is not None:
            self.substeps.clear()

    def unbind(self) -> None:
        """Remove the references to the network, its optimizer and the gradient scaler."""
        self.loss_scale = self.optimizer_scaling = self.target_gradient = self.direction = None
        self.has_looked = False
        self.network_parameters = None
        if self.features is not None:
            self.features.remove()
            self.features = None
        if self.substeps is not None:
            self.substeps.remove()
            self.substeps = None

    def forward(self, losses: Mapping[str, Tensor], outputs: Any = None) -> Tensor:
        """Return the total loss, 0-D and float32.

        Args:
            losses: a tensor with one element for each name, in any order.
            outputs: the outputs of the network, needed for ``level: logits``: a tensor, or tensors
                in lists and dicts.

        Raises:
            ConfigError: the keys differ from the names; or the parameters or outputs for the
                gradients are missing; or a loss is negative, and the method neither accepts this
                nor learns its weights; or weights can be negative, only some of the losses depend
                on some of the parameters, and the options make it impossible to set the weights to
                0 for these parameters.
            TrainingDiverged: a gradient is NaN or infinite, there is no gradient scaler to skip the
                step, and `in_session` is false.
            UnheldParameterError: the method learns its weights, training has begun, and no
                optimizer holds them.
            UnclearedGradientError: your own training loop does not clear the gradient of the
                learned weights between steps.
        """
        if losses.keys() != set(self.names):
            raise ConfigError(f"losses: expected {sorted(self.names)}, found {sorted(losses)}")
        if self.training and not self.held_by_optimizer:
            self.held_by_optimizer = self._held_parameter.is_held()
        if self.training and not self.in_session:
            self._stale_gradient.check()
            if self.loss_range.warns:
                # This checks the step before: the losses of this step are still on the device.
                self.loss_range.check()
        in_order = [losses[name] for name in self.names]
        # Under mixed precision the weighted losses would be added in half precision.
        with auto_cast(enable=False):
            values = as_vector(in_order)
            if self._observer is not None:
                self._observer(values)
                return values.sum()
            self.last_gramian = self.not_finite = None
            given = LossesOfStep(in_order, values, outputs)
            values, weights, update = self._strategy.weigh(self, given)
            if self.constant_sum is None:
                self.last_weights = weights.detach() * self.scale_factor
                total = self.weighting.total(values, weights) * self.scale_factor
            else:
                self.last_weights = weights.detach() * factor_to_sum(weights, self.constant_sum)
                total = self._total_of_constant_sum(values, weights)
            return total if update is None else total + update

    def _total_of_constant_sum(self, values: Tensor, weights: Tensor) -> Tensor:
        """Return the sum of the losses times `last_weights`, 0-D.

        Its gradient with respect to the learned parameter is that of the paper's total.
        """
        assert self.last_weights is not None, "they were just set"
        total = (self.last_weights * values).sum()
        if self.weighting.learned() is None:
            return total
        own = self.weighting.total(values.detach(), weights)
        return total + (own - own.detach())

    def check_loss_range(self, losses: Tensor) -> None:
        """Check that the losses of a step are in the range that the method accepts.

        ``paddleseg.core.train`` reads the result later, together with other numbers.  In your own
        loop this waits for the device.

        Args:
            losses: the loss values, the same on all cards, shape [K].

        Raises:
            ConfigError: a loss is negative, the method does not accept this, and the loop is your
                own.
        """
        if self.training:
            self.loss_range.note(losses)
            if not self.in_session:
                self.loss_range.check()

    @contextmanager
    def observing_after_step(self) -> Iterator[None]:
        """Context for the losses of the same batch after the step.

        A call in this context computes no weights and stores nothing.  It only passes the losses to
        a method whose `Weighting.needs_losses_after_step` is true.  ``paddleseg.core.train`` does
        this itself.  Your own loop has to call the aggregator in this context after each step,
        without gradients.
        """
        with self._observed_by(self._pass_on):
            yield

    @contextmanager
    def collecting(self) -> Iterator[list[Tensor]]:
        """Context for losses that are not trained on; yields a list of their values.

        A call in this context computes no weights and stores nothing.  It only adds the losses,
        shape [K], to the list.
        """
        found: list[Tensor] = []
        with self._observed_by(found.append):
            yield found

    @contextmanager
    def _observed_by(self, observer: Callable[[Tensor], None]) -> Iterator[None]:
        before, self._observer = self._observer, observer
        try:
            yield
        finally:
            self._observer = before

    def _pass_on(self, losses: Tensor) -> None:
        if self.weighting.needs_losses_after_step:
            self.weighting.observe_after_step(mean_over_ranks(losses.detach()))


def _checked_constant_sum(
    constant_sum: bool | float, weighting: Weighting, reduction: str | None
) -> float | None:
    """Return the constant sum of the weights; None if the method determines their sum."""
    if constant_sum is False:
        return None
    if constant_sum is not True and not (
        is_number(constant_sum) and _SMALLEST_SUM <= constant_sum <= _LARGEST_SUM
    ):
        raise ConfigError(
            f"constant_sum: expected true, false or a number from {_SMALLEST_SUM:g} to "
            f"{_LARGEST_SUM:g}, found {shown(constant_sum)}{number_hint(constant_sum)}"
        )
    if not weighting.update_is_weighted_sum:
        raise ConfigError(
            f"constant_sum: expected a method whose update is a weighted sum of gradients, found "
            f"{weighting.short_name}; remove the key"
        )
    if reduction is not None:
        raise ConfigError(
            f"reduction: expected none with constant_sum, which sets the scale, found {reduction}; "
            "remove one of the two keys"
        )
    return float(weighting.num_losses if constant_sum is True else constant_sum)


def method_arguments(method: type[Weighting]) -> list[inspect.Parameter]:
    """Return the arguments that a config can have for a method: its own and the aggregator's."""
    shared = ["reduction", "constant_sum"]
    if method.uses_held_out:
        shared += ["update_interval"]
    elif not issubclass(method, (LossWeighting, JacobianWeighting)):
        shared += ["level", "update_interval", "layer"]
    of_aggregator = dict(inspect.signature(LossAggregator).parameters)
    interval = of_aggregator["update_interval"]
    of_aggregator["update_interval"] = interval.replace(default=method.default_interval)
    return [*own_arguments(method).values(), *(of_aggregator[name] for name in shared)]


def unique_names(names: Sequence[str]) -> list[str]:
    """Number the names that occur more than once: ``["A", "A"]`` becomes ``["A_1", "A_2"]``."""
    counts, seen = Counter(names), Counter[str]()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name}_{seen[name]}" if counts[name] > 1 else name)
    return numbered
