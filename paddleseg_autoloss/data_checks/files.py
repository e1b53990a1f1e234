"""Whether the files of a data set are there, are images and are whole."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cv2
from PIL import Image, UnidentifiedImageError

from paddleseg_autoloss.checks import build
from paddleseg_autoloss.errors import ConfigError, DataError, one_line

__all__ = ["build_dataset", "check_files"]

_END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}

#: Environment variable that allows lists to name files outside of the data set's folder.
_OUTSIDE_ROOT = "AUTOLOSS_OUTSIDE_ROOT"

T = TypeVar("T")


def build_dataset(key: str, config: dict[str, Any], make: Callable[[], T]) -> T:
    """Build a data set and check its files; see `build` and `check_files`.

    Raises:
        DataError: OpticDiscSeg is not there and cannot be downloaded, a file cannot be read, or
            the list names files outside of ``dataset_root`` and nobody said that it may.
    """
    root = config.get("dataset_root")
    absent = config["type"] == "OpticDiscSeg" and not (root and Path(root).exists())
    try:
        dataset = build(key, make)
    except ConfigError as error:
        if not absent or "`mode`" in str(error):
            raise
        Path(f"{root}.download.lock").unlink(missing_ok=True)
        raise DataError(
            f"{key}.dataset_root: expected the folder of OpticDiscSeg (train_list.txt, "
            f"val_list.txt, JPEGImages, Annotations), found none at {root}, and it could not be "
            "downloaded; put it there, or start with auto_ce_dice_demo.yml, which needs no download"
        ) from error
    if root and not os.environ.get(_OUTSIDE_ROOT):
        _check_inside(key, dataset, root)
    check_files(key, dataset)
    return dataset


def _check_inside(key: str, dataset: Any, root: str) -> None:
    """A list from elsewhere must not make training read, and show, other files of this machine."""
    inside = os.path.join(os.path.realpath(root), "")
    folder_of = functools.lru_cache(maxsize=None)(os.path.realpath)
    for pair in getattr(dataset, "file_list", []):
        for path in pair:
            if path is not None and not _real_path(path, folder_of).startswith(inside):
                raise DataError(
                    f"{key}: its list names {path}, outside of dataset_root {root}, or a link to "
                    f"there; if that is meant, set the environment variable {_OUTSIDE_ROOT}=1"
                )


def _real_path(path: str, folder_of: Callable[[str], str]) -> str:
    """The path without symbolic links; looking up the folder once for all its files is fast."""
    folder, name = os.path.split(path)
    joined = os.path.join(folder_of(folder), name)
    is_final = name not in ("", ".", "..") and not os.path.islink(joined)
    return joined if is_final else os.path.realpath(joined)


def check_files(key: str, dataset: Any) -> None:
    """Check that every image and label of a data set is there, is an image and is whole.

    The pixels are not decoded: this takes about a millisecond per file.  Training itself would not
    tell: OpenCV pads what is cut short, and Paddle's reader waits for ever when one read fails.

    Raises:
        DataError: one is not; the error names it.
    """
    for pair in getattr(dataset, "file_list", []):
        for path in pair:
            if path is not None:
                try:
                    _check_image(Path(path))
                except (OSError, SyntaxError, ValueError) as error:
                    reason = "it is missing" if not Path(path).exists() else one_line(error)
                    raise DataError(f"{key}: cannot read {path}: {reason}") from error


def _check_image(path: Path) -> None:
    """Read the header, check the checksums that the format has, and look for its end marker."""
    try:
        with Image.open(path) as image:
            marker = _END_MARKERS.get(image.format or "", b"")
            image.verify()
    except UnidentifiedImageError:
        if cv2.haveImageReader(str(path)):
            return
        raise
    if marker not in path.read_bytes():
        raise OSError("the file is cut short")
