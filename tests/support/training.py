"""Small data and the real loop."""

from __future__ import annotations

import paddleseg_autoloss  # isort: skip

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import paddle
import paddleseg.core
from paddle import nn
from paddleseg.models.losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    LovaszSoftmaxLoss,
    MixedLoss,
)

from paddleseg_autoloss import AutoWeightedLoss, UncertaintyWeightedLoss
from paddleseg_autoloss.integration import training
from paddleseg_autoloss.integration.history import WeightHistory

COMPONENTS = [AutoWeightedLoss, UncertaintyWeightedLoss]


class Squares(paddle.io.Dataset):
    """Noisy images of a bright square, the square being class 1; a few pixels are ignored."""

    num_classes = 2
    ignore_index = 255

    def __init__(self, mode: str = "train", length: int = 6) -> None:
        self.mode = mode
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        random = np.random.default_rng(index)
        label = np.zeros((32, 32), "int64")
        row, column = random.integers(4, 16, 2)
        label[row : row + 10, column : column + 10] = 1
        image = (label + 0.3 * random.standard_normal((3, 32, 32))).astype("float32")
        label[:1] = 255
        return {
            "img": image,
            "label": label if self.mode == "train" else label[None],
            "trans_info": [],
        }


class TinyNet(nn.Layer):
    """A network with batch norm, dropout and as many outputs as asked for."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.heads = nn.LayerList([nn.Conv2D(8, 2, 1) for _ in range(outputs)])

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        features = self.dropout(self.body(x))
        return [head(features) for head in self.heads]


def ce_and_dice() -> list[nn.Layer]:
    return [CrossEntropyLoss(), DiceLoss()]


def enough_losses(method: str) -> list[nn.Layer]:
    """Cross-entropy and Dice, and as many more as a method needs."""
    least = paddleseg_autoloss.weighting.METHODS[method].least_losses
    return [*ce_and_dice(), LovaszSoftmaxLoss(), FocalLoss()][: max(2, least)]


def run_training(
    save_dir: Path, iters: int, losses=None, model=None, optimizer=None, pictures=False, **options
):
    """Train through PaddleSeg's loop; return the model, the losses and the optimizer.

    The names of parameters start at 0 as in a process of its own, so that a run can be resumed.
    Pictures take several times as long as the training, so they are drawn only where asked for.
    """
    paddle.seed(1)
    with paddle.utils.unique_name.guard(), nullcontext() if pictures else without_pictures():
        model = (model or TinyNet)()
        made = optimizer(model) if optimizer else adam(model)
        types = losses() if losses else [paddleseg_autoloss.AutoWeightedLoss(ce_and_dice())]
        loss_dict = {"types": types, "coef": options.pop("coef", [1] * len(types))}
        options = {"batch_size": 2, "save_interval": 4, "log_iters": 2} | options
        # The loop sleeps for a second when it is done.
        clock = SimpleNamespace(time=time.time, sleep=lambda seconds: None)
        with mock.patch.object(sys.modules["paddleseg.core.train"], "time", clock):
            paddleseg.core.train(
                model, Squares(), optimizer=made, save_dir=str(save_dir), iters=iters,
                losses=loss_dict, **options,
            )  # fmt: skip
    return model, types, made


def without_pictures():
    """Context in which a run draws no curves; it still writes them to its CSV files."""
    return mock.patch.object(WeightHistory, "plot", return_value=False)


def adam(model: nn.Layer) -> paddle.optimizer.Optimizer:
    schedule = paddle.optimizer.lr.PolynomialDecay(0.05, 100, 0.0)
    return paddle.optimizer.Adam(schedule, parameters=model.parameters())


def enabled_scaler(scale: float) -> paddle.amp.GradScaler:
    """A GradScaler as on a GPU: only its check of the device is replaced."""
    with mock.patch("paddle.amp.grad_scaler._dygraph_tracer") as tracer:
        tracer()._expected_place.is_gpu_place.return_value = True
        scaler = paddle.amp.GradScaler(init_loss_scaling=scale)
    assert scaler.is_enable()
    # Without autocast on a CPU, scale() would take the missing half precision for bfloat16.
    scaler._use_dynamic_loss_scaling = False
    return scaler


def mixed() -> list[nn.Layer]:
    return [MixedLoss(ce_and_dice(), [0.8, 0.2])]


def train_jointly(folder, iters, aggregator, losses=mixed, coef=(1,), model=None, **options):
    """Train with the top-level key; return what `run_training` does."""
    stock = training.TrainingSession

    def session(**arguments):
        arguments["losses"]["loss_aggregator"] = aggregator
        return stock(**arguments)

    with mock.patch.object(training, "TrainingSession", session):
        return run_training(folder, iters, losses, model, coef=list(coef), **options)


def parameters(model) -> list[np.ndarray]:
    return [p.numpy() for p in model.parameters()]


def resumed(train, folder):
    """Train 8 iterations at once, and 4 and 4 with the checkpoint in between."""
    whole, *_ = train(folder / "whole", 8)
    train(folder / "parts", 4)
    parts, *_ = train(folder / "parts", 8, resume_model=str(folder / "parts" / "iter_4"))
    return whole, parts


def learned(types) -> np.ndarray:
    return np.concatenate([loss.aggregator.weighting.learned().numpy() for loss in types])


def state_arrays(model) -> list[np.ndarray]:
    return [value.numpy() for value in model.state_dict().values()]
