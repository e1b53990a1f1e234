"""The PaddleSeg LOSSES components; importing them registers them."""

from paddleseg_autoloss.losses.components import (
    AGDA,
    AutoWeightedLoss,
    CAGrad,
    GradNorm,
    PCGrad,
    Relobralo,
    SeparateBackward,
    Sum,
    UncertaintyWeightedLoss,
)
from paddleseg_autoloss.losses.weighted import WeightedLoss

__all__ = [
    "AGDA",
    "AutoWeightedLoss",
    "CAGrad",
    "GradNorm",
    "PCGrad",
    "Relobralo",
    "SeparateBackward",
    "Sum",
    "UncertaintyWeightedLoss",
    "WeightedLoss",
]
