"""The interface of PaddleScience, ``ppsci.loss.mtl``: change the import, keep the training code.

The classes have the arguments and the public attributes of PaddleScience's classes.

``aggregator(losses).backward()`` adds the aggregated gradient to the parameters' ``grad``, like
``backward`` of any loss; PaddleScience overwrites or clears ``grad``.  The losses may share a
graph, parameters may be frozen, and a loss may have no gradient.  A call returns the total loss as
a 0-D tensor.  The argument ``step`` is optional: if a method needs it, the aggregator counts its
calls.  ``state_dict`` contains the whole state of an aggregator, and nothing of the model.  The
state belongs to the losses in the order of the first call; the first call after a resume must have
the same order.  A state that PaddleScience saved can be loaded too, by `Relobralo`, `GradNorm` and
`NTK`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.checks import checked_choice, checked_integer
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients import Jacobian
from paddleseg_autoloss.gradients.aggregator import LossAggregator as _NamedLosses
from paddleseg_autoloss.tensors import beyond_float32
from paddleseg_autoloss.weighting import (
    AGDAWeighting,
    NormBalanceWeighting,
    NTKWeighting,
    PCGradWeighting,
    RelobraloWeighting,
    Weighting,
)
from paddleseg_autoloss.weighting.draws import Draws

__all__ = [
    "AGDA",
    "NTK",
    "GradNorm",
    "LossAggregator",
    "PCGrad",
    "Relobralo",
    "Sum",
    "build_mtl_aggregator",
]


def build_mtl_aggregator(cfg: Mapping[str, Any]) -> LossAggregator:
    """Make the aggregator that a config describes.

    Deviations:
        PaddleScience copies the config deeply, and with it a network in it, so that its aggregator
        trains a copy; here the network is used itself.  PaddleScience evaluates the name as code;
        here it is looked up.

    Args:
        cfg: ``name``, the name of a class of this module, and the arguments of this class.

    Raises:
        ConfigError: there is no aggregator of this name, it does not have such an argument, or one
            is missing or out of its range.

    Examples:
        >>> from paddleseg_autoloss import mtl
        >>> loss_aggregator = mtl.build_mtl_aggregator({"name": "Relobralo", "num_losses": 2})
        >>> loss_aggregator.alpha
        0.95
    """
    arguments = dict(cfg)
    name = arguments.pop("name", None)
    kinds = {kind.__name__: kind for kind in (AGDA, GradNorm, NTK, PCGrad, Relobralo, Sum)}
    kind = kinds[checked_choice("name", name, list(kinds))]
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{name}: {error}") from None
    return kind(**arguments)


def _argument(name: str) -> Any:
    """Return an attribute that is an argument of the method."""
    return property(
        lambda aggregator: getattr(aggregator.weighting, name),
        lambda aggregator, value: setattr(aggregator.weighting, name, value),
    )


def _buffer(name: str) -> Any:
    """Return an attribute that is a part of the method's state."""
    return property(lambda aggregator: getattr(aggregator.weighting, name))


