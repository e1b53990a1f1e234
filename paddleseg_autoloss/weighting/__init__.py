"""The mathematics of loss weighting: methods that compute K weights for K losses, one file each.

To register a method, import it here: `METHODS` contains all methods that this file imports.
"""

from .agda import AGDAWeighting as AGDAWeighting
from .aligned_mtl import AlignedMTLWeighting as AlignedMTLWeighting
from .auto_lambda import AutoLambdaWeighting as AutoLambdaWeighting
from .auto_weighted_loss import AutoWeighting as AutoWeighting
from .base import AlignmentWeighting as AlignmentWeighting
from .base import GramianWeighting as GramianWeighting
from .base import HeldOutLossWeighting as HeldOutLossWeighting
from .base import JacobianWeighting as JacobianWeighting
from .base import LossWeighting as LossWeighting
from .base import Weighting as Weighting
from .cagrad import CAGradWeighting as CAGradWeighting
from .coba import CoBaWeighting as CoBaWeighting
from .con_fig import ConFIGWeighting as ConFIGWeighting
from .cosmos import COSMOSWeighting as COSMOSWeighting
from .crmogm import CRMOGMWeighting as CRMOGMWeighting
from .dbmtl import DBMTLWeighting as DBMTLWeighting
from .dcgd import DCGDWeighting as DCGDWeighting
from .dual_proj import DualProjWeighting as DualProjWeighting
from .dwa import DWAWeighting as DWAWeighting
from .excess_mtl import ExcessMTLWeighting as ExcessMTLWeighting
from .fair_grad import FairGradWeighting as FairGradWeighting
from .famo import FAMOWeighting as FAMOWeighting
from .gls import GLSWeighting as GLSWeighting
from .grad_drop import GradDropWeighting as GradDropWeighting
from .grad_norm import GradNormWeighting as GradNormWeighting
from .grad_vac import GradVacWeighting as GradVacWeighting
from .imtl import IMTLWeighting as IMTLWeighting
from .imtl_g import IMTLGWeighting as IMTLGWeighting
from .imtl_l import IMTLLWeighting as IMTLLWeighting
from .krum import KrumWeighting as KrumWeighting
from .l2rw import L2RWWeighting as L2RWWeighting
from .ldcmtl import LDCMTLWeighting as LDCMTLWeighting
from .mconfig import MConFIGWeighting as MConFIGWeighting
from .mgda import MGDAWeighting as MGDAWeighting
from .moco import MoCoWeighting as MoCoWeighting
from .modo import MoDoWeighting as MoDoWeighting
from .nash_mtl import NashMTLWeighting as NashMTLWeighting
from .norm_balance import NormBalanceWeighting as NormBalanceWeighting
from .ntk import NTKWeighting as NTKWeighting
from .ol_aux import OLAUXWeighting as OLAUXWeighting
from .pbi import PBIWeighting as PBIWeighting
from .pcd import PCDWeighting as PCDWeighting
from .pcgrad import PCGradWeighting as PCGradWeighting
from .relobralo import RelobraloWeighting as RelobraloWeighting
from .rlw import RLWWeighting as RLWWeighting
from .scale_invariant import ScaleInvariantWeighting as ScaleInvariantWeighting
from .scheduled_loss import ScheduledWeighting as ScheduledWeighting
from .sdmgrad import SDMGradWeighting as SDMGradWeighting
from .separate_backward import SeparateBackwardWeighting as SeparateBackwardWeighting
from .soft_adapt import SoftAdaptWeighting as SoftAdaptWeighting
from .stch import STCHWeighting as STCHWeighting
from .sum import SumWeighting as SumWeighting
from .trimmed_mean import TrimmedMeanWeighting as TrimmedMeanWeighting
from .uncertainty_weighted_loss import UncertaintyWeighting as UncertaintyWeighting
from .upgrad import UPGradWeighting as UPGradWeighting
from .uwo import UWOWeighting as UWOWeighting
from .uwso import UWSOWeighting as UWSOWeighting

#: The methods that a config can name, by their names in a config.
METHODS: dict[str, type[Weighting]] = {
    method.config_name: method
    for method in list(globals().values())
    if isinstance(method, type) and issubclass(method, Weighting) and method.config_name
}
