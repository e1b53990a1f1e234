"""The pictures of a prediction: contours on each image, beside the truth if masks are given."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from paddleseg.utils import logger, visualize
from PIL import Image

from paddleseg_autoloss.contours import IGNORED, classes_in, draw_contours, enlarged, side_by_side
from paddleseg_autoloss.data_checks.image_limit import describe
from paddleseg_autoloss.data_checks.images import image_size
from paddleseg_autoloss.data_checks.lists import ListFile
from paddleseg_autoloss.data_checks.parallel import in_threads
from paddleseg_autoloss.errors import ConfigError, DataError, OutputError, one_line, shown
from paddleseg_autoloss.files import output_errors, write_file
from paddleseg_autoloss.own_images.pairing import MASK_ENDINGS, pair_by_name
from paddleseg_autoloss.seams import replaced

__all__ = ["contours_of_predictions", "find_masks", "without_predictions", "write_picture"]

#: Folders of PaddleSeg's overlays and pseudo-colour masks, and of our contours.
_OVERLAYS, _MASKS, _CONTOURS = "added_prediction", "pseudo_color_prediction", "contours"


def without_predictions(images: Sequence[str], save_dir: str, image_path: str) -> list[str]:
    """Return the images that are no pictures of an earlier prediction.

    Such a prediction is known by its folder: it is ``save_dir``, or one inside of ``image_path``
    that has overlays and pseudo-colour masks beside each other.

    Args:
        images: absolute paths of the images.
        save_dir: folder for the pictures of the prediction to come.
        image_path: the folder of the images; another path has no folders inside of it.

    Raises:
        DataError: all are such pictures.
    """
    own_folder, top = Path(os.path.abspath(save_dir)), Path(os.path.abspath(image_path))

    @cache
    def is_written(folder: Path) -> bool:
        is_inside = top in (folder, *folder.parents)
        return is_inside and all((folder / name).is_dir() for name in (_OVERLAYS, _MASKS))

    def prediction_of(image: str) -> Path | None:
        places = (p for p in Path(image).parents if p.name in (_OVERLAYS, _MASKS, _CONTOURS))
        folders = (place.parent for place in places)
        return next((one for one in folders if one == own_folder or is_written(one)), None)

    found = [prediction_of(image) for image in images]
    where = ", ".join(sorted({str(folder) for folder in found if folder is not None}))
    own = [image for image, folder in zip(images, found) if folder is None]
    if not own:
        raise DataError(
            f"--image_path: expected images, found {len(images)} pictures of an earlier prediction "
            f"in {where}; give the folder of the images, or another --save_dir"
        )
    if len(own) < len(images):
        count = len(images) - len(own)
        logger.info(f"{count} pictures of an earlier prediction in {where} are left out")
    return own


def find_masks(masks: str, images: Sequence[str], val_dataset: Mapping[str, Any]) -> dict[str, str]:
    """Return the mask of each image; a warning says how many images have none.

    Args:
        masks: a folder, in which masks have the names of the images, see `pair_by_name`; or a list
            with an image and its mask in each line, as for training.
        images: paths of the images.
        val_dataset: the config's data set; its ``dataset_root`` and ``separator`` apply to the
            list.  The names in a list may also begin at its own folder.

    Raises:
        ConfigError: there is no such folder or list, or it has no mask for any image.
        DataError: a line of the list cannot be read.
    """
    if os.path.isdir(masks):
        found = _masks_by_name(masks, images)
    elif Path(masks).suffix.lower() in MASK_ENDINGS:
        raise ConfigError(
            f"--masks: expected a folder or a list, found a picture: {masks}; give its folder"
        )
    elif os.path.isfile(masks):
        found = _masks_of_list(masks, images, val_dataset)
    else:
        raise ConfigError(f"--masks: expected a folder or a list, found none at {masks!r}")
    missing = [image for image in images if image not in found]
    if not found:
        raise ConfigError(
            f"--masks: expected masks of the same names as the images, or a list that names both, "
            f"found no mask for {missing[0]} in {masks}"
        )
    if missing:
        logger.warning(
            f"--masks: no mask for {len(missing)} of {len(images)} images, such as {missing[0]}"
        )
    return found


def _masks_by_name(masks: str, images: Sequence[str]) -> dict[str, str]:
    absolute = {os.path.abspath(image): image for image in images}
    folder = os.path.commonpath([os.path.dirname(path) for path in absolute])
    pairing = pair_by_name(Path(folder), Path(os.path.abspath(masks)), list(map(Path, absolute)))
    return {absolute[str(pair.image)]: str(pair.mask) for pair in pairing.pairs}


def _masks_of_list(
    masks: str, images: Sequence[str], val_dataset: Mapping[str, Any]
) -> dict[str, str]:
    separator = val_dataset.get("separator", " ")
    for root in (val_dataset.get("dataset_root"), os.path.dirname(masks)):
        if root is not None:
            pairs = [line.split(separator) for line in ListFile("--masks", masks, root, True)]
            known = {os.path.abspath(os.path.join(root, image)): mask for image, mask in pairs}
            found = {image: known.get(os.path.abspath(image)) for image in images}
            if any(found.values()):
                return {i: os.path.join(root, mask) for i, mask in found.items() if mask}
    return {}


@contextmanager
def contours_of_predictions(
    save_dir: str, masks: Mapping[str, str], num_classes: int | None = None
) -> Iterator[None]:
    """Context in which PaddleSeg's ``predict`` also writes ``contours/`` in its folder.

    A picture has the contour of each class but class 0, and a key; if the image has a mask, the
    truth is on its left side.  Predictions of several classes per pixel have no contours.

    Within the context a picture that cannot be written is an error; OpenCV would say nothing.

    Args:
        save_dir: folder of the prediction.
        masks: path of the mask for the path of each image that has one; all of them are read first.
        num_classes: number of classes of the network, or None if it is not known.

    Raises:
        OutputError: a picture cannot be written.
        DataError: a mask cannot be read, or does not fit its image.
    """
    _check_masks(masks, num_classes)
    writer = _Writer(save_dir, masks)
    with (
        replaced(visualize, "visualize", writer.visualize),
        replaced(cv2, "imwrite", writer.write),
        output_errors(save_dir),
    ):
        try:
            yield
        except BaseException:
            # PaddleSeg's progress bar leaves its line open; the error begins a new one.
            print(file=sys.stderr)
            raise
    writer.finish()


def _check_masks(masks: Mapping[str, str], num_classes: int | None) -> None:
    """Read all masks.

    Raises:
        DataError: a mask cannot be read, does not fit its image, or has values that no prediction
            can have.
    """
    allowed = {*range(IGNORED if num_classes is None else num_classes), IGNORED}

    def values(image: str) -> set[int]:
        found = set(np.unique(_read_mask(masks[image], tuple(image_size(image)))).tolist())
        if found <= allowed:
            return found
        raise DataError(
            f"--masks: {masks[image]}: found the values {shown(sorted(found - allowed))}, expected "
            f"classes from 0 to {len(allowed) - 2}, or 255 for ignored pixels; autoloss init makes "
            "such masks"
        )

    found: set[int] = set().union(*in_threads(values, list(masks), "--masks"))
    if found == {0, IGNORED}:
        logger.warning(
            "--masks: found only 0 and 255 in all masks, and 255 is ignored; if 255 is a class, "
            "give the masks that autoloss init made, which have 1 instead"
        )


class _Writer:
    """Writes the contours of each prediction when PaddleSeg writes its overlay."""

    def __init__(self, save_dir: str, masks: Mapping[str, str]) -> None:
        self._overlays = os.path.join(save_dir, _OVERLAYS)
        self._folder = os.path.join(save_dir, _CONTOURS)
        self._masks = masks
        self._stock = visualize.visualize
        self._image, self._prediction = "", np.empty(0)
        self._written = 0

    def visualize(self, image: str, result: np.ndarray, *args: Any, **kwargs: Any) -> Any:
        """Do what PaddleSeg's function does, and keep the prediction."""
        self._image, self._prediction = image, result
        return self._stock(image, result, *args, **kwargs)

    def write(self, path: str, picture: np.ndarray, *params: Any) -> bool:
        """Write PaddleSeg's overlay, and the contours of the same image; for ``cv2.imwrite``."""
        write_picture(path, picture)
        if self._prediction.ndim == 2:
            own = os.path.join(self._folder, os.path.relpath(path, self._overlays))
            os.makedirs(os.path.dirname(own), exist_ok=True)
            write_picture(own, self._draw()[:, :, ::-1])
            self._written += 1
        return True

    def _draw(self) -> np.ndarray:
        image = enlarged(cv2.imread(self._image, cv2.IMREAD_COLOR)[:, :, ::-1])
        masks = {"prediction": self._prediction}
        if self._image in self._masks:
            truth = _read_mask(self._masks[self._image], self._prediction.shape)
            masks = {"truth": truth, **masks}
        classes = sorted({index for mask in masks.values() for index in classes_in(mask)})
        drawn = {title: draw_contours(image, enlarged(mask)) for title, mask in masks.items()}
        return side_by_side(drawn, classes)

    def finish(self) -> None:
        """Say where the pictures are."""
        if self._written:
            logger.info(f"Contours are saved in {self._folder}")


