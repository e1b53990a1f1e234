"""From named losses to the one tensor that training calls ``backward`` on."""

from __future__ import annotations

import gc
import inspect
import math
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
from paddleseg_autoloss.errors import ConfigError, TrainingDiverged, UnheldParameterError
from paddleseg_autoloss.gradients import Jacobian, Substeps, inject
from paddleseg_autoloss.ranks import mean_over_ranks
from paddleseg_autoloss.tensors import all_parameters, as_vector, tensors_in
from paddleseg_autoloss.weighting import (
    GramianWeighting,
    JacobianWeighting,
    SeparateBackwardWeighting,
    Weighting,
)
from paddleseg_autoloss.weighting.base import own_arguments

__all__ = [
    "LossAggregator",
    "method_arguments",
    "unique_names",
]

#: Arguments of a LossAggregator that a config gives, by what the method needs.
_SHARED_ARGUMENTS = {
    "losses": ("reduction",),
    "gramian": ("reduction", "level", "update_interval"),
    "jacobian": ("reduction",),
}


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
        loss_scale: returns the factor of a gradient scaler, by which the total will be multiplied,
            or None; None where there is no scaler.
        raises: whether a gradient that is NaN or infinite raises an error.  If not, it reaches the
            parameters, and `not_finite` names it.
        not_finite: what was NaN or infinite at the latest call, or None.

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
        self._factor = self._scale_factor()
        self.last_weights: Tensor | None = None
        self.last_gramian: np.ndarray | None = None
        self._values = np.zeros(len(names))
        self.loss_scale: Callable[[], Tensor | None] | None = None
        self.raises = True
        self.not_finite: str | None = None
        self._parameters_of_network: list[Tensor] | None = None
        self._substeps: Substeps | None = None
        self._observing = False
        if weighting.needs != "losses":
            self.register_buffer("weights", paddle.ones([len(names)], dtype="float32"))
            host = paddle.CPUPlace()
            self.register_buffer("calls", paddle.to_tensor(0, dtype="int64", place=host))
        self._check_options()
        self.held_by_optimizer = weighting.learned() is None
        self._had_gradient = False
        self._optimizers_seen: dict[int, float] = {}
        learned = weighting.learned()
        if learned is not None:
            learned.register_hook(self._note_gradient)

    def _scale_factor(self) -> float:
        if self.reduction is None:
            return 1.0
        checked_choice("reduction", self.reduction, ["sum", "mean"])
        wanted = len(self.names) if self.reduction == "sum" else 1
        return wanted / self.weighting.scale_relative_to_mean()

    def _check_options(self) -> None:
        """Refuse what the method would ignore."""
        if (self.level, self.update_interval) == ("parameters", 1):
            return
        method = self.weighting.short_name
        if self.steps_each:
            raise ConfigError("step: each needs level parameters and update_interval 1")
        if self.weighting.needs == "losses":
            raise ConfigError(f"level, update_interval: {method} looks at no gradients")
        if self.weighting.needs == "jacobian":
            raise ConfigError(f"{method} needs level parameters and update_interval 1")

    @property
    def steps_each(self) -> bool:
        """Whether the optimizer takes a step for each loss."""
        method = self.weighting
        return isinstance(method, SeparateBackwardWeighting) and method.step == "each"

    def bind(self, parameters: Iterable[Tensor], optimizer: Optimizer | None = None) -> None:
        """Name the network that the losses train; within PaddleSeg's loop it is named already.

        Args:
            parameters: all parameters of the network; frozen ones are left out at every step.
            optimizer: the optimizer that trains them, for ``step: each``.

        Raises:
            ConfigError: ``step: each`` was asked for and no optimizer is given.
        """
        self.unbind()
        self._parameters_of_network = list(parameters)
        unique = {id(p): p for p in self._parameters_of_network if not p.stop_gradient}
        trainable = list(unique.values())
        if isinstance(self.weighting, JacobianWeighting):
            self.weighting.prepare(sum(math.prod(p.shape) for p in trainable))
        if isinstance(self.weighting, SeparateBackwardWeighting) and self.steps_each:
            if optimizer is None:
                raise ConfigError("step: each needs the optimizer; call bind with it")
            self._substeps = Substeps(optimizer, trainable, self.weighting.lr_mult)

    def clear_substeps(self) -> None:
        """Forget the gradients of steps that were not taken, as ``clear_grad`` does."""
        if self._substeps is not None:
            self._substeps.clear()

    def unbind(self) -> None:
        """Let go of the network, of its optimizer and of the gradient scaler."""
        self.loss_scale = None
        self._parameters_of_network = None
        if self._substeps is not None:
            self._substeps.remove()
            self._substeps = None

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
            TrainingDiverged: a gradient is NaN or infinite, and no gradient scaler will skip it.
            UnheldParameterError: the method learns its weights, training has begun, and no
                optimizer holds them.
        """
        if losses.keys() != set(self.names):
            raise ConfigError(f"losses: expected {sorted(self.names)}, found {sorted(losses)}")
        if self.training and not self.held_by_optimizer:
            self._check_held()
        in_order = [losses[name] for name in self.names]
        # Under mixed precision the sum of weighted losses would be taken in half precision.
        with auto_cast(enable=False):
            values = as_vector(in_order)
            if self._observing:
                if self.weighting.needs_losses_after_step:
                    self.weighting.observe_after_step(mean_over_ranks(values.detach()))
                return values.sum()
            if self.weighting.needs == "losses":
                shared = mean_over_ranks(values.detach())
                return self._total(values, self.weighting(shared))
            if not self._is_due():
                # A copy: the graph must not see later updates.
                return self._total(values, self.weights.clone())
            return self._aggregate(in_order, values, outputs)

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

    def _total(self, values: Tensor, weights: Tensor) -> Tensor:
        self.last_weights = weights.detach() * self._factor
        return self.weighting.total(values, weights) * self._factor

    def _is_due(self) -> bool:
        if not (self.training and paddle.is_grad_enabled()):
            return False
        calls = int(self.calls)
        self.calls.set_value(np.asarray(calls + 1))
        return calls % self.update_interval == 0

    def _aggregate(self, losses: list[Tensor], values: Tensor, outputs: Any) -> Tensor:
        scale = None if self.loss_scale is None else self.loss_scale()
        exact = self.level == "parameters"
        jacobian = Jacobian(losses, self._targets(outputs), scale, replicated=exact)
        if self.weighting.may_be_negative and (not exact or self.update_interval > 1):
            self._check_shared(jacobian)
        gramian = jacobian.gramian()
        if scale is not None:
            gramian /= scale**2
        shared = mean_over_ranks(values.detach())
        finite = self._check_finite(shared, gramian, raises=self.raises and scale is None)
        if finite and isinstance(self.weighting, JacobianWeighting):
            injected = self._updated(self.weighting, shared, jacobian)
            return self._total(values.detach(), self.weights.clone()) + injected
        if finite:
            self._update(shared, gramian)
        weights = self.weights.clone()
        if not exact:
            return self._total(values, weights)
        return self._total(values.detach(), weights) + self._injected(jacobian, scale, finite)

    def _check_shared(self, jacobian: Jacobian) -> None:
        if not jacobian.is_shared:
            option = "update_interval: expected 1"
            if self.level == "logits":
                option = "level: expected parameters"
            raise ConfigError(
                f"{option} with {self.weighting.short_name}, whose weights can be negative, where "
                "some outputs have losses of their own: those would be made to get worse"
            )

    def _targets(self, outputs: Any) -> list[Tensor]:
        method = type(self.weighting).__name__
        if self.level == "logits":
            targets = None if outputs is None else tensors_in(outputs)
            missing = "call the aggregator with outputs"
        else:
            targets, missing = self._parameters_of_network, "call bind with them"
        if targets is None:
            raise ConfigError(
                f"{method}: level {self.level} needs the network's {self.level}: {missing}, or "
                "train with paddleseg.core.train"
            )
        unique = {id(target): target for target in targets}.values()
        return [target for target in unique if not target.stop_gradient]

    def _check_finite(self, values: Tensor, gramian: Tensor, raises: bool) -> bool:
        """Return whether the losses and their gradients are finite.

        Args:
            values: the losses, shape [K].
            gramian: of their gradients, shape [K, K].
            raises: whether to raise an error if they are not.
        """
        count = len(self.names)
        # The one transfer to the host.
        numbers = paddle.concat([gramian.flatten(), values]).numpy().astype("float64")
        self.last_gramian = numbers[:-count].reshape([count, count])
        self._values = numbers[-count:]
        finite = bool(np.isfinite(numbers).all())
        self.not_finite = None if finite else self._what_is_not_finite()
        if raises and self.not_finite is not None:
            raise TrainingDiverged(self.not_finite)
        return finite

    def _update(self, values: Tensor, gramian: Tensor) -> None:
        """Find the weights."""
        if isinstance(self.weighting, GramianWeighting):
            assert self.last_gramian is not None
            weights = self.weighting.solve(self._values, self.last_gramian)
            self.weights.set_value(weights.astype("float32"))
        else:
            self.weights.set_value(self.weighting(values, gramian))

    def _updated(self, method: JacobianWeighting, values: Tensor, jacobian: Jacobian) -> Tensor:
        """Return 0 with the update that a method makes of the whole Jacobian."""
        update, weights = method.update(values, jacobian.matrix())
        self.weights.set_value(weights)
        zero = paddle.zeros([], dtype="float32")
        return inject(zero, jacobian.targets, jacobian.split(update * self._factor))

    def _what_is_not_finite(self) -> str:
        assert self.last_gramian is not None
        for name, value, square in zip(self.names, self._values, np.diag(self.last_gramian)):
            if not np.isfinite(value):
                return f"{name} is {value}"
            if not np.isfinite(square):
                return f"the gradient of {name} is NaN or infinite"
        return "the gradients are too large to multiply"

    def _injected(self, jacobian: Jacobian, scale: Tensor | None, finite: bool) -> Tensor:
        """Return 0 with the aggregated gradient."""
        zero = paddle.zeros([], dtype="float32")
        # A scaler looks at p.grad alone, so that is where any overflow has to be.
        if self._substeps is None or not finite:
            gradients = jacobian.combined(self.weights * self._factor)
            return inject(zero, jacobian.targets, gradients, divisor=scale)
        *first, last = [jacobian.row(index) for index in range(len(self.names))]
        targets = jacobian.targets

        def keep(factor: Tensor) -> None:
            factor = factor if scale is None else factor / scale.reshape([])
            factor = factor * self._factor
            for step, gradients in enumerate(first):
                for parameter, gradient in zip(targets, gradients):
                    if gradient is not None and self._substeps is not None:
                        self._substeps.add(step, parameter, gradient * factor)

        return inject(zero, targets, last, divisor=scale, on_backward=keep)

    def _note_gradient(self, gradient: Tensor) -> None:
        self._had_gradient = True

    def _check_held(self) -> None:
        """Raise if optimizers are stepping and none of them holds the learned weights.

        It looks only once there was a gradient, and no more once it has found the weights held.
        """
        learned = self.weighting.learned()
        if learned is None or not (self._had_gradient or learned.grad is not None):
            return
        optimizers = [
            o for o in gc.get_objects() if issubclass(type(o), paddle.optimizer.Optimizer)
        ]
        if any(p is learned for o in optimizers for p in _parameters(o)):
            self.held_by_optimizer = True
            return
        sums = {id(o): sum(float(p.sum()) for p in _parameters(o)) for o in optimizers}
        seen = self._optimizers_seen
        stepped = any(
            not np.array_equal(sums[key], seen.get(key, sums[key]), equal_nan=True) for key in sums
        )
        self._optimizers_seen = sums
        if stepped:
            raise UnheldParameterError(
                f"{type(self.weighting).__name__}: no optimizer holds its learned parameter "
                f"{self.weighting.parameter_name!r}, so the weights would never change; import "
                "paddleseg_autoloss before paddleseg.core.train, or add the loss's parameters() "
                "to your optimizer"
            )


def _parameters(optimizer: paddle.optimizer.Optimizer) -> list[Tensor]:
    groups = getattr(optimizer, "_param_groups", None) or []
    return [p for p in all_parameters(groups) if not p.stop_gradient]


def method_arguments(method: type[Weighting]) -> list[inspect.Parameter]:
    """Return the arguments that a config can give a method: its own and the aggregator's."""
    shared = inspect.signature(LossAggregator).parameters
    return [
        *own_arguments(method).values(),
        *(shared[name] for name in _SHARED_ARGUMENTS[method.needs]),
    ]


def unique_names(names: Sequence[str]) -> list[str]:
    """Number the names that occur more than once: ``["A", "A"]`` becomes ``["A_1", "A_2"]``."""
    counts, seen = Counter(names), Counter[str]()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name}_{seen[name]}" if counts[name] > 1 else name)
    return numbered
