"""All metrics of one evaluation, computed by PaddleSeg's own functions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from paddle import Tensor
from paddleseg.utils import metrics

from paddleseg_autoloss.seams import replaced

__all__ = ["Figures", "capture_figures"]


@dataclass(frozen=True)
class Figures:
    """The metrics of one evaluation; PaddleSeg's ``evaluate`` prints Dice but does not return it.

    Args:
        mIoU: mean of the classes' intersection over union, in [0, 1].
        Dice: mean of the classes' Dice coefficients, in [0, 1].
        Kappa: Cohen's kappa over pixels, in [-1, 1].
        Acc: share of the pixels that are classified correctly, in [0, 1].
        class_IoU: intersection over union per class.
        class_Dice: Dice coefficient per class.
        class_Precision: precision per class.
        class_Recall: recall per class.
        class_share: share of the labelled pixels that belong to a class.
    """

    mIoU: float
    Dice: float
    Kappa: float
    Acc: float
    class_IoU: list[float]
    class_Dice: list[float]
    class_Precision: list[float]
    class_Recall: list[float]
    class_share: list[float]

    @classmethod
    def from_areas(cls, intersect: Tensor, predicted: Tensor, labelled: Tensor) -> Figures:
        """Compute the metrics from pixel counts per class; each is int64, shape [classes]."""
        areas = (intersect, predicted, labelled)
        class_iou, miou = metrics.mean_iou(*areas)
        class_dice, dice = metrics.dice(*areas)
        accuracy, precision, recall = metrics.class_measurement(*areas)
        return cls(
            mIoU=float(miou),
            Dice=float(dice),
            Kappa=float(metrics.kappa(*areas)),
            Acc=float(accuracy),
            class_IoU=class_iou.tolist(),
            class_Dice=class_dice.tolist(),
            class_Precision=precision.tolist(),
            class_Recall=recall.tolist(),
            class_share=(labelled / labelled.sum()).tolist(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics by name."""
        return asdict(self)


@contextmanager
def capture_figures() -> Iterator[Callable[[], Figures]]:
    """Observe one call of PaddleSeg's ``evaluate``; yield a function that returns its metrics.

    In every version, ``evaluate`` passes the pixel counts to ``metrics.mean_iou``.  They are read
    there.
    """
    seen: list[tuple[Tensor, ...]] = []
    mean_iou = metrics.mean_iou

    def watched(*areas: Tensor) -> Any:
        seen.append(areas)
        return mean_iou(*areas)

    with replaced(metrics, "mean_iou", watched):
        try:
            yield lambda: Figures.from_areas(*seen[-1])
        except Exception:
            # PaddleSeg's progress bar has not ended its line; the error must begin a new one.
            print(file=sys.stderr)
            raise
