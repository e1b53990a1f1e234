"""What held-out data are rated by: smooth forms of the figures of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.nn import functional
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.builder import Builder
from paddleseg.models.losses import CrossEntropyLoss, LovaszSoftmaxLoss

from paddleseg_autoloss.checks import build, checked_choice
from paddleseg_autoloss.errors import ConfigError, paddle_reason, shown
from paddleseg_autoloss.tensors import as_float32
from paddleseg_autoloss.weighting import METHODS

__all__ = ["TARGETS", "Target", "hand_on_ignore_index", "soft_dice", "soft_jaccard"]


def soft_jaccard(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    r"""Return 1 minus the smooth mIoU of a batch, 0-D.

    .. math::
        1 - \frac{1}{|C|} \sum_{c \in C} \frac{\sum_j p_{cj} y_{cj}}
            {\sum_j (p_{cj} + y_{cj} - p_{cj} y_{cj})}

    The sums are over all pixels j of the batch that are not ignored; C are the classes that occur
    in their labels y, and p is the softmax of the logits.  With p of 0 and 1 this is 1 - mIoU of
    these classes.  It is 0 if all pixels are ignored.  Rahman and Wang,
    "Optimizing Intersection-over-Union in Deep Neural Networks for Image Segmentation", ISVC 2016,
    have the form for one class.

    Args:
        logits: shape [N, C, H, W]; with one channel, it is the logit of class 1 of two classes.
        labels: class indices, int64, shape [N, H, W].
        ignore_index: label of the pixels to ignore.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.losses.targets import soft_jaccard
        >>> logits = paddle.to_tensor([[[[9.0, 9.0]], [[-9.0, -9.0]]]])  # class 0 twice
        >>> round(float(soft_jaccard(logits, paddle.to_tensor([[[0, 1]]]))), 4)  # IoU 1/2 and 0
        0.75
    """
    common, total, occurs = _overlaps(logits, labels, ignore_index)
    return _mean_of_missing(common / (total - common), occurs)


def soft_dice(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    r"""Return 1 minus the smooth Dice coefficient of a batch, 0-D.

    .. math::
        1 - \frac{1}{|C|} \sum_{c \in C} \frac{2 \sum_j p_{cj} y_{cj}}{\sum_j (p_{cj} + y_{cj})}

    The arguments are those of `soft_jaccard`.  PaddleSeg's ``DiceLoss`` computes it for each image
    by itself, and counts the classes that do not occur.
    """
    common, total, occurs = _overlaps(logits, labels, ignore_index)
    return _mean_of_missing(2 * common / total, occurs)


def _overlaps(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return sum of p y, sum of p + y, and whether the class occurs; each of shape [C]."""
    if logits.shape[1] == 1:
        logits = paddle.concat([paddle.zeros_like(logits), logits], axis=1)
    valid = labels != ignore_index
    known = paddle.where(valid, labels, paddle.zeros_like(labels))
    mask = valid.astype("float32").unsqueeze(1)
    y = functional.one_hot(known, logits.shape[1]).transpose([0, 3, 1, 2]) * mask
    p = functional.softmax(logits, axis=1) * mask
    pixels = [0, 2, 3]
    occurs = (y.sum(pixels) > 0).astype("float32")
    # A class without any pixel has no total, and does not count.
    return (p * y).sum(pixels), (p + y).sum(pixels) + (1 - occurs), occurs


def _mean_of_missing(scores: Tensor, occurs: Tensor) -> Tensor:
    return ((1 - scores) * occurs).sum() / occurs.sum().clip(min=1)


def _of_paddleseg(kind: type[nn.Layer]) -> Callable[..., Tensor]:
    def loss(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
        return kind(ignore_index=ignore_index)(logits, labels)

    return loss


#: The targets that have a name.  ``mIoU`` is Lovasz-Softmax over the classes that occur, the convex
#: extension of their mean Jaccard loss (Berman, Rannen Triki and Blaschko, CVPR 2018).
TARGETS: dict[str, Callable[..., Tensor]] = {
    "mIoU": _of_paddleseg(LovaszSoftmaxLoss),
    "Jaccard": soft_jaccard,
    "Dice": soft_dice,
    "CrossEntropy": _of_paddleseg(CrossEntropyLoss),
}


class Target:
    """What a held-out batch is rated by: a number that is to become small.

    Args:
        target: a name of `TARGETS`, or a loss of PaddleSeg: the loss itself, or a mapping with a
            ``type`` and its arguments, as in ``loss.types``.
        ignore_index: label of the pixels to ignore.

    Raises:
        ConfigError: there is no such target, or the loss cannot be built.
    """

    def __init__(self, target: str | Mapping[str, Any] | nn.Layer, ignore_index: int = 255) -> None:
        self._ignored: dict[str, int] = {}
        if isinstance(target, (Mapping, nn.Layer)):
            loss = target if isinstance(target, nn.Layer) else _built(target)
            hand_on_ignore_index([loss], ignore_index)
            self._loss: Callable[..., Any] = loss
            self._name = type(loss).__name__
        else:
            self._loss = TARGETS[checked_choice("target", target, list(TARGETS))]
            self._ignored = {"ignore_index": ignore_index}
            self._name = str(target)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the target of a batch, 0-D.

        Args:
            logits: the first output of the network, shape [N, C, H, W]; it is resized to the size
                of the labels if it has another one.
            labels: class indices, int64, shape [N, H, W].

        Raises:
            ConfigError: the output is no tensor of this shape, the target does not fit it, or the
                target is no number.
        """
        if not isinstance(logits, Tensor) or logits.ndim != 4:
            raise ConfigError(
                "target: expected a network whose first output is a tensor of shape [N, C, H, W], "
                f"found {shown(getattr(logits, 'shape', logits))}"
            )
        logits = as_float32(logits)
        if logits.shape[2:] != labels.shape[-2:]:
            logits = functional.interpolate(logits, labels.shape[-2:], mode="bilinear")
        try:
            # Some of PaddleSeg's losses change the labels, and MixedLoss returns a list.
            found = self._loss(logits, labels.clone(), **self._ignored)
        except Exception as error:
            shapes = f"outputs of shape {list(logits.shape)} and labels of {list(labels.shape)}"
            raise ConfigError(
                f"target: expected a loss for {shapes}, found {self._name}, which fails: "
                f"{paddle_reason(error)}"
            ) from error
        found = paddle.add_n(found) if isinstance(found, list) else found
        if found.size != 1:
            shape = list(found.shape)
            raise ConfigError(f"target: expected a loss that is one number, found shape {shape}")
        return found.reshape([])


def _built(target: Mapping[str, Any]) -> nn.Layer:
    kind = target.get("type")
    if not isinstance(kind, str):
        raise ConfigError(f"target: expected a loss with a 'type', found {shown(target)}")
    if kind in METHODS:
        raise ConfigError(f"target: expected a loss without weights of its own, found {kind}")
    builder = Builder(None, comp_list=[manager.LOSSES])
    return build("target", lambda: builder.build_component(dict(target)))


def hand_on_ignore_index(losses: Sequence[nn.Layer], ignore_index: int) -> None:
    """Set ``ignore_index`` of losses that have it, and of the losses inside of them.

    Args:
        losses: PaddleSeg losses.
        ignore_index: label of the pixels to ignore.
    """
    for loss in losses:
        hand_on_ignore_index(getattr(loss, "losses", []), ignore_index)
        if hasattr(loss, "ignore_index"):
            loss.ignore_index = ignore_index
