"""Independent component alignment by Senushkin et al."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.checks import checked_choice
from paddleseg_autoloss.weighting.base import GramianWeighting

__all__ = ["AlignedMTLWeighting"]


class AlignedMTLWeighting(GramianWeighting):
    r"""Gradients made orthogonal and of one length (Aligned-MTL, Senushkin et al. 2023).

    A linear system of gradients is stable if its condition number is 1.  With the singular values
    :math:`\sigma_k = \sqrt{\lambda_k}` of the gradients and the eigenvectors V of their Gramian,
    :math:`G = V \operatorname{diag}(\lambda) V^T`, all singular values are set to one
    :math:`\sigma`:

    .. math::
        w = B 1, \qquad
        B = \sigma V \operatorname{diag}(\lambda)^{-1/2} V^T, \qquad d = \sum_i w_i g_i

    D. Senushkin, N. Patakin, A. Kuznetsov, A. Konushin, "Independent Component Alignment for
    Multi-Task Learning", CVPR 2023, algorithm 1, with equal importance 1 of all losses as in the
    authors' code.  For orthogonal gradients of one length all weights are 1: the scale of the
    losses' sum.  Weights can be negative and sum to nothing in particular.  With ``min``
    :math:`\lVert d \rVert \le \sqrt{K} \sigma_{min}`, so d is as short as the gradients' least
    common part.

    Deviations:
        TorchJD's importances are 1 / K; ``reduction: mean`` gives that.  Eigenvalues up to
        :math:`10^{-6} K \lambda_{max}` count as 0 and are left out, where the authors have the
        float epsilon :math:`1.2 \times 10^{-7}` in the place of :math:`10^{-6}`: sums in single
        precision leave more noise than that, which ``min`` would take for :math:`\sigma`.  As in
        the paper's own definition d jumps where an eigenvalue begins to count as 0, with ``min``
        from almost 0 to the length of the next one.  A loss without gradient gets weight 0; if
        none has one, all get 1.

    Args:
        num_losses: K, the number of losses.
        scale_mode: which :math:`\sigma^2` the eigenvalues are set to: the ``"min"`` of those that
            are not 0, their ``"median"`` (the lower one of an even number) or their mean,
            ``"rmse"``.

    Raises:
        ConfigError: ``scale_mode`` is none of these.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import AlignedMTLWeighting
        >>> gramian = paddle.to_tensor([[9.0, 0.0], [0.0, 1.0]])
        >>> weights = AlignedMTLWeighting(2)(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]  # both gradients get length 1
        [0.3333, 1.0]
    """

    config_name = "AlignedMTL"
    may_be_negative = True

    def __init__(self, num_losses: int, scale_mode: str = "min") -> None:
        super().__init__(num_losses)
        self.scale_mode = checked_choice("scale_mode", scale_mode, ["min", "median", "rmse"])

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, shape [K]."""
        values, vectors = np.linalg.eigh(gramian)
        if values[-1] <= 0:
            return np.ones(len(gramian))
        kept = values > 1e-6 * len(gramian) * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        common = {
            "min": values[0],
            "median": values[(len(values) - 1) // 2],
            "rmse": values.mean(),
        }[self.scale_mode]
        return vectors @ (vectors.sum(axis=0) * np.sqrt(common / values))
