"""What the numbers and colours of masks mean as classes, and copies of masks that hold classes."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from paddleseg_autoloss.errors import ConfigError, DataError

__all__ = [
    "IGNORE",
    "Classes",
    "MaskFacts",
    "classes_of",
    "convert",
    "count_values",
    "look_at",
    "parse_palette",
]

#: Value of the pixels that do not count, PaddleSeg's default.
IGNORE = 255
#: Masks that hold more values than this are photographs, or came through JPEG.
_MOST_CLASSES = 64
#: Values up to this one are numbers of classes; higher ones are grey levels, if many are missing.
_LAST_CLASS_NUMBER = 31
#: Modes of Pillow whose arrays PaddleSeg trains on as they are.
_PLAIN_MODES = ("L", "P")
_MODES_WITH_ALPHA = ("LA", "PA", "RGBA")
_BYTE = 256
_LOSSY = (".jpg", ".jpeg", ".jpe")


@dataclass(frozen=True)
class MaskFacts:
    """What one mask holds.

    Args:
        size: height and width.
        mode: of Pillow.
        colours: how many pixels have each colour, red, green and blue.
        values: how many pixels have each number, or None in a colour mask without numbers.
        palette: the colours of the numbers, in a palette mask.
    """

    size: tuple[int, int]
    mode: str
    colours: dict[tuple[int, ...], int]
    values: dict[int, int] | None
    palette: tuple[tuple[int, ...], ...] = ()


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


def look_at(path: Path) -> MaskFacts:
    """Count the numbers and colours of a mask.

    Raises:
        OSError: the mask cannot be read; others for damaged files.
    """
    with Image.open(path) as image:
        values = _values(image)
        size = (image.height, image.width)
        if values is None:
            return MaskFacts(size, image.mode, _count_colours(image), None)
        counts = count_values(values)
        if image.mode == "P":
            colours = _palette(image)
            seen = {colours[value]: 0 for value in counts}
            for value, number in counts.items():
                seen[colours[value]] += number
            return MaskFacts(size, image.mode, seen, counts, tuple(colours))
        return MaskFacts(size, image.mode, {(v, v, v): n for v, n in counts.items()}, counts)


def _values(image: Image.Image) -> np.ndarray | None:
    """Return the numbers of a mask: of a grey or palette image, or of a colour image in grey."""
    array = np.asarray(image)
    if array.ndim == 2:
        if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
            raise OSError("expected whole numbers, found fractions")
        return array if array.dtype == np.uint8 else array.astype(np.int64)
    colours = np.asarray(image.convert("RGB"))
    is_grey = (colours[..., :1] == colours).all()
    return colours[..., 0] if is_grey else None


def count_values(values: np.ndarray) -> dict[int, int]:
    """Return how many pixels have each number."""
    if values.dtype == np.uint8:
        numbers = np.bincount(values.reshape(-1), minlength=_BYTE)
        return {int(value): int(numbers[value]) for value in np.flatnonzero(numbers)}
    found, numbers = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), numbers.tolist()))


def _codes(image: Image.Image) -> np.ndarray:
    colours = np.asarray(image.convert("RGB")).astype(np.int64)
    return colours[..., 0] * _BYTE**2 + colours[..., 1] * _BYTE + colours[..., 2]


def _count_colours(image: Image.Image) -> dict[tuple[int, ...], int]:
    found, numbers = np.unique(_codes(image), return_counts=True)
    # Of a photograph, enough to see that it is one.
    pairs = zip(found[: 4 * _MOST_CLASSES].tolist(), numbers.tolist())
    return {(code // _BYTE**2, code // _BYTE % _BYTE, code % _BYTE): n for code, n in pairs}


def _palette(image: Image.Image) -> list[tuple[int, ...]]:
    flat = image.getpalette("RGB") or []
    flat = flat + [0] * (3 * _BYTE - len(flat))
    return [tuple(flat[3 * index : 3 * index + 3]) for index in range(_BYTE)]


def classes_of(
    facts: Sequence[MaskFacts], paths: Sequence[Path], palette: tuple[tuple[int, ...], ...] | None
) -> Classes:
    """Find out what stands for each class.

    Args:
        facts: what the masks hold.
        paths: of the masks.
        palette: what the user says, or None to go by what occurs.

    Raises:
        DataError: the masks hold one value or colour only, or too many; or one of them is JPEG, and
            there is no palette.
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
    if len(found - {IGNORE}) > _MOST_CLASSES:
        held = [len((one.colours if noun == "colours" else one.values) or ()) for one in facts]
        fullest = paths[held.index(max(held))]
        raise DataError(
            f"MASKS: expected at most {_MOST_CLASSES} {noun} in all masks, found more, as in "
            f"{fullest}; are these photographs (IMAGES comes before MASKS), or JPEG, which changes "
            f"{noun}? Say with --palette what stands for each class, {palette}"
        )
    jpeg = next(filter(_is_jpeg, paths), None)
    if jpeg is not None:
        raise DataError(
            f"MASKS: {jpeg} is JPEG, which changes the {noun} at the borders of classes; say with "
            f"--palette what stands for each class, {palette}: a pixel then belongs to the class "
            "whose entry is nearest"
        )
    if len(found) == 1:
        (only,) = found
        shown = only if noun == "values" else ",".join(map(str, only))
        alpha = any(one.mode in _MODES_WITH_ALPHA for one in facts)
        raise DataError(
            f"MASKS: expected two {noun} or more, found only {shown} in all masks"
            f"{', whose alpha channel does not count' if alpha else ''}; are these the right masks?"
        )


