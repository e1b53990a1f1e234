"""Images that a network is both trained and evaluated on."""

from __future__ import annotations

import os
from typing import Any

from paddleseg.utils import logger

__all__ = ["note_overlap"]


def note_overlap(train_dataset: Any, val_dataset: Any) -> None:
    """Warn of images that are in both data sets: figures of an evaluation would be too good.

    Args:
        train_dataset: the data set to train on, or None.
        val_dataset: the data set to evaluate on, or None.
    """
    if train_dataset is None or val_dataset is None:
        return
    trained, evaluated = map(_images, (train_dataset, val_dataset))
    shared = sorted(trained & evaluated)
    if shared:
        logger.warning(
            f"val_dataset: {len(shared)} of its {len(evaluated)} images are in train_dataset too, "
            f"such as {shared[0]}, so the figures of an evaluation will be too good"
        )


def _images(dataset: Any) -> set[str]:
    return {os.path.realpath(pair[0]) for pair in getattr(dataset, "file_list", [])}
