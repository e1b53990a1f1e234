"""A trial before training: one batch through the network and the losses, with clear errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddleseg.models.losses import BootstrappedCrossEntropyLoss, MixedLoss

from paddleseg_autoloss.data_checks import read_batch
from paddleseg_autoloss.data_checks.randomness import preserve_randomness
from paddleseg_autoloss.errors import AutoLossError, ConfigError, paddle_reason
from paddleseg_autoloss.integration.layouts import first_output, layout_of, to_layout_of
from paddleseg_autoloss.integration.running_statistics import RunningStatistics
from paddleseg_autoloss.integration.session import stock_losses
from paddleseg_autoloss.integration.terms import aggregators_of, loss_layers, terms_of
from paddleseg_autoloss.losses import WeightedLoss
from paddleseg_autoloss.losses.targets import Target
from paddleseg_autoloss.seams import replaced
from paddleseg_autoloss.tensors import as_vector
from paddleseg_autoloss.weighting import METHODS, AlignmentWeighting

__all__ = ["as_batch", "outputs_for", "try_losses"]

#: Losses that need outputs which only certain networks have.
_MADE_FOR = {
    "DetailAggregateLoss": "the detail output of STDC",
    "DistillCrossEntropyLoss": "a student and a teacher",
    "DualTaskLoss": "GSCNN",
    "EdgeAttentionLoss": "an output with logits and edges, as of GSCNN",
    "KLLoss": "two outputs, as of PortraitNet",
    "MaskFormerLoss": "MaskFormer",
    "OhemEdgeAttentionLoss": "an output with logits and edges, as of DecoupledSegNet",
    "PixelContrastCrossEntropyLoss": "an output with embeddings",
    "PointCrossEntropyLoss": "an output with points, as of PointRend",
    "SECrossEntropyLoss": "an output for whole images, as of ENCNet",
}


@paddle.no_grad()
def try_losses(
    model: nn.Layer, dataset: paddle.io.Dataset, losses: dict[str, Any], batch_size: int
) -> None:
    """Compute the losses of one batch as a check, without changing any state.

    Afterwards the random state, the running statistics of the network and the state of the losses
    are the same as before.  The weighting methods are not called.  The cost is one forward pass.

    Args:
        model: the network.
        dataset: the data set to train on.  The images of the batch are spread evenly over it.
        losses: PaddleSeg's loss dict.
        batch_size: number of images in the batch.

    Raises:
        ConfigError: a loss or a target does not fit the network or the labels (the error names its
            config key), or the network does not accept the images.
        DataError: the data set cannot produce a batch.
    """
    plain = {**losses, "types": [_without_weights(loss) for loss in losses["types"]]}
    with _preserve_state(model, losses), _local_batch_norm(model):
        data = _batch(dataset, batch_size)
        model.train()
        outputs = outputs_for(model, data)
        calls = _Calls(losses, data, outputs, layout_of(model))
        compute = getattr(model, "loss_computation", None) or stock_losses
        with calls.watch():
            try:
                compute(outputs, plain, data)
            except AutoLossError:
                raise
            except Exception as error:
                raise calls.misfit(error) from error
        for target in _targets(losses):
            rating = Target(target, getattr(dataset, "ignore_index", 255))
            rating(first_output(model, outputs), data["label"].astype("int64"))


def _targets(losses: dict[str, Any]) -> list[Any]:
    """Return the argument ``target`` of each method that learns from held-out images."""
    joint = losses.get("loss_aggregator")
    if isinstance(joint, Mapping):
        kind, given = METHODS[joint["type"]], joint.get("target", "mIoU")
        return [given] if issubclass(kind, AlignmentWeighting) else []
    methods = [aggregator.weighting for _, aggregator in aggregators_of(terms_of(losses))]
    methods += [joint.weighting] if joint is not None else []
    return [method.target for method in methods if isinstance(method, AlignmentWeighting)]


@contextmanager
def _preserve_state(model: nn.Layer, losses: dict[str, Any]) -> Iterator[None]:
    """Restore all state that reading images and computing losses changes."""
    statistics = [RunningStatistics(layer) for layer in (model, *loss_layers(losses).values())]
    for one in statistics:
        one.keep()
    with preserve_randomness():
        try:
            yield
        finally:
            for one in statistics:
                one.restore()


class _InOrder(nn.Layer):
    """Calls the losses one after the other, as a component does, and adds them without weights."""

    def __init__(self, losses: list[nn.Layer]) -> None:
        super().__init__()
        self.losses = losses

    def forward(self, logits: Any, labels: Any) -> Tensor:
        values = [loss(logits, labels) for loss in self.losses]
        return as_vector([v for value in values for v in _as_list(value)]).sum()


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _without_weights(loss: Any) -> Any:
    """Return a loss without its method, which would store the values or run a backward pass."""
    if isinstance(loss, WeightedLoss):
        return _InOrder([_without_weights(inner) for inner in loss.losses])
    if isinstance(loss, MixedLoss):
        return MixedLoss([_without_weights(inner) for inner in loss.losses], loss.coef)
    return loss


@contextmanager
def _local_batch_norm(model: nn.Layer) -> Iterator[None]:
    """Let synchronized batch norm use this card only: the cards are not connected yet."""
    with ExitStack() as stack:
        for layer in model.sublayers(include_self=True):
            if isinstance(layer, nn.SyncBatchNorm):
                stack.enter_context(replaced(layer, "forward", _batch_norm(layer)))
        yield


def _batch_norm(layer: nn.SyncBatchNorm) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        return F.batch_norm(
            x, layer._mean, layer._variance, layer.weight, layer.bias, training=True,
            momentum=layer._momentum, epsilon=layer._epsilon, data_format=layer._data_format,
        )  # fmt: skip

    return forward


def _batch(dataset: Any, batch_size: int) -> dict[str, Any]:
    """Return a batch of images spread over the data set, collated as in PaddleSeg's loop."""
    count = min(batch_size, len(dataset))
    return as_batch(read_batch(dataset, [i * len(dataset) // count for i in range(count)]))


def as_batch(value: Any) -> Any:
    """Replace arrays by tensors, as Paddle's data loader does.

    Args:
        value: what `read_batch` returns.
    """
    if isinstance(value, dict):
        return {key: as_batch(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_batch(inner) for inner in value]
    return paddle.to_tensor(value) if isinstance(value, np.ndarray) else value


def outputs_for(model: nn.Layer, data: dict[str, Any]) -> Any:
    """Return what the network returns for a batch.

    Args:
        model: the network.
        data: the batch.

    Raises:
        ConfigError: the network does not accept the images.
    """
    images = to_layout_of(model, data["img"])
    try:
        return model(images)
    except AutoLossError:
        raise
    except Exception as error:
        raise ConfigError(
            "model: it does not accept the images of train_dataset, of shape "
            f"{list(images.shape)}: "
            f"{paddle_reason(error)}"
        ) from error


class _Calls:
    """Checks the inputs and the result of every innermost loss, and stores which loss is running.

    Args:
        losses: PaddleSeg's loss dict.
        data: the batch.
        outputs: the outputs of the network for this batch.
        layout: layout of images and outputs, ``NCHW`` or ``NHWC``.
    """

    def __init__(
        self, losses: dict[str, Any], data: dict[str, Any], outputs: Any, layout: str
    ) -> None:
        self.losses = {key: x for key, x in _all_losses(losses).items() if not _has_losses(x)}
        self.data = data
        self.outputs = outputs
        self.layout = layout
        self._current: str | None = None
        self._pending = list(self.losses)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Check all calls inside this context."""
        with ExitStack() as stack:
            for key, loss in self.losses.items():
                before, after = self._before(key), self._after(key)
                stack.callback(loss.register_forward_pre_hook(before).remove)
                stack.callback(loss.register_forward_post_hook(after).remove)
            yield

    def _before(self, key: str) -> Callable[[nn.Layer, tuple[Any, ...]], None]:
        def before(loss: nn.Layer, inputs: tuple[Any, ...]) -> None:
            self._current = key
            if key in self._pending:
                self._pending.remove(key)
            if getattr(loss, "edge_label", False) and "edge" not in self.data:
                raise ConfigError(
                    f"{key}.edge_label: expected edge: true under train_dataset too, found none"
                )
            if isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
                self._check_classes(key, loss, inputs[0])

        return before

    def _check_classes(self, key: str, loss: nn.Layer, logits: Tensor) -> None:
        """Compare the channels of an output with the labels and with the arguments of the loss."""
        layout = getattr(loss, "data_format", "NCHW")
        if layout != self.layout:
            raise ConfigError(
                f"{key}: expected a loss with data_format {self.layout}, as the network has, found "
                f"{type(loss).__name__} with {layout}"
            )
        classes = logits.shape[layout.index("C")]
        weight = getattr(loss, "weight", None)
        if isinstance(weight, (list, tuple, Tensor)) and len(weight) != classes:
            raise ConfigError(
                f"{key}.weight: expected {classes}, one per class, found {len(weight)}"
            )
        for name in ("num_classes", "num_class"):
            told = getattr(loss, name, classes)
            if told != classes:
                raise ConfigError(
                    f"{key}.{name}: expected {classes}, as the network's output has, found {told}"
                )
        pixels = logits.size // (len(logits) * classes)
        if isinstance(loss, BootstrappedCrossEntropyLoss) and pixels <= loss.K:
            raise ConfigError(
                f"{key}.min_K: expected less than {pixels}, the pixels of an image, found {loss.K}"
            )
        if not (isinstance(self.outputs, (list, tuple)) and logits is self.outputs[0]):
            return
        if classes == 1:
            raise ConfigError(
                f"{key}: {type(loss).__name__} expects an output for every class, including the "
                "background, and so does PaddleSeg's evaluation; found only one output: set "
                "num_classes to 2 or more"
            )
        self._check_labels(key, loss, classes)

    def _check_labels(self, key: str, loss: nn.Layer, classes: int) -> None:
        labels = self.data["label"]
        if labels.ndim != 3:
            return
        ignored = getattr(loss, "ignore_index", 255)
        found = np.unique(labels.numpy())
        beyond = found[(found != ignored) & ((found < 0) | (found >= classes))]
        if beyond.size:
            raise ConfigError(
                f"{key}: expected labels from 0 to {classes - 1}, as the network has {classes} "
                f"classes, or {ignored} for pixels to ignore; found {beyond[0]} in train_dataset"
            )

    def _after(self, key: str) -> Callable[[nn.Layer, tuple[Any, ...], Any], None]:
        def after(loss: nn.Layer, inputs: tuple[Any, ...], value: Any) -> None:
            if isinstance(value, Tensor) and value.size != 1:
                raise ConfigError(
                    f"{key}: expected a loss that is one number, found {type(loss).__name__} with "
                    f"shape {list(value.shape)}"
                )
            self._current = None

        return after

    def misfit(self, error: Exception) -> ConfigError:
        """Return the error that names the loss that failed, and the shapes of its inputs."""
        reason = paddle_reason(error)
        # An error between two losses comes from preparing the inputs of the next loss.
        key = self._current or next(iter(self._pending), None)
        if key is None:
            return ConfigError(f"loss: it does not fit the network or the labels: {reason}")
        kind = type(self.losses[key]).__name__
        hint = f"; {kind} is made for {_MADE_FOR[kind]}" if kind in _MADE_FOR else ""
        shapes = f"outputs of {_shapes(self.outputs)} and labels of {_shapes(self.data['label'])}"
        return ConfigError(f"{key}: {kind} does not fit {shapes}: {reason}{hint}")


def _all_losses(losses: dict[str, Any]) -> dict[str, nn.Layer]:
    """Return all losses, including inner losses, by their keys in the config."""
    found: dict[str, nn.Layer] = {}
    pending = [(f"loss.types[{index}]", loss) for index, loss in enumerate(losses["types"])]
    for key, loss in pending:
        found[key] = loss
        if _has_losses(loss):
            pending += [(f"{key}.losses[{i}]", inner) for i, inner in enumerate(loss.losses)]
    return found


def _has_losses(loss: Any) -> bool:
    """Whether a loss has inner losses; the ``losses`` of MaskFormer's loss are only names."""
    return all(isinstance(inner, nn.Layer) for inner in getattr(loss, "losses", [None]))


def _shapes(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shapes, value))
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
