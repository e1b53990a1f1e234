"""What the numbers and colours of masks mean as classes, and copies of masks that hold classes."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from paddleseg_autoloss.errors import ConfigError, DataError
from paddleseg_autoloss.own_images.mask_files import (
    MOST_CLASSES,
    MaskFacts,
    codes_of,
    colour_of,
    lossy_format,
    values_of,
)

__all__ = [
    "IGNORE",
    "Classes",
    "classes_of",
    "convert",
    "parse_palette",
]

#: Value of the pixels that do not count, PaddleSeg's default.
IGNORE = 255
#: Values up to this one are numbers of classes; higher ones are grey levels, if many are missing.
_LAST_CLASS_NUMBER = 31
#: Modes of Pillow whose arrays PaddleSeg trains on as they are.
_PLAIN_MODES = ("L", "P")
_MODES_WITH_ALPHA = ("LA", "PA", "RGBA")
_BYTE = 256
#: JPEG changes levels in areas of one colour by less than this, and makes them differ by this.
_NOISE, _RIPPLE = 32, 2
#: JPEG compresses blocks of so many rows and columns.
_BLOCK = 8


@dataclass(frozen=True)
class Classes:
    """What stands for each class in the masks.

    Args:
        entries: for each class a number, or a colour.
        is_identity: whether the masks hold the classes already.
        has_ignored: whether 255 is kept as the value of pixels that do not count.
    """

    entries: tuple[tuple[int, ...], ...]
    is_identity: bool
    has_ignored: bool = False

    @property
    def is_coloured(self) -> bool:
        """Whether the entries are colours."""
        return len(self.entries[0]) > 1

    def __len__(self) -> int:
        return len(self.entries)

    def label(self, number: int) -> str:
        """Return what stands for a class, in words."""
        return ",".join(map(str, self.entries[number]))


def parse_palette(words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Return the entries of a palette: grey levels such as ``127``, or colours as ``255,0,0``.

    Raises:
        ConfigError: an entry is neither, they are mixed, or one occurs twice.
    """
    entries = []
    for word in words:
        parts = word.split(",")
        if len(parts) not in (1, 3) or not all(p.isdecimal() and int(p) < _BYTE for p in parts):
            raise ConfigError(
                f"--palette: expected a grey level such as 127 or a colour such as 255,0,0 for "
                f"each class, found {word!r}"
            )
        entries.append(tuple(map(int, parts)))
    if len(entries) < 2 or len({len(entry) for entry in entries}) > 1:
        raise ConfigError("--palette: expected two classes or more, all grey or all coloured")
    if len(set(entries)) < len(entries):
        raise ConfigError("--palette: expected each grey level or colour once")
    return tuple(entries)


def classes_of(
    facts: Sequence[MaskFacts], paths: Sequence[Path], palette: tuple[tuple[int, ...], ...] | None
) -> Classes:
    """Find out what stands for each class.

    Args:
        facts: what the masks hold.
        paths: of the masks.
        palette: what the user says, or None to go by what occurs.

    Raises:
        DataError: there is no palette, and the masks hold one value or colour only, or too many;
            or one of them is JPEG; or white has several numbers.
    """
    if palette is not None:
        ignores = len(palette[0]) == 1 and (IGNORE,) not in palette
        return Classes(palette, False, ignores)
    if _have_colours(facts):
        found = {colour for one in facts for colour in one.colours}
        _check_entries(found, facts, paths, "colours")
        return Classes(tuple(sorted(found)), is_identity=False)
    values = {value for one in facts for value in one.values or ()}
    _check_entries(values, facts, paths, "values")
    _check_white(facts, paths)
    return _classes_of_numbers(values, all(one.mode in _PLAIN_MODES for one in facts))


def _have_colours(facts: Sequence[MaskFacts]) -> bool:
    """Numbers count, unless a mask has none or the same number has several colours."""
    if any(one.values is None for one in facts):
        return True
    colours: dict[int, tuple[int, ...]] = {}
    for one in facts:
        if one.palette:
            for value in one.values or ():
                if colours.setdefault(value, one.palette[value]) != one.palette[value]:
                    return True
    return False


def _check_entries(
    found: Set[Any], facts: Sequence[MaskFacts], paths: Sequence[Path], noun: str
) -> None:
    """Check that the values, or the colours, of all masks can be classes.

    Raises:
        DataError: they are too many, or one only, or come from JPEG.
    """
    palette = f"such as --palette {'0 255' if noun == 'values' else '0,0,0 255,0,0'}"
    if len(found - {IGNORE}) > MOST_CLASSES:
        held = [len((one.colours if noun == "colours" else one.values) or ()) for one in facts]
        fullest = paths[held.index(max(held))]
        raise DataError(
            f"MASKS: expected at most {MOST_CLASSES} {noun} in all masks, found more, as in "
            f"{fullest}; are these photographs (IMAGES comes before MASKS), or JPEG, which changes "
            f"{noun}? Say with --palette what stands for each class, {palette}"
        )
    for one, path in zip(facts, paths):
        if one.lossy_format:
            raise DataError(
                f"MASKS: {path} is {one.lossy_format}, which changes the {noun} at the borders of "
                f"classes; say with --palette what stands for each class, {palette}: a pixel then "
                "belongs to the class whose entry is nearest"
            )
    if len(found) == 1:
        (only,) = found
        shown = only if noun == "values" else ",".join(map(str, only))
        alpha = any(one.mode in _MODES_WITH_ALPHA for one in facts)
        raise DataError(
            f"MASKS: expected two {noun} or more, found only {shown} in all masks"
            f"{', whose alpha channel does not count' if alpha else ''}; are these the right masks?"
        )


