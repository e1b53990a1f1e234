"""Automatic loss weighting for PaddleSeg.

Importing the package registers its losses and data sets with PaddleSeg, cures the faults of the
installed PaddleSeg (`paddleseg_autoloss.compat`), and makes ``paddleseg.core.train`` train the
parameters of losses.  Import it before Paddle: Paddle 2.6.2 depends on the order.
"""

from paddleseg_autoloss import compat  # noqa: F401  isort: skip

from paddleseg_autoloss.datasets import SyntheticFundus
from paddleseg_autoloss.integration.training import install
from paddleseg_autoloss.losses import (
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

__version__ = "0.2.0"

install()

__all__ = [
    "AGDA",
    "AutoWeightedLoss",
    "CAGrad",
    "GradNorm",
    "PCGrad",
    "Relobralo",
    "SeparateBackward",
    "Sum",
    "SyntheticFundus",
    "UncertaintyWeightedLoss",
    "__version__",
]
