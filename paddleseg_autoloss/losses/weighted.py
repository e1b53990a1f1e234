"""The PaddleSeg loss component that all methods share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.optimizer import Optimizer

from paddleseg_autoloss.checks import is_name
from paddleseg_autoloss.errors import ConfigError, shown
from paddleseg_autoloss.gradients.aggregator import LossAggregator, unique_names
from paddleseg_autoloss.losses.targets import Target, hand_on_ignore_index
from paddleseg_autoloss.tensors import as_float32
from paddleseg_autoloss.weighting import AlignmentWeighting, Weighting

__all__ = ["WeightedLoss"]


class WeightedLoss(nn.Layer):
    """Several PaddleSeg losses of one output, weighed by a method.

    It is the base class of the components.  In a config they are used like ``MixedLoss``.

    Args:
        losses: two or more PaddleSeg losses, called as ``loss(logits, labels)``.
        weighting: function that creates the method for a given number of losses.
        names: a name for each loss in logs and curves; by default the class names, with numbers if
            one occurs several times.
        ignore_index: label of the pixels to ignore.  PaddleSeg's builder passes the one of the data
            set; it is passed to every inner loss that has this attribute.
        **options: arguments of `LossAggregator`, by name.

    Raises:
        ConfigError: there are fewer than two losses, one of them is not a loss, ``names`` has
            another length or contains a name twice, or an argument is out of its range.
    """

    def __init__(
        self,
        losses: Sequence[nn.Layer],
        weighting: Callable[[int], Weighting],
        names: Sequence[str] | None = None,
        ignore_index: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        losses = _checked_losses(type(self).__name__, losses)
        if names is None:
            names = unique_names([type(loss).__name__ for loss in losses])
        elif not _is_list_of_names(names, len(losses)):
            raise ConfigError(
                f"names: expected a list of {len(losses)}, one per loss, found {shown(names)}"
            )
        self.losses = nn.LayerList(losses)
        method = weighting(len(losses))
        self.aggregator = LossAggregator(names, method, **options)
        self.ignore_index = ignore_index
        self.target = None
        if isinstance(method, AlignmentWeighting):
            self.target = Target(method.target, 255 if ignore_index is None else ignore_index)
        if ignore_index is not None:
            hand_on_ignore_index(losses, ignore_index)

    @property
    def names(self) -> list[str]:
        """The names of the losses."""
        return self.aggregator.names

    def bind(self, model: nn.Layer, optimizer: Optimizer | None = None) -> WeightedLoss:
        """Set the network whose gradients the method needs; return this loss.

        ``paddleseg.core.train`` calls it; your own loop has to call it.

        Args:
            model: the network.
            optimizer: its optimizer, for ``step: each`` and for methods that know how it scales
                gradients.
        """
        self.aggregator.bind(model.parameters(), optimizer, model)
        return self

    def look(self, logits: Any, labels: Any) -> None:
        """Look at a batch that is held out of training, for methods that do.

        ``paddleseg.core.train`` does it; your own loop has to do it before a step whenever
        ``aggregator.needs_look`` is true.

        Args:
            logits: the output of the network for the batch, as in a step of training.
            labels: its labels.

        Raises:
            ConfigError: see `LossAggregator.look`.
        """
        if self.target is not None:
            self.aggregator.look(self.target(logits, labels))
            return
        with paddle.no_grad(), self.aggregator.collecting() as found:
            self(logits, labels)
        self.aggregator.look(found[0])

    def forward(self, logits: Any, labels: Any) -> Tensor:
        """Return the total loss, 0-D.

        Args:
            logits: one output of the model: a tensor of shape [N, C, H, W], or another input that
                the losses accept, such as the dict of MaskFormer.
            labels: class indices, int64, shape [N, H, W], or a dict of tensors.  Every inner loss
                gets a copy, because some of PaddleSeg's losses change the labels.

        Raises:
            ConfigError: an inner loss does not return one number.
        """
        values = {}
        copies = [_copy(labels) for _ in self.losses]
        for name, loss, copy in zip(self.names, self.losses, copies):
            value = loss(logits, copy)
            # MixedLoss returns a list.
            value = _sum(value) if isinstance(value, list) else value
            if value.size != 1:
                raise ConfigError(
                    f"losses: {name} returned shape {list(value.shape)}, expected a single number"
                )
            values[name] = value
        return self.aggregator(values, logits)


def _sum(values: list[Tensor]) -> Tensor:
    has_one_type = len({value.dtype for value in values}) == 1
    return paddle.add_n(values if has_one_type else [as_float32(value) for value in values])


def _copy(labels: Any) -> Any:
    if isinstance(labels, dict):
        return {key: _copy(value) for key, value in labels.items()}
    return labels.clone() if isinstance(labels, Tensor) else labels


def _checked_losses(component: str, losses: Sequence[nn.Layer]) -> list[nn.Layer]:
    if not isinstance(losses, (list, tuple)) or len(losses) < 2:
        count = len(losses) if isinstance(losses, (list, tuple)) else repr(losses)
        raise ConfigError(f"losses: {component} expects a list of two or more, found {count}")
    for loss in losses:
        if not isinstance(loss, nn.Layer):
            raise ConfigError(
                f"losses: {component} expects loss components with a 'type', found {loss!r}"
            )
        if getattr(loss, "edge_label", False) or type(loss).__name__ == "KLLoss":
            raise ConfigError(
                f"losses: {component} cannot weigh {type(loss).__name__}, a loss of edges or of "
                "two outputs; make it an entry of its own in loss.types"
            )
    return list(losses)


def _is_list_of_names(names: Sequence[str], length: int) -> bool:
    is_list = isinstance(names, (list, tuple)) and len(names) == length
    return is_list and all(is_name(name) and name.isprintable() for name in names)
