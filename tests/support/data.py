"""Small data sets of real files, and the configs that train on them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from paddleseg.datasets import Dataset
from PIL import Image

from paddleseg_autoloss.data_checks import build_dataset

SIZE = 32


def square(value: int = 1, background: int = 0, size: int = SIZE, dtype="uint8") -> np.ndarray:
    """A label with a square of another value in it."""
    label = np.full((size, size), background, dtype)
    label[size // 4 : size // 2, size // 4 : size // 2] = value
    return label


def write_data(root: Path, labels, name: str = "train.txt") -> Path:
    """Write labels with images of their sizes, and a list of them; return the list."""
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    lines = []
    for index, label in enumerate(labels):
        image = random.integers(0, 256, (*label.shape[:2], 3), dtype="uint8")
        Image.fromarray(image).save(root / f"{index}.png")
        Image.fromarray(label).save(root / f"{index}_label.png")
        lines.append(f"{index}.png {index}_label.png\n")
    (root / name).write_text("".join(lines), encoding="utf-8")
    return root / name


def dataset_config(root: Path, mode: str = "train", **options: Any) -> dict[str, Any]:
    config = {"type": "Dataset", "mode": mode, "dataset_root": str(root), "num_classes": 2}
    path = {f"{mode}_path": str(root / "train.txt"), "transforms": []}
    return {**config, **path, **options}


def build(root: Path, mode: str = "train", kind=Dataset, **options: Any) -> Any:
    """Build a data set of PaddleSeg as the commands do, and look at its files."""
    config = dataset_config(root, mode, **options)
    arguments = {key: value for key, value in config.items() if key != "type"}
    return build_dataset(f"{mode}_dataset", config, lambda: kind(**arguments))


def write_config(root: Path, transforms=None, **changes: Any) -> Path:
    """Write a config that trains and evaluates on the list of a folder."""
    resize = [{"type": "Resize", "target_size": [SIZE, SIZE]}, {"type": "Normalize"}]
    inner = [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}]
    config = {
        "batch_size": 2,
        "iters": 4,
        "train_dataset": dataset_config(root, transforms=transforms or resize),
        "val_dataset": dataset_config(root, "val", transforms=transforms or resize),
        "optimizer": {"type": "SGD"},
        "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.01},
        "model": {"type": "FastSCNN", "num_classes": 2, "enable_auxiliary_loss": False},
        "loss": {"types": [{"type": "MixedLoss", "losses": inner, "coef": [1, 1]}], "coef": [1]},
    }
    path = root / "config.yml"
    path.write_text(yaml.safe_dump(config | changes), encoding="utf-8")
    return path


def write_png_with_few_pixels(path: Path, size: int = SIZE) -> None:
    """Write a PNG with valid checksums whose pixel data end too early."""
    pixels = zlib.compress(bytes(size))
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks))


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum
