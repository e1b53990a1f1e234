"""One optimizer step for each loss in turn."""

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
    """Lets an optimizer take further steps, with gradients of their own, before each of its steps.

    The steps have the optimizer's settings: rate, clipping, decay, moments.  An AMP scaler that
    skips a step skips them too.

    Args:
        optimizer: any Paddle optimizer.
        parameters: the parameters whose gradients are exchanged.
        rates: factor of the learning rate for each further step, and last for the usual one.
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
        # What a gradient scaler calls.
        optimizer.minimize = self._with_substeps(self._minimize)

    def inject(self, jacobian: Jacobian, factor: float) -> Tensor:
        """Return 0 as a tensor whose ``backward`` gives each step the gradient of its loss.

        That of the last loss goes to the parameters, for the usual step.

        Args:
            jacobian: the gradients of the losses, a row for each step.
            factor: by which to multiply the gradients.
        """
        # A gradient scaler undoes its own scale in the usual step alone.
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
        """Forget the gradients, as ``clear_grad`` does those of the parameters."""
        self._gradients = [{} for _ in self.rates[:-1]]

    def remove(self) -> None:
        """Give the optimizer its own steps back."""
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
