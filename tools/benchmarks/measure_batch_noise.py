"""Measure how much of a batch's Gramian is noise, and how much of it a pair of batches keeps.

A small network with batch norm trains on cross-entropy and Dice. Now and then its parameters are
held: the products of gradients of different batches, which are independent there, give the squared
lengths of the mean gradients. One batch alone gives the squared lengths with the noise. A pair of
consecutive batches, with one step of the training between them, is what MoDo and SDMGrad use.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import numpy as np
import paddle
from paddle import Tensor, nn
from paddleseg.datasets import Dataset
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss
from paddleseg.transforms import Normalize, Resize

from paddleseg_autoloss.gradients import Jacobian
from paddleseg_autoloss.weighting import MGDAWeighting

LOSSES = [CrossEntropyLoss(), DiceLoss()]


class Training:
    """A network, its optimizer and its batches.

    Args:
        args: the command line.
    """

    def __init__(self, args: Namespace) -> None:
        paddle.seed(0)
        transforms = [Resize((args.size, args.size)), Normalize()]
        data = Dataset("train", args.root, transforms, num_classes=2, train_path=args.list)
        samples = [data[index] for index in range(min(len(data), args.images))]
        self.images = np.stack([sample["img"] for sample in samples]).astype("float32")
        self.labels = np.stack([sample["label"] for sample in samples]).astype("int64")
        self.batch_size = args.batch_size
        self.random = np.random.default_rng(0)
        layers = [*_layer(3, 16, 2), *_layer(16, 32, 2), *_layer(32, 32, 1), nn.Conv2D(32, 2, 1)]
        self.network = nn.Sequential(*layers, nn.Upsample(scale_factor=4, mode="bilinear"))
        kind = getattr(paddle.optimizer, args.optimizer)
        self.optimizer = kind(args.learning_rate, parameters=self.network.parameters())

    def losses(self) -> list[Tensor]:
        """Return the losses of the next batch."""
        chosen = self.random.choice(len(self.images), self.batch_size, replace=False)
        output = self.network(paddle.to_tensor(self.images[chosen]))
        labels = paddle.to_tensor(self.labels[chosen])
        return [loss(output, labels.clone()) for loss in LOSSES]

    def gradients(self, losses: Sequence[Tensor]) -> np.ndarray:
        """Return the gradient of each loss, shape [K, n]."""
        return Jacobian(losses, self.network.parameters()).matrix().numpy().astype("float64")

    def step(self, losses: Sequence[Tensor]) -> None:
        """Take a step with the sum of the losses."""
        paddle.add_n(list(losses)).backward()
        self.optimizer.step()
        self.optimizer.clear_grad()

    def pair(self) -> np.ndarray:
        """Return the products of a pair, shape [K, K]; network and optimizer stay as they are."""
        layers = {key: value.clone() for key, value in self.network.state_dict().items()}
        state = self.optimizer.state_dict()
        moments = {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}
        losses = self.losses()
        first = self.gradients(losses)
        self.step(losses)
        second = self.gradients(self.losses())
        self.network.set_state_dict(layers)
        self.optimizer.set_state_dict(moments)
        return first @ second.T


def _layer(inputs: int, outputs: int, stride: int) -> list[nn.Layer]:
    convolution = nn.Conv2D(inputs, outputs, 3, padding=1, stride=stride, bias_attr=False)
    return [convolution, nn.BatchNorm2D(outputs), nn.ReLU()]


def measure(training: Training, draws: int) -> dict[str, float]:
    """Return what one look at a training shows.

    Args:
        training: the training.
        draws: how many batches and how many pairs.
    """
    rows = [training.gradients(training.losses()) for _ in range(draws)]
    own = sum(jacobian @ jacobian.T for jacobian in rows)
    total = sum(rows)
    exact = (total @ total.T - own) / (draws * (draws - 1))
    single = own / draws
    pairs = [training.pair() for _ in range(draws)]
    noise = np.trace(single) - np.trace(exact)
    traces = [np.trace(products) for products in pairs]
    return {
        "noise": noise / np.trace(single),
        "left": (np.mean(traces) - np.trace(exact)) / noise,
        "error": np.std(traces) / draws**0.5 / noise,
        "w_exact": _weight(exact),
        "w_single": float(np.mean([_weight(jacobian @ jacobian.T) for jacobian in rows])),
        "w_pair": _weight(np.mean(pairs, axis=0)),
    }


def _weight(products: np.ndarray) -> float:
    """Return the weight that MGDA gives to the first loss."""
    return float(MGDAWeighting(2).solve(np.ones(2), (products + products.T) / 2)[0])


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--root", required=True, help="folder of a data set of two classes")
    add("--list", required=True, help="list of its images and masks")
    add("--images", type=int, default=120, help="images to use, at most")
    add("--size", type=int, default=48, help="height and width of the input, pixels")
    add("--batch_size", type=int, default=4, help="images per step")
    add("--optimizer", default="SGD", help="a class of paddle.optimizer")
    add("--learning_rate", type=float, default=0.01, help="its learning rate")
    add("--looks", type=int, nargs="+", default=[100, 300], help="steps after which to measure")
    add("--draws", type=int, default=60, help="batches, and pairs, of each look")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    training, done = Training(args), 0
    print("| Optimizer | Rate | Step | Noise in one batch | Left in a pair | MGDA's weight of "
          "cross-entropy: mean gradients | one batch | pairs |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for look in args.looks:
        for _ in range(look - done):
            training.step(training.losses())
        done = look
        row = measure(training, args.draws)
        print(
            f"| {args.optimizer} | {args.learning_rate:g} | {look} | {row['noise']:.0%} | "
            f"{row['left']:.0%} ± {row['error']:.0%} | {row['w_exact']:.2f} | "
            f"{row['w_single']:.2f} | {row['w_pair']:.2f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
