"""The mathematics of loss weighting: K losses in, K weights out.  One method, one file."""

from paddleseg_autoloss.weighting.agda import AGDAWeighting
from paddleseg_autoloss.weighting.aligned_mtl import AlignedMTLWeighting
from paddleseg_autoloss.weighting.auto import AutoWeighting
from paddleseg_autoloss.weighting.base import GramianWeighting, JacobianWeighting, Weighting
from paddleseg_autoloss.weighting.cagrad import CAGradWeighting
from paddleseg_autoloss.weighting.conflict_free import ConFIGWeighting
from paddleseg_autoloss.weighting.crmogm import CRMOGMWeighting
from paddleseg_autoloss.weighting.gradnorm import GradNormWeighting
from paddleseg_autoloss.weighting.gradvac import GradVacWeighting
from paddleseg_autoloss.weighting.imtl import IMTLWeighting
from paddleseg_autoloss.weighting.imtl_g import IMTLGWeighting
from paddleseg_autoloss.weighting.krum import KrumWeighting
from paddleseg_autoloss.weighting.norm_balance import NormBalanceWeighting
from paddleseg_autoloss.weighting.ntk import NTKWeighting
from paddleseg_autoloss.weighting.pcgrad import PCGradWeighting
from paddleseg_autoloss.weighting.relobralo import RelobraloWeighting
from paddleseg_autoloss.weighting.separate import SeparateBackwardWeighting
from paddleseg_autoloss.weighting.sum import SumWeighting
from paddleseg_autoloss.weighting.uncertainty import UncertaintyWeighting

__all__ = [
    "METHODS",
    "AGDAWeighting",
    "AlignedMTLWeighting",
    "AutoWeighting",
    "CAGradWeighting",
    "CRMOGMWeighting",
    "ConFIGWeighting",
    "GradNormWeighting",
    "GradVacWeighting",
    "GramianWeighting",
    "IMTLGWeighting",
    "IMTLWeighting",
    "JacobianWeighting",
    "KrumWeighting",
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
    "AlignedMTL": AlignedMTLWeighting,
    "AutoWeightedLoss": AutoWeighting,
    "CAGrad": CAGradWeighting,
    "CRMOGM": CRMOGMWeighting,
    "ConFIG": ConFIGWeighting,
    "GradNorm": GradNormWeighting,
    "GradVac": GradVacWeighting,
    "IMTL": IMTLWeighting,
    "IMTLG": IMTLGWeighting,
    "Krum": KrumWeighting,
    "NTK": NTKWeighting,
    "PCGrad": PCGradWeighting,
    "Relobralo": RelobraloWeighting,
    "SeparateBackward": SeparateBackwardWeighting,
    "Sum": SumWeighting,
    "UncertaintyWeightedLoss": UncertaintyWeighting,
}
