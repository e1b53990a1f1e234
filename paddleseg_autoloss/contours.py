"""The contours of a mask, drawn on its image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from paddleseg_autoloss.plot_styles import class_color

__all__ = ["IGNORED", "classes_in", "draw_contours", "enlarged", "side_by_side"]

#: The label of pixels that belong to no class.
IGNORED = 255
#: Length of a dot and of the gap behind it, in widths of the line.
_DOT = 4
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BLACK = (0, 0, 0)
#: Pictures whose longer side is shorter than half of this are enlarged.
_SMALL = 480


def classes_in(mask: np.ndarray) -> list[int]:
    """Return the classes of a mask that have a contour: all but class 0 and ignored pixels.

    Args:
        mask: class of each pixel, integers.

    Example:
        >>> classes_in(np.array([[0, 2], [255, 1]]))
        [1, 2]
    """
    return [int(value) for value in np.unique(mask) if value not in (0, IGNORED)]


def draw_contours(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return an image with the contour of each class of a mask, in the colour of the class.

    Contours lie on the outermost pixels of a region, with a black line around them, so they can be
    seen on light and on dark images.  From class 8 on they are dotted.  Class 0 and pixels that are
    ignored, 255, have none.

    Args:
        image: the image in RGB, uint8, shape [height, width, 3].
        mask: class of each pixel, integers, shape [height, width].

    Example:
        >>> image, mask = np.zeros([9, 9, 3], "uint8"), np.zeros([9, 9], "uint8")
        >>> mask[2:7, 2:7] = 1
        >>> drawn = draw_contours(image, mask)
        >>> int((drawn != image).any(axis=2).sum())  # of the 25 pixels of the class
        16
    """
    drawn = np.array(image, order="C")
    width = _line_width(drawn)
    outlines = {index: _outline(mask == index) for index in classes_in(mask)}
    for outline in outlines.values():
        cv2.polylines(drawn, outline, True, _BLACK, width + 2)
    for index, outline in outlines.items():
        _draw_line(drawn, outline, index, width)
    return drawn


def _outline(region: np.ndarray) -> list[np.ndarray]:
    found, _ = cv2.findContours(region.astype("uint8"), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return list(found)


def _line_width(image: np.ndarray) -> int:
    """Return 2 pixels for an image of 400 pixels, 4 for one of 1600."""
    return max(1, round(math.sqrt(max(image.shape[:2])) / 10))


def _draw_line(
    image: np.ndarray, lines: Sequence[np.ndarray], index: int, width: int, closed: bool = True
) -> None:
    """Draw lines in the colour of a class; each has its points in order, shape [N, 1, 2]."""
    color, dotted = class_color(index)
    if dotted:
        length = _DOT * width
        lines = [
            line[start : start + length]
            for line in lines
            for start in range(0, len(line), 2 * length)
        ]
    cv2.polylines(image, lines, closed and not dotted, _rgb(color), width)


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def enlarged(picture: np.ndarray) -> np.ndarray:
    """Return a small picture several times as large, so that contours hide little of it.

    Args:
        picture: an image or a mask, shape [height, width, ...].
    """
    times = max(1, _SMALL // max(picture.shape[:2]))
    return np.repeat(np.repeat(picture, times, axis=0), times, axis=1)


def side_by_side(panels: Mapping[str, np.ndarray], classes: Sequence[int]) -> np.ndarray:
    """Return images side by side, with their titles and the colours of the classes below.

    Args:
        panels: images of the same shape [height, width, 3] in RGB, uint8, by their title, in
            letters of ASCII.
        classes: the classes to explain.
    """
    images = list(panels.values())
    width, gap = images[0].shape[1], max(2, _line_width(images[0]) * 4)
    scale = max(0.35, min(width, 1000) / 1000)
    line = round(36 * scale)
    starts = [number * (width + gap) for number in range(len(images))]
    total = starts[-1] + width
    key = _key_places(classes, total, scale, 2 * line)
    bottom = max((y for _, y in key.values()), default=line)
    canvas = np.full((images[0].shape[0] + bottom + line // 2, total, 3), 255, np.uint8)
    for start, (title, image) in zip(starts, panels.items()):
        canvas[: image.shape[0], start : start + width] = image
        _write(canvas, title, start + line // 4, image.shape[0] + line, scale)
    for index, (x, y) in key.items():
        _draw_key(canvas, index, x, images[0].shape[0] + y, scale)
    return canvas


def _key_places(
    classes: Sequence[int], total: int, scale: float, first_row: int
) -> dict[int, tuple[int, int]]:
    """Return where the key of each class begins, in rows that are no wider than the canvas."""
    cell, row = round(130 * scale), round(36 * scale)
    columns = max(1, total // cell)
    return {
        index: (place % columns * cell, first_row + place // columns * row)
        for place, index in enumerate(classes)
    }


def _draw_key(canvas: np.ndarray, index: int, x: int, y: int, scale: float) -> None:
    length, width = round(50 * scale), max(1, round(5 * scale))
    height = y - round(10 * scale)
    xs = np.arange(x + length // 5, x + length)
    line = np.stack([xs, np.full_like(xs, height)], axis=1)[:, None].astype(np.int32)
    cv2.polylines(canvas, [line], False, _BLACK, width + 2)
    _draw_line(canvas, [line], index, width, closed=False)
    _write(canvas, str(index), x + length + round(10 * scale), y, scale)


def _write(canvas: np.ndarray, text: str, x: int, y: int, scale: float) -> None:
    thickness = max(1, round(2 * scale))
    cv2.putText(canvas, text, (x, y), _FONT, scale, _BLACK, thickness, cv2.LINE_AA)
