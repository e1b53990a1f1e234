"""Reads the files of runs, and checks them: somebody may have changed or damaged one."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from paddleseg_autoloss.checks import is_integer
from paddleseg_autoloss.errors import DataError, one_line, shown
from paddleseg_autoloss.escaping import unescape_cell
from paddleseg_autoloss.files import read_json

__all__ = [
    "read_attempts",
    "read_evaluation",
    "read_result",
    "read_samples",
    "read_setup",
    "read_weights",
]

_Check = Callable[[Any], bool]
_NUMBERS = ("iteration", "raw", "weight", "weighted")
#: Integers in JSON may be larger than any float, and than any index.
_LARGEST, _MOST_ITERATIONS = sys.float_info.max, 2**63 - 1


def _is_figure(value: Any) -> bool:
    """Whether a value is a number; None stands for NaN, see `json_number`."""
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or (is_real and not abs(value) > _LARGEST)


def _is_length(value: Any) -> bool:
    return _is_figure(value) and value is not None and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_iteration(value: Any) -> bool:
    return is_integer(value, 0, _MOST_ITERATIONS)


def _list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _mapping_to(check: _Check) -> _Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _is_point(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2
    return is_pair and _is_iteration(value[0]) and _is_figure(value[1])


#: For each value what it is, and how to check it.
_FIGURE = ("a number or null", _is_figure)
_FIGURES = ("a list of numbers", _list_of(_is_figure))
_NAMED_FIGURES = ("a number for each name", _mapping_to(_is_figure))
_TEXT = ("a text or null", lambda value: value is None or _is_text(value))
_EVALUATION = {
    "mIoU": _FIGURE,
    "Dice": _FIGURE,
    "Kappa": _FIGURE,
    "class_IoU": _FIGURES,
    "class_share": _FIGURES,
}
_RESULT = {
    "device": ("a name", _is_text),
    "versions": ("a version for each name", _mapping_to(_is_text)),
    "script": _TEXT,
    "retrain_of": _TEXT,
    "wall_seconds": ("a number of seconds", _is_length),
    "step_seconds": _FIGURE,
    "resumed_from": ("a list of iterations", _list_of(_is_iteration)),
    "weights": _NAMED_FIGURES,
    "learned_parameters": _NAMED_FIGURES,
    "validation_curve": ("a list of pairs of iteration and mIoU", _list_of(_is_point)),
}
_ATTEMPT = {
    "from": ("an iteration", _is_iteration),
    "seconds": ("a number of seconds", _is_length),
}
_PARTS = ("test", "validation")
#: Keys that a result must have.
_NEEDED = ("device", "versions", "wall_seconds", *_PARTS)


def read_result(path: Path) -> dict[str, Any]:
    """Read ``result.json`` of a run.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read, or one of its values is no such value.
    """
    result = _mapping(path, "", read_json(path), _NEEDED)
    _check_values(path, "", result, _RESULT)
    _check_evaluation(path, result)
    return result


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read ``evaluation.json`` of a run; see `read_result`."""
    found = _mapping(path, "", read_json(path), _PARTS)
    _check_evaluation(path, found)
    return found


def _check_evaluation(path: Path, found: Mapping[str, Any]) -> None:
    for part in _PARTS:
        figures = _mapping(path, part, found[part], ("mIoU",))
        _check_values(path, f"{part}.", figures, _EVALUATION)
        ious, shares = (figures.get(key, []) for key in ("class_IoU", "class_share"))
        if shares and len(ious) != len(shares):
            raise DataError(
                f"{path}: {part}.class_IoU: expected {len(shares)} numbers as in class_share, "
                f"found {len(ious)}"
            )


def read_attempts(path: Path) -> list[dict[str, Any]]:
    """Read ``attempts.json`` of a run; see `read_result`."""
    attempts = read_json(path)
    if not isinstance(attempts, list):
        raise DataError(f"{path}: expected a list, found {shown(attempts)}")
    for index, attempt in enumerate(attempts):
        _mapping(path, f"[{index}]", attempt, _ATTEMPT)
        _check_values(path, f"[{index}].", attempt, _ATTEMPT)
    return attempts


def read_setup(path: Path) -> dict[str, Any]:
    """Read ``setup.json`` of a comparison; see `read_result`."""
    return _mapping(path, "", read_json(path), ())


def read_samples(path: Path) -> dict[str, np.ndarray]:
    """Read ``samples.npz`` of a run: images, and masks of the truth and of predictions.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read, or one of its arrays is no image and no mask.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error, NotImplementedError) as error:
        reason = one_line(error)
        raise DataError(f"{path}: expected arrays of numbers: {reason}") from error
    for name, array in arrays.items():
        sides = 3 if name.startswith("image") else 2
        if array.dtype != np.uint8 or array.ndim != sides or not array.size:
            raise DataError(
                f"{path}: {name}: expected {sides} dimensions of bytes, found {array.dtype} of "
                f"shape {list(array.shape)}; evaluate the run again, or use --no_samples"
            )
    return arrays


def _mapping(path: Path, key: str, value: Any, needed: Mapping | tuple) -> dict[str, Any]:
    where = f"{path}: {key}" if key else str(path)
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected keys and values, found {shown(value)}")
    for name in needed:
        if name not in value:
            raise DataError(f"{where}: expected the key {name}, found none")
    return value


def _check_values(
    path: Path, prefix: str, found: Mapping[str, Any], known: Mapping[str, tuple[str, _Check]]
) -> None:
    for key, (what, check) in known.items():
        if key in found and not check(found[key]):
            raise DataError(f"{path}: {prefix}{key}: expected {what}, found {shown(found[key])}")


def read_weights(path: Path) -> pd.DataFrame:
    """Read ``loss_weights.csv`` of a run; see `read_result`.

    Args:
        path: the file.
    """
    try:
        table = pd.read_csv(path, converters={"term": unescape_cell})
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected a table: {one_line(error)}") from error
    for column in ("term", *_NUMBERS):
        if column not in table:
            raise DataError(f"{path}: expected the column {column}, found none")
    for column in _NUMBERS:
        if len(table) and not pd.api.types.is_numeric_dtype(table[column]):
            raise DataError(f"{path}: {column}: expected numbers only, found text")
    if table.iteration.isna().any():
        raise DataError(f"{path}: iteration: expected a number in every line, found none")
    return table