class LossAggregator(nn.Layer):
    """Base class of the loss aggregators.

    A subclass defines ``forward``, which returns the total loss.  Or it defines ``backward``, as in
    PaddleScience, and uses the attributes ``losses``, ``loss_num`` and ``step`` of the latest call.

    Args:
        model: the network that the losses train.  It does not become a sublayer.

    Attributes:
        should_persist: whether there is state to save in addition to the model's.
        model: the network, or None if the method needs none.
        param_num: number of trainable parameters at the start.
        step: the training step of the latest call: its argument ``step``, or the number of calls
            before it.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss import mtl
        >>> class Largest(mtl.LossAggregator):
        ...     def backward(self):
        ...         max(self.losses.values(), key=float).backward()
        >>> model = paddle.nn.Linear(3, 4)
        >>> y = model(paddle.ones([8, 3]))
        >>> losses = {"loss1": paddle.sum(y) * 0, "loss2": paddle.sum(y) * 0 + 1}
        >>> loss_aggregator = Largest(model)
        >>> loss_aggregator(losses).backward()
        >>> loss_aggregator.state_dict()
        OrderedDict()
    """

    should_persist: ClassVar[bool] = False
    #: The state of PaddleScience's class that is also state of the method.
    _shared_state: ClassVar[tuple[str, ...]] = ()
    model: nn.Layer | None

    def __init__(self, model: nn.Layer | None = None) -> None:
        super().__init__()
        # State and parameters of a sublayer would become those of the aggregator.
        object.__setattr__(self, "model", model)
        self.param_num = sum(
            not parameter.stop_gradient for parameter in self._trainable_parameters()
        )
        self._names: list[str] = []
        self.step = 0
        self._calls = 0

    def forward(
        self, losses: Mapping[str, Tensor], step: int | None = None
    ) -> Tensor | LossAggregator:
        """Store the losses of a step; return an object with a method ``backward``.

        Args:
            losses: a tensor of one element for each name.
            step: the training step, from 0.
        """
        self.losses, self.loss_num = losses, len(losses)
        self._begin(step)
        return self

    def set_state_dict(
        self, state_dict: Mapping[str, Any], use_structured_name: bool = True
    ) -> tuple[list[str], list[str]]:
        """Load a state: of this class, or of PaddleScience's class of the same name.

        PaddleScience has no random state and, with `GradNorm` and `NTK`, no counter of steps; these
        stay as they are.

        Args:
            state_dict: the values by their names.
            use_structured_name: whether the names are those of ``state_dict()``.

        Returns:
            The names that are missing, and those that are not known.
        """
        own = self.state_dict()
        if self._shared_state and set(self._shared_state) <= state_dict.keys():
            shared = {f"weighting.{name}": state_dict[name] for name in self._shared_state}
            state_dict = {**own, **{k: _like(own[k], value) for k, value in shared.items()}}
        return super().set_state_dict(state_dict, use_structured_name)

    set_dict = load_dict = set_state_dict

    def backward(self) -> None:
        """Add the aggregated gradient to the gradients of the parameters."""
        raise NotImplementedError(f"{type(self).__name__}: define forward or backward")

    def _trainable_parameters(self) -> list[Tensor]:
        return [] if self.model is None else self.model.parameters()

    def _begin(self, step: int | None, calls: int | None = None) -> None:
        """Set `step` for a call.

        Args:
            step: the argument of the call.
            calls: number of calls before it, if the state has it.
        """
        before = self._calls if calls is None else calls
        self.step = before if step is None else int(step)
        self._calls += 1

    def _in_order(
        self, losses: Mapping[str, Tensor] | Sequence[Tensor], expected: int
    ) -> dict[str, Tensor]:
        """Return the losses in the order of the first call, which is the order of the state."""
        named = _name_losses(losses)
        if len(named) != expected:
            raise ConfigError(f"losses: expected {expected}, found {len(named)}: {_list(named)}")
        self._names = self._names or list(named)
        if named.keys() != set(self._names):
            raise ConfigError(
                f"losses: expected {_list(self._names)} as in the first call, found {_list(named)}"
            )
        return {name: named[name] for name in self._names}

    def _surgery(self, losses: dict[str, Tensor], weighting: Weighting) -> Tensor:
        aggregator = _NamedLosses(list(losses), weighting)
        aggregator.bind(self._trainable_parameters())
        return aggregator(losses)


class AGDA(LossAggregator):
    """Adaptive gradient descent algorithm for two losses.

    The second loss must not work against the first loss; in PaddleScience the first is the loss of
    the equation.  `paddleseg_autoloss.weighting.AGDAWeighting` has the formulas.

    Deviations:
        PaddleScience's code raises an error at a step that is not a multiple of M. Here the rates
        are shares among the losses and not among all past steps, and the smoothed losses start at
        the first losses, not at 0; so the gradients differ.  There is state to save.

    Args:
        model: the network.
        M: number of steps between updates of the reference losses.
        gamma: factor of the smoothed losses, from 0 to 1.

    Attributes:
        M: the argument ``M``.
        gamma: the argument ``gamma``.

    Raises:
        ConfigError: an argument is out of its range; when called: there are not two losses or they
            have other names than in the first call.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss import mtl
        >>> model = paddle.nn.Linear(3, 4)
        >>> loss_aggregator = mtl.AGDA(model)
        >>> for i in range(5):
        ...     x1 = paddle.randn([8, 3])
        ...     x2 = paddle.randn([8, 3])
        ...     y1 = model(x1)
        ...     y2 = model(x2)
        ...     pde_loss = paddle.sum(y1)
        ...     bc_loss = paddle.sum((y2 - 2) ** 2)
        ...     loss_aggregator({'pde_loss': pde_loss, 'bc_loss': bc_loss}).backward()
        >>> int(loss_aggregator.state_dict()["weighting.step"])
        5
    """

    should_persist = True
    M, gamma = _argument("M"), _argument("gamma")

    def __init__(self, model: nn.Layer, M: int = 100, gamma: float = 0.999) -> None:
        super().__init__(model)
        self.weighting = AGDAWeighting(2, M, gamma)

    def forward(self, losses: Mapping[str, Tensor], step: int | None = None) -> Tensor:
        """Return the total, 0-D, whose ``backward`` adds the aggregated gradient.

        Args:
            losses: two tensors of one element.
            step: the training step; by default the calls are counted.
        """
        in_order = self._in_order(losses, expected=2)
        self._begin(step, calls=int(self.weighting.step))
        if step is not None:
            self.weighting.step.set_value(np.asarray(step))
        return self._surgery(in_order, self.weighting)


