"""What the file of one mask holds: numbers or colours, and whether its format has changed them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from paddleseg_autoloss.data_checks.images import has_16_bits
from paddleseg_autoloss.data_checks.labels import count_values

__all__ = [
    "MOST_CLASSES",
    "MaskFacts",
    "codes_of",
    "colour_of",
    "look_at",
    "lossy_format",
    "values_of",
]

#: Masks that hold more values than this are photographs, or came through JPEG.
MOST_CLASSES = 64
_BYTE = 256
_WHITE = (255, 255, 255)
#: Largest integer up to which PIL and NumPy agree about numbers of masks.
_LARGEST = 2**31
#: Compressions of a TIFF that change values.
_LOSSY_COMPRESSIONS = {"jpeg": "JPEG", "tiff_jpeg": "JPEG", "webp": "WebP"}
#: Mark in a WebP file whose values are as they were.
_LOSSLESS_WEBP = b"VP8L"


@dataclass(frozen=True)
class MaskFacts:
    """What one mask holds.

    Args:
        size: height and width.
        mode: of Pillow.
        colours: how many pixels have each colour, red, green and blue.
        values: how many pixels have each number, or None in a colour mask without numbers.
        palette: the colours of the numbers, in a palette mask.
        lossy_format: name of its format if that changes values, as JPEG does; else empty.
    """

    size: tuple[int, int]
    mode: str
    colours: dict[tuple[int, ...], int]
    values: dict[int, int] | None
    palette: tuple[tuple[int, ...], ...] = ()
    lossy_format: str = ""

    @property
    def is_white_a_number(self) -> bool:
        """Whether white pixels have another number than 255: 1 bit, or a palette."""
        numbers = set(self.values or ()) - {_BYTE - 1}
        has_white = any(self.palette[number] == _WHITE for number in numbers if self.palette)
        return has_white or (self.mode == "1" and 1 in numbers)


def look_at(path: Path) -> MaskFacts:
    """Count the numbers and colours of a mask.

    Args:
        path: of the mask.

    Raises:
        OSError: the mask cannot be read, or holds numbers that Pillow changes; others for damaged
            files.
    """
    with Image.open(path) as image:
        lossy = lossy_format(image, path)
        values = values_of(image, path)
        size = (image.height, image.width)
        if values is None:
            return MaskFacts(size, image.mode, _count_colours(image), None, (), lossy)
        counts = count_values(values)
        if image.mode in ("P", "PA"):
            colours = _palette(image)
            seen = {colours[value]: 0 for value in counts}
            for value, number in counts.items():
                seen[colours[value]] += number
            return MaskFacts(size, image.mode, seen, counts, tuple(colours), lossy)
        seen = {(value, value, value): number for value, number in counts.items()}
        return MaskFacts(size, image.mode, seen, counts, (), lossy)


def lossy_format(image: Image.Image, path: Path) -> str:
    """Return the name of a format that changes values, or an empty text.

    Args:
        image: the mask, opened.
        path: of the mask.  Its ending does not count.
    """
    if image.format in ("JPEG", "MPO"):
        return "JPEG"
    if image.format == "WEBP":
        return "" if _LOSSLESS_WEBP in path.read_bytes() else "WebP"
    return _LOSSY_COMPRESSIONS.get(image.info.get("compression", ""), "")


def values_of(image: Image.Image, path: Path) -> np.ndarray | None:
    """Return the numbers of a mask, or None if it has colours.

    Args:
        image: the mask, opened and not read.
        path: of the mask.

    Raises:
        OSError: it has numbers that are no integers, or more bits than Pillow reads.
    """
    # Once the pixels are read, Pillow does not say how many bits they had.
    is_deep = has_16_bits(image, str(path))
    array = np.asarray(image)
    if array.ndim == 2:
        if array.dtype.kind == "f":
            _check_whole(array)
        return array if array.dtype == np.uint8 else array.astype(np.int64)
    if is_deep:
        raise OSError("expected 8 bits for each channel, found 16, of which 8 would be lost")
    if image.mode == "PA":
        return array[..., 0]
    colours = np.asarray(image.convert("RGB"))
    is_grey = (colours[..., :1] == colours).all()
    return colours[..., 0] if is_grey else None


def _check_whole(array: np.ndarray) -> None:
    if not np.array_equal(array, np.round(array)):
        raise OSError("expected whole numbers, found fractions")
    if not (np.abs(array) < _LARGEST).all():
        raise OSError("expected whole numbers, found infinity or numbers of 2^31 and more")


def codes_of(colours: np.ndarray) -> np.ndarray:
    """Return colours as one number each.

    Args:
        colours: red, green and blue along the last axis.
    """
    return colours.astype(np.int64) @ np.array([_BYTE**2, _BYTE, 1])


def colour_of(code: int) -> tuple[int, int, int]:
    """Return the colour of a number of `codes_of`.

    Args:
        code: the number.
    """
    return code // _BYTE**2, code // _BYTE % _BYTE, code % _BYTE


def _count_colours(image: Image.Image) -> dict[tuple[int, ...], int]:
    codes = codes_of(np.asarray(image.convert("RGB")))
    found, numbers = np.unique(codes, return_counts=True)
    # Of a photograph, enough to see that it is one.
    pairs = zip(found[: 4 * MOST_CLASSES].tolist(), numbers.tolist())
    return {colour_of(code): number for code, number in pairs}


def _palette(image: Image.Image) -> list[tuple[int, ...]]:
    flat = image.getpalette("RGB") or []
    flat = flat + [0] * (3 * _BYTE - len(flat))
    return [tuple(flat[3 * index : 3 * index + 3]) for index in range(_BYTE)]
