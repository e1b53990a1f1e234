"""Train networks of PaddleSeg on real images, and record what every level shows in every step.

Each network is trained with the plain sum of its losses, cross-entropy and Dice on every head, from
random weights, by SGD with momentum 0.9, a learning rate that falls from 0.01 to 0, and images
without augmentation. Before every step all losses are differentiated with respect to the
parameters, the features and the logits. The losses and the Gramians are all that
measure_fidelity.py needs to judge any method at any level with any interval.

    python tools/benchmarks/record_gramians.py --data_root DATA

DATA holds the folders optic_disc_seg (PaddleSeg's OpticDiscSeg) and camvid (train.txt, with class
indices in labels/). A finished recording is not made again.
"""

from __future__ import annotations

import functools
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import numpy as np
import paddle
from _networks import feature_layer, make_network
from paddleseg.datasets import Dataset
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss
from paddleseg.transforms import Normalize, Resize
from tqdm import trange

from paddleseg_autoloss.files import replace_file
from paddleseg_autoloss.gradients import Jacobian
from paddleseg_autoloss.gradients.features import Features
from paddleseg_autoloss.gradients.levels import jacobians_of_levels
from paddleseg_autoloss.tensors import as_vector

#: Steps between two writes of a recording.
_WRITE_EVERY = 20


class Images(NamedTuple):
    """A data set.

    Args:
        folder: its folder.
        list_file: list of the images for training, in the folder.
        classes: number of classes.
    """

    folder: str
    list_file: str
    classes: int


class Network(NamedTuple):
    """A network to record.

    Args:
        model: its name in PaddleSeg.
        heads: how many of its outputs get losses.
    """

    model: str
    heads: int


DATA = {
    "optic_disc": Images("optic_disc_seg", "train_list.txt", 2),
    "camvid": Images("camvid", "train.txt", 11),
}
NETWORKS = {
    "pp_liteseg_1_head": Network("PPLiteSeg", 1),
    "pp_liteseg_3_heads": Network("PPLiteSeg", 3),
    "bisenetv2_5_heads": Network("BiSeNetV2", 5),
    "unet": Network("UNet", 1),
}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data_root", type=Path, required=True, help="folder of the data sets")
    add("--data", nargs="+", choices=DATA, default=list(DATA), help="data sets")
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks")
    add("--steps", type=int, default=200, help="training steps")
    add("--batch_size", type=int, default=4, help="images per step")
    add("--size", type=int, default=128, help="height and width of the images, pixels")
    add("--output", type=Path, default=Path("output/gramians"), help="folder of the recordings")
    return parser.parse_args(argv)


def batches(images: Images, root: Path, size: int, count: int) -> Iterator[list[paddle.Tensor]]:
    """Yield random batches of images and labels without an end.

    Args:
        images: the data set.
        root: folder of the data sets.
        size: height and width, pixels.
        count: images per batch.
    """
    folder = root / images.folder
    data = Dataset(
        mode="train",
        dataset_root=str(folder),
        transforms=[Resize((size, size)), Normalize()],
        num_classes=images.classes,
        train_path=str(folder / images.list_file),
    )
    # Reading a large photograph takes longer than a step.
    read = functools.cache(data.__getitem__)
    random = np.random.default_rng(0)
    while True:
        chosen = [read(int(index)) for index in random.choice(len(data), count, replace=False)]
        yield [
            paddle.to_tensor(np.stack([sample[key] for sample in chosen]).astype(dtype))
            for key, dtype in (("img", "float32"), ("label", "int64"))
        ]


def losses_of(outputs: Sequence[paddle.Tensor], labels: paddle.Tensor) -> list[paddle.Tensor]:
    """Return cross-entropy and Dice of every head.

    Args:
        outputs: the logits of each head.
        labels: class indices, 255 where ignored.
    """
    return [
        loss(ignore_index=255)(logits, labels.clone())
        for logits in outputs
        for loss in (CrossEntropyLoss, DiceLoss)
    ]


def record(network: Network, images: Images, args: Namespace) -> Iterator[dict[str, Any]]:
    """Train, and yield what every level shows in each step.

    Args:
        network: what to train.
        images: what on.
        args: the flags.
    """
    paddle.seed(0)
    model = make_network(network.model, images.classes, network.heads)
    model.train()
    features = Features(model, feature_layer(network.model))
    rate = paddle.optimizer.lr.PolynomialDecay(0.01, args.steps, end_lr=0.0, power=0.9)
    optimizer = paddle.optimizer.Momentum(rate, 0.9, model.parameters(), weight_decay=4e-5)
    source = batches(images, args.data_root, args.size, args.batch_size)
    parameters = [p for p in model.parameters() if not p.stop_gradient]
    for _ in trange(args.steps, desc=f"{network.model} on {images.folder}"):
        pixels, labels = next(source)
        outputs = model(pixels)
        losses = losses_of(outputs, labels)
        jacobians = jacobians_of_levels(
            losses, parameters=parameters, features=features.tensors(), logits=outputs
        )
        step = _shown(losses, jacobians)
        jacobians["parameters"].inject_combination(paddle.ones([len(losses)])).backward()
        optimizer.step()
        optimizer.clear_grad()
        rate.step()
        yield step


def _shown(losses: list[paddle.Tensor], jacobians: dict[str, Jacobian]) -> dict[str, Any]:
    """Return the losses, the Gramian of each level, and whether the losses share its targets."""
    values = as_vector(losses).detach()
    shown: dict[str, Any] = {"losses": values.numpy().astype("float64")}
    for level, jacobian in jacobians.items():
        shown[level], shown[f"{level}_shared"] = jacobian.read(values)[0], jacobian.is_shared
    return shown


def write_recording(steps: list[dict[str, Any]], path: Path) -> None:
    """Write the recorded steps, stacked, as a NumPy archive.

    Args:
        steps: what `record` yielded.
        path: the file.
    """
    stacked = {key: np.stack([step[key] for step in steps]) for key in steps[0]}
    with replace_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **stacked)


def is_finished(path: Path, steps: int) -> bool:
    """Return whether a file holds a recording of so many steps."""
    if not path.exists():
        return False
    with np.load(path) as found:
        return len(found["losses"]) >= steps


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    for data in args.data:
        for name in args.networks:
            path = args.output / f"{name}_{data}.npz"
            if is_finished(path, args.steps):
                continue
            steps = []
            for step in record(NETWORKS[name], DATA[data], args):
                steps.append(step)
                if len(steps) % _WRITE_EVERY == 0 or len(steps) == args.steps:
                    write_recording(steps, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
