"""Fixtures that tests of several folders share."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import numpy as np
import paddle
import pytest
import yaml

# Shells start jobs in the background with Ctrl-C ignored, and tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def fundus(tmp_path_factory) -> Path:
    """A small generated data set, shared by the tests of one process."""
    from paddleseg_autoloss.datasets import SyntheticFundus

    root = tmp_path_factory.mktemp("data") / "fundus"
    SyntheticFundus(str(root), transforms=[], num_train=8, num_val=3, image_size=64)
    return root


@pytest.fixture
def config(tmp_path, fundus):
    """Write a config after a change; return its path."""

    def write(change=lambda dic: None) -> str:
        transforms = [{"type": "Resize", "target_size": [32, 32]}, {"type": "Normalize"}]
        data = {
            "type": "SyntheticFundus",
            "dataset_root": str(fundus),
            "num_train": 8,
            "num_val": 3,
            "image_size": 64,
            "transforms": transforms,
        }
        inner = [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}]
        dic = {
            "batch_size": 2,
            "iters": 2,
            "train_dataset": {**data, "mode": "train"},
            "val_dataset": {**data, "mode": "val"},
            "optimizer": {"type": "SGD", "momentum": 0.9},
            "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.01},
            "model": {"type": "FastSCNN", "num_classes": 2, "enable_auxiliary_loss": False},
            "loss": {"types": [{"type": "AutoWeightedLoss", "losses": inner}], "coef": [1]},
        }
        change(dic)
        path = tmp_path / "config.yml"
        path.write_text(yaml.safe_dump(dic))
        return str(path)

    return write


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Path:
    """Keep what is remembered about labels out of the user's folder."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Give a test the same random numbers alone and after others."""
    random.seed(1)
    np.random.seed(1)
    paddle.seed(1)
