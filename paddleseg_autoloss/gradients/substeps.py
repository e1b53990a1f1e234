"""One optimizer step for each loss, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import Tensor
from paddle.optimizer import Optimizer

from paddleseg_autoloss.gradients.injection import inject
from paddleseg_autoloss.gradients.jacobian import Jacobian

__all__ = ["Substeps"]


class Substeps:
    """Adds substeps with other gradients before each step of an optimizer.

    The substeps use all settings of the optimizer: learning rate, clipping, weight decay, moments.
    If an AMP scaler skips the step, it skips the substeps too.

    Args:
        optimizer: any Paddle optimizer.
        parameters: the parameters whose gradients are replaced for the substeps.
        rates: factors of the learning rate: one for each substep, then one for the usual step.
    """

    def __init__(
        self, optimizer: Optimizer, parameters: Sequence[Tensor], rates: Sequence[float]
    ) -> None:
        self.optimizer = optimizer
        self.parameters = list(parameters)
        self.rates = list(rates)
        self._gradients: list[dict[int, Tensor]] = []
        self.clear()
        self._step, self._minimize = optimizer.step, optimizer.minimize
        optimizer.step = self._with_substeps(self._step)
        # A gradient scaler calls this function.
        optimizer.minimize = self._with_substeps(self._minimize)

    def inject(self, jacobian: Jacobian, factor: float | Tensor) -> Tensor:
        """Return 0 as a tensor whose ``backward`` stores the gradient of each loss for its substep.

        The gradient of the last loss is added to the parameters' gradients, for the usual step.

        Args:
            jacobian: the gradients of the losses, one row per step.
            factor: number by which the gradients are multiplied.
        """
        # A gradient scaler divides only the gradients of the usual step by its scale.
        scale = jacobian.scale
        *further, last = [jacobian.row(index) for index in range(len(self.rates))]
        parameters = jacobian.targets

        def keep(incoming: Tensor) -> None:
            own = incoming if scale is None else incoming / scale.reshape([])
            for gradients, rows in zip(self._gradients, further):
                for parameter, row in zip(parameters, rows):
                    if row is not None:
                        known, added = gradients.get(id(parameter)), row * own
                        gradients[id(parameter)] = added if known is None else known + added

        zero = paddle.zeros([], dtype="float32")
        return inject(zero, parameters, last, divisor=scale, on_backward=keep) * factor

    def clear(self) -> None:
        """Delete the stored gradients, as ``clear_grad`` does for those of the parameters."""
        self._gradients = [{} for _ in self.rates[:-1]]

    def remove(self) -> None:
        """Restore the original step functions of the optimizer."""
        self.optimizer.step, self.optimizer.minimize = self._step, self._minimize

    def _with_substeps(self, stock: Callable) -> Callable:
        def step(*args: Any, **kwargs: Any) -> Any:
            usual = [_take_gradient(parameter) for parameter in self.parameters]
            for gradients, rate in zip(self._gradients, self.rates):
                if gradients:
                    self._exchange([gradients.get(id(p)) for p in self.parameters])
                    with self._learning_rate(rate):
                        self._step()
            self.clear()
            self._exchange(usual)
            with self._learning_rate(self.rates[-1]):
                return stock(*args, **kwargs)

        return step

    def _exchange(self, gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(self.parameters, gradients):
            parameter.clear_gradient(False)
            if gradient is not None:
                parameter.grad = gradient

    @contextmanager
    def _learning_rate(self, factor: float) -> Iterator[None]:
        attributes = [parameter.optimize_attr for parameter in self.parameters]
        usual = [attribute["learning_rate"] for attribute in attributes]
        for attribute, own in zip(attributes, usual):
            attribute["learning_rate"] = own * factor
        try:
            yield
        finally:
            for attribute, own in zip(attributes, usual):
                attribute["learning_rate"] = own


def _take_gradient(parameter: Tensor) -> Tensor | None:
    """Return the gradient of a parameter and clear it."""
    if parameter.grad is None:
        return None
    # Clearing p.grad empties every tensor that shares its memory.
    gradient = parameter.grad.clone()
    parameter.clear_gradient(False)
    return gradient
