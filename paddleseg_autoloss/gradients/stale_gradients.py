"""Check that the gradient of a method's learned parameter is cleared between steps.

Without this check training would continue silently with the sum of all gradients since its start.
"""

from __future__ import annotations

import paddle
from paddle import Tensor

from paddleseg_autoloss.errors import UnclearedGradientError
from paddleseg_autoloss.weighting import Weighting

__all__ = ["StaleGradient"]


class StaleGradient:
    """Detects that a new gradient is added to the gradient of an earlier step.

    The gradient may be cleared at any time between the optimizer's step and the next backward pass.
    Several backward passes before one step may add up their gradients.

    Args:
        weighting: a method; if it has no learned parameter, nothing is checked.

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
        self._has_hook = False

    @paddle.no_grad()
    def _compare(self, gradient: Tensor) -> None:
        """Compare the parameter with the last backward pass; the new gradient is not added yet."""
        parameter = self._weighting.learned()
        assert parameter is not None, "only a learned parameter has the hook"
        value = parameter.detach().clone()
        if self._value is not None and parameter.grad is not None:
            stepped = (value != self._value).any()
            found = stepped & (parameter.grad != 0).any()
            self._is_stale = found if self._is_stale is None else self._is_stale | found
        self._value = value

    def check(self) -> None:
        """Raise an error if the latest backward passes found a stale gradient.

        Call it in the forward passes of training.  It waits for the device.

        Raises:
            UnclearedGradientError: a gradient was added to one that the optimizer had already used
                in a step.
        """
        if not self._has_hook:
            # The hook is added here, because PaddleSeg's loop never calls this and needs no hook.
            self._has_hook = True
            parameter = self._weighting.learned()
            if parameter is not None:
                parameter.register_hook(self._compare)
        if self._is_stale is None:
            return
        is_stale, self._is_stale = bool(self._is_stale), None
        if is_stale:
            raise UnclearedGradientError(
                f"{self._weighting.class_name}: the gradient of its learned parameter "
                f"{self._weighting.parameter_name!r} is not cleared between the steps and adds up; "
                "after every step, call clear_grad() of the optimizer that holds it "
                "(model.clear_gradients() clears the model's parameters only)"
            )
