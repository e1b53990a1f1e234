"""The components that a config names under ``loss.types``."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_autoloss.losses.weighted import WeightedLoss
from paddleseg_autoloss.weighting import AutoWeighting, SumWeighting, UncertaintyWeighting

__all__ = ["AutoWeightedLoss", "Sum", "UncertaintyWeightedLoss"]


@manager.LOSSES.add_component
class AutoWeightedLoss(WeightedLoss):
    """Liebel and Koerner's learned weights: the sum of L_i / (2 c_i^2) + ln(1 + c_i^2).

    `paddleseg_autoloss.weighting.AutoWeighting` has the formula, the paper and the deviations.

    In a config::

        loss:
          types:
            - type: AutoWeightedLoss
              losses:
                - type: CrossEntropyLoss
                - type: DiceLoss
          coef: [1]

    Args:
        losses: two or more PaddleSeg losses.
        names: a name for each loss; by default the class names.
        ignore_index: label of the pixels to ignore, handed on to the losses.
        init: initial value of every c, not 0.
        lr_mult: learning rate of c as a multiple of the optimizer's.

    Raises:
        ConfigError: an argument has a value that cannot work.

    Examples:
        >>> import paddle, paddleseg_autoloss
        >>> from paddleseg.models.losses import CrossEntropyLoss, DiceLoss
        >>> loss = paddleseg_autoloss.AutoWeightedLoss([CrossEntropyLoss(), DiceLoss()])
        >>> logits, labels = paddle.zeros([1, 2, 4, 4]), paddle.ones([1, 4, 4], dtype="int64")
        >>> round(float(loss(logits, labels)), 3)
        2.035
    """

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        init: float = 1.0,
        lr_mult: float = 1.0,
    ) -> None:
        super().__init__(
            losses, lambda k: AutoWeighting(k, init=init, lr_mult=lr_mult), names, ignore_index
        )


@manager.LOSSES.add_component
class UncertaintyWeightedLoss(WeightedLoss):
    """Kendall, Gal and Cipolla's learned uncertainty: the sum of exp(-s_i) L_i + s_i / 2.

    `paddleseg_autoloss.weighting.UncertaintyWeighting` has the formula, the paper, what the two
    forms mean for Dice, and the deviations.

    Args:
        losses: two or more PaddleSeg losses.
        names: a name for each loss; by default the class names.
        ignore_index: label of the pixels to ignore, handed on to the losses.
        form: ``"classification"`` or ``"regression"``, for all losses or a list with one each.
        init: initial value of every s.
        lr_mult: learning rate of s as a multiple of the optimizer's.

    Raises:
        ConfigError: an argument has a value that cannot work.

    Examples:
        >>> import paddle, paddleseg_autoloss
        >>> from paddleseg.models.losses import CrossEntropyLoss, DiceLoss
        >>> loss = paddleseg_autoloss.UncertaintyWeightedLoss([CrossEntropyLoss(), DiceLoss()])
        >>> logits, labels = paddle.zeros([1, 2, 4, 4]), paddle.ones([1, 4, 4], dtype="int64")
        >>> round(float(loss(logits, labels)), 3)
        1.298
    """

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        form: str | Sequence[str] = "classification",
        init: float = 0.0,
        lr_mult: float = 1.0,
    ) -> None:
        super().__init__(
            losses,
            lambda k: UncertaintyWeighting(k, form=form, init=init, lr_mult=lr_mult),
            names,
            ignore_index,
        )


@manager.LOSSES.add_component
class Sum(WeightedLoss):
    """The plain sum of the losses, every weight 1.

    Args:
        losses: two or more PaddleSeg losses.
        names: a name for each loss; by default the class names.
        ignore_index: label of the pixels to ignore, handed on to the losses.

    Raises:
        ConfigError: an argument has a value that cannot work.

    Examples:
        >>> import paddle, paddleseg_autoloss
        >>> from paddleseg.models.losses import CrossEntropyLoss, DiceLoss
        >>> loss = paddleseg_autoloss.Sum([CrossEntropyLoss(), DiceLoss()])
        >>> logits, labels = paddle.zeros([1, 2, 4, 4]), paddle.ones([1, 4, 4], dtype="int64")
        >>> round(float(loss(logits, labels)), 3)
        1.298
    """

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(losses, SumWeighting, names, ignore_index)
