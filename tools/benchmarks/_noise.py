"""Data for scripts that measure a training and not what it learns."""

from __future__ import annotations

import numpy as np
import paddle


class Noise(paddle.io.Dataset):
    """Random images with random labels."""

    num_classes = 2
    ignore_index = 255

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        random = np.random.default_rng(index)
        image = random.standard_normal([3, 16, 16]).astype("float32")
        return {"img": image, "label": random.integers(0, 2, [16, 16])}
