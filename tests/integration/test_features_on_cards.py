"""level: features on two cards; ranks over gloo stand for the cards."""

from __future__ import annotations

import numpy as np
import pytest
from support.processes import RANK_HEAD, launched

METHODS = ["CAGrad", "MGDA", "IMTLG"]
TRAIN = (
    RANK_HEAD
    + f"METHODS = {METHODS}"
    + """
from paddleseg_autoloss.losses import COMPONENTS
from support import training


class Network(nn.Layer):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Conv2D(3, 4, 3, padding=1), nn.Conv2D(4, 2, 1)

    def forward(self, x):
        return [self.head(paddle.tanh(self.backbone(x)))]


def sgd(model):
    # The steps of Adam would be the same for a gradient of any length.
    return paddle.optimizer.SGD(0.1, parameters=model.parameters())


def trained(name):
    losses = lambda: [COMPONENTS[name]([CrossEntropyLoss(), FocalLoss()], level="features")]
    model, (loss,), _ = run_training(
        folder / name, 4, losses, Network, sgd, log_iters=1,
        batch_size=4 // paddle.distributed.ParallelEnv().nranks,
    )
    state = {name: value.numpy().tolist() for name, value in model.state_dict().items()}
    return {"state": state, "weights": loss.aggregator.last_weights.numpy().tolist()}


training.Squares = lambda: Squares(length=8)
report({name: trained(name) for name in METHODS})
"""
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What each of two cards found, and what one card found with the batch of both."""
    folders = [tmp_path_factory.mktemp(name) for name in ("two", "one")]
    return launched(folders[0], TRAIN), *launched(folders[1], TRAIN, 1)


@pytest.mark.parametrize("name", METHODS)
def test_both_cards_train_as_one_with_the_whole_batch(runs, name):
    (first, second), alone = runs
    assert first[name] == second[name]
    weights = first[name]["weights"]
    assert weights[0] != pytest.approx(weights[1])
    np.testing.assert_allclose(weights, alone[name]["weights"], rtol=1e-3)
    assert first[name]["state"].keys() == alone[name]["state"].keys()
    for key, value in alone[name]["state"].items():
        np.testing.assert_allclose(first[name]["state"][key], value, rtol=1e-4, atol=1e-5)
