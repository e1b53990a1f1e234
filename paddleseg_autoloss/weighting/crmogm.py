"""Smoothed weights by Zhou et al."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.errors import ConfigError, did_you_mean, shown
from paddleseg_autoloss.weighting.base import (
    GramianWeighting,
    JacobianWeighting,
    LossWeighting,
    Weighting,
    own_arguments,
)

__all__ = ["CRMOGMWeighting"]

#: Methods that cannot be averaged, with the reason; it does not depend on their kind.
_REFUSED = {"CRMOGM": "averages already", "SeparateBackward": "has constant weights"}


class CRMOGMWeighting(Weighting):
    r"""The weights of another method, averaged over the steps (CR-MOGM, Zhou et al. 2022).

    Weights that are computed from the gradients of one mini-batch are noisy, and their noise
    correlates with the noise of these gradients, which can prevent convergence.  An average over
    the past steps does not have this problem.  With the weights :math:`\hat\lambda_k` that the
    method computes at step k:

    .. math::
        \lambda_k = \alpha \lambda_{k-1} + (1 - \alpha) \hat\lambda_k, \qquad
        \lambda_0 = \hat\lambda_0

    S. Zhou, W. Zhang, J. Jiang, W. Zhong, J. Gu, W. Zhu, "On the Convergence of Stochastic
    Multi-Objective Gradient Manipulation and Beyond", NeurIPS 2022.  Sign, sum and scale of the
    weights are those of the method.  The kind is also the same: if the method is a `LossWeighting`,
    so is the object; if it is a `GramianWeighting`, so is the object.

    Deviations:
        alpha is constant, with TorchJD's default; the paper proves convergence for an alpha that
        goes to 1 as the learning rate goes to 0.  Methods that learn their weights, that need the
        whole Jacobian or held-out images, or that change the optimizer's steps are refused.  A step
        whose losses are not all finite does not change the stored state and gets the previous
        weights.

    Args:
        num_losses: K, the number of losses.
        method: the method whose weights to average, by the name that a config uses.
        options: arguments of the method and their values; the others have their defaults.
        alpha: share of the past weights, from 0, which is the plain method, to 1, which keeps the
            first weights.

    Attributes:
        averaged: the method whose weights are averaged.

    Raises:
        ConfigError: there is no such method or it cannot be averaged, it has no such argument, or
            an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import CRMOGMWeighting
        >>> weighting = CRMOGMWeighting(2, method="IMTLG", alpha=0.9)
        >>> weighting(paddle.ones([2]), paddle.to_tensor([[9.0, 0.0], [0.0, 1.0]])).tolist()
        [0.25, 0.75]
        >>> weights = weighting(paddle.ones([2]), paddle.eye(2))  # IMTL-G has 1/2, 1/2
        >>> [round(w, 4) for w in weights.tolist()]
        [0.275, 0.725]
    """

    config_name = "CRMOGM"
    sums_to = "as in its method"
    may_be_negative = True

    def __new__(
        cls,
        num_losses: int,
        method: str = "MGDA",
        options: dict[str, Any] | None = None,
        alpha: float = 0.9,
    ) -> CRMOGMWeighting:
        """Return an object of the method's kind, as `pathlib.Path` does for the kind of path."""
        if cls is not CRMOGMWeighting:
            return super().__new__(cls)
        of_losses = issubclass(_find_method(method), LossWeighting)
        return super().__new__(_AverageFromLosses if of_losses else _AverageFromGramian)

    def __getnewargs__(self) -> tuple[Any, ...]:
        # `copy` calls __new__ with these arguments.
        return self.num_losses, self.method, self.options, self.alpha

    def __init__(
        self,
        num_losses: int,
        method: str = "MGDA",
        options: dict[str, Any] | None = None,
        alpha: float = 0.9,
    ) -> None:
        super().__init__(num_losses)
        self.method = method
        self.options = options
        self.alpha = checked_range("alpha", alpha, least=0, most=1)
        self.averaged = _make_method(method, num_losses, {} if options is None else options)
        for attribute in (
            "sums_to",
            "scale",
            "may_be_negative",
            "loss_range",
            "needs_losses_after_step",
        ):
            setattr(self, attribute, getattr(self.averaged, attribute))
        # NaN until the first call whose losses are finite.
        self.register_buffer("lmbda", paddle.full([num_losses], float("nan")))

    @property
    def class_name(self) -> str:
        """The name of the class that users know."""
        return CRMOGMWeighting.__name__

    @paddle.no_grad()
    def average(self, losses: Tensor, found: Tensor) -> Tensor:
        """Return lambda, shape [K], and store it.

        Args:
            losses: the loss values, shape [K].
            found: the weights that the method computed for them, shape [K].
        """
        average = self.alpha * self.lmbda + (1 - self.alpha) * found
        self.remember(losses, lmbda=paddle.where(self.lmbda.isnan(), found, average))
        return paddle.where(self.lmbda.isnan(), found, self.lmbda)

    def out_of_range(self, losses: Tensor) -> Tensor:
        """Return which losses the method does not accept, bool, shape [K]."""
        return self.averaged.out_of_range(losses)

    def lower_bound(self, index: int) -> float:
        """Return the bound that the method has for a loss."""
        return self.averaged.lower_bound(index)

    def take_names(self, names: Sequence[str]) -> None:
        """Pass the names of the losses to the method."""
        self.averaged.take_names(names)

    def observe_after_step(self, losses: Tensor) -> None:
        """Pass the losses of the same batch after the step to the method."""
        self.averaged.observe_after_step(losses)


class _AverageFromLosses(CRMOGMWeighting, LossWeighting):
    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return lambda, shape [K], detached."""
        return self.average(losses, self.averaged(losses))


class _AverageFromGramian(CRMOGMWeighting, GramianWeighting):
    averaged: GramianWeighting

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return lambda, shape [K]."""
        found = self.averaged.solve(losses, gramian)
        values = paddle.to_tensor(losses, dtype="float32")
        average = self.average(values, paddle.to_tensor(found, dtype="float32"))
        return average.numpy().astype("float64")


def _make_method(name: str, num_losses: int, options: dict[str, Any]) -> Weighting:
    method = _find_method(name)
    if not isinstance(options, dict):
        raise ConfigError(f"options: expected names and values, found {options!r}")
    known = own_arguments(method).keys()
    for argument in options.keys() - known:
        raise ConfigError(f"options: {name} has no {argument!r}{did_you_mean(argument, known)}")
    return method(num_losses, **options)


def _find_method(name: str) -> type[Weighting]:
    """Return the method of a name, or raise ConfigError if there is none that can be averaged."""
    # This import is here because the registry of methods imports this module.
    from paddleseg_autoloss.weighting import METHODS

    if not isinstance(name, str):
        raise ConfigError(f"method: expected a name, found {shown(name)}")
    if name not in METHODS:
        averageable = [key for key, kind in METHODS.items() if _why_not(key, kind) is None]
        raise ConfigError(f"method: there is no {name!r}{did_you_mean(name, averageable)}")
    reason = _why_not(name, METHODS[name])
    if reason is not None:
        raise ConfigError(f"method: CRMOGM cannot average {name}, which {reason}")
    return METHODS[name]


def _why_not(name: str, method: type[Weighting]) -> str | None:
    """Return why the weights of a method cannot be averaged, or None."""
    if name in _REFUSED:
        return _REFUSED[name]
    if method.parameter_name is not None:
        return "learns its weights"
    if method.uses_held_out:
        return "learns from held-out images"
    return "needs the whole Jacobian" if issubclass(method, JacobianWeighting) else None
