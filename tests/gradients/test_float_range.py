"""Gradients as long and as short as single precision holds; what is NaN and what an overflow."""

from __future__ import annotations

from unittest import mock

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_autoloss import mtl
from paddleseg_autoloss.errors import TrainingDiverged
from paddleseg_autoloss.gradients import Jacobian
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.tensors import beyond_float32, length
from paddleseg_autoloss.weighting import METHODS, LossWeighting
from paddleseg_autoloss.weighting.base import inner_products, nearest_weights

COLUMNS = 6
LOOKS_AT_GRADIENTS = [
    name
    for name, method in METHODS.items()
    if not method.uses_held_out
    and not isinstance(method(max(2, method.least_losses)), LossWeighting)
]
#: Exponent of the gradients' scale in d, where it is not 1.
EXPONENT = {"FairGrad": 0, "MConFIG": 0}
#: The docstrings of those that remember squares give a narrower range.
RANGE = {"ExcessMTL": 55, "MConFIG": 55}
OPTIONS = {"NashMTL": {"max_norm": 0}}


def rows_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, COLUMNS)).astype("float32")


class Network:
    """An aggregator whose losses are 1 and have given gradients."""

    def __init__(self, name: str, count: int, **options) -> None:
        paddle.seed(1)
        self.x = nn.Linear(1, COLUMNS).bias
        method = METHODS[name](count, **OPTIONS.get(name, {}))
        self.aggregator = LossAggregator([f"loss{i}" for i in range(count)], method, **options)
        self.aggregator.held_by_optimizer = True
        self.aggregator.bind([self.x])

    def update(self, rows: np.ndarray) -> np.ndarray:
        x = self.x
        losses = {
            name: ((x - x.detach()) * paddle.to_tensor(row)).sum() + 1.0
            for name, row in zip(self.aggregator.names, rows)
        }
        x.clear_gradient(False)
        self.aggregator(losses).backward()
        return x.grad.numpy().astype(float)


@pytest.mark.parametrize(
    ("name", "exponent"),
    [
        (name, exponent)
        for name in LOOKS_AT_GRADIENTS
        for exponent in (-110, -90, -70, -50, 50, 70, 90, 110)
        if abs(exponent) <= RANGE.get(name, 127)
    ],
)
def test_update_scales_with_the_gradients_over_the_whole_range(name, exponent):
    """From 1e-33 to 1e33: beyond that the numbers themselves have no digits or no room."""
    count = int(min(METHODS[name].most_losses, 3))
    usual, scaled = Network(name, count), Network(name, count)
    factor = 2.0**exponent
    for step in range(3):
        rows = rows_of(count, step)
        expected = usual.update(rows) * factor ** EXPONENT.get(name, 1)
        found = scaled.update(rows * np.float32(factor))
        size = np.abs(expected).max()
        np.testing.assert_allclose(found / size, expected / size, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LOOKS_AT_GRADIENTS)
def test_gradients_of_very_different_lengths(name):
    """Nothing becomes NaN, and no loss is taken for one without a gradient."""
    count = int(min(METHODS[name].most_losses, 3))
    rows = rows_of(count) * np.float32([[1e17], [1e-17], [1.0]][:count])
    network = Network(name, count)
    for _ in range(2):
        assert np.isfinite(network.update(rows)).all()
    lengths = np.sqrt(np.diag(network.aggregator.last_gramian))
    np.testing.assert_allclose(lengths, np.linalg.norm(rows.astype(float), axis=1), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_factor_of_a_gradient_scaler_is_undone(scale):
    rows = rows_of(2) * np.float32(scale)
    network = Network("PCGrad", 2)
    expected = network.update(rows)
    network.aggregator.loss_scale = lambda: paddle.to_tensor([1024.0])
    found = network.update(rows)  # which the scaler would have multiplied
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    single = rows.astype(float)
    np.testing.assert_allclose(network.aggregator.last_gramian, single @ single.T, rtol=1e-5)


def test_the_usual_range_is_found_once_and_in_single_precision():
    network, dtypes = Network("PCGrad", 2), []
    stock = Jacobian.gramian

    def gramian(self, dtype="float32", metric=None):
        dtypes.append(dtype)
        return stock(self, dtype, metric)

    with mock.patch.object(Jacobian, "gramian", gramian):
        for scale in (1e-8, 1.0, 1e8):
            network.update(rows_of(2) * np.float32(scale))
        assert dtypes == ["float32"] * 3
        network.update(rows_of(2) * np.float32(1e25))
        assert dtypes[3:] == ["float32", "float64"]


@pytest.mark.parametrize("name", ["PCGrad", "CAGrad", "MoCo", "DBMTL"])
@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "NaN"), (np.inf, "infinite, an overflow")], ids=["nan", "inf"]
)
def test_the_error_tells_an_overflow_from_nan(name, value, said):
    network = Network(name, 2)
    losses = {}
    for key, factor in zip(network.aggregator.names, (1.0, value)):
        y = network.x * 1
        y.register_hook(lambda gradient, factor=factor: gradient * factor)
        losses[key] = y.sum() + 1
    with pytest.raises(TrainingDiverged, match=f"^the gradient of loss1 is {said}$"):
        network.aggregator(losses)


def test_beyond_float32():
    assert not beyond_float32(np.array([1e-20, 1.0, 1e37]))
    for square in (0.0, 1e-30, 1e39, np.inf, np.nan):
        assert beyond_float32(np.array([1.0, square]))


@pytest.mark.parametrize("exponent", [-120, -60, 0, 60, 120])
def test_lengths_and_inner_products(exponent):
    rows = rows_of(3) * np.float32(2.0**exponent)
    exact = rows.astype(float)
    tensor = paddle.to_tensor(rows)
    np.testing.assert_allclose(inner_products(tensor), exact @ exact.T, rtol=1e-5)
    for row, expected in zip(tensor, np.linalg.norm(exact, axis=1)):
        assert float(length(row)) == pytest.approx(expected, rel=1e-6)
    mixed = paddle.to_tensor([0.5, 0.25, -1.0]) @ tensor
    np.testing.assert_allclose(nearest_weights(tensor, mixed), [0.5, 0.25, -1.0], rtol=1e-3)
    assert float(length(paddle.zeros([3]))) == 0


def test_length_has_the_bits_of_the_plain_formula_in_the_usual_range():
    for scale in (2.0**-39, 1.0, 2.0**36):
        row = paddle.to_tensor(rows_of(1)[0] * np.float32(scale))
        assert float(length(row)) == float((row * row).sum().sqrt())


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_balances_of_paddlescience(scale):
    model = nn.Linear(3, 4, bias_attr=False)
    weights = []
    for factor in (1.0, scale):
        aggregator = mtl.NTK(model, num_losses=2, update_freq=1)
        y = model(paddle.ones([8, 3]))
        losses = [y.mean() * factor, (y * 3).mean() * factor]
        aggregator(losses)
        weights.append(aggregator.state_dict()["weighting.weight"].numpy())
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-5)