def _is_jpeg(path: Path) -> bool:
    return path.suffix.lower() in _LOSSY


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
    return _MOST_CLASSES - 1 if few_are_missing else _LAST_CLASS_NUMBER


def convert(path: Path, classes: Classes) -> np.ndarray:
    """Return a mask as numbers of classes, 8 bits each.

    In JPEG, which changes values, a pixel belongs to the class whose entry is nearest to it.

    Args:
        path: of the mask.
        classes: what stands for each class.

    Raises:
        DataError: the mask holds something that stands for no class.
    """
    with Image.open(path) as image:
        codes, entries = _in_codes(image, classes)
        if _is_jpeg(path):
            return _nearest(image, classes)
    result = np.full(codes.shape, IGNORE, np.uint8)
    known = np.zeros(codes.shape, bool)
    for number, entry in enumerate(entries):
        chosen = codes == entry
        result[chosen] = number
        known |= chosen
    if classes.has_ignored:
        known |= codes == IGNORE
    if not known.all():
        raise DataError(
            f"{path}: found {_shown(int(codes[~known][0]), classes)}, which --palette does not "
            "name; a class is a grey level such as 127 or a colour such as 255,0,0"
        )
    return result


def _in_codes(image: Image.Image, classes: Classes) -> tuple[np.ndarray, list[int]]:
    if classes.is_coloured:
        entries = [r * _BYTE**2 + g * _BYTE + b for r, g, b in classes.entries]
        return _codes(image), entries
    values = _values(image)
    return np.asarray(image.convert("L")) if values is None else values, [
        entry[0] for entry in classes.entries
    ]


def _nearest(image: Image.Image, classes: Classes) -> np.ndarray:
    mode = "RGB" if classes.is_coloured else "L"
    pixels: Any = np.asarray(image.convert(mode), np.int32)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    distances = [((pixels - np.array(entry)) ** 2).sum(-1) for entry in classes.entries]
    return np.argmin(distances, axis=0).astype(np.uint8)


def _shown(code: int, classes: Classes) -> str:
    if not classes.is_coloured:
        return f"the value {code}"
    return f"the colour {code // _BYTE**2},{code // _BYTE % _BYTE},{code % _BYTE}"
