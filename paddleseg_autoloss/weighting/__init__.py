"""The mathematics of loss weighting: K losses in, K weights out.  One method, one file."""

from paddleseg_autoloss.weighting.auto import AutoWeighting
from paddleseg_autoloss.weighting.base import Weighting
from paddleseg_autoloss.weighting.sum import SumWeighting
from paddleseg_autoloss.weighting.uncertainty import UncertaintyWeighting

__all__ = ["AutoWeighting", "SumWeighting", "UncertaintyWeighting", "Weighting"]
