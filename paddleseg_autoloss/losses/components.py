"""The components that a config names under ``loss.types``: one for each weighting method."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

from paddleseg.cvlibs import manager

from paddleseg_autoloss.catalog import config_snippet, example_losses
from paddleseg_autoloss.gradients.aggregator import method_arguments
from paddleseg_autoloss.losses.weighted import WeightedLoss
from paddleseg_autoloss.weighting import (
    METHODS,
    AlignmentWeighting,
    HeldOutLossWeighting,
    LossWeighting,
    Weighting,
)
from paddleseg_autoloss.weighting.base import own_arguments

__all__ = ["COMPONENTS"]

_DOCSTRING = """{summary}

    `paddleseg_autoloss.weighting.{method}` has the formula, the paper and the deviations.

    In a config::

{snippet}

    Args:
        losses: {least} or more PaddleSeg losses.
        names: a name for each loss; by default the class names.
        ignore_index: label of the pixels to ignore; it is passed to the losses.
        reduction: the scale of the total: ``"sum"`` or ``"mean"`` of the losses; by default the
            scale of the paper.
        constant_sum: the constant sum of the weights' absolute values, from 1e-6 to 1e6, or
            ``True`` for their number K: only the proportion of the losses is learned. {arguments}
    Raises:
        ConfigError: the value of an argument is invalid.

    Examples:
        >>> import paddle, paddleseg_autoloss
        >>> from paddleseg.models.losses import {classes}
        >>> model = paddle.nn.Conv2D(3, 2, 1){optimizer}
        >>> loss = paddleseg_autoloss.{name}([{losses}]){bind}
        >>> images, labels = paddle.rand([1, 3, 4, 4]), paddle.ones([1, 4, 4], dtype="int64")
        >>> loss(model(images), labels).backward()
        >>> model.weight.grad is not None
        True
    """

_OPTIMIZER = "\n        >>> optimizer = paddle.optimizer.Adam(parameters=model.parameters())"
_GRADIENT_ARGUMENTS = """\
        level: gradients are computed with respect to the ``"parameters"`` of the network, which is
            exact, to its ``"features"``, the outputs of ``layer``, or to its ``"logits"``, which
            needs one backward pass through the network.
        update_interval: number of steps from one update of the weights to the next, at least 1.
        layer: name of the layer for level ``"features"``; by default ``backbone``.
"""
_HELD_OUT_ARGUMENTS = """\
        update_interval: number of steps from one look at a held-out batch to the next, at least 1.
"""


def _component(name: str) -> type[WeightedLoss]:
    """Create the component of a method and register it in PaddleSeg.

    Its arguments are those of all components and those of the method, with the method's defaults.
    """
    method = METHODS[name]
    of_weighted = inspect.signature(WeightedLoss).parameters
    of_losses = [of_weighted[key] for key in ("losses", "names", "ignore_index")]
    signature = inspect.Signature([*of_losses, *method_arguments(method)])

    def __init__(self: WeightedLoss, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(*args, **kwargs).arguments
        options = {key: given.pop(key) for key in given.keys() & own_arguments(method).keys()}
        WeightedLoss.__init__(self, weighting=lambda k: method(k, **options), **given)

    component = type(
        name,
        (WeightedLoss,),
        {
            "__init__": __init__,
            "__doc__": _docstring(name, method),
            "__module__": __name__,
            "__signature__": signature,
        },
    )
    return manager.LOSSES.add_component(component)


def _docstring(name: str, method: type[Weighting]) -> str:
    documentation = method.__doc__ or ""
    arguments = re.search(r" {4}Args:\n(.*?)\n\n", documentation + "\n\n", flags=re.DOTALL)
    own = re.sub(r" {8}num_losses:.*\n?", "", arguments.group(1)) if arguments else ""
    names = {argument.name for argument in method_arguments(method)}
    shared = _HELD_OUT_ARGUMENTS if "update_interval" in names else ""
    shared = _GRADIENT_ARGUMENTS if "level" in names else shared
    bind = {
        LossWeighting: "",
        HeldOutLossWeighting: "",
        AlignmentWeighting: ".bind(model, optimizer)",
    }
    call = next((text for kind, text in bind.items() if issubclass(method, kind)), ".bind(model)")
    losses = example_losses(method)
    return _DOCSTRING.format(
        name=name,
        method=method.__name__,
        summary=documentation.split("\n")[0],
        arguments=shared + own + "\n" if own else shared,
        least=len(losses),
        snippet=textwrap.indent(config_snippet(name), " " * 8),
        classes=", ".join(losses),
        losses=", ".join(f"{loss}()" for loss in losses),
        bind=call,
        optimizer=_OPTIMIZER if "optimizer" in call else "",
    )


#: The component of every method, by its name.
COMPONENTS = {name: _component(name) for name in METHODS}
