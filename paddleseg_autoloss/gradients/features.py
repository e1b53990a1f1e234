"""The features of a network: what one of its layers hands on to all that follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.errors import ConfigError, shown
from paddleseg_autoloss.hooks import before_each_step
from paddleseg_autoloss.tensors import tensors_in

__all__ = ["Features"]

#: The layer that PaddleSeg's networks have if they have a backbone.
_BACKBONE = "backbone"
#: Most layers that an error lists.
_MOST_LISTED = 20


class Features:
    r"""The outputs of one layer in the latest forward pass of training.

    All that follows gets a copy of them: :math:`h_1, h_2, \dots` So no feature depends on another
    one, and the chain rule splits every gradient in two:

    .. math::
        \frac{\partial L_i}{\partial \theta} =
            \frac{\partial L_i}{\partial \theta} \Big|_h
            + \sum_j \frac{\partial L_i}{\partial h_j} \frac{\partial h_j}{\partial \theta}

    Only the first part is there for a parameter above the layer, and only the second for one below.

    Args:
        model: the network.
        pattern: name of the layer as in ``model.named_sublayers()``; ``*`` stands for any
            characters.  By default it is ``backbone``.

    Raises:
        ConfigError: the network has no such layer, or several.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.gradients.features import Features
        >>> model = paddle.nn.Sequential(paddle.nn.Linear(2, 3), paddle.nn.Linear(3, 1))
        >>> features = Features(model, "0")
        >>> loss = model(paddle.rand([4, 2])).sum()
        >>> [list(tensor.shape) for tensor in features.tensors()]
        [[4, 3]]
        >>> below, above = features.split(model.parameters(), [loss])
        >>> len(below), len(above)
        (2, 2)
    """

    def __init__(self, model: nn.Layer, pattern: str | None) -> None:
        self.name, layer = _find_layer(model, pattern)
        self._model = model
        self._calls: list[Any] = []

        # A bound method would be copied with the layer, and this object too.
        def keep(called: nn.Layer, inputs: Any, outputs: Any) -> Any:
            if not (called is layer and layer.training and paddle.is_grad_enabled()):
                return None
            copies = _copies(outputs)
            self._calls.append(copies)
            return copies

        self._hooks = ExitStack()
        self._hooks.enter_context(before_each_step(model, lambda _: self.clear()))
        self._hooks.callback(layer.register_forward_post_hook(keep).remove)
        self._below: set[int] | None = None

    def tensors(self) -> list[Tensor]:
        """Return the outputs of the layer, without those that need no gradient.

        Raises:
            ConfigError: the layer was not called exactly once, or none of its outputs needs a
                gradient.
        """
        if len(self._calls) != 1:
            raise ConfigError(
                f"layer: expected a layer that the network calls once, found {self.name}, which it "
                f"calls {len(self._calls)} times; name one before or after it, or one inside of it"
            )
        found = [tensor for tensor in tensors_in(self._calls[0]) if not tensor.stop_gradient]
        if not found:
            raise ConfigError(
                f"layer: expected a layer with outputs that depend on trained parameters, found "
                f"{self.name}"
            )
        return found

    def split(
        self, parameters: Sequence[Tensor], losses: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the parameters below the layer, and all others.

        The first call takes two backward passes; the network is assumed to stay the same.

        Args:
            parameters: the trainable parameters.
            losses: the losses of the step.

        Raises:
            ConfigError: the losses depend on a parameter below the layer in another way too.
        """
        if self._below is None:
            self._below = self._find_below(parameters, losses)
        below = [p for p in parameters if id(p) in self._below]
        return below, [p for p in parameters if id(p) not in self._below]

    def _find_below(self, parameters: Sequence[Tensor], losses: Sequence[Tensor]) -> set[int]:
        features = self.tensors()
        below = [p for p, g in zip(parameters, _grad(features, parameters)) if g is not None]
        with _cut(features):
            past = _grad([loss for loss in losses if not loss.stop_gradient], below)
        for parameter, gradient in zip(below, past):
            if gradient is not None and bool(gradient.any()):
                names = {id(p): name for name, p in self._model.named_parameters()}
                raise ConfigError(
                    "layer: expected a layer that everything below it is used through, found "
                    f"{self.name}: a path from {names.get(id(parameter))} goes past it"
                )
        return set(map(id, below))

    def hand_down(
        self, gradients: Sequence[Tensor | None], below: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Return the gradients of the parameters below, in one backward pass.

        Args:
            gradients: the gradient of each of `tensors`; None for 0.
            below: the parameters.
        """
        pairs = [(t, g) for t, g in zip(self.tensors(), gradients) if g is not None]
        if not pairs:
            return [None] * len(below)
        given = [gradient.astype(tensor.dtype) for tensor, gradient in pairs]
        return _grad([tensor for tensor, _ in pairs], below, given)

    def clear(self) -> None:
        """Drop the outputs, to free the memory."""
        self._calls.clear()

    def remove(self) -> None:
        """Remove the hooks from the network."""
        self._hooks.close()
        self.clear()


def _grad(
    outputs: list[Tensor], inputs: Sequence[Tensor], gradients: list[Tensor] | None = None
) -> list[Tensor | None]:
    if not outputs or not inputs:
        return [None] * len(inputs)
    return paddle.grad(outputs, list(inputs), gradients, retain_graph=True, allow_unused=True)


@contextmanager
def _cut(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Context in which no gradient flows through some tensors."""
    hooks = [tensor.register_hook(paddle.zeros_like) for tensor in tensors]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _copies(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs if outputs.stop_gradient else outputs.clone()
    if isinstance(outputs, dict):
        return {key: _copies(value) for key, value in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(map(_copies, outputs))
    return outputs


def _find_layer(model: nn.Layer, pattern: str | None) -> tuple[str, nn.Layer]:
    wanted = _BACKBONE if pattern is None else pattern
    layers = dict(model.named_sublayers())
    matches = [name for name in layers if fnmatchcase(name, wanted)]
    if len(matches) == 1:
        return matches[0], layers[matches[0]]
    kind = type(model).__name__
    if matches:
        raise ConfigError(f"layer: expected one layer of {kind}, found {_listed(matches)}")
    top = [name for name, _ in model.named_children()]
    raise ConfigError(
        f"layer: {kind} has no layer {shown(wanted)}; it has {_listed(top)}, and more inside of "
        "these"
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
