"""Whether somebody clears the gradient of the parameter that a method learns.

Nothing else would tell: training goes on, with the sum of all gradients since the beginning.
"""

from __future__ import annotations

import paddle
from paddle import Tensor

from paddleseg_autoloss.errors import UnclearedGradientError
from paddleseg_autoloss.weighting import Weighting

__all__ = ["StaleGradient"]


class StaleGradient:
    """Looks for the gradient of an earlier step where a new one is added to it.

    The gradient may be cleared at any time between the optimizer's step and the next backward pass,
    and several backward passes before one step may add up.

    Args:
        weighting: a method; if it learns nothing, there is nothing to look at.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.gradients.stale_gradients import StaleGradient
        >>> from paddleseg_autoloss.weighting import AutoWeighting
        >>> weighting = AutoWeighting(2)
        >>> optimizer = paddle.optimizer.SGD(0.1, parameters=weighting.parameters())
        >>> stale = StaleGradient(weighting)
        >>> for _ in range(2):
        ...     stale.check()
        ...     weighting.learned().sum().backward()
        ...     optimizer.step()
        >>> try:
        ...     stale.check()
        ... except Exception as error:
        ...     print(type(error).__name__)
        UnclearedGradientError
    """

    def __init__(self, weighting: Weighting) -> None:
        self._weighting = weighting
        self._value: Tensor | None = None
        self._is_stale: Tensor | None = None
        self._looks = False

    @paddle.no_grad()
    def _look(self, gradient: Tensor) -> None:
        """Compare with the last backward pass; the new gradient has not been added yet."""
        parameter = self._weighting.learned()
        assert parameter is not None, "it has the hook"
        value = parameter.detach().clone()
        if self._value is not None and parameter.grad is not None:
            stepped = (value != self._value).any()
            found = stepped & (parameter.grad != 0).any()
            self._is_stale = found if self._is_stale is None else self._is_stale | found
        self._value = value

    def check(self) -> None:
        """Report what the latest backward passes met; to be called in forward passes of training.

        It waits for the device.

        Raises:
            UnclearedGradientError: a gradient was added to one with which the optimizer had stepped
                already.
        """
        if not self._looks:
            # Not before: in PaddleSeg's loop, where nobody checks, nothing is to be looked at.
            self._looks = True
            parameter = self._weighting.learned()
            if parameter is not None:
                parameter.register_hook(self._look)
        if self._is_stale is None:
            return
        is_stale, self._is_stale = bool(self._is_stale), None
        if is_stale:
            raise UnclearedGradientError(
                f"{self._weighting.class_name}: the gradient of its learned parameter "
                f"{self._weighting.parameter_name!r} is not cleared between the steps and adds up; "
                "call clear_grad() of the optimizer that holds it after every step "
                "(model.clear_gradients() clears the model's parameters only)"
            )
