"""PaddleScience's call form, ``ppsci.loss.mtl``: swap the import, keep the training code.

``aggregator(losses).backward()`` adds the aggregated gradient to what the parameters' ``grad``
already holds, as ``backward`` of any loss does; PaddleScience overwrites or clears it.  The losses
may share a graph, parameters may be frozen, and a loss may have no gradient.

A call returns the total as a 0-D tensor.  ``step`` need not be passed: where a method depends on
it, the aggregator counts its calls.  ``state_dict`` holds all that an aggregator remembers and
nothing of the model; it belongs to the losses in the order of the first call, also the first call
after a resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.checks import checked_integer
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

__all__ = ["AGDA", "NTK", "GradNorm", "LossAggregator", "PCGrad", "Relobralo", "Sum"]


class LossAggregator(nn.Layer):
    """Base class of the loss aggregators.

    A subclass defines ``forward``, which returns the total; or ``backward``, as in PaddleScience,
    and finds ``losses``, ``loss_num`` and ``step`` of the latest call in the attributes.

    Args:
        model: the network that the losses train.  It does not become a sublayer.

    Attributes:
        should_persist: whether there is state to save beside the model's.
        model: the network, or None where the method needs none.
        param_num: how many parameters were trainable at the start.

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
    model: nn.Layer | None

    def __init__(self, model: nn.Layer | None = None) -> None:
        super().__init__()
        # A sublayer's state and parameters would count as the aggregator's.
        object.__setattr__(self, "model", model)
        self.param_num = sum(not parameter.stop_gradient for parameter in self._trained())
        self._names: list[str] = []

    def forward(
        self, losses: Mapping[str, Tensor], step: int | None = None
    ) -> Tensor | LossAggregator:
        """Take the losses of a step and return what has ``backward``.

        Args:
            losses: a tensor of one element for each name.
            step: the training step, from 0.
        """
        self.losses, self.loss_num, self.step = losses, len(losses), step or 0
        return self

    def backward(self) -> None:
        """Add the aggregated gradient to the parameters'."""
        raise NotImplementedError(f"{type(self).__name__}: define forward or backward")

    def _trained(self) -> list[Tensor]:
        return [] if self.model is None else self.model.parameters()

    def _in_order(
        self, losses: Mapping[str, Tensor] | Sequence[Tensor], expected: int
    ) -> dict[str, Tensor]:
        """Return the losses in the order of the first call, to which the state belongs."""
        named = _named(losses)
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
        aggregator.bind(self._trained())
        return aggregator(losses)


