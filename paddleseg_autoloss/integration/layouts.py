"""The layout of images: data sets have the channels first, some networks have them last."""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn

__all__ = ["first_output", "layout_of", "to_layout_of"]


def layout_of(model: nn.Layer) -> str:
    """Return ``NCHW`` or ``NHWC``, as PaddleSeg's loop reads it from a network."""
    return getattr(model, "data_format", "NCHW")


def to_layout_of(model: nn.Layer, images: Tensor) -> Tensor:
    """Return images of a data set as the network takes them.

    Args:
        model: the network.
        images: shape [B, C, H, W].
    """
    return images.transpose([0, 2, 3, 1]) if layout_of(model) == "NHWC" else images


def first_output(model: nn.Layer, outputs: Any) -> Tensor:
    """Return the first output of a network with the channels first, shape [B, C, H, W].

    Args:
        model: the network.
        outputs: what it returns, a tensor or several.
    """
    first = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    return first.transpose([0, 3, 1, 2]) if layout_of(model) == "NHWC" else first
