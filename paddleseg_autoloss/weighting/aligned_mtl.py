"""Independent component alignment by Senushkin et al."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddleseg_autoloss.checks import checked_choice, checked_preference
from paddleseg_autoloss.weighting.base import GramianWeighting

__all__ = ["AlignedMTLWeighting"]


class AlignedMTLWeighting(GramianWeighting):
    r"""Gradients made orthogonal and of one length (Aligned-MTL, Senushkin et al. 2023).

    A linear system of gradients is stable if its condition number is 1.  From the singular values
    :math:`\sigma_k = \sqrt{\lambda_k}` of the gradients and the eigenvectors V of their Gramian,
    :math:`G = V \operatorname{diag}(\lambda) V^T`, it sets all singular values to the same
    :math:`\sigma`.  With the preferences u, by default 1 as in the authors' code:

    .. math::
        w = B u, \qquad
        B = \sigma V \operatorname{diag}(\lambda)^{-1/2} V^T, \qquad d = \sum_i w_i g_i

    D. Senushkin, N. Patakin, A. Kuznetsov, A. Konushin, "Independent Component Alignment for
    Multi-Task Learning", CVPR 2023, algorithm 1.  If the gradients are orthogonal and have the
    same length, the weights are u: the scale of the losses' sum.  Weights can be negative and have
    no fixed sum.  With ``min`` :math:`\lVert d \rVert \le \lVert u \rVert \sigma_{min}`, so d is as
    short as the gradients' least common part.

    Deviations:
        The preferences are divided by their mean, so they do not change the scale.  TorchJD takes
        them as they are, by default 1 / K; ``reduction: mean`` gives the same.  Eigenvalues up to
        :math:`10^{-6} K \lambda_{max}` count as 0 and are left out.  The authors use the float
        epsilon :math:`1.2 \times 10^{-7}` instead of :math:`10^{-6}`; but sums in single precision
        have larger errors, and ``min`` would take such an error for :math:`\sigma`.  As in the
        paper's definition, d jumps when an eigenvalue begins to count as 0; with ``min`` it jumps
        from almost 0 to the length of the next eigenvalue.  A loss with zero gradient gets weight
        0; if all gradients are zero, the weights are u.

    Args:
        num_losses: K, the number of losses.
        scale_mode: the value :math:`\sigma^2` of all eigenvalues: ``"min"`` is the smallest
            eigenvalue that is not 0, ``"median"`` their median (the lower one of an even number),
            ``"rmse"`` their mean.
        pref_vector: how important each loss is: K numbers of at least 0, in the order of the
            losses, not all 0; only their ratios matter.  By default all losses are alike.

    Raises:
        ConfigError: ``scale_mode`` is none of these, or ``pref_vector`` is not such a list.

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

    def __init__(
        self,
        num_losses: int,
        scale_mode: str = "min",
        pref_vector: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_losses)
        self.pref_vector = pref_vector
        self._preference = np.array(checked_preference("pref_vector", pref_vector, num_losses))
        self.scale_mode = checked_choice("scale_mode", scale_mode, ["min", "median", "rmse"])

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, shape [K]."""
        values, vectors = np.linalg.eigh(gramian)
        if values[-1] <= 0:
            return self._preference.copy()
        kept = values > 1e-6 * len(gramian) * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        common = {
            "min": values[0],
            "median": values[(len(values) - 1) // 2],
            "rmse": values.mean(),
        }[self.scale_mode]
        coordinates = (vectors * self._preference[:, None]).sum(axis=0)
        return vectors @ (coordinates * np.sqrt(common / values))