class AGDA(LossAggregator):
    """Adaptive gradient descent algorithm for two losses.

    The first loss, in PaddleScience that of the equation, is the one that the second must not work
    against.  `paddleseg_autoloss.weighting.AGDAWeighting` has the formulas.

    Deviations:
        PaddleScience's code ends with an error at a step that is not a multiple of M.  The rates
        are shares among the losses and not among all past steps, and the smoothed losses start at
        the first losses, not at 0; gradients differ accordingly.  There is state to save.

    Args:
        model: the network.
        M: steps between the losses that the rates refer to.
        gamma: factor of the smoothed losses, from 0 to 1.

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
        if step is not None:
            self.weighting.step.set_value(np.asarray(step))
        return self._surgery(in_order, self.weighting)


class _Balanced(LossAggregator):
    """Weights by the lengths of the gradients, renewed now and then for the calls that follow."""

    should_persist = True

    def __init__(self, model: nn.Layer, weighting: NormBalanceWeighting, update_freq: int) -> None:
        super().__init__(model)
        self.weighting = weighting
        self.update_freq = checked_integer("update_freq", update_freq, least=1)
        host = paddle.CPUPlace()
        self.register_buffer("next_step", paddle.to_tensor(0, dtype="int64", place=host))

    def forward(
        self, losses: Mapping[str, Tensor] | Sequence[Tensor], step: int | None = None
    ) -> Tensor:
        """Return the total, 0-D, with the weights as they are; then renew them if it is time.

        Args:
            losses: a tensor of one element for each name, or a list of them.
            step: the training step; by default the one after the latest, from 0.
        """
        in_order = self._in_order(losses, self.weighting.num_losses).values()
        values = _vector(in_order)
        # A copy on the device: the method has them on the host and overwrites them in place.
        total = _weighted(values, paddle.to_tensor(self.weighting.weight.numpy()))
        if paddle.is_grad_enabled() and self._is_due(step):
            self._renew(in_order, values)
        return total

    def _is_due(self, step: int | None) -> bool:
        now = int(self.next_step) if step is None else int(step)
        self.next_step.set_value(np.asarray(now + 1))
        return now % self.update_freq == 0

    def _renew(self, losses: Iterable[Tensor], values: Tensor) -> None:
        targets = self._trained()
        # One loss at a time: only the lengths are wanted, and no more than one gradient is kept.
        for dtype in ("float32", "float64"):
            squares = [Jacobian([loss], targets).gramian(dtype).flatten() for loss in losses]
            on_host = paddle.concat(squares).numpy().astype("float64")
            if not beyond_float32(on_host):
                break
        if np.isfinite(on_host).all():
            self.weighting.solve(values.numpy().astype("float64"), np.diag(on_host))


class GradNorm(_Balanced):
    r"""Weights that move the weighted gradients to one length.

    .. math::
        w_i \leftarrow m \, w_i + (1 - m) \frac{\text{mean}_j \lVert g_j \rVert}{\lVert g_i \rVert}

    It has its name from PaddleScience.  `paddleseg_autoloss.weighting.NormBalanceWeighting` has
    its origin; GradNorm by Chen et al. is `paddleseg_autoloss.GradNorm`.

    Deviations:
        Value and gradient of a total have the same weights; PaddleScience overwrites them in place,
        and where it renews them the gradient has the new ones.  Without ``step`` it renews them at
        every call.  A loss without gradient keeps its weight, which becomes infinite there, and
        gradients that are not finite leave all weights as they are.

    Args:
        model: the network.
        num_losses: K, the number of losses.
        update_freq: at steps that are a multiple of it the weights are renewed, for later calls.
        momentum: m, from 0 to 1.
        init_weights: the first weights, one for each loss; all 1 by default.

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
        >>> weight1, weight2 = loss_aggregator.state_dict()["weighting.weight"].tolist()
        >>> weight1 > 1 > weight2  # the gradient of loss2 is the longer one
        True
    """

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
    r"""Weights in the manner of the neural tangent kernel.

    .. math:: w_i \leftarrow \frac{\sum_j \lVert g_j \rVert}{\lVert g_i \rVert}

    `paddleseg_autoloss.weighting.NTKWeighting` has the origin.

    Deviations:
        :math:`\lVert g_i \rVert` is of loss i alone; in PaddleScience it is of the sum of the
        losses up to i, and these gradients end up in the step.  Losses come as a dict or a list;
        PaddleScience takes a list and its solver passes a dict.  Otherwise as in `GradNorm`.

    Args:
        model: the network.
        num_losses: K, the number of losses.
        update_freq: at steps that are a multiple of it the weights are renewed, for later calls.

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
        >>> weights = loss_aggregator.state_dict()["weighting.weight"]
        >>> round(float((1 / weights).sum()), 4)
        1.0
    """

    def __init__(self, model: nn.Layer, num_losses: int = 1, update_freq: int = 1000) -> None:
        super().__init__(model, NTKWeighting(num_losses), update_freq)


class PCGrad(LossAggregator):
    """Projecting conflicting gradients.

    `paddleseg_autoloss.weighting.PCGradWeighting` has the formula.  There may be any number of
    losses, a different one at every call.

    Deviations:
        As in the paper, every gradient has a random order of its own, and none is projected onto
        its own normal plane; with three losses or more results can differ from PaddleScience's.
        The order is drawn from a generator of the aggregator's own: there is state to save.

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
            step: is not used.
        """
        named = _named(losses)
        weighting = PCGradWeighting(len(named))
        weighting.draws = self.draws
        return self._surgery(named, weighting)


class Relobralo(LossAggregator):
    """Relative loss balancing with random lookback.

    `paddleseg_autoloss.weighting.RelobraloWeighting` has the formula.

    Deviations:
        The first call is the first of this aggregator or of the run it resumes.  PaddleScience goes
        by ``step`` being 0, and then returns the plain sum and forgets the first losses; beginning
        at another step, it divides by zero.  Lookbacks are drawn from a generator of the
        aggregator's own.  As in PaddleScience negative losses are taken, though their rates have no
        meaning; `paddleseg_autoloss.Relobralo` refuses them.

    Args:
        num_losses: K, the number of losses.
        alpha: how much of the past is kept, from 0 to 1.
        beta: probability of looking back to the previous step and not to the first, from 0 to 1.
        tau: temperature, at least 0; small values favour the loss that fell least, and 0 the
            largest loss.
        eps: keeps a loss of 0 from dividing by 0.

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
        >>> weights = loss_aggregator.state_dict()["weighting.lmbda"]
        >>> round(float(weights.sum()), 4), weights.tolist() != [1.0, 1.0]
        (2.0, True)
    """

    should_persist = True

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
            step: is not used.
        """
        in_order = self._in_order(losses, self.weighting.num_losses)
        values = _vector(in_order.values())
        return _weighted(values, self.weighting(values.astype(self.weighting.lmbda.dtype)))


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
            step: is not used.
        """
        values = _vector(_named(losses).values())
        return _weighted(values, paddle.ones_like(values))


def _named(losses: Mapping[str, Tensor] | Sequence[Tensor]) -> dict[str, Tensor]:
    is_dict = isinstance(losses, Mapping)
    named = dict(losses) if is_dict else {str(i): loss for i, loss in enumerate(losses)}
    if not named:
        raise ConfigError("losses: expected at least one, found none")
    return named


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


# Under mixed precision the sum of weighted losses would be taken in half precision.
@paddle.amp.auto_cast(enable=False)
def _vector(losses: Iterable[Tensor]) -> Tensor:
    """Return tensors of one element each as one vector; float64 only if one of them is."""
    scalars = [loss.reshape([]) for loss in losses]
    is_double = any(scalar.dtype == paddle.float64 for scalar in scalars)
    dtype = "float64" if is_double else "float32"
    return paddle.stack([scalar.astype(dtype) for scalar in scalars])


@paddle.amp.auto_cast(enable=False)
def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    return (weights.astype(values.dtype) * values).sum()
