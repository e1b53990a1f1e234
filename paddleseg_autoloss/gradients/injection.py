"""Lets ``backward`` add gradients that were computed before, instead of computing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from paddle import Tensor
from paddle.autograd import PyLayer

__all__ = ["inject"]


def inject(
    value: Tensor,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    divisor: Tensor | None = None,
    on_backward: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Return a copy of ``value`` whose ``backward`` adds ``gradients`` to those of the parameters.

    The gradients are multiplied by the incoming gradient, so the result can be multiplied by
    coefficients and loss scales as usual.  Hooks, gradient scalers, gradient clipping and
    DataParallel work as usual.  ``backward`` can be called only once, which is a limit of Paddle's
    ``PyLayer``.

    Args:
        value: the value of the result, with one element.
        parameters: the parameters.
        gradients: one gradient for each parameter; None adds nothing to it.
        divisor: number by which the incoming gradient is divided first, with one element.
        on_backward: function that ``backward`` calls with this quotient.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.gradients import inject
        >>> x = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
        >>> (3 * inject(paddle.to_tensor(0.5), [x], [paddle.to_tensor([1.0, -1.0])])).backward()
        >>> x.grad.tolist()
        [3.0, -3.0]
    """
    trainable = [
        (p, g) for p, g in zip(parameters, gradients) if g is not None and not p.stop_gradient
    ]
    held = _Held([g for _, g in trainable], [p.dtype for p, _ in trainable], divisor, on_backward)
    return _Injection.apply(value.detach(), held, *[p for p, _ in trainable])


class _Held:
    """Hides the gradients from autograd, which would treat a list of tensors as inputs."""

    def __init__(
        self,
        gradients: list[Tensor],
        dtypes: list[Any],
        divisor: Tensor | None,
        on_backward: Callable[[Tensor], None] | None,
    ) -> None:
        self.gradients = gradients
        self.dtypes = dtypes
        self.divisor = divisor
        self.on_backward = on_backward


class _Injection(PyLayer):
    @staticmethod
    def forward(ctx: Any, value: Tensor, held: _Held, *parameters: Tensor) -> Tensor:
        ctx.held = held
        # Autograd needs an output that is not an input.
        return value.clone()

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        held = ctx.held
        factor = incoming.astype("float32").reshape([])
        if held.divisor is not None:
            factor = factor / held.divisor.reshape([])
        if held.on_backward is not None:
            held.on_backward(factor)
        gradients, held.gradients = held.gradients, []
        scaled = [(g * factor).astype(dtype) for g, dtype in zip(gradients, held.dtypes)]
        return (None, *scaled)
