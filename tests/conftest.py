"""Fixtures that tests of several folders share."""

from __future__ import annotations

from pathlib import Path

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import pytest


@pytest.fixture(scope="session")
def fundus(tmp_path_factory) -> Path:
    """A small generated data set, shared by the tests of one process."""
    from paddleseg_autoloss.datasets import SyntheticFundus

    root = tmp_path_factory.mktemp("data") / "fundus"
    SyntheticFundus(str(root), transforms=[], num_train=8, num_val=3, image_size=64)
    return root
