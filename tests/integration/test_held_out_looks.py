"""Methods that learn from held-out data, in PaddleSeg's loop."""

from __future__ import annotations

from unittest import mock

import numpy as np
import paddle
import pytest
from paddleseg.models.losses import LovaszSoftmaxLoss
from support.records import history
from support.training import (
    Squares,
    TinyNet,
    ce_and_dice,
    enabled_scaler,
    parameters,
    resumed,
    run_training,
    state_arrays,
)

import paddleseg_autoloss
from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.integration import training
from paddleseg_autoloss.losses.targets import Target, soft_dice, soft_jaccard
from paddleseg_autoloss.weighting import METHODS, AutoLambdaWeighting

HELD_OUT = [name for name, method in METHODS.items() if method.uses_held_out]


class Batches:
    """Held-out batches of noisy squares that no training image shows."""

    def __init__(self, factor: float = 1.0) -> None:
        self.number, self.factor = 0, factor

    def __next__(self) -> dict[str, paddle.Tensor]:
        images = [Squares()[100 + 2 * self.number + index] for index in range(2)]
        self.number += 1
        return {
            "img": paddle.to_tensor(np.stack([one["img"] for one in images])) * self.factor,
            "label": paddle.to_tensor(np.stack([one["label"] for one in images])),
        }


def train(folder, iters, batches=None, **options):
    """Train through PaddleSeg's loop with held-out batches; return what `run_training` does."""
    stock, batches = training.TrainingSession, batches or Batches()

    def session(**arguments):
        arguments["losses"]["held_out"] = batches
        return stock(**arguments)

    with mock.patch.object(training, "TrainingSession", session):
        return run_training(folder, iters, **options)


def component(name: str, **options):
    kind = getattr(paddleseg_autoloss, name)
    return lambda: [kind(ce_and_dice(), update_interval=2, **options)]


@pytest.mark.parametrize("name", ["AutoLambda", "CoBa"])
def test_a_look_leaves_no_trace_in_training(name, tmp_path):
    """With weights that stay 1, the run is that of a method that never looks.

    Batch norm's running means and dropout are those of the training batches only.  (With Adam,
    rounding errors alone would move the bias before batch norm, which has no effect.)
    """

    def sgd(model):
        return paddle.optimizer.SGD(0.05, parameters=model.parameters())

    options = {"lr": 0} if name == "AutoLambda" else {"warmup": 20}
    batches = Batches()
    method = component(name, **options)
    looking, *_ = train(tmp_path / "a", 6, batches, losses=method, optimizer=sgd)
    assert batches.number == 2
    plain, *_ = run_training(
        tmp_path / "b", 6, losses=lambda: [paddleseg_autoloss.Sum(ce_and_dice())], optimizer=sgd
    )
    for one, other in zip(state_arrays(looking), state_arrays(plain)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", HELD_OUT)
def test_weights_are_learned_and_recorded(name, tmp_path):
    options = {"warmup": 2} if name == "CoBa" else {}
    options |= {"looks": 1} if name == "OLAUX" else {}
    _, (loss,), _ = train(tmp_path, 6, losses=component(name, **options))
    weights = loss.aggregator.last_weights.numpy()
    assert weights.sum() == pytest.approx(2, rel=1e-5)
    assert abs(weights[0] - weights[1]) > 1e-3
    rows = history(tmp_path)
    assert [float(row["weight"]) for row in rows[:2]] == [1, 1]
    assert [float(row["weight"]) for row in rows[-2:]] == pytest.approx(weights, rel=1e-5)