def _check_white(facts: Sequence[MaskFacts], paths: Sequence[Path]) -> None:
    """Check that white is not 1 in some masks and 255, which would be ignored, in others.

    Raises:
        DataError: it is.
    """
    numbered = [path for one, path in zip(facts, paths) if one.is_white_a_number]
    grey = [path for one, path in zip(facts, paths) if _is_black_and_white(one)]
    if numbered and grey:
        raise DataError(
            f"MASKS: white is 255 in {grey[0]}, but another number in {numbered[0]}, which has 1 "
            "bit or a palette; save all masks with 8 bits and no palette, or say with --palette "
            "what stands for each class"
        )


def _is_black_and_white(facts: MaskFacts) -> bool:
    values = set(facts.values or ())
    return not facts.palette and IGNORE in values and values <= {0, IGNORE}


def _classes_of_numbers(values: set[int], are_plain: bool) -> Classes:
    numbers = sorted(values - {IGNORE})
    if numbers[0] == 0 and 0 < numbers[-1] <= _last_class_number(numbers):
        classes = tuple((number,) for number in range(numbers[-1] + 1))
        return Classes(classes, are_plain, has_ignored=IGNORE in values)
    if numbers[0] > 0 and numbers[-1] <= _last_class_number(numbers) and len(numbers) > 1:
        return Classes(tuple((n,) for n in numbers), False, has_ignored=IGNORE in values)
    return Classes(tuple((value,) for value in sorted(values)), is_identity=False)


def _last_class_number(numbers: Sequence[int]) -> int:
    """Return up to which value these are numbers of classes, and no grey levels."""
    few_are_missing = 4 * len(numbers) >= 3 * numbers[-1]
    return MOST_CLASSES - 1 if few_are_missing else _LAST_CLASS_NUMBER


def convert(path: Path, classes: Classes) -> np.ndarray:
    """Return a mask as numbers of classes, 8 bits each.

    In JPEG, which changes values, a pixel belongs to the class whose entry is nearest to it, or is
    ignored if 255 is nearer.

    Args:
        path: of the mask.
        classes: what stands for each class.

    Raises:
        DataError: the mask holds something that stands for no class.
    """
    with Image.open(path) as image:
        if lossy_format(image, path):
            return _nearest(np.asarray(image.convert("RGB"), np.int32), path, classes)
        codes = _codes(image, path, classes)
    result = np.full(codes.shape, IGNORE, np.uint8)
    known = np.zeros(codes.shape, bool)
    entries = codes_of(np.array(classes.entries)) if classes.is_coloured else classes.entries
    for number, entry in enumerate(entries):
        chosen = codes == entry
        result[chosen] = number
        known |= chosen
    if classes.has_ignored:
        known |= codes == IGNORE
    if not known.all():
        code = int(codes[~known][0])
        raise _unnamed(path, colour_of(code) if classes.is_coloured else (code,))
    return result


def _codes(image: Image.Image, path: Path, classes: Classes) -> np.ndarray:
    """Return the colours of a mask as one number each, or its numbers if the classes have some.

    Raises:
        DataError: the mask has colours, but the classes have none.
    """
    values = None if classes.is_coloured else values_of(image, path)
    if values is not None:
        return values
    colours = np.asarray(image.convert("RGB"))
    if not classes.is_coloured:
        is_coloured = (colours != colours[..., :1]).any(-1)
        raise _unnamed(path, colours[is_coloured][0])
    return codes_of(colours)


def _nearest(pixels: np.ndarray, path: Path, classes: Classes) -> np.ndarray:
    """Return for each pixel the class whose entry is nearest, or 255.

    Raises:
        DataError: an area has a colour that is near no entry.
    """
    candidates = dict(enumerate(classes.entries))
    if classes.has_ignored and all(IGNORE - entry[0] >= _NOISE for entry in classes.entries):
        candidates[IGNORE] = (IGNORE,)
    nearest = np.zeros(pixels.shape[:2], np.uint8)
    least = np.full(pixels.shape[:2], np.iinfo(np.int64).max)
    for number, entry in candidates.items():
        distance = ((pixels - np.array(entry)) ** 2).sum(-1)
        closer = distance < least
        nearest[closer], least[closer] = number, distance[closer]
    far = _blocks(least[..., None]).min((1, 3))[..., 0] > 3 * _NOISE**2
    blocks = _blocks(pixels)
    is_flat = (np.ptp(blocks, axis=(1, 3)) <= _RIPPLE).all(-1)
    if (far & is_flat).any():
        raise _unnamed(path, blocks.mean((1, 3))[far & is_flat][0].round().astype(int))
    return nearest


def _blocks(pixels: np.ndarray) -> np.ndarray:
    """Return the whole blocks of JPEG: their rows, rows in each, columns, columns in each."""
    height, width = (length // _BLOCK for length in pixels.shape[:2])
    whole = pixels[: height * _BLOCK, : width * _BLOCK]
    return whole.reshape(height, _BLOCK, width, _BLOCK, pixels.shape[-1])


def _unnamed(path: Path, entry: Sequence[int]) -> DataError:
    """Return the error for a value or a colour that stands for no class."""
    noun = "colour" if len(entry) > 1 else "value"
    return DataError(
        f"{path}: found the {noun} {','.join(map(str, entry))}, which --palette does not name; a "
        "class is a grey level such as 127 or a colour such as 255,0,0"
    )
