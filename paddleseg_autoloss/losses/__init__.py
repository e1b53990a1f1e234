"""The components in PaddleSeg's LOSSES registry, one per method; importing this registers them."""

from paddleseg_autoloss.losses.components import COMPONENTS
from paddleseg_autoloss.losses.weighted import WeightedLoss

__all__ = ["COMPONENTS", "WeightedLoss"]