class _Balanced(LossAggregator):
    """Weights from the lengths of the gradients, updated at some steps for later calls."""

    should_persist = True
    _shared_state = ("weight",)
    num_losses, weight = _argument("num_losses"), _buffer("weight")

    def __init__(self, model: nn.Layer, weighting: NormBalanceWeighting, update_freq: int) -> None:
        super().__init__(model)
        self.weighting = weighting
        self.update_freq = checked_integer("update_freq", update_freq, least=1)
        host = paddle.CPUPlace()
        self.register_buffer("next_step", paddle.to_tensor(0, dtype="int64", place=host))

    def forward(
        self, losses: Mapping[str, Tensor] | Sequence[Tensor], step: int | None = None
    ) -> Tensor:
        """Return the total, 0-D, with the current weights; then update the weights if it is due.

        Args:
            losses: a tensor of one element for each name, or a list of them.
            step: the training step; by default the calls are counted from 0.
        """
        in_order = self._in_order(losses, self.weighting.num_losses).values()
        self._begin(step, calls=int(self.next_step))
        values = _vector(in_order)
        # Use a copy on the device, because the method changes its weights on the host in place.
        total = _weigh(values, paddle.to_tensor(self.weighting.weight.numpy()))
        if paddle.is_grad_enabled() and self._is_due():
            self._renew(in_order, values)
        return total

    def _is_due(self) -> bool:
        self.next_step.set_value(np.asarray(self.step + 1))
        return self.step % self.update_freq == 0

    def _renew(self, losses: Iterable[Tensor], values: Tensor) -> None:
        targets = self._trainable_parameters()
        # Only the lengths are needed, so differentiate one loss at a time and keep one gradient.
        for dtype in ("float32", "float64"):
            squares = [Jacobian([loss], targets).gramian(dtype).flatten() for loss in losses]
            on_host = paddle.concat(squares).numpy().astype("float64")
            if not beyond_float32(on_host):
                break
        if np.isfinite(on_host).all():
            self.weighting.solve(values.numpy().astype("float64"), np.diag(on_host))


class GradNorm(_Balanced):
    r"""Weights that give all weighted gradients the same length.

    .. math:: w_i \leftarrow m \, w_i + (1 - m) \frac{\text{mean}_j \lVert g_j \rVert}{\lVert g_i
    \rVert}

    The name is from PaddleScience.  `paddleseg_autoloss.weighting.NormBalanceWeighting` names the
    paper; GradNorm by Chen et al. is `paddleseg_autoloss.GradNorm`.

    Deviations:
        The value and the gradient of the total have the same weights.  PaddleScience overwrites the
        weights in place, so after an update the gradient has the new weights; without ``step`` it
        updates them at every call.  Here a loss with zero gradient keeps its weight, which would
        become infinite, and gradients that are not finite change no weight.

    Args:
        model: the network.
        num_losses: K, the number of losses.
        update_freq: number of steps between updates of the weights; an update affects later calls.
        momentum: m, from 0 to 1.
        init_weights: the first weights, one for each loss; all 1 by default.

    Attributes:
        num_losses: the argument ``num_losses``.
        update_freq: the argument ``update_freq``.
        momentum: the argument ``momentum``.
        weight: the current weights, shape [K], float64, on the host.

    Raises:
        ConfigError: an argument is out of its range; when called: there are not K losses or they
            have other names than in the first call.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss import mtl
        >>> model = paddle.nn.Linear(3, 4)
        >>> loss_aggregator = mtl.GradNorm(model, num_losses=2)
        >>> for i in range(5):
        ...     x1 = paddle.randn([8, 3])
        ...     x2 = paddle.randn([8, 3])
        ...     y1 = model(x1)
        ...     y2 = model(x2)
        ...     loss1 = paddle.sum(y1)
        ...     loss2 = paddle.sum((y2 - 2) ** 2)
        ...     loss_aggregator({'loss1': loss1, 'loss2': loss2}).backward()
        >>> weight1, weight2 = loss_aggregator.weight.tolist()
        >>> weight1 > 1 > weight2  # the gradient of loss2 is the longer one
        True
    """

    momentum = _argument("momentum")

    def __init__(
        self,
        model: nn.Layer,
        num_losses: int = 1,
        update_freq: int = 1000,
        momentum: float = 0.9,
        init_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            model, NormBalanceWeighting(num_losses, momentum, init_weights), update_freq
        )


