"""Auto-lambda by Liu et al."""

from __future__ import annotations

from typing import Any

import numpy as np

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.weighting.base import AlignmentWeighting

__all__ = ["AutoLambdaWeighting"]


class AutoLambdaWeighting(AlignmentWeighting):
    r"""Weights that descend a held-out target (Auto-lambda, Liu et al. 2022).
    """

    config_name = "AutoLambda"

    def __init__(
        self,
        num_losses: int,
        target: Any = "mIoU",
        lr: float = 0.3,
        scaling: str = "optimizer",
        rating: str = "cosine",
        floor: float = 0.02,
    ) -> None:
        super().__init__(num_losses, target, scaling, rating, floor)
        self.lr = checked_range("lr", lr, least=0)

    def next_shares(self, ratings: np.ndarray) -> np.ndarray:
        """Return the shares after a step of exponentiated gradient, shape [K]."""
        logits = np.log(self.shares.numpy().clip(1e-12)) + self.lr * ratings
        shares = np.exp(logits - logits.max())
        return shares / shares.sum()
