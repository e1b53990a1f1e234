"""The content of one label, as the data set reads it, before the transforms."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from paddleseg.datasets import ADE20K, Dataset, PSSLDataset
from paddleseg.transforms import Compose
from PIL import Image

from paddleseg_autoloss.data_checks.images import (
    check_image,
    image_size,
    look_at_image,
    reason_of,
)
from paddleseg_autoloss.data_checks.randomness import preserve_randomness

__all__ = [
    "Facts",
    "LabelReader",
    "count_values",
    "reader_of",
]

#: The methods with which PaddleSeg's data sets read labels, except those with their own transforms.
_KNOWN = (Dataset.__getitem__, ADE20K.__getitem__, PSSLDataset.__getitem__)
#: Most values of one label that are stored; a label with more values is a photograph.
_MOST_VALUES = 300


@dataclass(frozen=True)
class Facts:
    """Facts about an image and its label.

    Args:
        image_error: the reason why the image cannot be read, or an empty text.
        image_size: height and width of the image.
        label_error: the reason why the label cannot be read, or an empty text.
        label_shape: height and width of the label, and channels of a colour mask.
        dtype: type of its numbers.
        counts: number of pixels with each value, by the value as text.
        decoded: whether the pixels of the image were decoded.
        note: a key of `images.NOTES`, or an empty text.
    """

    image_error: str = ""
    image_size: list[int] = field(default_factory=list)
    label_error: str = ""
    label_shape: list[int] = field(default_factory=list)
    dtype: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    decoded: bool = False
    note: str = ""


class LabelReader:
    """Reads labels as a data set of PaddleSeg does, without its images and transforms.

    This calls the data set's own ``__getitem__`` on a copy of it, because some classes change their
    labels: ``ADE20K`` subtracts 1, and ``PSSLDataset`` combines several files.

    Args:
        dataset: the data set, with ``file_list`` and ``transforms``.

    Attributes:
        is_paddleseg: whether known code of PaddleSeg reads the labels.
        name: name of the function that reads them.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = copy.copy(dataset)
        self._dataset.transforms = self._without_transforms
        # Edges are computed from the label, which takes time and is not needed.
        self._dataset.edge = False
        self._was_called = False
        # Of the images that are being read, by their paths.
        self._sizes: dict[str, list[int]] = {}
        method = type(dataset).__getitem__
        self.is_paddleseg = method in _KNOWN
        self.name = f"{method.__module__}.{method.__qualname__}"

    def can_read(self) -> bool:
        """Whether the data set passes its samples to its ``transforms``."""
        if not self.is_paddleseg:
            with preserve_randomness(), suppress(Exception):
                self.read(0)
        return self.is_paddleseg or self._was_called

    def _without_transforms(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Replace ``Compose``: read the label, without transforms and image pixels."""
        self._was_called = True
        if isinstance(sample.get("label"), str):
            check_image(Path(sample["label"]))
            sample["label"] = np.asarray(Image.open(sample["label"]))
        if isinstance(sample["img"], str):
            size = self._sizes.get(sample["img"]) or image_size(sample["img"])
            sample["img"] = np.broadcast_to(np.float32(0), (3, *size))
        sample.setdefault("trans_info", [])
        return sample

    def read(self, index: int) -> tuple[np.ndarray, list[int]]:
        """Return a label, and the height and width of its image."""
        sample = self._dataset[index]
        label = np.asarray(sample["label"])
        if label.ndim > 2 and self._dataset.mode == "val":
            label = label[0]
        return label, list(sample["img"].shape[-2:])

    def facts(self, index: int, decode: bool) -> Facts:
        """Return the facts about one sample.

        Args:
            index: index of the sample.
            decode: whether to decode the image too.
        """
        image, label_path = self._dataset.file_list[index]
        look = look_at_image(Path(image), decode)
        if look.error or label_path is None:
            return Facts(image_error=look.error, decoded=decode)
        self._sizes[str(image)] = look.size
        try:
            label, size = self.read(index)
        except Exception as error:
            return Facts(label_error=reason_of(Path(label_path), error), decoded=decode)
        finally:
            # Another thread may read the same image with another label.
            self._sizes.pop(str(image), None)
        if list(label.shape[:2]) != size and not decode:
            # PIL reads the size without decoding; OpenCV, which training uses, gives the final
            # answer.
            look = look_at_image(Path(image), decode=True)
            if look.error:
                return Facts(image_error=look.error)
            size = look.size
        counts = _counts(label) if label.ndim == 2 and label.dtype.kind in "biu" else {}
        return Facts("", size, "", list(label.shape), str(label.dtype), counts, decode, look.note)


def reader_of(dataset: Any) -> LabelReader | None:
    """Return a reader of a data set's labels, or None for a foreign kind of data set."""
    if not (isinstance(getattr(dataset, "transforms", None), Compose) and hasattr(dataset, "mode")):
        return None
    reader = LabelReader(dataset)
    return reader if reader.can_read() else None


def _counts(label: np.ndarray) -> dict[str, int]:
    pairs = islice(count_values(label).items(), _MOST_VALUES)
    return {str(value): number for value, number in pairs}


def count_values(values: np.ndarray) -> dict[int, int]:
    """Return how many pixels have each value, in ascending order of the values.

    Args:
        values: integers.
    """
    if values.dtype == np.uint8:
        numbers = np.bincount(values.reshape(-1), minlength=256)
        return {int(value): int(numbers[value]) for value in np.flatnonzero(numbers)}
    found, numbers = np.unique(values.astype(np.int64), return_counts=True)
    return dict(zip(found.tolist(), numbers.tolist()))