class NTK(_Balanced):
    r"""Weights from the neural tangent kernel.

    .. math:: w_i \leftarrow \frac{\sum_j \lVert g_j \rVert}{\lVert g_i \rVert}

    `paddleseg_autoloss.weighting.NTKWeighting` names the paper.

    Deviations:
        :math:`\lVert g_i \rVert` is the length of the gradient of loss i.  In PaddleScience it is
        that of the sum of the losses up to i, and these gradients are added to the step.  Losses
        may be a dict or a list; PaddleScience accepts only a list, but its solver passes a dict.
        The other deviations are those of `GradNorm`.

    Args:
        model: the network.
        num_losses: K, the number of losses.
        update_freq: number of steps between updates of the weights; an update affects later calls.

    Attributes:
        num_losses: the argument ``num_losses``.
        update_freq: the argument ``update_freq``.
        weight: the current weights, shape [K], float64, on the host.

    Raises:
        ConfigError: as in `GradNorm`.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss import mtl
        >>> model = paddle.nn.Linear(3, 4)
        >>> loss_aggregator = mtl.NTK(model, num_losses=2)
        >>> for i in range(5):
        ...     x1 = paddle.randn([8, 3])
        ...     x2 = paddle.randn([8, 3])
        ...     y1 = model(x1)
        ...     y2 = model(x2)
        ...     loss1 = paddle.sum(y1)
        ...     loss2 = paddle.sum((y2 - 2) ** 2)
        ...     loss_aggregator([loss1, loss2]).backward()
        >>> round(float((1 / loss_aggregator.weight).sum()), 4)
        1.0
    """

    def __init__(self, model: nn.Layer, num_losses: int = 1, update_freq: int = 1000) -> None:
        super().__init__(model, NTKWeighting(num_losses), update_freq)


class PCGrad(LossAggregator):
    """Projecting conflicting gradients.

    `paddleseg_autoloss.weighting.PCGradWeighting` has the formula.  The number of losses is
    arbitrary, and may change from call to call.

    Deviations:
        As in the paper, every gradient has its own random order, and no gradient is projected onto
        its own normal plane.  So with three or more losses the results can differ from
        PaddleScience's.  The aggregator has its own random generator, so there is state to save.

    Args:
        model: the network.

    Raises:
        ConfigError: when called: there are no losses.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss import mtl
        >>> model = paddle.nn.Linear(3, 4)
        >>> loss_aggregator = mtl.PCGrad(model)
        >>> for i in range(5):
        ...     x1 = paddle.randn([8, 3])
        ...     x2 = paddle.randn([8, 3])
        ...     y1 = model(x1)
        ...     y2 = model(x2)
        ...     loss1 = paddle.sum(y1)
        ...     loss2 = paddle.sum((y2 - 2) ** 2)
        ...     loss_aggregator({'loss1': loss1, 'loss2': loss2}).backward()
        >>> list(loss_aggregator.state_dict())
        ['draws.seed', 'draws.step']
    """

    should_persist = True

    def __init__(self, model: nn.Layer) -> None:
        super().__init__(model)
        self.draws = Draws()

    def forward(self, losses: Mapping[str, Tensor], step: int | None = None) -> Tensor:
        """Return the total, 0-D, whose ``backward`` adds the aggregated gradient.

        Args:
            losses: a tensor of one element for each name.
            step: the training step, only for the attribute `step`.
        """
        named = _name_losses(losses)
        self._begin(step, calls=int(self.draws.step))
        weighting = PCGradWeighting(len(named))
        weighting.draws = self.draws
        return self._surgery(named, weighting)


