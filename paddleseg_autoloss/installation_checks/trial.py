"""Five steps of a small training with PaddleSeg's loop, for one method of each kind."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss

from paddleseg_autoloss.errors import TrainingDiverged
from paddleseg_autoloss.integration.loop import LOOP
from paddleseg_autoloss.integration.monitor import current_weights
from paddleseg_autoloss.integration.session import TrainingSession
from paddleseg_autoloss.losses import COMPONENTS
from paddleseg_autoloss.seams import replaced

__all__ = ["KINDS", "Outcome", "digest", "mixed_precision_works", "try_kind"]

_STEPS, _IMAGES, _BATCH, _SIZE = 5, 8, 4, 16


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Args:
        weights: the weights in the last step.
        gradient: a digest of the gradient that the optimizer gets in the last step, see `digest`.
        parameters: a digest of the network's parameters after it.
    """

    weights: list[float]
    gradient: list[float]
    parameters: list[float]


def digest(numbers: np.ndarray) -> list[float]:
    """Return eight weighted sums of many numbers, whose difference shows that of the numbers.

    Args:
        numbers: shape [n].

    Example:
        >>> import numpy as np
        >>> len(digest(np.ones(260)))
        8
    """
    # Unlike a Generator, a RandomState draws the same numbers with every version of NumPy.
    weights = np.random.RandomState(0).standard_normal((8, len(numbers)))
    return (weights @ numbers.astype("float64")).tolist()


def _component(method: str, **options: Any) -> Callable[[], dict[str, Any]]:
    def losses() -> dict[str, Any]:
        types = [COMPONENTS[method](_ce_and_dice(), **options) for _ in range(2)]
        return {"types": types, "coef": [1, 0.4]}

    return losses


def _joint(method: str) -> Callable[[], dict[str, Any]]:
    def losses() -> dict[str, Any]:
        # An entry of this key is a config, as in a YAML file.
        return {"types": _ce_and_dice(), "coef": [1, 0.4], "loss_aggregator": {"type": method}}

    return losses


def _ce_and_dice() -> list[nn.Layer]:
    return [CrossEntropyLoss(), DiceLoss()]


#: A method of each kind, with what makes PaddleSeg's loss dict for the two heads of the network.
KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    # Fixed weights.
    "Sum": _component("Sum"),
    # Learned weights.
    "AutoWeightedLoss": _component("AutoWeightedLoss"),
    # From the losses.
    "UWSO": _component("UWSO"),
    # From the losses after the step.
    "FAMO": _component("FAMO", exact=True),
    # Learned from gradients.
    "GradNorm": _component("GradNorm"),
    # From the Gramian, solved on the host.
    "CAGrad": _component("CAGrad"),
    # From the Gramian of the outputs.
    "AlignedMTL": _component("AlignedMTL", level="logits"),
    # An optimizer step for each loss.
    "SeparateBackward": _component("SeparateBackward", step="each"),
    # From the Jacobian.
    "MoCo": _component("MoCo"),
    # All heads together.
    "NashMTL": _joint("NashMTL"),
}


class _Images(paddle.io.Dataset):
    """Noisy images of a square."""

    def __len__(self) -> int:
        return _IMAGES

    def __getitem__(self, index: int) -> dict[str, Any]:
        random = np.random.RandomState(index)
        label = np.zeros((_SIZE, _SIZE), "int64")
        row, column = random.randint(1, 8, 2)
        label[row : row + 6, column : column + 6] = 1
        image = label + 0.3 * random.standard_normal((3, _SIZE, _SIZE))
        return {"img": image.astype("float32"), "label": label}


class _Network(nn.Layer):
    """Convolutions and two heads; it has no batch norm, which several cards compute differently."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2D(3, 8, 3, stride=2, padding=1), nn.Tanh())
        self.heads = nn.LayerList([nn.Conv2D(8, 2, 1) for _ in range(2)])
        random = np.random.RandomState(0)
        for parameter in self.parameters():
            parameter.set_value(0.3 * random.standard_normal(parameter.shape).astype("float32"))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.body(images)
        size = images.shape[2:]
        return [nn.functional.interpolate(head(features), size, mode="bilinear")
                for head in self.heads]  # fmt: skip


class _Recorder(paddle.optimizer.SGD):
    """Notes the gradient of the latest step, as the optimizer gets it.

    Args:
        network: the network that it trains.
    """

    gradient: np.ndarray

    def __init__(self, network: nn.Layer) -> None:
        super().__init__(0.1, parameters=network.parameters())
        self._network = network

    def step(self) -> None:
        """Take a step without a gradient scaler."""
        self._note()
        super().step()

    def minimize(self, *args: Any, **kwargs: Any) -> Any:
        """Take a step with a gradient scaler, which has divided the gradients by its scale."""
        self._note()
        return super().minimize(*args, **kwargs)

    def _note(self) -> None:
        gradients = [parameter.grad for parameter in self._network.parameters()]
        self.gradient = np.concatenate([g.numpy().ravel() for g in gradients if g is not None])


def mixed_precision_works() -> bool:
    """Whether Paddle computes in half precision on the current device."""
    with paddle.amp.auto_cast(level="O1"):
        product = paddle.matmul(paddle.ones([2, 2]), paddle.ones([2, 2]))
    return product.dtype == paddle.float16


def try_kind(method: str, precision: str, folder: Path) -> Outcome:
    """Train on the current device, and on all cards of this launch together.

    Args:
        method: name in `KINDS`.
        precision: ``"fp32"``, or ``"fp16"`` for mixed precision.
        folder: folder for the files of the run.

    Raises:
        TrainingDiverged: a weight or a gradient is NaN or infinite.
    """
    with paddle.utils.unique_name.guard():
        network = _Network()
        optimizer = _Recorder(network)
        images = _Images()
        session = TrainingSession(
            network, images, optimizer, KINDS[method](), str(folder), 0, _STEPS
        )
        # The loop sleeps for a second at its end.
        clock = SimpleNamespace(time=time.time, sleep=lambda seconds: None)
        with session.attached(), replaced(LOOP, "time", clock):
            # PaddleSeg's own function: the one around it also draws the curves, which takes long.
            inspect.unwrap(LOOP.train)(
                network, images, optimizer=optimizer, losses=session.losses, iters=_STEPS,
                batch_size=_BATCH // paddle.distributed.ParallelEnv().nranks, log_iters=_STEPS + 1,
                save_dir=str(folder), precision=precision,
            )  # fmt: skip
            session.monitor.check_latest()
            weights = current_weights(session.monitor.terms)
    parameters = np.concatenate([p.numpy().ravel() for p in network.parameters()])
    named = {"weights": weights, "gradient": optimizer.gradient, "parameters": parameters}
    for name, numbers in named.items():
        if not np.isfinite(numbers).all():
            raise TrainingDiverged(f"{name}: expected finite numbers, found NaN or infinity")
    return Outcome(weights.tolist(), digest(optimizer.gradient), digest(parameters))
