"""Builds a data set; its list may come from any editor, and may name only files of its folder."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from paddleseg.cvlibs import manager

from paddleseg_autoloss.checks import build
from paddleseg_autoloss.data_checks.examination import check_data, foreign_transform
from paddleseg_autoloss.data_checks.lists import ListFile, readable_lists
from paddleseg_autoloss.errors import ConfigError, DataError

__all__ = ["build_dataset", "open_dataset"]

#: Environment variable that allows lists to name files outside of the data set's folder.
_OUTSIDE_ROOT = "AUTOLOSS_OUTSIDE_ROOT"

T = TypeVar("T")


def build_dataset(key: str, config: dict[str, Any], make: Callable[[], T]) -> T:
    """Build a data set, and check its images and labels; see `open_dataset` and `check_data`.

    Args:
        key: config key of the data set.
        config: config of the data set.
        make: function that builds it.
    """
    dataset, lists = open_dataset(key, config, make)
    check_data(key, dataset, lists, _foreign_transform(config))
    return dataset


def _foreign_transform(config: dict[str, Any]) -> str | None:
    """Read the transforms from the config, because a comparison builds data sets without them."""
    known = manager.TRANSFORMS.components_dict
    names = [transform["type"] for transform in config.get("transforms") or []]
    return foreign_transform([known[name] for name in names if name in known])


def open_dataset(
    key: str, config: dict[str, Any], make: Callable[[], T]
) -> tuple[T, list[ListFile]]:
    """Build a data set, and return it with the list files that it read.

    Args:
        key: config key of the data set.
        config: config of the data set.
        make: function that builds it.

    Raises:
        ConfigError: the data set cannot be built.
        DataError: OpticDiscSeg is missing and cannot be downloaded, a line of a list cannot be
            read, or a list names files outside of ``dataset_root`` without permission.
    """
    root = config.get("dataset_root")
    absent = config["type"] == "OpticDiscSeg" and not (root and Path(root).exists())
    component = manager.DATASETS.components_dict.get(config["type"])
    try:
        with readable_lists(key, config, component) as lists:
            dataset = build(key, make)
    except ConfigError as error:
        fault = _data_error_in(error)
        if fault is not None:
            raise fault from error
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
    return dataset, lists


def _data_error_in(error: BaseException) -> DataError | None:
    """Find the DataError inside the error of PaddleSeg's builder, which wraps every error."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, DataError):
        inner = inner.__cause__ or inner.__context__
    return inner


def _check_inside(key: str, dataset: Any, root: str) -> None:
    """Refuse files outside of the folder: a foreign list must not reveal other files."""
    inside = os.path.join(os.path.realpath(root), "")
    folder_of = functools.lru_cache(maxsize=None)(os.path.realpath)
    for pair in getattr(dataset, "file_list", []):
        for path in pair:
            if path is not None and not _real_path(path, folder_of).startswith(inside):
                raise DataError(
                    f"{key}: its list names {path}, which is outside of dataset_root {root} or "
                    f"links there; to allow this, set the environment variable {_OUTSIDE_ROOT}=1"
                )


def _real_path(path: str, folder_of: Callable[[str], str]) -> str:
    """Return a path without symbolic links; for speed, each folder is resolved only once."""
    folder, name = os.path.split(path)
    joined = os.path.join(folder_of(folder), name)
    is_final = name not in ("", ".", "..") and not os.path.islink(joined)
    return joined if is_final else os.path.realpath(joined)