class Relobralo(LossAggregator):
    """Relative loss balancing with random lookback.

    `paddleseg_autoloss.weighting.RelobraloWeighting` has the formula.

    Deviations:
        The first call is the first one of this aggregator or of the run that it resumes.  For
        PaddleScience it is the call with ``step`` 0: it then returns the plain sum and resets the
        first losses; if it begins at another step, it divides by zero.  The aggregator has its own
        random generator.  As in PaddleScience, negative losses are accepted, although their rates
        have no meaning; `paddleseg_autoloss.Relobralo` refuses them.

    Args:
        num_losses: K, the number of losses.
        alpha: share of the past weights, from 0 to 1.
        beta: probability of comparing with the previous step and not with the first, from 0 to 1.
        tau: temperature, at least 0; small values favour the loss that decreased least, and 0
            favours the largest loss.
        eps: prevents a division by 0 for a loss of 0.

    Attributes:
        num_losses: the argument ``num_losses``.
        alpha: the argument ``alpha``.
        beta: the argument ``beta``.
        tau: the argument ``tau``.
        eps: the argument ``eps``.
        losses_init: the first losses, shape [K]; NaN before the first call.
        losses_prev: the losses of the previous call, shape [K]; NaN before the first call.
        lmbda: the current weights, shape [K].

    Raises:
        ConfigError: an argument is out of its range; when called: there are not K losses or they
            have other names than in the first call.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss import mtl
        >>> model = paddle.nn.Linear(3, 4)
        >>> loss_aggregator = mtl.Relobralo(num_losses=2)
        >>> for i in range(5):
        ...     x1 = paddle.randn([8, 3])
        ...     x2 = paddle.randn([8, 3])
        ...     y1 = model(x1)
        ...     y2 = model(x2)
        ...     loss1 = paddle.sum(y1)
        ...     loss2 = paddle.sum((y2 - 2) ** 2)
        ...     loss_aggregator({'loss1': loss1, 'loss2': loss2}).backward()
        >>> weights = loss_aggregator.lmbda
        >>> round(float(weights.sum()), 4), weights.tolist() != [1.0, 1.0]
        (2.0, True)
    """

    should_persist = True
    _shared_state = ("losses_init", "losses_prev", "lmbda")
    num_losses, alpha, beta = _argument("num_losses"), _argument("alpha"), _argument("beta")
    tau, eps = _argument("tau"), _argument("eps")
    losses_init, losses_prev = _buffer("losses_init"), _buffer("losses_prev")
    lmbda = _buffer("lmbda")

    def __init__(
        self,
        num_losses: int,
        alpha: float = 0.95,
        beta: float = 0.99,
        tau: float = 1.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        self.weighting = RelobraloWeighting(num_losses, alpha, beta, tau, eps)

    def forward(self, losses: Mapping[str, Tensor], step: int | None = None) -> Tensor:
        """Return the total, 0-D.

        Args:
            losses: a tensor of one element for each name.
            step: the training step, only for the attribute `step`.
        """
        in_order = self._in_order(losses, self.weighting.num_losses)
        self._begin(step, calls=int(self.weighting.draws.step))
        values = _vector(in_order.values())
        return _weigh(values, self.weighting(values.astype(self.weighting.lmbda.dtype)))


class Sum(LossAggregator):
    r"""The plain sum of the losses, :math:`\sum_i L_i`.

    Raises:
        ConfigError: when called: there are no losses.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss import mtl
        >>> loss_aggregator = mtl.Sum()
        >>> float(loss_aggregator({"loss1": paddle.ones([]), "loss2": paddle.ones([]) * 2}))
        3.0
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, losses: Mapping[str, Tensor], step: int | None = None) -> Tensor:
        """Return the sum, 0-D.

        Args:
            losses: a tensor of one element for each name.
            step: the training step, only for the attribute `step`.
        """
        values = _vector(_name_losses(losses).values())
        self._begin(step)
        return _weigh(values, paddle.ones_like(values))


def _name_losses(losses: Mapping[str, Tensor] | Sequence[Tensor]) -> dict[str, Tensor]:
    is_dict = isinstance(losses, Mapping)
    named = dict(losses) if is_dict else {str(i): loss for i, loss in enumerate(losses)}
    if not named:
        raise ConfigError("losses: expected at least one, found none")
    return named


def _like(own: Tensor, value: Any) -> Tensor:
    """Return a tensor of PaddleScience's state in the type of our own.

    There, losses of 0 stand for those that are not known; here NaN does.
    """
    tensor = value if isinstance(value, Tensor) else paddle.to_tensor(value)
    found = tensor.astype(own.dtype)
    return found if bool((found != 0).any()) else paddle.full_like(found, float("nan"))


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


# Under mixed precision the weighted losses would be added in half precision.
@paddle.amp.auto_cast(enable=False)
def _vector(losses: Iterable[Tensor]) -> Tensor:
    """Return tensors with one element each as one vector; it is float64 if one of them is."""
    scalars = [loss.reshape([]) for loss in losses]
    is_double = any(scalar.dtype == paddle.float64 for scalar in scalars)
    dtype = "float64" if is_double else "float32"
    return paddle.stack([scalar.astype(dtype) for scalar in scalars])


@paddle.amp.auto_cast(enable=False)
def _weigh(values: Tensor, weights: Tensor) -> Tensor:
    return (weights.astype(values.dtype) * values).sum()
