"""The PaddleSeg LOSSES components, one for each method; importing them registers them."""

from paddleseg_autoloss.losses.components import COMPONENTS
from paddleseg_autoloss.losses.weighted import WeightedLoss

__all__ = ["COMPONENTS", "WeightedLoss"]
