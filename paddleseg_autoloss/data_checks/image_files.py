"""Image files: which endings they have, and those that a path stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from paddleseg_autoloss.data_checks.lists import SEPARATORS, text_lines
from paddleseg_autoloss.errors import DataError

__all__ = ["IMAGE_ENDINGS", "files_below", "find_images"]

#: Formats that OpenCV reads, and so training and prediction do.
IMAGE_ENDINGS = frozenset(
    {".bmp", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_BREAKS = re.compile("[" + re.escape("".join(SEPARATORS)) + "]+")


def files_below(folder: Path) -> list[Path]:
    """Return the files in a folder and in all folders below it, sorted, without hidden ones.

    Args:
        folder: the folder.
    """
    found = []
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(found)


def find_images(key: str, path: str, list_root: str | None) -> tuple[list[str], str | None]:
    """Return the images that a path stands for, and the folder that their names start from.

    All paths are absolute.  PaddleSeg's ``get_image_list`` finds jpg, png and bmp only, and takes
    what stands before the first blank for the name in a list.

    Args:
        key: what errors call the path.
        path: an image, a folder with images at any depth, or a list: a text file with an image in
            each line, maybe with a label after it.
        list_root: folder that the names in a list start from, if not all are below the folder of
            the list.

    Returns:
        The images, and their folder; None for a single image.

    Raises:
        DataError: there is no such path, or no image.
    """
    place = Path(os.path.abspath(path))
    if place.is_dir():
        images = [file for file in files_below(place) if file.suffix.lower() in IMAGE_ENDINGS]
        if not images:
            raise DataError(f"{key}: expected images in {path}, found none; {_known_endings()}")
        return [str(image) for image in images], str(place)
    if not place.is_file():
        raise DataError(f"{key}: expected an image, a list or a folder, found nothing at {path}")
    if place.suffix.lower() in IMAGE_ENDINGS:
        return [str(place)], None
    return _images_in_list(key, place, list_root)


def _images_in_list(key: str, path: Path, list_root: str | None) -> tuple[list[str], str]:
    try:
        lines = [line for _, line in text_lines(path)]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{key}: expected an image, or a list in UTF-8, found {path}; {_known_endings()}"
        ) from error
    if not lines:
        raise DataError(f"{key}: {path}: expected one line per image, found none")
    root = str(path.parent)
    images = [_image_in(line, root) for line in lines]
    if list_root is not None and not all(map(os.path.isfile, images)):
        others = [_image_in(line, list_root) for line in lines]
        if all(map(os.path.isfile, others)):
            return others, os.path.abspath(list_root)
    return images, root


def _image_in(line: str, root: str) -> str:
    """Return the image that a line begins with: the longest name of a file, or the first word."""
    # Lists that were made with Windows have its separators.
    names = [name for text in (line, line.replace("\\", "/")) for name in _beginnings(text)]
    paths = [os.path.abspath(os.path.join(root, name)) for name in names]
    return next(filter(os.path.isfile, paths), paths[-1])


def _beginnings(line: str) -> Sequence[str]:
    return [line, *reversed(list(_before_breaks(line)))]


def _before_breaks(line: str) -> Iterator[str]:
    for found in _BREAKS.finditer(line):
        yield line[: found.start()]


def _known_endings() -> str:
    return f"images are {', '.join(sorted(IMAGE_ENDINGS))}"
