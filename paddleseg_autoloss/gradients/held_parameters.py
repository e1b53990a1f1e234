"""Check that an optimizer holds the parameter that a method learns; otherwise it never changes."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import numpy as np
from paddle import Tensor
from paddle.optimizer import Optimizer

from paddleseg_autoloss.errors import UnheldParameterError
from paddleseg_autoloss.tensors import all_parameters
from paddleseg_autoloss.weighting import Weighting

__all__ = ["HeldParameter"]


class HeldParameter:
    """Searches all optimizers of the process for one that holds a method's learned parameter.

    Args:
        weighting: a method with a learned parameter.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.gradients.held_parameters import HeldParameter
        >>> from paddleseg_autoloss.weighting import AutoWeighting
        >>> weighting = AutoWeighting(2)
        >>> held = HeldParameter(weighting)
        >>> held.is_held()
        False
        >>> optimizer = paddle.optimizer.SGD(parameters=weighting.parameters())
        >>> weighting.learned().sum().backward()
        >>> held.is_held()
        True
    """

    def __init__(self, weighting: Weighting) -> None:
        self._weighting = weighting
        self._had_gradient = False
        self._hook: Any = None
        self._sums_of_optimizers: dict[int, float] = {}

    def is_held(self) -> bool:
        """Return whether an optimizer is known to hold the parameter.

        Call it before every step until it returns True.  Before the parameter's first gradient it
        returns False without a search, because the optimizer may not exist yet.

        Raises:
            UnheldParameterError: an optimizer has taken a step since the last call, and no
                optimizer holds the parameter.
        """
        parameter = self._weighting.learned()
        if parameter is None or parameter.stop_gradient:
            return False
        if self._hook is None:
            self._hook = parameter.register_hook(self._note_gradient)
        if not self._had_gradient and parameter.grad is None:
            return False
        optimizers = [o for o in gc.get_objects() if issubclass(type(o), Optimizer)]
        holders = [o for o in optimizers if any(p is parameter for p in _trainable_parameters(o))]
        if holders:
            if any(_decays(optimizer, parameter) for optimizer in holders):
                warnings.warn(
                    f"{self._weighting.class_name}: the weight decay of the optimizer moves the "
                    f"learned parameter {self._weighting.parameter_name!r} to 0, which changes the "
                    "weights; put it into a parameter group with weight_decay 0.0",
                    stacklevel=2,
                )
            self._hook.remove()
            self._hook = None
            return True
        previous = self._sums_of_optimizers
        sums = {id(o): sum(float(p.sum()) for p in _trainable_parameters(o)) for o in optimizers}
        self._sums_of_optimizers = sums
        if any(
            not np.array_equal(sums[key], previous.get(key, sums[key]), equal_nan=True)
            for key in sums
        ):
            raise UnheldParameterError(
                f"{self._weighting.class_name}: no optimizer holds its learned parameter "
                f"{self._weighting.parameter_name!r}, so the weights would never change; import "
                "paddleseg_autoloss before paddleseg.core.train, or add the loss's parameters() "
                "to your optimizer"
            )
        return False

    def _note_gradient(self, gradient: Tensor) -> None:
        self._had_gradient = True


def _decays(optimizer: Optimizer, parameter: Tensor) -> bool:
    """Return whether an optimizer has weight decay for a parameter that it holds."""
    applies = getattr(optimizer, "_apply_decay_param_fun", None)
    if applies is not None and not applies(parameter.name):
        return False
    groups = [group for group in optimizer._param_groups if isinstance(group, dict)]
    own = [g for g in groups if any(p is parameter for p in g["params"])]
    settings = [group["weight_decay"] for group in own if "weight_decay" in group]
    settings.append(getattr(parameter, "regularizer", None))
    for name in ("regularization", "_weight_decay", "_regularization_coeff"):
        settings.append(getattr(optimizer, name, None))
    # The setting of the parameter or its group has priority over that of the optimizer.
    decay = next((setting for setting in settings if setting is not None), 0.0)
    return float(getattr(decay, "_coeff", decay)) != 0


def _trainable_parameters(optimizer: Optimizer) -> list[Tensor]:
    groups = getattr(optimizer, "_param_groups", None) or []
    return [p for p in all_parameters(groups) if not p.stop_gradient]
