"""Derivatives along a direction, from values at two points beside the parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import paddle
from paddle import Tensor

__all__ = ["slopes_along"]

#: How far the two points are from the parameters; Liu et al. (DARTS, 2019) use the same number.
_DISTANCE = 0.01


@paddle.no_grad()
def slopes_along(
    direction: Sequence[tuple[Tensor, Tensor]], evaluate: Callable[[], Tensor]
) -> Tensor:
    r"""Return the derivatives of values along a direction d, by central differences.

    .. math::
        \langle g_i, d \rangle \approx \frac{\lVert d \rVert}{2 \epsilon} \Big(
            L_i \big( \theta + \epsilon \tfrac{d}{\lVert d \rVert} \big)
            - L_i \big( \theta - \epsilon \tfrac{d}{\lVert d \rVert} \big) \Big),
        \qquad \epsilon = 0.01

    The parameters are the same afterwards, bit for bit.  Both evaluations draw the same random
    numbers.

    Args:
        direction: the parameters :math:`\theta` that move, in single precision, each with its part
            of d.
        evaluate: computes the values :math:`L_i` at the parameters as they are, shape [K].

    Returns:
        The derivatives, shape [K].

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.gradients.differences import slopes_along
        >>> x = paddle.create_parameter([2], "float32")
        >>> x.set_value(paddle.to_tensor([1.0, 2.0]))
        >>> direction = [(x, paddle.to_tensor([3.0, 4.0]))]
        >>> slopes = slopes_along(direction, lambda: paddle.stack([x.sum(), (x * x).sum()]))
        >>> [round(slope, 2) for slope in slopes.tolist()]  # 3 + 4, and 2 * 3 + 4 * 4
        [7.0, 22.0]
    """
    moved = [(parameter, parameter.clone(), part) for parameter, part in direction]
    squares = [(d.astype("float64") ** 2).sum() for _, _, d in moved]
    length = float(paddle.stack(squares).sum().sqrt()) if squares else 0.0
    step = _DISTANCE / length if length > 0 else 0.0
    values, random = [], paddle.get_rng_state()
    try:
        for signed in (step, -step):
            for parameter, before, part in moved:
                paddle.assign(before + signed * part, output=parameter)
            paddle.set_rng_state(random)
            values.append(evaluate())
    finally:
        for parameter, before, _ in moved:
            paddle.assign(before, output=parameter)
    return (values[0] - values[1]) * (length / (2 * _DISTANCE))
