"""The PaddleSeg LOSSES components; importing them registers them."""

from paddleseg_autoloss.losses.components import AutoWeightedLoss, Sum, UncertaintyWeightedLoss
from paddleseg_autoloss.losses.weighted import WeightedLoss

__all__ = ["AutoWeightedLoss", "Sum", "UncertaintyWeightedLoss", "WeightedLoss"]
