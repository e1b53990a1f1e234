"""level: features on two cards; ranks over gloo stand for the cards."""

from __future__ import annotations

import numpy as np
import pytest
from support.processes import SCRIPT_HEAD, launched

TRAIN = (
    SCRIPT_HEAD
    + """
import json

paddle.set_device("cpu")
folder = Path(sys.argv[1])
rank = int(paddle.distributed.ParallelEnv().rank)


class Network(nn.Layer):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Conv2D(3, 4, 3, padding=1), nn.Conv2D(4, 2, 1)

    def forward(self, x):
        return [self.head(paddle.tanh(self.backbone(x)))]


def losses():
    method = paddleseg_autoloss.CAGrad
    return [method([CrossEntropyLoss(), FocalLoss()], level="features")]


model, (loss,), _ = run_training(folder / "run", 4, losses, Network, log_iters=1, batch_size=2)
state = {name: value.numpy().tolist() for name, value in model.state_dict().items()}
weights = loss.aggregator.last_weights.numpy().tolist()
(folder / f"rank{rank}.json").write_text(json.dumps({"state": state, "weights": weights}))
"""
)


def test_all_cards_have_the_same_weights_and_parameters(tmp_path):
    first, second = launched(tmp_path, TRAIN)
    assert first == second
    assert np.isfinite(first["weights"]).all()
    assert first["weights"][0] != pytest.approx(first["weights"][1])
