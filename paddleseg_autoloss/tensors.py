"""Functions that find tensors in nested outputs and parameter groups, and combine them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

__all__ = [
    "all_parameters",
    "as_float32",
    "as_vector",
    "beyond_float32",
    "describe_broken",
    "inner_product",
    "length",
    "tensors_in",
]


def tensors_in(outputs: Any) -> list[Tensor]:
    """Return the tensors in the outputs of a network, which may be nested."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, (list, tuple)):
        return [tensor for output in outputs for tensor in tensors_in(output)]
    return []


def as_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in single precision: the same tensor, or a copy."""
    return tensor if tensor.dtype == paddle.float32 else tensor.astype("float32")


def as_vector(values: Sequence[Tensor]) -> Tensor:
    """Return tensors with one element each, of any type, as one float32 vector."""
    return paddle.concat([as_float32(value).reshape([1]) for value in values])


def all_parameters(groups: list[Any]) -> list[Tensor]:
    """Return the parameters in an optimizer's list, which contains parameters or groups."""
    if not groups or not isinstance(groups[0], dict):
        return groups
    return [p for group in groups for p in group["params"]]


def inner_product(first: Tensor, second: Tensor, dtype: str = "float32") -> Tensor:
    """Return the inner product of two vectors, 0-D.

    Args:
        first: float32, shape [n].
        second: float32, shape [n].
        dtype: type of the computation: ``"float32"``; or ``"float64"`` if `beyond_float32` is true,
            which needs memory for 4 n more numbers.
    """
    if dtype != "float32":
        first, second = first.astype(dtype), second.astype(dtype)
    # Multiply and sum, because Paddle's products of long vectors have an error of a thousandth on a
    # CPU.
    return (first * second).sum()


def beyond_float32(squares: np.ndarray) -> bool:
    """Return whether sums of squares are outside of the range of single precision.

    They are larger than its largest numbers, or so small that some squares may have become 0.

    Args:
        squares: the sums of squares, any number of them.
    """
    return not ((squares > 1e-24) & (squares < 1e38)).all()


def describe_broken(number: float) -> str:
    """Describe a number that is not finite: NaN, or infinity after an overflow."""
    return "NaN" if np.isnan(number) else "infinite, an overflow"


def length(vector: Tensor) -> Tensor:
    """Return the length of a vector of any scale, 0-D, without waiting for the device.

    Args:
        vector: float32, shape [n].
    """
    largest = vector.abs().max()
    # Scale by powers of 2, which change no digits; the scale is 1 in the usual range.
    one = paddle.ones_like(largest)
    factor = paddle.where(largest > 2.0**40, one * 2.0**-80, one)
    factor = paddle.where(largest < 2.0**-40, one * 2.0**80, factor)
    scaled = vector * factor
    return (scaled * scaled).sum().sqrt() / factor
