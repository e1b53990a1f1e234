"""Tensors: where they are in nested outputs and parameter groups, and how they join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import Tensor

__all__ = ["all_parameters", "as_vector", "tensors_in"]


def tensors_in(outputs: Any) -> list[Tensor]:
    """Return the tensors in what a network returned, which may be nested."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, (list, tuple)):
        return [tensor for output in outputs for tensor in tensors_in(output)]
    return []


def as_vector(values: Sequence[Tensor]) -> Tensor:
    """Return tensors of one element each as one vector, float32."""
    vector = paddle.concat([value.reshape([1]) for value in values])
    return vector if vector.dtype == paddle.float32 else vector.astype("float32")


def all_parameters(groups: list[Any]) -> list[Tensor]:
    """Return the parameters in an optimizer's list, which is one of parameters or of groups."""
    if not groups or not isinstance(groups[0], dict):
        return groups
    return [p for group in groups for p in group["params"]]
