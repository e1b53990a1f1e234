"""The one place that loads files of weights and states, without ``pickle``.

When this package is imported, PaddleSeg's own loaders use it too.  So the commands, PaddleSeg's
scripts and notebooks behave alike.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import paddle
from paddle import Tensor, nn
from paddleseg.utils import utils

from paddleseg_autoloss.errors import AutoLossError, CheckpointError, typed_line
from paddleseg_autoloss.integration.proof import check_iteration, check_proof
from paddleseg_autoloss.seams import redirect, replace, replaced
from paddleseg_autoloss.tensor_files import read_tensor_file

__all__ = ["guard_loaders", "load_tensors", "load_weights"]

#: Key under which ``paddle.save`` stores the names of the tensors.
_NAMES = "StructuredToParameterName@@"

_stock_load: Callable = paddle.load
_stock_load_pretrained_model: Callable = utils.load_pretrained_model


def load_tensors(path: str, what: str = "pretrained") -> Any:
    """Load a file like ``paddle.load``, but accept only tensors, numbers and names in it.

    Args:
        path: a local file that ``paddle.save`` wrote.
        what: the flag or config key that names the file, for error messages.

    Returns:
        The saved object.

    Raises:
        CheckpointError: the file cannot be read, is damaged, contains other objects, or does not
            match the checksum in its proof.
    """
    try:
        check_proof(path)
        content = read_tensor_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"{what}: {error}") from error
    try:
        return _with_tensors(content)
    except Exception as error:
        raise CheckpointError(f"{what}: cannot read {path}: {typed_line(error)}") from error


def load_weights(
    model: nn.Layer, pretrained_model: str | None, what: str = "pretrained"
) -> dict[str, list[int] | None]:
    """Load the tensors of a weight file that fit into a network, as PaddleSeg does.

    Args:
        model: the network.
        pretrained_model: a file or a URL; for None nothing is loaded.
        what: the flag or config key that names the file, for error messages.

    Returns:
        The network's tensors for which the file has no matching tensor, each with the shape that
        it has in the file, or None if the file has none of this name.

    Raises:
        CheckpointError: the file cannot be read or downloaded, or none of its tensors fits.
    """
    if pretrained_model is None:
        _stock_load_pretrained_model(model, None)
        return {}
    path = _local(pretrained_model, what)
    weights = load_tensors(path, what)
    own = model.state_dict()
    missing = {
        name: list(weights[name].shape) if name in weights else None
        for name, value in own.items()
        if not _fits(weights, name, value, what, path)
    }
    if own and len(missing) == len(own):
        raise CheckpointError(
            f"{what}: found none of the {len(own)} tensors of {type(model).__name__} in {path}"
        )
    try:
        with replaced(paddle, "load", lambda path: weights):
            _stock_load_pretrained_model(model, path)
    except Exception as error:
        raise CheckpointError(f"{what}: cannot load {path}: {typed_line(error)}") from error
    return missing


def guard_loaders() -> None:
    """Let PaddleSeg's loaders use the functions of this module.

    The replaced ``paddle.load`` looks at its caller: it handles calls from PaddleSeg's modules, and
    passes all other calls to Paddle's own function.
    """
    global _stock_load_pretrained_model
    replace(paddle, "load", _load)
    _stock_load_pretrained_model = redirect(utils.load_pretrained_model, load_weights)


@functools.wraps(_stock_load)
def _load(path: Any, **configs: Any) -> Any:
    caller = sys._getframe(1).f_globals.get("__name__", "")
    if caller.partition(".")[0] != "paddleseg":
        return _stock_load(path, **configs)
    what = "pretrained"
    if sys._getframe(1).f_code.co_name == "resume":
        what = "--resume_model"
        try:
            check_iteration(Path(path).parent)
        except CheckpointError as error:
            raise CheckpointError(f"{what}: {error}") from error
    return load_tensors(path, what)


def _local(path: str, what: str) -> str:
    """Return a local path; PaddleSeg downloads the file first if ``path`` is a URL."""
    if not urlparse(path).netloc:
        return path
    try:
        return utils.download_pretrained_model(path)
    except AutoLossError:
        raise
    except Exception as error:
        raise CheckpointError(f"{what}: cannot download {path}: {typed_line(error)}") from error


def _fits(weights: Any, name: str, own: Tensor, what: str, path: str) -> bool:
    if not isinstance(weights, dict):
        raise CheckpointError(
            f"{what}: expected tensors by name in {path}, found a {type(weights).__name__}"
        )
    value = weights.get(name)
    if name in weights and not isinstance(value, (Tensor, np.ndarray)):
        raise CheckpointError(
            f"{what}: expected a tensor {name} in {path}, found a {type(value).__name__}"
        )
    return value is not None and list(value.shape) == list(own.shape)


def _with_tensors(content: Any) -> Any:
    """Convert arrays to tensors as ``paddle.load`` does, for each of its file formats."""
    if isinstance(content, dict) and _NAMES in content:
        for key, name in content.pop(_NAMES).items():
            if isinstance(content[key], np.ndarray):
                content[key] = _tensor(content[key], name)
        return content
    return _Converter(only_named=_has_named(content)).convert(content)


def _has_named(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_named, value.values()))
    return _is_named(value) or (isinstance(value, (list, tuple)) and any(map(_has_named, value)))


def _is_named(value: Any) -> bool:
    """Whether a value is a tensor that was saved with its name."""
    return type(value) is tuple and list(map(type, value)) == [str, np.ndarray]


class _Converter:
    """Replaces arrays by tensors; an array that occurs several times becomes one tensor.

    Args:
        only_named: whether arrays without a name were saved as arrays and stay arrays.
    """

    def __init__(self, only_named: bool) -> None:
        self._only_named = only_named
        self._done: dict[int, tuple[Any, Any]] = {}

    def convert(self, value: Any) -> Any:
        if not isinstance(value, (dict, list, tuple, np.ndarray)):
            return value
        if id(value) not in self._done:
            # Keep the value alive, so that no other object gets the same id.
            self._done[id(value)] = value, self._convert_new(value)
        return self._done[id(value)][1]

    def _convert_new(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value if self._only_named else _tensor(value)
        if _is_named(value) and self._only_named:
            return _tensor(value[1], value[0])
        if isinstance(value, tuple):
            return tuple(map(self.convert, value))
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            value[key] = self.convert(value[key])
        return value


def _tensor(array: np.ndarray, name: str | None = None) -> Tensor:
    tensor = paddle.to_tensor(array)
    if name:
        tensor.name = name
    return tensor
