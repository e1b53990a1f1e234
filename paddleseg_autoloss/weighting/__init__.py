"""The mathematics of loss weighting: K losses in, K weights out.  One method, one file."""

from paddleseg_autoloss.weighting.agda import AGDAWeighting
from paddleseg_autoloss.weighting.aligned_mtl import AlignedMTLWeighting
from paddleseg_autoloss.weighting.auto_weighted_loss import AutoWeighting
from paddleseg_autoloss.weighting.base import (
    GramianWeighting,
    JacobianWeighting,
    LossWeighting,
    Weighting,
)
from paddleseg_autoloss.weighting.cagrad import CAGradWeighting
from paddleseg_autoloss.weighting.con_fig import ConFIGWeighting
from paddleseg_autoloss.weighting.cosmos import COSMOSWeighting
from paddleseg_autoloss.weighting.crmogm import CRMOGMWeighting
from paddleseg_autoloss.weighting.dbmtl import DBMTLWeighting
from paddleseg_autoloss.weighting.dual_proj import DualProjWeighting
from paddleseg_autoloss.weighting.dwa import DWAWeighting
from paddleseg_autoloss.weighting.excess_mtl import ExcessMTLWeighting
from paddleseg_autoloss.weighting.fair_grad import FairGradWeighting
from paddleseg_autoloss.weighting.famo import FAMOWeighting
from paddleseg_autoloss.weighting.gls import GLSWeighting
from paddleseg_autoloss.weighting.grad_drop import GradDropWeighting
from paddleseg_autoloss.weighting.grad_norm import GradNormWeighting
from paddleseg_autoloss.weighting.grad_vac import GradVacWeighting
from paddleseg_autoloss.weighting.imtl import IMTLWeighting
from paddleseg_autoloss.weighting.imtl_g import IMTLGWeighting
from paddleseg_autoloss.weighting.imtl_l import IMTLLWeighting
from paddleseg_autoloss.weighting.krum import KrumWeighting
from paddleseg_autoloss.weighting.mconfig import MConFIGWeighting
from paddleseg_autoloss.weighting.mgda import MGDAWeighting
from paddleseg_autoloss.weighting.moco import MoCoWeighting
from paddleseg_autoloss.weighting.nash_mtl import NashMTLWeighting
from paddleseg_autoloss.weighting.norm_balance import NormBalanceWeighting
from paddleseg_autoloss.weighting.ntk import NTKWeighting
from paddleseg_autoloss.weighting.pbi import PBIWeighting
from paddleseg_autoloss.weighting.pcd import PCDWeighting
from paddleseg_autoloss.weighting.pcgrad import PCGradWeighting
from paddleseg_autoloss.weighting.relobralo import RelobraloWeighting
from paddleseg_autoloss.weighting.rlw import RLWWeighting
from paddleseg_autoloss.weighting.scale_invariant import ScaleInvariantWeighting
from paddleseg_autoloss.weighting.scheduled_loss import ScheduledWeighting
from paddleseg_autoloss.weighting.separate_backward import SeparateBackwardWeighting
from paddleseg_autoloss.weighting.soft_adapt import SoftAdaptWeighting
from paddleseg_autoloss.weighting.stch import STCHWeighting
from paddleseg_autoloss.weighting.sum import SumWeighting
from paddleseg_autoloss.weighting.trimmed_mean import TrimmedMeanWeighting
from paddleseg_autoloss.weighting.uncertainty_weighted_loss import UncertaintyWeighting
from paddleseg_autoloss.weighting.upgrad import UPGradWeighting
from paddleseg_autoloss.weighting.uwo import UWOWeighting
from paddleseg_autoloss.weighting.uwso import UWSOWeighting

__all__ = [
    "METHODS",
    "AGDAWeighting",
    "AlignedMTLWeighting",
    "AutoWeighting",
    "CAGradWeighting",
    "COSMOSWeighting",
    "CRMOGMWeighting",
    "ConFIGWeighting",
    "DBMTLWeighting",
    "DWAWeighting",
    "DualProjWeighting",
    "ExcessMTLWeighting",
    "FAMOWeighting",
    "FairGradWeighting",
    "GLSWeighting",
    "GradDropWeighting",
    "GradNormWeighting",
    "GradVacWeighting",
    "GramianWeighting",
    "IMTLGWeighting",
    "IMTLLWeighting",
    "IMTLWeighting",
    "JacobianWeighting",
    "KrumWeighting",
    "LossWeighting",
    "MConFIGWeighting",
    "MGDAWeighting",
    "MoCoWeighting",
    "NTKWeighting",
    "NashMTLWeighting",
    "NormBalanceWeighting",
    "PBIWeighting",
    "PCDWeighting",
    "PCGradWeighting",
    "RLWWeighting",
    "RelobraloWeighting",
    "STCHWeighting",
    "ScaleInvariantWeighting",
    "ScheduledWeighting",
    "SeparateBackwardWeighting",
    "SoftAdaptWeighting",
    "SumWeighting",
    "TrimmedMeanWeighting",
    "UPGradWeighting",
    "UWOWeighting",
    "UWSOWeighting",
    "UncertaintyWeighting",
    "Weighting",
]

#: The methods that a config can name, by the name it uses.
METHODS: dict[str, type[Weighting]] = {
    "AGDA": AGDAWeighting,
    "AlignedMTL": AlignedMTLWeighting,
    "AutoWeightedLoss": AutoWeighting,
    "CAGrad": CAGradWeighting,
    "ConFIG": ConFIGWeighting,
    "COSMOS": COSMOSWeighting,
    "CRMOGM": CRMOGMWeighting,  # type: ignore[type-abstract]  # it makes one of its two kinds
    "DBMTL": DBMTLWeighting,
    "DualProj": DualProjWeighting,
    "DWA": DWAWeighting,
    "ExcessMTL": ExcessMTLWeighting,
    "FairGrad": FairGradWeighting,
    "FAMO": FAMOWeighting,
    "GLS": GLSWeighting,
    "GradDrop": GradDropWeighting,
    "GradNorm": GradNormWeighting,
    "GradVac": GradVacWeighting,
    "IMTL": IMTLWeighting,
    "IMTLG": IMTLGWeighting,
    "IMTLL": IMTLLWeighting,
    "Krum": KrumWeighting,
    "MConFIG": MConFIGWeighting,
    "MGDA": MGDAWeighting,
    "MoCo": MoCoWeighting,
    "NashMTL": NashMTLWeighting,
    "NTK": NTKWeighting,
    "PBI": PBIWeighting,
    "PCD": PCDWeighting,
    "PCGrad": PCGradWeighting,
    "Relobralo": RelobraloWeighting,
    "RLW": RLWWeighting,
    "ScaleInvariant": ScaleInvariantWeighting,
    "ScheduledLoss": ScheduledWeighting,
    "SeparateBackward": SeparateBackwardWeighting,
    "SoftAdapt": SoftAdaptWeighting,
    "STCH": STCHWeighting,
    "Sum": SumWeighting,
    "TrimmedMean": TrimmedMeanWeighting,
    "UncertaintyWeightedLoss": UncertaintyWeighting,
    "UPGrad": UPGradWeighting,
    "UWO": UWOWeighting,
    "UWSO": UWSOWeighting,
}
