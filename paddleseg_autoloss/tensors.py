"""Tensors: where they are in nested outputs and parameter groups, and how they join."""

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
    """Return the tensors in what a network returned, which may be nested."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, (list, tuple)):
        return [tensor for output in outputs for tensor in tensors_in(output)]
    return []


def as_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in single precision: itself, or a copy."""
    return tensor if tensor.dtype == paddle.float32 else tensor.astype("float32")


def as_vector(values: Sequence[Tensor]) -> Tensor:
    """Return tensors of one element each, of any types, as one vector, float32."""
    return paddle.concat([as_float32(value).reshape([1]) for value in values])


def all_parameters(groups: list[Any]) -> list[Tensor]:
    """Return the parameters in an optimizer's list, which is one of parameters or of groups."""
    if not groups or not isinstance(groups[0], dict):
        return groups
    return [p for group in groups for p in group["params"]]


def inner_product(first: Tensor, second: Tensor, dtype: str = "float32") -> Tensor:
    """Return the inner product of two vectors, 0-D.

    Args:
        first: float32, shape [n].
        second: likewise.
        dtype: what it is found in: ``"float32"``, or ``"float64"``, which takes space for 4 n
            numbers more, where `beyond_float32` is true.
    """
    if dtype != "float32":
        first, second = first.astype(dtype), second.astype(dtype)
    # Multiply and sum: Paddle's products of long vectors are off by a thousandth on a CPU.
    return (first * second).sum()


def beyond_float32(squares: np.ndarray) -> bool:
    """Return whether single precision has no room for sums of squares.

    They are beyond its largest numbers, or so small that some of the squares have vanished.

    Args:
        squares: any number of them.
    """
    return not ((squares > 1e-24) & (squares < 1e38)).all()


def describe_broken(number: float) -> str:
    """Return in words what a number that is not finite stands for: an error, or an overflow."""
    return "NaN" if np.isnan(number) else "infinite, an overflow"


def length(vector: Tensor) -> Tensor:
    """Return the length of a vector whatever its scale, 0-D; nothing here waits for the device.

    Args:
        vector: float32, shape [n].
    """
    largest = vector.abs().max()
    # Powers of 2, which change no digits; 1 in the usual range.
    one = paddle.ones_like(largest)
    factor = paddle.where(largest > 2.0**40, one * 2.0**-80, one)
    factor = paddle.where(largest < 2.0**-40, one * 2.0**80, factor)
    scaled = vector * factor
    return (scaled * scaled).sum().sqrt() / factor
