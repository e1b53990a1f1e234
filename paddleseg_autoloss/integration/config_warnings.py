"""Warnings of configs that work, but seldom as they are meant."""

from __future__ import annotations

import inspect
from typing import Any

from paddleseg.cvlibs import manager
from paddleseg.transforms import Normalize
from paddleseg.utils import logger

from paddleseg_autoloss.data_checks.examination import foreign_transform

__all__ = ["warn_of_normalization", "warn_of_warmup"]


def warn_of_normalization(config: dict[str, Any]) -> None:
    """Warn if the images of validation are normalized in another way than those of training.

    Lists with transforms that are not PaddleSeg's are left alone: these may normalize as well.

    Args:
        config: the checked config.
    """
    train, val = (
        (config.get(key) or {}).get("transforms") for key in ("train_dataset", "val_dataset")
    )
    if train is None or val is None or _has_foreign([*train, *val]):
        return
    if not _is_same(_normalizations(train), _normalizations(val)):
        logger.warning(
            f"val_dataset.transforms: expected {_describe(train)} as in train_dataset.transforms, "
            f"found {_describe(val)}: the network was not trained on such images"
        )


def _has_foreign(transforms: list[dict[str, Any]]) -> bool:
    known = manager.TRANSFORMS.components_dict
    return foreign_transform(known[transform["type"]] for transform in transforms) is not None


def _normalizations(transforms: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    """Return mean and standard deviation of each Normalize."""
    defaults = inspect.signature(Normalize).parameters
    return [
        tuple(transform.get(name, defaults[name].default) for name in ("mean", "std"))
        for transform in transforms
        if transform["type"] == "Normalize"
    ]


def _is_same(first: list[tuple[Any, Any]], second: list[tuple[Any, Any]]) -> bool:
    """Whether the numbers are the same; one number counts for all channels."""
    if len(first) != len(second):
        return False
    pairs = [pair for one, other in zip(first, second) for pair in zip(one, other)]
    return all(
        set(one) == set(other) if 1 in map(len, (one, other)) else list(one) == list(other)
        for one, other in pairs
    )


def _describe(transforms: list[dict[str, Any]]) -> str:
    found = [
        f"Normalize with mean {list(mean)} and std {list(std)}"
        for mean, std in _normalizations(transforms)
    ]
    return " and ".join(found) or "no Normalize"


def warn_of_warmup(config: dict[str, Any]) -> None:
    """Warn if the training ends before the warm-up of the learning rate.

    Args:
        config: the checked config.
    """
    schedule, iters = config["lr_scheduler"], config["iters"]
    warmup = schedule.get("warmup_iters", 0)
    if warmup >= iters:
        logger.warning(
            f"lr_scheduler.warmup_iters: expected fewer than the {iters} iters, found {warmup}: "
            f"the learning rate never reaches {schedule['learning_rate']}"
        )
