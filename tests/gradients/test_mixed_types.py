"""Losses of different types side by side, as mixed precision makes them."""

from __future__ import annotations

from itertools import product

import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss, MixedLoss
from support.training import run_training, train_jointly

import paddleseg_autoloss
from paddleseg_autoloss import mtl
from paddleseg_autoloss.gradients import Jacobian
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.tensors import as_vector
from paddleseg_autoloss.weighting import METHODS

TYPES = ["float32", "float16", "bfloat16", "float64", "int64", "int32"]
PAIRS = list(product(TYPES, TYPES))


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_as_vector(pair):
    vector = as_vector([paddle.to_tensor([2]).astype(pair[0]), paddle.to_tensor(3).astype(pair[1])])
    assert vector.dtype == paddle.float32
    assert vector.tolist() == [2, 3]


def totals(name: str, types) -> tuple[float, np.ndarray]:
    """Total and gradient of one step whose losses, whole numbers, have the given types."""
    paddle.seed(1)
    x = nn.Linear(1, 3).bias
    x.set_value(np.array([1.0, 2.0, 1.0], "float32"))
    count = len(types)
    aggregator = LossAggregator([str(i) for i in range(count)], METHODS[name](count))
    aggregator.held_by_optimizer = True
    aggregator.bind([x], paddle.optimizer.SGD(parameters=[x]))
    rows = np.array([[1, 2, 1], [3, 1, -2], [1, 1, 0], [2, 0, 1]], "float32")
    losses = {
        str(i): (x * paddle.to_tensor(row)).sum().astype(kind)
        for i, (row, kind) in enumerate(zip(rows, types))
    }
    total = aggregator(losses)
    total.backward()
    assert total.dtype == paddle.float32
    return float(total), x.grad.numpy()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_with_every_pair_of_types(name):
    count = max(2, METHODS[name].least_losses)
    expected = totals(name, ["float32"] * count)
    for pair in PAIRS:
        found = totals(name, [*pair, *["float32"] * (count - 2)])
        assert found[0] == pytest.approx(expected[0], rel=1e-6), pair
        # What goes back through a loss has its type; whole numbers have no slope.
        if not any(kind.startswith("int") for kind in pair):
            np.testing.assert_allclose(found[1], expected[1], rtol=0.02, err_msg=str(pair))
        assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("types", PAIRS, ids="-".join)
def test_loss_aggregators_of_paddlescience(types):
    for kind in (mtl.Sum, mtl.PCGrad, mtl.AGDA, mtl.GradNorm, mtl.NTK, mtl.Relobralo):
        paddle.seed(1)
        model = nn.Linear(3, 4, bias_attr=False)
        model.weight.set_value(np.ones((3, 4), "float32"))
        count = {"num_losses": 2} if kind in (mtl.GradNorm, mtl.NTK, mtl.Relobralo) else {}
        aggregator = kind(*([] if kind in (mtl.Sum, mtl.Relobralo) else [model]), **count)
        y = model(paddle.ones([1, 3]))
        losses = {str(i): y.sum().astype(one) for i, one in enumerate(types)}
        aggregator(losses).backward()
        assert np.isfinite(model.weight.grad.numpy()).all()


def test_parameters_of_several_types():
    """One block holds them all; the gradients come back in the types of the parameters."""
    parameters = [
        paddle.to_tensor(np.ones(3), dtype=kind, stop_gradient=False)
        for kind in ("float32", "float16", "float64")
    ]
    x, y, z = parameters
    losses = [
        (x * 2).sum() + (y.astype("float32") * 3).sum(),
        (x * x).sum() + (z.astype("float32") * 4).sum() + (y.astype("float32") ** 2).sum(),
    ]
    jacobian = Jacobian(losses, parameters)
    assert jacobian.gramian().tolist() == [[39, 30], [30, 72]]
    jacobian.inject_combination(paddle.to_tensor([1.0, 0.5])).backward()
    assert [p.grad.dtype for p in parameters] == [p.dtype for p in parameters]
    assert [p.grad.tolist()[0] for p in parameters] == [3, 4, 2]


def test_a_scale_that_half_precision_has_no_room_for():
    x = paddle.to_tensor([3.0, 4.0], stop_gradient=False)
    jacobian = Jacobian([(x * x).sum().astype("float16")], [x], scale=paddle.to_tensor([32768.0]))
    assert np.sqrt(float(jacobian.gramian())) / 32768 == 10


class Cast(nn.Layer):
    """A loss in another type."""

    def __init__(self, loss: nn.Layer, kind: str) -> None:
        super().__init__()
        self.loss = loss
        self.kind = kind

    def forward(self, logits, labels):
        return self.loss(logits, labels).astype(self.kind)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64", "int64"])
@pytest.mark.parametrize("method", ["AutoWeightedLoss", "PCGrad"])
class TestInPaddleSegsLoop:
    def test_component(self, tmp_path, method, kind):
        def losses():
            inner = MixedLoss([CrossEntropyLoss(), Cast(DiceLoss(), kind)], [0.5, 2])
            return [getattr(paddleseg_autoloss, method)([inner, Cast(CrossEntropyLoss(), kind)])]

        run_training(tmp_path, 2, losses)

    def test_key(self, tmp_path, method, kind):
        def losses():
            return [MixedLoss([CrossEntropyLoss(), Cast(DiceLoss(), kind)], [0.5, 2])]

        train_jointly(tmp_path, 2, {"type": method}, losses)
