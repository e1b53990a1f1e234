"""Gradients that were found beforehand, put where ``backward`` would have left its own."""

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
    """Return ``value`` as a tensor whose ``backward`` adds ``gradients`` to the parameters'.

    The gradients are multiplied by the incoming one, so coefficients and loss scales that are
    applied to the result afterwards count as usual; hooks, gradient scalers, gradient clipping and
    DataParallel see nothing unusual.  ``backward`` can be called only once: Paddle cannot pass
    through a layer of this kind twice.

    Args:
        value: the loss to show, of one element.
        parameters: the parameters.
        gradients: one for each parameter, or None to leave it without.
        divisor: what the incoming gradient is divided by first, of one element.
        on_backward: is called with that quotient.

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
    """The gradients, opaque to autograd: a list of tensors would count as inputs."""

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
