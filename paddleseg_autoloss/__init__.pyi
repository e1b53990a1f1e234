"""Automatic loss weighting for PaddleSeg.  Written by docs/write_stub.py."""

from collections.abc import Sequence
from typing import Any

from paddle import nn

from paddleseg_autoloss.datasets import SyntheticFundus as SyntheticFundus
from paddleseg_autoloss.losses import WeightedLoss

__version__: str

class AGDA(WeightedLoss):
    """Adaptive gradient descent algorithm for two losses (AGDA, Physics of Fluids 2023)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        M: int = 100,
        gamma: float = 0.999,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class AlignedMTL(WeightedLoss):
    """Gradients made orthogonal and of one length (Aligned-MTL, Senushkin et al. 2023)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        scale_mode: str = "min",
        pref_vector: Sequence[float] | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class AutoLambda(WeightedLoss):
    """Weights that descend a target on held-out data (Auto-lambda, Liu et al. 2022)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        target: Any = "mIoU",
        lr: float | None = None,
        scaling: str = "optimizer",
        rating: str = "cosine",
        alignment: str = "gradients",
        floor: float = 0.02,
        init: Sequence[float] | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        update_interval: int | None = 20,
    ) -> None: ...

class AutoWeightedLoss(WeightedLoss):
    """Learned weights with a positive regulariser (Liebel and Koerner 2018)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        init: float = 1.0,
        lr_mult: float = 1.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class CAGrad(WeightedLoss):
    """Conflict-averse gradient descent (CAGrad, Liu et al. 2021)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        calpha: float = 0.5,
        rescale: int = 1,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class CoBa(WeightedLoss):
    """Weights from the slopes of the held-out losses (CoBa, Gong et al. 2024)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        window: int = 20,
        warmup: int = 5,
        tau: float = 5.0,
        floor: float | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        update_interval: int | None = 20,
    ) -> None: ...

