"""How large an image may be: Pillow refuses what could be a decompression bomb."""

from __future__ import annotations

import os

from PIL import Image

from paddleseg_autoloss.errors import ConfigError, one_line

__all__ = ["LIMIT", "describe", "set_image_limit"]

#: The environment variable with which users allow larger images.
LIMIT = "AUTOLOSS_MAX_IMAGE_PIXELS"
_LIMIT_OF_OPENCV = "OPENCV_IO_MAX_IMAGE_PIXELS"


def set_image_limit() -> None:
    """Let Pillow read images of as many pixels as the environment variable `LIMIT` says.

    Without the variable it reads up to 178,956,970 pixels.  OpenCV has a limit of its own, 2^30
    pixels, and a variable of its own, `_LIMIT_OF_OPENCV`.

    Raises:
        ConfigError: the variable is not a positive integer.
    """
    text = os.environ.get(LIMIT)
    if text is None:
        return
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"{LIMIT}: expected a positive integer, found {text!r}")
    # Pillow warns above its limit, and refuses above twice that.
    Image.MAX_IMAGE_PIXELS = (int(text) + 1) // 2


def describe(error: BaseException) -> str:
    """Return the message of an error in one line, and how to read a larger image if that is it."""
    text = one_line(error)
    limit = None
    if isinstance(error, Image.DecompressionBombError):
        limit = LIMIT
    elif "CV_IO_MAX_IMAGE_PIXELS" in text:
        limit = _LIMIT_OF_OPENCV
    advice = f"; to read it, set the environment variable {limit} to its number of pixels"
    return text + (advice if limit else "")
