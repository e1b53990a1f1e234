"""A network of several heads, its losses and their gradients by plain backward passes."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

from paddleseg_autoloss.gradients.aggregator import LossAggregator
from support.calls import update
from support.training import TinyNet, ce_and_dice

LABELS = paddle.to_tensor(np.random.default_rng(0).integers(0, 2, (2, 16, 16)))
IMAGES = paddle.to_tensor(np.random.default_rng(1).standard_normal((2, 3, 16, 16)), "float32")


class Branches(nn.Layer):
    """A network with a layer for the features and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2D(3, 4, 3, padding=1)
        self.heads = nn.LayerList([nn.Conv2D(4, 2, 1), nn.Conv2D(4, 2, 1)])

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        features = self.backbone(images)
        return [head(features) for head in self.heads]


def network(outputs: int = 2, seed: int = 3) -> TinyNet:
    paddle.seed(seed)
    model = TinyNet(outputs)
    model.dropout = nn.Dropout(0.0)
    return model


def head_losses(model: nn.Layer) -> dict[str, paddle.Tensor]:
    """Cross-entropy and Dice of every head."""
    losses = {}
    for index, logits in enumerate(model(IMAGES)):
        for loss in ce_and_dice():
            losses[f"head{index}/{type(loss).__name__}"] = loss(logits, LABELS.clone())
    return losses


def gradients_by_backward(make_losses, model: nn.Layer) -> np.ndarray:
    """J by one plain forward and backward pass for each loss, shape [K, n]."""
    rows = []
    for index in range(len(make_losses(model))):
        model.clear_gradients()
        loss = list(make_losses(model).values())[index]
        if not loss.stop_gradient:
            loss.backward()
        rows.append(flat_gradient(model))
    model.clear_gradients()
    return np.stack(rows)


def flat_gradient(model: nn.Layer) -> np.ndarray:
    return np.concatenate(
        [np.zeros(p.size) if p.grad is None else p.grad.numpy().ravel() for p in model.parameters()]
    ).astype("float64")


def update_of(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """J^T w, where parameters that not all losses reach never see a negative weight."""
    shared = (rows != 0).all(axis=0)
    return np.where(shared, weights @ rows, weights.clip(min=0) @ rows)


def aggregate(model, losses, weighting, **options) -> LossAggregator:
    aggregator = LossAggregator(list(losses), weighting, **options)
    aggregator.bind(model.parameters())
    return aggregator


def trainable(model: nn.Layer) -> np.ndarray:
    """Which of the numbers that `flat_gradient` gives are those of trainable parameters."""
    return np.concatenate([np.full(p.size, not p.stop_gradient) for p in model.parameters()])


def expected_gradient(method, model, make_losses=head_losses) -> np.ndarray:
    """What the method's update of the plainly computed J leaves in the parameters."""
    where = trainable(model)
    values = [float(loss) for loss in make_losses(model).values()]
    expected = np.zeros(len(where))
    expected[where] = update(method, gradients_by_backward(make_losses, model)[:, where], values)[0]
    return expected
