"""The networks of PaddleSeg that the benchmarks of gradients train."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from paddleseg.cvlibs import manager

#: Backbone and arguments of a network; one that is not here has neither.
_BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "PPLiteSeg": ("STDC1", {}),
    "OCRNet": ("HRNet_W18", {"backbone_indices": [0]}),
    "DeepLabV3P": ("ResNet50_vd", {"backbone_indices": [0, 3]}),
}
#: The layer for ``level: features``, as in ``named_sublayers``, where it isn't ``backbone``.
_FEATURE_LAYERS = {"UNet": "encode", "BiSeNetV2": "sb"}


class FirstHeads(nn.Layer):
    """A network of PaddleSeg with its first outputs only.

    Args:
        network: the network.
        heads: how many outputs it has.
    """

    def __init__(self, network: nn.Layer, heads: int) -> None:
        super().__init__()
        self.network = network
        self.heads = heads

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """Return the first outputs."""
        return list(self.network(images)[: self.heads])


def make_network(name: str, classes: int = 2, heads: int = 1) -> FirstHeads:
    """Build a network of PaddleSeg, with random weights.

    Args:
        name: its name in PaddleSeg.
        classes: number of classes.
        heads: how many outputs it has.
    """
    backbone, arguments = _BACKBONES.get(name, (None, {}))
    if backbone is not None:
        arguments = {"backbone": manager.BACKBONES[backbone](), **arguments}
    return FirstHeads(manager.MODELS[name](num_classes=classes, **arguments), heads)


def feature_layer(name: str) -> str:
    """Return the layer of `make_network` whose outputs are the features.

    Args:
        name: name of the network in PaddleSeg.
    """
    return f"network.{_FEATURE_LAYERS.get(name, 'backbone')}"
