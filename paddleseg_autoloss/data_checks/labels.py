"""The content of one label, as the data set reads it, before the transforms."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from paddleseg.datasets import ADE20K, Dataset, PSSLDataset
from paddleseg.transforms import Compose
from PIL import Image, UnidentifiedImageError

from paddleseg_autoloss.data_checks.image_limit import describe
from paddleseg_autoloss.data_checks.randomness import preserve_randomness

__all__ = [
    "NOTES",
    "Facts",
    "LabelReader",
    "check_image",
    "decoding_fault",
    "describe_notes",
    "has_16_bits",
    "image_note",
    "image_size",
    "reader_of",
]

#: What `image_note` finds, and what it means for a training.
NOTES = {
    "16 bits": "of which OpenCV reads the upper 8 only, so images of 12 bits become almost black; "
    "save them with 8 bits",
    "an EXIF orientation": "by which training turns the images, but not their labels; if the "
    "labels were drawn on the images as they are stored, remove the orientation",
}

#: Formats of which OpenCV decodes every still image that PIL does, and compressions of a TIFF.
_COMMON = ("JPEG", "PNG", "BMP", "PPM", "WEBP")
_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate")
_END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
#: Marker before the compressed pixels of a JPEG; a thumbnail before it has its own end marker.
_START_OF_SCAN = b"\xff\xda"
#: Errors of PIL for unknown formats and very large images; OpenCV may still read them.
_NOT_FOR_PIL = (UnidentifiedImageError, Image.DecompressionBombError)
#: The EXIF tag of the orientation, and its values for which OpenCV swaps width and height.
_ORIENTATION, _ON_ITS_SIDE, _UPRIGHT = 0x0112, range(5, 9), (None, 0, 1)
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
        note: a key of `NOTES`, or an empty text.
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
            shape = (3, *image_size(sample["img"]))
            sample["img"] = np.broadcast_to(np.float32(0), shape)
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
        try:
            check_image(Path(image), decode)
        except Exception as error:
            return Facts(image_error=_reason(Path(image), error), decoded=decode)
        if label_path is None:
            return Facts(decoded=decode)
        try:
            label, size = self.read(index)
        except Exception as error:
            return _failed(Path(image), Path(label_path), error, decode)
        has_other_size = list(label.shape[:2]) != size
        fault = decoding_fault(str(image), every=decode or has_other_size)
        if fault:
            return Facts(image_error=fault, decoded=decode)
        if has_other_size:
            # PIL reads the size without decoding; OpenCV, which training uses, gives the final
            # answer.
            size = _opencv_size(str(image))
        counts = _counts(label) if label.ndim == 2 and label.dtype.kind in "biu" else {}
        note = image_note(str(image))
        return Facts("", size, "", list(label.shape), str(label.dtype), counts, decode, note)


def _failed(image: Path, label: Path, error: Exception, decode: bool) -> Facts:
    """Return the facts of a sample whose label, or the size of whose image, cannot be read."""
    try:
        image_size(str(image))
    except Exception as of_image:
        return Facts(image_error=_reason(image, of_image), decoded=decode)
    return Facts(label_error=_reason(label, error), decoded=decode)


def reader_of(dataset: Any) -> LabelReader | None:
    """Return a reader of a data set's labels, or None for a foreign kind of data set."""
    if not (isinstance(getattr(dataset, "transforms", None), Compose) and hasattr(dataset, "mode")):
        return None
    reader = LabelReader(dataset)
    return reader if reader.can_read() else None


def image_size(path: str) -> list[int]:
    """Return the height and width of an image as training sees it, or nothing if it cannot."""
    try:
        with Image.open(path) as image:
            # Without this test, PIL would decode a PNG to search for tags after its pixels.
            has_tags = "exif" in image.info
            if not has_tags or image.getexif().get(_ORIENTATION) not in _ON_ITS_SIDE:
                return [image.height, image.width]
    except _NOT_FOR_PIL:
        pass
    return _opencv_size(path)


