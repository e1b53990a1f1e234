"""The images of a comparison: for training, for choosing learning rates, and for the report."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddleseg.cvlibs import manager
from paddleseg.datasets import OpticDiscSeg

from paddleseg_autoloss.comparison.plan import Plan
from paddleseg_autoloss.data_checks import build_dataset
from paddleseg_autoloss.data_checks.lists import ListFile, text_lines
from paddleseg_autoloss.data_checks.overlap import note_overlap
from paddleseg_autoloss.data_checks.split import held_out_names
from paddleseg_autoloss.errors import ConfigError, DataError, one_line
from paddleseg_autoloss.files import write_file
from paddleseg_autoloss.integration.held_out import held_out_options

__all__ = [
    "HeldOutImages",
    "Split",
    "check_same_data",
    "read_split",
    "split_data",
    "without_paths",
    "written_split",
]

_DATASETS = ("train_dataset", "val_dataset")
#: Keys of a data set whose values may differ between variants.
_OWN_KEYS = {"transforms", "edge"}
_PATHS = ("dataset_root", "train_path", "val_path", "test_path")


class Split:
    """The data sets of a config, with a part of the training list held out.

    Args:
        lists: the list files of the training and validation images, or None if nothing is held out.
    """

    def __init__(self, lists: tuple[Path, Path] | None) -> None:
        self.lists = lists

    def training(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return a config that trains without the held-out images and is validated on them."""
        config = _with_absolute_paths(config)
        if self.lists is None:
            return config
        test = _as_list_dataset(config["val_dataset"], "val")
        train = _as_list_dataset(config["train_dataset"], "train")
        config["train_dataset"] = {**train, "train_path": str(self.lists[0])}
        # These images are from the training list, but they are transformed like the test images.
        own = {"dataset_root": train["dataset_root"], "separator": train.get("separator", " ")}
        config["val_dataset"] = {**test, **own, "val_path": str(self.lists[1])}
        return config

    def test(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the test set: the config's own ``val_dataset``."""
        config = _with_absolute_paths(config)
        own = config["val_dataset"]
        return own if self.lists is None else _as_list_dataset(own, "val")


def check_same_data(plan: Plan) -> None:
    """Check that all variants train and are evaluated on the same images.

    Args:
        plan: the comparison.

    Raises:
        ConfigError: two variants have different images.
    """
    first = plan.variants[0]
    for variant in plan.variants[1:]:
        for section in _DATASETS:
            ours, theirs = (_source(v.config.get(section, {})) for v in (variant, first))
            for key in sorted(ours.keys() | theirs.keys()):
                if ours.get(key) != theirs.get(key):
                    raise ConfigError(
                        f"{section}.{key}: expected {theirs.get(key)!r} in {variant.name!r} as in "
                        f"{first.name!r}, found {ours.get(key)!r}; only runs on the same images "
                        "form pairs"
                    )


def _source(dataset: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in dataset.items() if key not in _OWN_KEYS}


def split_data(plan: Plan, folder: Path) -> Split:
    """Check the images, and write the list files of training and validation images.

    Args:
        plan: the comparison.
        folder: folder of the list files.

    Raises:
        ConfigError: the data set has no list file to split, the parts would be too small, or the
            folder contains another split.
        DataError: an image is missing or broken.
    """
    config = _with_absolute_paths(plan.variants[0].config)
    for section in _DATASETS:
        if not config.get(section):
            raise ConfigError(f"{section}: expected a data set, found none")
    train_dataset, val_dataset = (_build(section, config[section]) for section in _DATASETS)
    note_overlap(train_dataset, val_dataset)
    if plan.validation == 0:
        _check_held_out(plan, [pair[0] for pair in getattr(train_dataset, "file_list", [])])
        return Split(None)
    train = _as_list_dataset(config["train_dataset"], "train")
    lines = _named_lines(train["train_path"], train, train.get("separator", " "))
    held_out, _ = held_out_names((name for _, name in lines), plan.validation, plan.split_seed)
    parts = tuple([line for line, name in lines if (name in held_out) == part] for part in (0, 1))
    batch = max(variant.config["batch_size"] for variant in plan.variants)
    if round(plan.validation * len(lines)) < 1 or len(parts[0]) < batch:
        raise ConfigError(
            f"validation: expected a share of the {len(lines)} training images with at least 1 "
            f"image that leaves at least {batch}, one batch, to train on; found "
            f"{plan.validation:g}; take another share, a smaller batch_size, or more images"
        )
    _check_held_out(plan, [name for _, name in lines if name not in held_out])
    split = written_split(plan, folder)
    for path, part in zip(split.lists or (), parts):
        _write_once(path, "\n".join(part) + "\n")
    return split


def _check_held_out(plan: Plan, names: list[str]) -> None:
    """Check that what the variants hold out of training leaves a batch to train on.

    Args:
        plan: the comparison.
        names: the images to train on; none if the data set has no list, which a run says.
    """
    if not names:
        return
    for variant in plan.variants:
        options = held_out_options(variant.config.get("held_out"))
        if options is None:
            continue
        part, _ = held_out_names(names, options.fraction, options.seed)
        left = sum(name not in part for name in names)
        batch = variant.config["batch_size"]
        if left < batch:
            raise ConfigError(
                f"held_out: expected a share of the {len(names)} training images that leaves at "
                f"least {batch}, one batch, to train on in {variant.name!r}, found "
                f"{options.fraction:g}, which leaves {left}; lower it, batch_size or validation"
            )


def written_split(plan: Plan, folder: Path) -> Split:
    """Return the split that `split_data` has written.

    Args:
        plan: the comparison.
        folder: folder of the list files.
    """
    if plan.validation == 0:
        return Split(None)
    return Split(_lists(folder))


@dataclass(frozen=True)
class HeldOutImages:
    """The images that are held out of a training list.

    Args:
        count: their number.
        total: the number of images in the list.
        groups: the beginnings of names for which several images are held out together.
    """

    count: int
    total: int
    groups: list[str]


def read_split(plan: Plan, folder: Path) -> HeldOutImages | None:
    """Return what `split_data` has held out, or None if it has held out nothing.

    Args:
        plan: the comparison.
        folder: folder of the list files.

    Raises:
        ConfigError: the folder contains another split, or none.
        DataError: a list file is not text.
    """
    lists = _lists(folder)
    if not all(path.is_file() for path in lists) or plan.validation == 0:
        if plan.validation > 0 or any(path.is_file() for path in lists):
            raise _other_split(folder)
        return None
    lines = [_lines(path) for path in lists]
    if not all(lines):
        raise _other_split(folder)
    dataset = _with_absolute_paths(plan.variants[0].config)["train_dataset"]
    separator = _separator_of(dataset, lines[0][0])
    named = [_named_lines(path, dataset, separator) for path in lists]
    train, held_out = ([name for _, name in part] for part in named)
    names = {*train, *held_out}
    drawn, groups = held_out_names(names, plan.validation, plan.split_seed)
    if drawn != set(held_out) or drawn & set(train):
        raise _other_split(lists[1])
    return HeldOutImages(len(drawn), len(names), groups)


def _lines(path: Path) -> list[str]:
    try:
        return [line for _, line in text_lines(path)]
    except OSError as error:
        raise DataError(f"{path}: expected a list of images: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8: {one_line(error)}") from error


def _named_lines(
    path: str | Path, dataset: Mapping[str, Any], separator: str
) -> list[tuple[str, str]]:
    """Return the lines of a list of training images, each with the name of its image."""
    root = dataset.get("dataset_root") or ""
    source = ListFile("train_dataset", str(path), root, labelled=True)
    return [(str(line), line.split(separator)[0]) for line in source]


def _separator_of(dataset: Mapping[str, Any], line: str) -> str:
    if dataset["type"] == "Dataset":
        return str(dataset.get("separator", " "))
    return _separator(line)


def _lists(folder: Path) -> tuple[Path, Path]:
    return folder / "train_list.txt", folder / "validation_list.txt"


def _other_split(path: Path) -> ConfigError:
    return ConfigError(
        f"validation: expected the split of this config, found another in {path}; choose another "
        "--save_dir"
    )


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config whose data sets have no paths.

    Args:
        config: a config with or without data sets.
    """
    sets = {section: config[section] for section in _DATASETS if section in config}
    return config | {
        section: {key: value for key, value in dataset.items() if key not in _PATHS}
        for section, dataset in sets.items()
        if isinstance(dataset, dict)
    }


def _build(section: str, config: dict[str, Any]) -> Any:
    """Build a data set without its transforms; this also generates or downloads its files."""
    component = manager.DATASETS[config["type"]]
    arguments = {k: v for k, v in config.items() if k not in ("type", "transforms")}
    return build_dataset(section, config, lambda: component(transforms=[], **arguments))


def _write_once(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        raise _other_split(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text)


def _with_absolute_paths(config: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(config)
    for section in _DATASETS:
        dataset = config.get(section, {})
        for key in _PATHS:
            if isinstance(dataset.get(key), str):
                dataset[key] = str(Path(dataset[key]).absolute())
    return config


def _as_list_dataset(dataset: dict[str, Any], mode: str) -> dict[str, Any]:
    """Convert the config of a data set to one for PaddleSeg's ``Dataset``.

    ``Dataset`` reads any list file; ``OpticDiscSeg`` and its subclasses read only list files with
    fixed names in their folder.
    """
    kind = dataset["type"]
    key = f"{mode}_path"
    if kind == "Dataset" and isinstance(dataset.get(key), str):
        return dict(dataset)
    component = manager.DATASETS[kind]
    root = dataset.get("dataset_root")
    path = Path(root or "") / f"{mode}_list.txt"
    if not (root and issubclass(component, OpticDiscSeg)):
        raise ConfigError(
            f"validation: expected 0 for {kind}, because it has no list file to hold images out of"
        )
    lines = _lines(path)
    if not lines:
        raise DataError(f"{path}: expected the list of {kind}, found no line")
    listed = {
        "type": "Dataset",
        "dataset_root": root,
        key: str(path),
        "num_classes": component.NUM_CLASSES,
        "mode": mode,
        "separator": _separator(lines[0]),
        "transforms": dataset.get("transforms", []),
    }
    return listed | {k: dataset[k] for k in ("edge",) if k in dataset}


def _separator(line: str) -> str:
    """Return the separator of image and label; ``OpticDiscSeg`` allows any whitespace."""
    match = re.fullmatch(r"\S+(\s+)\S+", line)
    return match[1] if match else " "
