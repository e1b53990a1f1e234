"""The mathematics of loss weighting: K losses in, K weights out.  One method, one file."""

from paddleseg_autoloss.weighting.agda import AGDAWeighting
from paddleseg_autoloss.weighting.auto import AutoWeighting
from paddleseg_autoloss.weighting.base import GramianWeighting, JacobianWeighting, Weighting
from paddleseg_autoloss.weighting.cagrad import CAGradWeighting
from paddleseg_autoloss.weighting.gradnorm import GradNormWeighting
from paddleseg_autoloss.weighting.norm_balance import NormBalanceWeighting, NTKWeighting
from paddleseg_autoloss.weighting.pcgrad import PCGradWeighting
from paddleseg_autoloss.weighting.relobralo import RelobraloWeighting
from paddleseg_autoloss.weighting.separate import SeparateBackwardWeighting
from paddleseg_autoloss.weighting.sum import SumWeighting
from paddleseg_autoloss.weighting.uncertainty import UncertaintyWeighting

__all__ = [
    "METHODS",
    "AGDAWeighting",
    "AutoWeighting",
    "CAGradWeighting",
    "GradNormWeighting",
    "GramianWeighting",
    "JacobianWeighting",
    "NTKWeighting",
    "NormBalanceWeighting",
    "PCGradWeighting",
    "RelobraloWeighting",
    "SeparateBackwardWeighting",
    "SumWeighting",
    "UncertaintyWeighting",
    "Weighting",
]

#: The methods that a config can name, by the name it uses.
METHODS: dict[str, type[Weighting]] = {
    "AGDA": AGDAWeighting,
    "AutoWeightedLoss": AutoWeighting,
    "CAGrad": CAGradWeighting,
    "GradNorm": GradNormWeighting,
    "PCGrad": PCGradWeighting,
    "Relobralo": RelobraloWeighting,
    "SeparateBackward": SeparateBackwardWeighting,
    "Sum": SumWeighting,
    "UncertaintyWeightedLoss": UncertaintyWeighting,
}