def write_picture(path: str, picture: np.ndarray) -> None:
    """Write a picture in the format of its ending, or raise an error.

    Args:
        path: the file.
        picture: the pixels in the order of OpenCV, BGR, uint8.

    Raises:
        OutputError: OpenCV cannot write this format, or the file cannot be written.
    """
    ending = os.path.splitext(path)[1]
    try:
        is_encoded, data = cv2.imencode(ending, np.ascontiguousarray(picture))
    except cv2.error as error:
        raise OutputError(
            f"cannot write {path}: OpenCV cannot write these pixels as {ending}: {one_line(error)}"
        ) from error
    if not is_encoded:
        raise OutputError(f"cannot write {path}: OpenCV cannot write these pixels as {ending}")
    write_file(path, data.tobytes())


def _read_mask(path: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        with Image.open(path) as file:
            # A size that is wrong costs no memory.
            fits = (file.height, file.width) == shape
            mask = np.asarray(file).astype(int) if fits else np.empty((file.height, file.width))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"--masks: cannot read {path}: {describe(error)}") from error
    if mask.ndim != 2:
        raise DataError(
            f"--masks: {path}: found a colour mask, expected one number for each pixel; autoloss "
            "init makes such masks"
        )
    if mask.shape != shape:
        found, expected = (f"{size[1]} x {size[0]}" for size in (mask.shape, shape))
        raise DataError(
            f"--masks: {path}: found a mask of {found} pixels, expected {expected} as its image has"
        )
    return mask