def image_note(path: str) -> str:
    """Return a key of `NOTES` if training may see an image in another way than its owner.

    An image on its side that is not a square is not noted: a label of the wrong orientation has
    another size.
    """
    try:
        with Image.open(path) as image:
            if has_16_bits(image, path):
                return "16 bits"
            # Without this test, PIL would decode a PNG to search for tags after its pixels.
            has_tags = "exif" in image.info or image.format == "TIFF"
            turned = image.getexif().get(_ORIENTATION) if has_tags else None
            has_other_size = turned in _ON_ITS_SIDE and image.width != image.height
            is_seen_turned = turned not in _UPRIGHT and not has_other_size
            if is_seen_turned and (image.format != "WEBP" or _turns(path)):
                return "an EXIF orientation"
            return ""
    except _NOT_FOR_PIL:
        return "16 bits" if _is_deep(path) else ""


def has_16_bits(image: Any, path: str) -> bool:
    """Whether an image has 16 bits for each channel.

    Args:
        image: the image, opened with PIL and not read.
        path: of the image.
    """
    if image.format == "PPM":
        # Numbers of this format have any limit up to 65535.
        return _is_deep(path)
    forms = [image.mode, *(str(tile[3]) for tile in image.tile)]
    # This form has 16 bits for a pixel, not for a channel.
    return any(";16" in form and "BGR;16" not in form for form in forms)


def _is_deep(path: str) -> bool:
    with suppress(cv2.error):
        image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        return image is not None and image.dtype == np.uint16
    return False


def _turns(path: str) -> bool:
    """Whether OpenCV turns an image; for some formats it depends on its version."""
    with suppress(cv2.error):
        stored = cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return not np.array_equal(cv2.imread(path, cv2.IMREAD_COLOR), stored)
    return False


def describe_notes(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each kind of note: how many images have it, and what it means.

    Args:
        notes: images, each with what `image_note` found.
    """
    found: dict[str, list[str]] = {}
    for image, note in notes:
        found.setdefault(note, []).append(image)
    return [
        f"{len(found[note])} images have {note}, such as {found[note][0]}, {meaning}"
        for note, meaning in NOTES.items()
        if note in found
    ]


def decoding_fault(path: str, every: bool = False) -> str:
    """Return why OpenCV, which reads the images, cannot decode one, or an empty text.

    Args:
        path: an image that has passed `check_image`.
        every: whether to decode images of common formats too.
    """
    try:
        if (not every and _is_common(path)) or _opencv_size(path):
            return ""
    except cv2.error as error:
        return _reason(Path(path), error)
    return "OpenCV cannot decode it"


def _is_common(path: str) -> bool:
    try:
        with Image.open(path) as image:
            if image.format == "TIFF":
                is_known = image.info.get("compression") in _COMPRESSIONS
                return is_known and image.mode not in ("F", "I")
            return image.format in _COMMON and not getattr(image, "is_animated", False)
    except _NOT_FOR_PIL:
        return False


def _opencv_size(path: str) -> list[int]:
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    return [] if image is None else list(image.shape[:2])


def _counts(label: np.ndarray) -> dict[str, int]:
    if label.dtype == np.uint8:
        numbers = np.bincount(label.reshape(-1), minlength=256)
        return {str(value): int(numbers[value]) for value in np.flatnonzero(numbers)}
    values, numbers = np.unique(label.astype(np.int64), return_counts=True)
    pairs = zip(values[:_MOST_VALUES].tolist(), numbers.tolist())
    return {str(value): number for value, number in pairs}


def check_image(path: Path, decode: bool = False) -> None:
    """Read the header of an image, check the checksums of its format, and search its end marker.

    Args:
        path: path of the image.
        decode: whether to decode the pixels too.

    Raises:
        OSError: the file is missing, not an image or incomplete; damaged headers raise others.
    """
    try:
        with Image.open(path) as image:
            kind = image.format or ""
            image.verify()
        if decode:
            with Image.open(path) as image:
                image.load()
    except _NOT_FOR_PIL:
        if cv2.haveImageReader(str(path)) and not (decode and not _opencv_size(str(path))):
            return
        raise
    if kind in _END_MARKERS:
        content = path.read_bytes()
        start = max(content.rfind(_START_OF_SCAN), 0) if kind == "JPEG" else 0
        if content.find(_END_MARKERS[kind], start) < 0:
            raise OSError("the file is incomplete")


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "it is missing"
    return describe(error) or type(error).__name__
