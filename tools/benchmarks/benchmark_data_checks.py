"""Time the look at all labels before training: the first time, and when it is remembered.

    python tools/benchmarks/benchmark_data_checks.py

Images (JPEG) and masks (PNG) are made in a folder that is deleted in the end, and so is what is
remembered of them. The files are in the system's cache, as just after they were copied: a slow disk
adds the time of reading them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import cv2
import numpy as np
from paddleseg.datasets import Dataset
from tqdm import trange

from paddleseg_autoloss.data_checks import build_dataset

CLASSES = 4


def write_data(folder: Path, count: int, size: int) -> Path:
    """Write images of blurred noise, and masks of ellipses in them; return their list.

    Args:
        folder: for the files.
        count: number of images.
        size: height and width.
    """
    random = np.random.default_rng(0)
    lines = []
    for index in trange(count, desc="making images", leave=False):
        image = cv2.GaussianBlur(random.integers(0, 256, (size, size, 3), np.uint8), (0, 0), 1.5)
        mask = np.zeros((size, size), np.uint8)
        for value in range(1, CLASSES):
            centre = random.integers(size // 4, 3 * size // 4, 2).tolist()
            axes = random.integers(size // 20 + 1, size // 4 + 2, 2).tolist()
            cv2.ellipse(mask, centre, axes, float(random.uniform(0, 180)), 0, 360, value, -1)
        cv2.imwrite(str(folder / f"{index}.jpg"), image)
        cv2.imwrite(str(folder / f"{index}.png"), mask)
        lines.append(f"{index}.jpg {index}.png\n")
    (folder / "train.txt").write_text("".join(lines), encoding="utf-8")
    return folder / "train.txt"


def look(folder: Path, path: Path) -> float:
    """Build the data set as a command does, and return the seconds."""
    config = {"type": "Dataset", "dataset_root": str(folder), "train_path": str(path)}
    config |= {"mode": "train", "num_classes": CLASSES, "transforms": []}
    arguments = {key: value for key, value in config.items() if key != "type"}
    start = time.perf_counter()
    build_dataset("train_dataset", config, lambda: Dataset(**arguments))
    return time.perf_counter() - start


def measure(count: int, size: int, repeats: int) -> tuple[list[float], list[float]]:
    """Return the seconds of the first looks, and of the second ones.

    Args:
        count: number of images.
        size: height and width.
        repeats: number of pairs of looks, each with an empty memory at first.
    """
    first, second = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_data(folder, count, size)
        for repeat in trange(repeats, desc="pairs of looks", leave=False):
            memory = folder / f"memory{repeat}"
            with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(memory)):
                first.append(look(folder, path))
                second.append(look(folder, path))
    return first, second


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=500, help="images; default: %(default)s")
    parser.add_argument("--size", type=int, default=512, help="height and width, pixels")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of looks")
    args = parser.parse_args(argv)
    for what, seconds in zip(
        ("first look", "second look"), measure(args.count, args.size, args.repeats)
    ):
        low, median, high = np.percentile(seconds, [0, 50, 100])
        print(
            f"{what}: median {median:.2f} s, {low:.2f} to {high:.2f} s, for {args.count} images "
            f"and masks of {args.size} x {args.size}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