class ConFIG(WeightedLoss):
    """The update at equal angles to all gradients (ConFIG, Liu et al. 2024)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        pref_vector: Sequence[float] | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class COSMOS(WeightedLoss):
    """The mean minus the cosine between losses and preference (COSMOS, Ruchte and Grabocka 2021)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        lamda: float = 2.0,
        weights: Sequence[float] | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class CRMOGM(WeightedLoss):
    """The weights of another method, averaged over the steps (CR-MOGM, Zhou et al. 2022)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        method: str = "MGDA",
        options: dict[str, Any] | None = None,
        alpha: float = 0.9,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class DBMTL(WeightedLoss):
    """Dual balancing of losses and gradients (DB-MTL, Lin et al. 2023)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        beta: float = 0.9,
        sigma: float = 0.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class DCGD(WeightedLoss):
    """An update of two losses that conflicts with none (DCGD, Hwang and Lim 2024)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        variant: str = "center",
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class DualProj(WeightedLoss):
    """The mean gradient, projected to conflict with none (DualProj, Lopez-Paz and Ranzato 2017)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        pref_vector: Sequence[float] | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class DWA(WeightedLoss):
    """Dynamic weight average (DWA, Liu et al. 2019)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        window: int = 25,
        tau: float = 2.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class ExcessMTL(WeightedLoss):
    """Weights from how far each loss is from its optimum (ExcessMTL, He et al. 2024)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        step_size: float = 0.01,
        n_warmup_steps: int = 1,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class FairGrad(WeightedLoss):
    r"""Weights for an :math:`\alpha`-fair share of the progress (FairGrad, Ban and Ji 2024)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        alpha: float = 1.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class FAMO(WeightedLoss):
    """Fast adaptive multitask optimization (FAMO, Liu et al. 2023)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        gamma: float = 0.001,
        w_lr: float = 0.025,
        exact: bool = False,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class GLS(WeightedLoss):
    """The geometric mean of the losses (GLS, Chennupati et al. 2019)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class GradDrop(WeightedLoss):
    """Gradient sign dropout (GradDrop, Chen et al. 2020)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        leak: float | Sequence[float] = 0.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class GradNorm(WeightedLoss):
    """Gradient normalisation (GradNorm, Chen et al. 2018)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        alpha: float = 1.5,
        lr_mult: float = 1.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class GradVac(WeightedLoss):
    """Gradients rotated until they agree as much as on average (GradVac, Wang et al. 2021)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        beta: float = 0.5,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class IMTL(WeightedLoss):
    """Learned scales of the losses and balanced gradients (IMTL, Liu et al. 2021)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        lr_mult: float = 1.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class IMTLG(WeightedLoss):
    """The update that has equal projections onto all gradients (IMTL-G, Liu et al. 2021)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class IMTLL(WeightedLoss):
    """Learned scales that make the losses equal (IMTL-L, Liu et al. 2021)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        lr_mult: float = 1.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class Krum(WeightedLoss):
    """The mean of the gradients that lie closest to others (Krum, Blanchard et al. 2017)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        n_byzantine: int = 0,
        n_selected: int = 1,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class L2RW(WeightedLoss):
    """Weights in proportion to the alignments of one look (L2RW, Ren et al. 2018)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        target: Any = "mIoU",
        scaling: str = "optimizer",
        rating: str = "cosine",
        floor: float = 0.02,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        update_interval: int | None = 20,
    ) -> None: ...

class LDCMTL(WeightedLoss):
    """Learned shares that keep neighbouring losses together (LDC-MTL, Xiao et al. 2025)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        lamda: float = 0.05,
        lr_mult: float = 1.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class MConFIG(WeightedLoss):
    """Conflict-free inverse gradients with momentum (M-ConFIG, Liu et al. 2024)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class MGDA(WeightedLoss):
    """The shortest convex combination of the gradients (MGDA, Sener and Koltun 2018)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        normalization: str = "none",
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class MoCo(WeightedLoss):
    """Multi-objective gradient correction (MoCo, Fernando et al. 2023)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        beta: float = 0.5,
        beta_sigma: float = 0.5,
        gamma: float = 0.1,
        gamma_sigma: float = 0.5,
        rho: float = 0.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class MoDo(WeightedLoss):
    """Multi-objective gradient with double sampling (MoDo, Chen et al. 2023)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        gamma: float = 0.1,
        rho: float = 0.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class NashMTL(WeightedLoss):
    """Weights as the outcome of a bargaining game (Nash-MTL, Navon et al. 2022)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        max_norm: float = 1.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class NTK(WeightedLoss):
    """Weights that scale all gradients to the sum of their lengths (NTK, Wang et al. 2022)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class OLAUX(WeightedLoss):
    """Weights from alignments summed over several looks (OL-AUX, Lin et al. 2019)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        target: Any = "mIoU",
        looks: int = 5,
        lr: float | None = None,
        scaling: str = "optimizer",
        rating: str = "cosine",
        floor: float = 0.02,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        update_interval: int | None = 20,
    ) -> None: ...

class PBI(WeightedLoss):
    """Penalty-based boundary intersection (PBI, Zhang and Li 2007)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        theta: float = 5.0,
        weights: Sequence[float] | None = None,
        reference: Sequence[float] | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class PCD(WeightedLoss):
    """One primary loss, with guaranteed progress of the others (PCD, Varam and AlHajri 2026)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        primary: int | str = 0,
        tau: float | Sequence[float] = 0.02,
        beta: float = 0.999,
        eps: float = 1e-08,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class PCGrad(WeightedLoss):
    """Projecting conflicting gradients (PCGrad, Yu et al. 2020)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class Relobralo(WeightedLoss):
    """Relative loss balancing with random lookback (ReLoBRaLo, Bischof and Kraus 2021)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        alpha: float = 0.95,
        beta: float = 0.99,
        tau: float = 1.0,
        eps: float = 1e-08,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class RLW(WeightedLoss):
    """Random weights, drawn at every step (RLW, Lin et al. 2022)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        distribution: str = "normal",
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class ScaleInvariant(WeightedLoss):
    """The sum of the logarithms of the losses (SI, Navon et al. 2022)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class ScheduledLoss(WeightedLoss):
    """Fixed coefficients that change over training by a schedule."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        coef: Sequence[float] | None = None,
        final_coef: Sequence[float] | None = None,
        schedule: str = "constant",
        start_iter: int = 0,
        end_iter: int | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class SDMGrad(WeightedLoss):
    """Direction-oriented gradient descent with double sampling (SDMGrad, Xiao et al. 2023)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        lamda: float = 0.3,
        alpha: float = 0.1,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class SeparateBackward(WeightedLoss):
    """A separate backward pass for each loss, with a learning-rate multiplier :math:`m_i`."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        lr_mult: float | Sequence[float] = 1.0,
        step: str = "joint",
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class SoftAdapt(WeightedLoss):
    """Softmax of the changes of the losses (SoftAdapt, Heydari et al. 2019)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        beta: float = 0.1,
        variant: str = "original",
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class STCH(WeightedLoss):
    """Smooth Tchebycheff scalarization (STCH, Lin et al. 2024)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        mu: float = 1.0,
        warmup: int = 1000,
        weights: Sequence[float] | None = None,
        reference: Sequence[float] | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class Sum(WeightedLoss):
    r"""The sum of the losses, every weight 1: :math:`\sum_i L_i`."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class TrimmedMean(WeightedLoss):
    """The mean of the gradients without the extremes (trimmed mean, Yin et al. 2018)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        trim: int = 1,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class UncertaintyWeightedLoss(WeightedLoss):
    """Weights from learned task uncertainty (Kendall et al. 2018)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        form: str | Sequence[str] = "classification",
        init: float = 0.0,
        lr_mult: float = 1.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class UPGrad(WeightedLoss):
    """The mean of gradients projected to conflict with none (UPGrad, Quinton and Rey 2024)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        pref_vector: Sequence[float] | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
        level: str = "parameters",
        update_interval: int | None = 1,
        layer: str | None = None,
    ) -> None: ...

class UWO(WeightedLoss):
    """Inverse losses as weights (UW-O, Kirchdorfer et al. 2024)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...

class UWSO(WeightedLoss):
    """Softmax of the inverse losses (UW-SO, Kirchdorfer et al. 2024)."""

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        tau: float = 1.0,
        reduction: str | None = None,
        constant_sum: bool | float = False,
    ) -> None: ...
