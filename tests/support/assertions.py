"""Assertions that tests of several folders share."""

from __future__ import annotations

import numpy as np
from paddle import nn


def state_of(layer: nn.Layer) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in layer.state_dict().items()}


def assert_same_state(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(actual, expected, atol=tolerance * np.abs(expected).max(), rtol=1e-5)
