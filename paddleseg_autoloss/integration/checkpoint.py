"""Checkpoints: written whole or not at all, and checked before they are resumed."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.errors import CheckpointError, ConfigError
from paddleseg_autoloss.files import replace_file

__all__ = [
    "atomic_save",
    "check_writable",
    "checked_load",
    "checkpoint_iteration",
    "latest_checkpoint",
    "non_finite",
    "whole_checkpoints",
]

_FILES = ("model.pdparams", "model.pdopt")
_NAME = re.compile(r".*_(\d+)")


def atomic_save(save: Callable[..., None], obj: Any, path: str, *args: Any, **kwargs: Any) -> None:
    """Call ``save(obj, path)`` so that a kill at any moment leaves the previous file whole.

    See `replace_file`.

    Raises:
        CheckpointError: it cannot be written, to a full disk for instance.
    """
    if not isinstance(path, (str, os.PathLike)):
        save(obj, path, *args, **kwargs)
        return
    try:
        with replace_file(path) as temporary:
            save(obj, str(temporary), *args, **kwargs)
    except OSError as error:
        raise CheckpointError(f"save_dir: cannot write {path}: {error.strerror}") from error


def check_writable(save_dir: str | Path) -> None:
    """Make the folder of a run, and check that files can be written there.

    Raises:
        ConfigError: they cannot.
    """
    try:
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=save_dir):
            pass
    except OSError as error:
        raise ConfigError(f"save_dir: cannot write to {save_dir}: {error.strerror}") from error


def checked_load(model: nn.Layer) -> Callable[[dict[str, Tensor]], Any]:
    """Return the model's ``set_state_dict``, which skips what does not fit, with a check before it.

    Its call raises CheckpointError if the state is that of another network.
    """
    stock = model.set_state_dict

    def set_state_dict(state: dict[str, Tensor]) -> Any:
        for name, own in model.state_dict().items():
            found = state.get(name)
            if found is None or list(found.shape) != list(own.shape):
                what = "nothing" if found is None else f"shape {list(found.shape)}"
                raise CheckpointError(
                    f"--resume_model: the checkpoint is of another network: expected {name} of "
                    f"shape {list(own.shape)}, found {what}"
                )
        return stock(state)

    return set_state_dict


def latest_checkpoint(save_dir: str | Path) -> str:
    """Return the folder of the newest whole checkpoint of a run.

    Raises:
        CheckpointError: there is none.
    """
    whole = whole_checkpoints(save_dir)
    if not whole:
        raise CheckpointError(f"--resume_model: there is no whole checkpoint in {save_dir}")
    return str(whole[-1])


def non_finite(state: Any) -> str | None:
    """Return the name of a tensor in a state dict that holds a NaN or an infinity, if any."""
    for name, value in state.items() if isinstance(state, dict) else ():
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        if is_float and not bool(paddle.isfinite(value).all()):
            return name
    return None


def checkpoint_iteration(folder: str) -> int:
    """Return the iteration of a checkpoint folder after checking that it can be resumed.

    Raises:
        CheckpointError: the folder is missing, lacks a file, or its name does not end in the
            iteration.
    """
    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(f"--resume_model: {folder} is not a folder{_alternatives(path)}")
    missing = [name for name in _FILES if not (path / name).is_file()]
    if missing:
        raise CheckpointError(
            f"--resume_model: {folder} is incomplete, {' and '.join(missing)} missing"
            f"{_alternatives(path)}"
        )
    match = _NAME.fullmatch(os.path.basename(os.path.normpath(folder)))
    if match is None:
        raise CheckpointError(
            f"--resume_model: expected a folder named iter_N after its iteration, found {folder}"
        )
    return int(match[1])


def whole_checkpoints(save_dir: str | Path) -> list[Path]:
    """List the complete checkpoints in ``save_dir``, the newest last."""
    folders = [path for path in Path(save_dir).glob("iter_*") if path.name[5:].isdigit()]
    whole = [path for path in folders if all((path / name).is_file() for name in _FILES)]
    return sorted(whole, key=lambda path: int(path.name[5:]))


def _alternatives(folder: Path) -> str:
    whole = whole_checkpoints(folder.parent)
    return f"; the newest whole checkpoint there is {whole[-1]}" if whole else ""
