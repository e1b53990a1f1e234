"""The folder that `make_folder` makes: lists, copies of masks, a config."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from paddleseg_autoloss.data_checks.images import check_image, look_at_image
from paddleseg_autoloss.data_checks.labels import count_values
from paddleseg_autoloss.data_checks.lists import SEPARATORS
from paddleseg_autoloss.data_checks.parallel import in_threads
from paddleseg_autoloss.data_checks.split import Groups, divided_group
from paddleseg_autoloss.errors import ConfigError, DataError, one_line
from paddleseg_autoloss.files import check_save_dir, write_file
from paddleseg_autoloss.own_images.config import Plan, config_text
from paddleseg_autoloss.own_images.mask_files import MaskFacts, look_at
from paddleseg_autoloss.own_images.masks import Classes, classes_of, convert
from paddleseg_autoloss.own_images.pairing import LeftOut, Pair, Pairing, pair_by_name

__all__ = ["Options", "Result", "make_folder"]

_FEWEST_PAIRS = 3
#: What a list cannot hold, as it has a line for each pair.
_LINE_BREAKS = ("\n", "\r")


@dataclass(frozen=True)
class Options:
    """What the user says.

    Args:
        images: folder of the images.
        masks: folder of the masks.
        save_dir: the folder to make.
        val: share of the pairs to validate on, above 0 and below 1.
        test: share of the pairs to test on, from 0 on.
        seed: of the split, in which images stay together whose names begin alike; see
            `paddleseg_autoloss.data_checks.split.groups_of`.
        palette: what stands for each class in the masks, or None to go by what occurs.
    """

    images: Path
    masks: Path
    save_dir: Path
    val: float = 0.2
    test: float = 0.0
    seed: int = 0
    palette: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class Result:
    """What was made.

    Args:
        parts: the pairs by the name of their list: train, val, test.
        together: how the names of the images begin that stay together, for the lists that are not
            trained on.
        divided: how the names of some images begin that are in several lists, or None.
        left_out: files that are not used.
        classes: what stands for each class.
        counts: how many pixels of each mask have each class, by the name of the pair.
        notes: the images, each with what is to be noted of it; see
            `paddleseg_autoloss.data_checks.images.NOTES`.
        plan: what the config says.
    """

    parts: dict[str, list[Pair]]
    together: list[str]
    divided: str | None
    left_out: list[LeftOut]
    classes: Classes
    counts: dict[str, Counter[int]]
    notes: list[tuple[str, str]]
    plan: Plan


def make_folder(options: Options) -> Result:
    """Make the folder, or leave nothing behind.

    Args:
        options: what the user says.

    Raises:
        ConfigError: a folder is missing, or there is something at ``save_dir``.
        DataError: the images and masks cannot be trained on.
    """
    _check_options(options)
    pairing = pair_by_name(options.images.resolve(), options.masks.resolve())
    facts, notes = _usable(pairing)
    pairs = pairing.pairs
    _check_number(options, pairing)
    classes = classes_of([facts[p.name] for p in pairs], [p.mask for p in pairs], options.palette)
    folder = options.save_dir.resolve()
    with _new_folder(folder):
        counts = _class_counts(pairs, facts, classes, folder)
        if not classes.is_identity:
            pairs = [replace(pair, mask=_copy_of(pair, folder)) for pair in pairs]
        parts, together, divided = _split(pairs, options)
        root = _common_folder(pairs)
        plan = Plan(
            folder=folder,
            root=root,
            separator=_write_lists(parts, root, folder),
            num_classes=len(classes),
            num_train=len(parts["train"]),
            sizes=tuple(facts[pair.name].size for pair in pairs),
        )
        if pairing.left_out:
            write_file(folder / "left_out.txt", "".join(f"{one}\n" for one in pairing.left_out))
        write_file(folder / "config.yml", config_text(plan))
    return Result(parts, together, divided, pairing.left_out, classes, counts, notes, plan)


def _check_options(options: Options) -> None:
    check_save_dir(options.save_dir)
    folder = options.save_dir.resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(
            f"--save_dir: there is something at {options.save_dir}, which is not overwritten; "
            "give another folder"
        )
    for flag, source in {"IMAGES": options.images, "MASKS": options.masks}.items():
        if source.resolve() in (folder, *folder.parents) and source.is_dir():
            raise ConfigError(f"--save_dir: expected a folder outside of {flag}, found {folder}")
    if not (0 < options.val < 1 and 0 <= options.test < 1 and options.val + options.test < 1):
        raise ConfigError(
            f"--val, --test: expected shares that leave images to train on, found {options.val:g} "
            f"and {options.test:g}"
        )


def _check_number(options: Options, pairing: Pairing) -> None:
    fewest = _FEWEST_PAIRS + bool(options.test)
    found = len(pairing.pairs)
    if found < fewest:
        others = pairing.left_out
        reason = f"; the first of {len(others)} that do not: {others[0]}" if others else ""
        raise DataError(
            f"IMAGES, MASKS: expected at least {fewest} images with masks that fit, found {found}"
            f"{reason}"
        )


def _usable(pairing: Pairing) -> tuple[dict[str, MaskFacts], list[tuple[str, str]]]:
    """Keep the pairs that can be trained on.

    Returns:
        What their masks hold, by their names, and the images with what is to be noted of them.
    """
    facts, notes, kept = {}, [], []
    for pair, found in zip(pairing.pairs, in_threads(_look, pairing.pairs, "images and masks")):
        if isinstance(found, LeftOut):
            pairing.left_out.append(found)
        else:
            kept.append(pair)
            facts[pair.name], note = found
            notes.append((str(pair.image), note))
    pairing.pairs = kept
    return facts, notes


def _look(pair: Pair) -> tuple[MaskFacts, str] | LeftOut:
    """Return what the mask holds and what is to be noted of the image, or what is wrong."""
    for path in (pair.image, pair.mask):
        if not _fits_in_list(path):
            return LeftOut(path, "its path has a line break, a blank at an end, or no UTF-8")
    image = look_at_image(pair.image)
    if image.error:
        return LeftOut(pair.image, f"cannot be read: {image.error}")
    try:
        check_image(pair.mask)
        facts = look_at(pair.mask)
    # Pillow has many errors for damaged files.
    except Exception as error:
        return LeftOut(pair.mask, f"cannot be read: {one_line(error) or type(error).__name__}")
    if list(facts.size) != image.size:
        found, expected = (f"{width} x {height}" for height, width in (facts.size, image.size))
        return LeftOut(pair.mask, f"{found} pixels, but its image {pair.image} has {expected}")
    return facts, image.note


def _fits_in_list(path: Path) -> bool:
    text = str(path)
    is_utf8 = text.encode("utf-8", "replace").decode("utf-8") == text
    has_blank_end = any(part != part.strip() for part in path.parts)
    return is_utf8 and not has_blank_end and not any(one in text for one in _LINE_BREAKS)


@contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and remove it again if the block raises an error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise ConfigError(
            f"--save_dir: no folder can be made at {folder}; choose another one"
        ) from error
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _class_counts(
    pairs: Sequence[Pair], facts: dict[str, MaskFacts], classes: Classes, folder: Path
) -> dict[str, Counter[int]]:
    """Return how many pixels each class has, by the name of the pair; write copies if needed."""

    def count(pair: Pair) -> Counter[int]:
        if classes.is_identity:
            return Counter(facts[pair.name].values)
        label = convert(pair.mask, classes)
        path = _copy_of(pair, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(path)
        return Counter(count_values(label))

    return {pair.name: one for pair, one in zip(pairs, in_threads(count, pairs, "copies of masks"))}


def _copy_of(pair: Pair, folder: Path) -> Path:
    return folder / "masks" / f"{pair.name}.png"


def _split(
    pairs: Sequence[Pair], options: Options
) -> tuple[dict[str, list[Pair]], list[str], str | None]:
    """Draw the pairs of each list; also return the groups that stay together and a divided one.

    Every list has one pair at least.
    """
    left = {str(pair.image): pair for pair in pairs}
    shares = {"val": options.val}
    if options.test:
        shares["test"] = options.test / (1 - options.val)
    # Each list needs a pair, and batch normalisation needs two to train on.
    groups = Groups.find(left, max(options.val, options.test), len(shares) + 1)
    parts: dict[str, list[Pair]] = {}
    for number, (name, share) in enumerate(shares.items(), start=1):
        drawn = groups.draw(left, share, options.seed, len(shares) - number + 2)
        parts[name] = [left.pop(image) for image in sorted(drawn)]
    held_out = [str(pair.image) for part in parts.values() for pair in part]
    parts = {"train": list(left.values()), **parts}
    divided = divided_group([[str(pair.image) for pair in part] for part in parts.values()])
    ordered = {name: sorted(part, key=lambda p: p.name) for name, part in parts.items()}
    return ordered, groups.several(held_out), divided


def _common_folder(pairs: Sequence[Pair]) -> Path:
    """Return the folder that holds all files, also those that links lead to."""
    paths = {path.parent for pair in pairs for path in (pair.image, pair.mask)}
    paths |= {
        path.resolve().parent
        for pair in pairs
        for path in (pair.image, pair.mask)
        if path.is_symlink()
    }
    return Path(os.path.commonpath(paths))


def _write_lists(parts: dict[str, list[Pair]], root: Path, folder: Path) -> str:
    """Write the lists, and return what stands between the names."""
    lines = {
        name: [
            (pair.image.relative_to(root).as_posix(), pair.mask.relative_to(root).as_posix())
            for pair in part
        ]
        for name, part in parts.items()
    }
    names = "\n".join(name for part in lines.values() for pair in part for name in pair)
    free = [separator for separator in (" ", *SEPARATORS) if separator not in names]
    if not free:
        raise DataError(
            f"IMAGES, MASKS: expected names without one of {', '.join(map(repr, SEPARATORS))}, to "
            "stand between the two names in a line of a list; found all of them; rename some"
        )
    separator = free[0]
    for name, pairs in lines.items():
        text = "".join(f"{image}{separator}{mask}\n" for image, mask in pairs)
        write_file(folder / f"{name}.txt", text)
    return separator
