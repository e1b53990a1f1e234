"""One look at an image: whether training can read it, in what size, and whether as it is."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from paddleseg_autoloss.data_checks.image_limit import describe

__all__ = [
    "NOTES",
    "ImageLook",
    "check_image",
    "describe_notes",
    "has_16_bits",
    "image_size",
    "look_at_image",
    "reason_of",
]

#: What `look_at_image` notes, and what it means for a training.
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


@dataclass(frozen=True)
class ImageLook:
    """What one look at an image has shown.

    Args:
        error: the reason why training cannot read it, or an empty text.
        size: height and width as training sees them; nothing if it cannot be read.
        note: a key of `NOTES` if training may see it in another way than its owner, or an empty
            text.  An image on its side that is not a square is not noted: a label of the wrong
            orientation has another size.
    """

    error: str = ""
    size: list[int] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class _Header:
    """What PIL knows of an image without decoding it; without arguments, what it does not know.

    Args:
        format: its format.
        size: height and width, as they are stored.
        orientation: by its EXIF tag.
        has_16_bits: whether its format says so.
        is_common: whether OpenCV surely decodes it.
    """

    format: str = ""
    size: tuple[int, int] = (0, 0)
    orientation: int | None = None
    has_16_bits: bool = False
    is_common: bool = False


def look_at_image(path: Path, decode: bool = False) -> ImageLook:
    """Read the header of an image once, and decode the pixels where that does not say enough.

    Args:
        path: path of the image.
        decode: whether to decode the pixels in any case.
    """
    try:
        header = _checked(path, decode)
        is_turned = header.orientation in _ON_ITS_SIDE
        size = list(header.size)
        if decode or is_turned or not header.is_common:
            size = _decoded_size(path)
        return ImageLook("", size, _note(header, str(path)))
    # PIL has many errors for damaged files.
    except Exception as error:
        return ImageLook(reason_of(path, error))


def check_image(path: Path, decode: bool = False) -> None:
    """Read the header of an image, check the checksums of its format, and search its end marker.

    Args:
        path: path of the image.
        decode: whether to decode the pixels too.

    Raises:
        OSError: the file is missing, not an image or incomplete; damaged headers raise others.
    """
    _checked(path, decode)


def image_size(path: str) -> list[int]:
    """Return the height and width of an image as training sees it.

    Args:
        path: path of the image.

    Raises:
        OSError: training cannot read it.
    """
    look = look_at_image(Path(path))
    if look.error:
        raise OSError(look.error)
    return look.size


def _checked(path: Path, decode: bool) -> _Header:
    try:
        with Image.open(path) as image:
            header = _header(image)
            image.verify()
        if decode:
            with Image.open(path) as image:
                image.load()
    except _NOT_FOR_PIL:
        if cv2.haveImageReader(str(path)) and not (decode and not _opencv_size(path)):
            return _Header()
        raise
    if header.format in _END_MARKERS:
        content, marker = path.read_bytes(), _END_MARKERS[header.format]
        start = max(content.rfind(_START_OF_SCAN), 0) if header.format == "JPEG" else 0
        if content.find(marker, start) < 0:
            raise OSError("the file is incomplete")
    return header


def _header(image: Any) -> _Header:
    # Without this test, PIL would decode a PNG to search for tags after its pixels.
    has_tags = "exif" in image.info or image.format == "TIFF"
    return _Header(
        image.format or "",
        (image.height, image.width),
        image.getexif().get(_ORIENTATION) if has_tags else None,
        _says_16_bits(image),
        _is_common(image),
    )


def _says_16_bits(image: Any) -> bool:
    forms = [image.mode, *(str(tile[3]) for tile in image.tile)]
    # This form has 16 bits for a pixel, not for a channel.
    return any(";16" in form and "BGR;16" not in form for form in forms)


def _is_common(image: Any) -> bool:
    if image.format == "TIFF":
        is_known = image.info.get("compression") in _COMPRESSIONS
        return is_known and image.mode not in ("F", "I")
    return image.format in _COMMON and not getattr(image, "is_animated", False)


def has_16_bits(image: Any, path: str) -> bool:
    """Whether an image has 16 bits for each channel.

    Args:
        image: the image, opened with PIL and not read.
        path: of the image.
    """
    # Numbers of PPM have any limit up to 65535.
    return _is_deep(path) if image.format == "PPM" else _says_16_bits(image)


def _note(header: _Header, path: str) -> str:
    asks_opencv = header.format in ("", "PPM")
    if _is_deep(path) if asks_opencv else header.has_16_bits:
        return "16 bits"
    height, width = header.size
    has_other_size = header.orientation in _ON_ITS_SIDE and width != height
    is_seen_turned = header.orientation not in _UPRIGHT and not has_other_size
    if is_seen_turned and (header.format != "WEBP" or _turns(path)):
        return "an EXIF orientation"
    return ""


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


def _decoded_size(path: Path) -> list[int]:
    """Return the size that OpenCV, which training uses, finds.

    Raises:
        OSError: it cannot decode the image; `cv2.error` if it says why.
    """
    size = _opencv_size(path)
    if not size:
        raise OSError("OpenCV cannot decode it")
    return size


def _opencv_size(path: Path) -> list[int]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return [] if image is None else list(image.shape[:2])


def describe_notes(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each kind of note: how many images have it, and what it means.

    Args:
        notes: images, each with the note of `look_at_image`.
    """
    found: dict[str, list[str]] = {}
    for image, note in notes:
        found.setdefault(note, []).append(image)
    return [
        f"{len(found[note])} images have {note}, such as {found[note][0]}, {meaning}"
        for note, meaning in NOTES.items()
        if note in found
    ]


def reason_of(path: Path, error: Exception) -> str:
    """Return in one line why a file cannot be read.

    Args:
        path: of the file.
        error: what was raised.
    """
    if not path.exists():
        return "it is missing"
    return describe(error) or type(error).__name__
