"""Which mask belongs to which image, by their names."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from paddleseg_autoloss.data_checks.image_files import IMAGE_ENDINGS, files_below
from paddleseg_autoloss.errors import ConfigError

__all__ = ["MASK_ENDINGS", "LeftOut", "Pair", "Pairing", "pair_by_name"]

#: Formats of masks, which Pillow reads.
MASK_ENDINGS = IMAGE_ENDINGS | {".gif"}
#: Words that tell a mask, or an image, from its partner: ``001_mask.png``, ``mask-001.png``.
_WORDS = (
    "annotation", "annotations", "gt", "groundtruth", "image", "images", "img", "label", "labels",
    "manual", "manual1", "mask", "masks", "seg", "segmentation", "labelids", "labeltrainids",
    "gtfine", "leftimg8bit", "原图", "图像", "图片", "掩码", "掩膜", "标注", "标签",
)  # fmt: skip
_MARKS_OF_MASKS = set(_WORDS) - {"image", "images", "img", "leftimg8bit", "原图", "图像", "图片"}
_BREAK = re.compile(r"[\s_.\-]+")


@dataclass(frozen=True)
class Pair:
    """An image and its mask.

    Args:
        name: path of the image below its folder, without the ending.
        image: path of the image.
        mask: path of the mask.
    """

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class LeftOut:
    """A file that is not used.

    Args:
        path: of the file.
        reason: why.
    """

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass
class Pairing:
    """What was found in two folders.

    Attributes:
        pairs: images with their masks, sorted by name.
        left_out: all other files.
    """

    pairs: list[Pair] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def pair_by_name(images: Path, masks: Path, chosen: Sequence[Path] | None = None) -> Pairing:
    """Find the mask of each image, in the folders and all folders below them.

    A mask belongs to the image of the same name, in the same folder below; endings do not count.
    Next, capital letters do not count, then words such as ``_mask`` or ``gt_``, and last the
    folders, as long as only one image and one mask have the name.  Both may lie in one folder, if
    those words mark the masks.

    Args:
        images: folder of the images.
        masks: folder of the masks.
        chosen: the images to pair, somewhere below the folder; by default all.

    Raises:
        ConfigError: there is no such folder.
    """
    for flag, folder in {"IMAGES": images, "MASKS": masks}.items():
        if not folder.is_dir():
            kind = "a file" if folder.is_file() else "none"
            raise ConfigError(f"{flag}: expected a folder, found {kind} at {folder}")
    found = Pairing()
    image_files, mask_files = _split_files(images, masks, chosen)
    open_images = dict.fromkeys(_readable(image_files, IMAGE_ENDINGS, found))
    open_masks = dict.fromkeys(_readable(mask_files, MASK_ENDINGS, found))
    for key_of in (_exact_path, _same_path, _plain_path, _same_name, _plain_name):
        _pair(images, open_images, masks, open_masks, key_of, found)
    found.left_out += _without_partner(images, open_images, masks, open_masks)
    found.pairs.sort(key=lambda pair: pair.name)
    found.left_out.sort(key=str)
    return found


def _split_files(
    images: Path, masks: Path, chosen: Sequence[Path] | None
) -> tuple[list[Path], list[Path]]:
    """Return the files of both folders; one may lie in the other, or be the same."""
    image_files = files_below(images) if chosen is None else list(chosen)
    mask_files = files_below(masks)
    if images == masks:
        marked = {path for path in mask_files if _is_marked(path)}
        if not marked and chosen is None:
            raise ConfigError(
                f"IMAGES, MASKS: expected names with a word such as _mask for the masks in one "
                f"folder, found none in {images}; rename the masks, such as to 001_mask.png, or "
                "put them into a folder of their own"
            )
        return [path for path in image_files if path not in marked], sorted(marked)
    if images in masks.parents:
        image_files = [path for path in image_files if masks not in path.parents]
    if masks in images.parents:
        mask_files = [path for path in mask_files if images not in path.parents]
    return image_files, mask_files


def _readable(files: Sequence[Path], endings: Set[str], found: Pairing) -> list[Path]:
    kept = []
    for path in files:
        if path.suffix.lower() in endings:
            kept.append(path)
        else:
            found.left_out.append(LeftOut(path, f"no image, by its ending {path.suffix!r}"))
    return kept


def _parts(name: str) -> tuple[list[str], list[str]]:
    """Return the words of a name that do not mark masks or images, and those that do."""
    words = [word for word in _BREAK.split(name) if word]
    plain = [word for word in words if word not in _WORDS]
    return plain, [word for word in words if word in _WORDS]


def _is_marked(path: Path) -> bool:
    _, marks = _parts(_normal(path.stem))
    return not _MARKS_OF_MASKS.isdisjoint(marks)


def _normal(text: str) -> str:
    """Write a name in one way: macOS stores accents as characters of their own."""
    return unicodedata.normalize("NFC", text).casefold()


def _exact_path(path: Path, folder: Path) -> str:
    return unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())


def _same_path(path: Path, folder: Path) -> str:
    return _exact_path(path, folder).casefold()


def _plain_path(path: Path, folder: Path) -> str:
    return f"{_normal(path.relative_to(folder).parent.as_posix())}/{_plain_name(path, folder)}"


def _same_name(path: Path, folder: Path) -> str:
    return _normal(path.stem)


def _plain_name(path: Path, folder: Path) -> str:
    plain, _ = _parts(_normal(path.stem))
    return "_".join(plain)


def _pair(
    image_folder: Path,
    images: dict[Path, None],
    mask_folder: Path,
    masks: dict[Path, None],
    key_of: Callable[[Path, Path], str],
    found: Pairing,
) -> None:
    """Move those that have one partner each to the pairs."""
    images_of, masks_of = _by_key(images, image_folder, key_of), _by_key(masks, mask_folder, key_of)
    for key in images_of.keys() & masks_of.keys():
        if len(images_of[key]) == len(masks_of[key]) == 1:
            (image,), (mask,) = images_of[key], masks_of[key]
            name = image.relative_to(image_folder).with_suffix("").as_posix()
            found.pairs.append(Pair(name, image, mask))
            del images[image], masks[mask]


def _by_key(
    files: Iterable[Path], folder: Path, key_of: Callable[[Path, Path], str]
) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        found[key_of(path, folder)].append(path)
    found.pop("", None)
    return found


def _without_partner(
    image_folder: Path, images: Iterable[Path], mask_folder: Path, masks: Iterable[Path]
) -> list[LeftOut]:
    """Say of each file that is left whether it has no partner, or too many."""
    of_images = _by_key(images, image_folder, _plain_name)
    of_masks = _by_key(masks, mask_folder, _plain_name)
    left = []
    for files, folder, others, noun in (
        (images, image_folder, of_masks, "mask"),
        (masks, mask_folder, of_images, "image"),
    ):
        for path in files:
            several = others.get(_plain_name(path, folder))
            reason = f"no {noun} of this name"
            if several:
                reason = f"several files of this name, such as the {noun} {several[0]}"
            left.append(LeftOut(path, reason))
    return left
