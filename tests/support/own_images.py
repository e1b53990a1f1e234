"""Folders of images and masks as users have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def disc(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A mask with a disc of ones, another for every number."""
    random = np.random.default_rng(number)
    row, column = random.integers(16, height - 16), random.integers(16, width - 16)
    y, x = np.mgrid[:height, :width]
    return ((y - row) ** 2 + (x - column) ** 2 < 12**2).astype("uint8")


def photograph(mask: np.ndarray, seed: int = 0) -> np.ndarray:
    """An image whose colours follow the mask, with noise."""
    random = np.random.default_rng(seed)
    base = np.where(mask[..., None] > 0, [210, 170, 60], [120, 60, 40])
    return np.clip(base + random.normal(0, 12, (*mask.shape, 3)), 0, 255).astype("uint8")


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    """Write an image, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path)
    return path


def write_folders(root: Path, count: int = 8, foreground: int = 255) -> tuple[Path, Path]:
    """Write images and masks in nested folders with blanks and Chinese names; return both."""
    images, masks = root / "我的 图像", root / "我的 掩码"
    for number in range(count):
        name = Path(f"第 {number % 2} 批", f"眼底 {number:02d}")
        mask = disc(number)
        save(images / name.with_suffix(".jpg"), photograph(mask, number))
        save(masks / name.with_suffix(".png"), mask * np.uint8(foreground))
    return images, masks
