"""From named losses to the one tensor that training calls ``backward`` on."""

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

from paddleseg_autoloss.checks import checked_choice, checked_integer
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.held_parameters import HeldParameter
from paddleseg_autoloss.gradients.loss_range import LossRange
from paddleseg_autoloss.gradients.stale_gradients import StaleGradient
from paddleseg_autoloss.gradients.strategies import LossesOfStep, choose_strategy
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


class LossAggregator(nn.Layer):
    r"""Named losses in, one tensor out: ``aggregator({"ce": ce, "dice": dice}).backward()``.

    For a method that looks at gradients, the gradient :math:`g_i` of each loss is found by itself
    when the aggregator is called, and ``backward`` leaves :math:`\sum_i w_i g_i` in the parameters,
    added to what is there.  Parameters that some of the losses do not reach, such as those of an
    auxiliary head, are never made to ascend by one: negative weights count as 0 there.  Where that
    is impossible, with ``level: logits`` or in the steps between updates, methods with negative
    weights are refused.

    Args:
        names: the K names of the losses, all different.
        weighting: the method; it must be made for K losses.
        level: what the gradients are taken for.  ``"parameters"``: all trainable parameters of the
            network, which is exact and takes K backward passes.  ``"logits"``: the outputs of the
            network, which takes one and a little more; losses of different outputs then never
            conflict.  (Sener and Koltun, NeurIPS 2018, section 3.3, show that this bounds the
            other where the outputs are a representation that all losses share.)
        update_interval: steps between updates of the weights, at least 1; in the steps between
            they stay, at the price of one backward pass.
        reduction: ``"sum"`` or ``"mean"`` multiplies the total such that its gradient has the scale
            of the losses' sum or of their mean; by default it has that of the method's paper, as
            ``weighting.scale`` says.

    Attributes:
        held_by_optimizer: whether an optimizer is known to hold the learned weights, if any.
        last_weights: the weights of the latest call, shape [K], detached; None before the first.
        last_gramian: the inner products of the gradients at the latest call, shape [K, K]; None if
            there were none.
        scale_factor: by which ``reduction`` multiplies the total.
        network_parameters: those of `bind`; None before.
        substeps: the optimizer's further steps, for ``step: each``; None otherwise.
        loss_scale: returns the factor of a gradient scaler, by which the total will be multiplied,
            or None; None where there is no scaler.
        in_session: whether ``paddleseg.core.train`` looks after the steps.  A gradient that is NaN
            or infinite then raises no error: it reaches the parameters, and `not_finite` names it.
        not_finite: what was NaN or infinite at the latest call, or None.
        loss_range: looks for losses that the method is not made for.

    Raises:
        ConfigError: two names are the same, the method is made for another number of losses, or an
            argument is out of its range.

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
        update_interval: int = 1,
        reduction: str | None = None,
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
        self.level = checked_choice("level", level, ["parameters", "logits"])
        self.update_interval = checked_integer("update_interval", update_interval, least=1)
        self.reduction = reduction
        self.scale_factor = 1.0
        if reduction is not None:
            checked_choice("reduction", reduction, ["sum", "mean"])
            wanted = len(self.names) if reduction == "sum" else 1
            self.scale_factor = wanted / weighting.scale_relative_to_mean()
        self._strategy = choose_strategy(weighting, level, update_interval)
        if self.uses_gradients:
            self.register_buffer("weights", paddle.ones([len(names)], dtype="float32"))
            host = paddle.CPUPlace()
            self.register_buffer("calls", paddle.to_tensor(0, dtype="int64", place=host))
        self.last_weights: Tensor | None = None
        self.last_gramian: np.ndarray | None = None
        self.loss_scale: Callable[[], Tensor | None] | None = None
        self.in_session = False
        self.not_finite: str | None = None
        self.network_parameters: list[Tensor] | None = None
        self.substeps: Substeps | None = None
        self.held_by_optimizer = weighting.learned() is None
        self._held_parameter = HeldParameter(weighting)
        self._stale_gradient = StaleGradient(weighting)
        self.loss_range = LossRange(self.names, weighting)
        self._observing = False

    @property
    def uses_gradients(self) -> bool:
        """Whether the method looks at the gradients of the losses."""
        return self._strategy.uses_gradients

    @property
    def steps_each(self) -> bool:
        """Whether the optimizer takes a step for each loss."""
        return self._strategy.steps_each

    def bind(self, parameters: Iterable[Tensor], optimizer: Optimizer | None = None) -> None:
        """Name the network that the losses train; within PaddleSeg's loop it is named already.

        Args:
            parameters: all parameters of the network; frozen ones are left out at every step.
            optimizer: the optimizer that trains them, for ``step: each``.

        Raises:
            ConfigError: ``step: each`` was asked for and no optimizer is given.
        """
        self.unbind()
        self.network_parameters = list(parameters)
        unique = {id(p): p for p in self.network_parameters if not p.stop_gradient}
        self._strategy.bind(self, list(unique.values()), optimizer)

    def clear_substeps(self) -> None:
        """Forget the gradients of steps that were not taken, as ``clear_grad`` does."""
        if self.substeps is not None:
            self.substeps.clear()

    def unbind(self) -> None:
        """Let go of the network, of its optimizer and of the gradient scaler."""
        self.loss_scale = None
        self.network_parameters = None
        if self.substeps is not None:
            self.substeps.remove()
            self.substeps = None

    def forward(self, losses: Mapping[str, Tensor], outputs: Any = None) -> Tensor:
        """Return the total, 0-D and float32.

        Args:
            losses: a tensor of one element for each name, in any order.
            outputs: what the network returned, for ``level: logits``: a tensor, or tensors in
                lists and dicts.

        Raises:
            ConfigError: the keys are not the names, or what the gradients are to be taken for was
                not given.
            ConfigError: weights can be negative, some parameters are not reached by all losses,
                and the options do not allow to tell these apart.
            ConfigError: a loss is negative, and the method is neither made for that nor learned.
            TrainingDiverged: a gradient is NaN or infinite, no gradient scaler will skip it, and
                `raises` is true.
            UnheldParameterError: the method learns its weights, training has begun, and no
                optimizer holds them.
            UnclearedGradientError: the gradient of the learned weights is not cleared between the
                steps of a loop of your own.
        """
        if losses.keys() != set(self.names):
            raise ConfigError(f"losses: expected {sorted(self.names)}, found {sorted(losses)}")
        if self.training and not self.held_by_optimizer:
            self.held_by_optimizer = self._held_parameter.is_held()
        if self.training and not self.in_session:
            self._stale_gradient.check()
            if self.loss_range.warns:
                # Of the step before: this one is not known to the host, and nothing is lost.
                self.loss_range.check()
        in_order = [losses[name] for name in self.names]
        # Under mixed precision the sum of weighted losses would be taken in half precision.
        with auto_cast(enable=False):
            values = as_vector(in_order)
            if self._observing:
                if self.weighting.needs_losses_after_step:
                    self.weighting.observe_after_step(mean_over_ranks(values.detach()))
                return values.sum()
            given = LossesOfStep(in_order, values, outputs)
            values, weights, update = self._strategy.weigh(self, given)
            self.last_weights = weights.detach() * self.scale_factor
            total = self.weighting.total(values, weights) * self.scale_factor
            return total if update is None else total + update

    def look_at_losses(self, losses: Tensor) -> None:
        """Look whether the method is made for the losses of a step.

        ``paddleseg.core.train`` reads the answer with other numbers.  In a loop of your own this
        waits for the device.

        Args:
            losses: their values, the same on all cards, shape [K].

        Raises:
            ConfigError: a loss is negative, which the method is not made for, and the loop is your
                own.
        """
        if self.training:
            self.loss_range.note(losses)
            if not self.in_session:
                self.loss_range.check()

    @contextmanager
    def observing_after_step(self) -> Iterator[None]:
        """Within, a call finds no weights and remembers nothing.

        A method whose `Weighting.needs_losses_after_step` is true takes the losses for those of the
        same batch after the step.  ``paddleseg.core.train`` evaluates the batch again by itself; a
        loop of your own calls the aggregator within, without gradients, after each step.
        """
        self._observing = True
        try:
            yield
        finally:
            self._observing = False


def method_arguments(method: type[Weighting]) -> list[inspect.Parameter]:
    """Return the arguments that a config can give a method: its own and the aggregator's."""
    shared = ["reduction"]
    if not issubclass(method, (LossWeighting, JacobianWeighting)):
        shared += ["level", "update_interval"]
    of_aggregator = inspect.signature(LossAggregator).parameters
    return [*own_arguments(method).values(), *(of_aggregator[name] for name in shared)]


def unique_names(names: Sequence[str]) -> list[str]:
    """Number the names that occur more than once: ``["A", "A"]`` becomes ``["A_1", "A_2"]``."""
    counts, seen = Counter(names), Counter[str]()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name}_{seen[name]}" if counts[name] > 1 else name)
    return numbered
