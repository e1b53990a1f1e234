"""The config that trains on a folder that `make_folder` makes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

__all__ = ["SAVE_INTERVAL", "Plan", "config_text"]

#: The longest and the shortest side of the network's input; sides are multiples of 32.
_LONGEST, _SHORTEST, _MULTIPLE = 256, 64, 32
_BATCH_SIZE = 4
#: As long as so many epochs, within limits: a CPU trains it, and `autoloss compare` many of it.
_EPOCHS, _FEWEST_ITERS, _MOST_ITERS = 40, 300, 1000
#: Iterations between checkpoints; the number of all is a multiple of it.
SAVE_INTERVAL = 100

_CONFIG = """\
# Written by autoloss init, for a CPU: a light model, small images, few iterations.
# With a GPU, raise target_size and iters, and choose a larger model.
batch_size: {batch_size}
iters: {iters}

train_dataset:
  type: Dataset
  dataset_root: {root}
  train_path: {train}
  separator: {separator}
  num_classes: {num_classes}
  mode: train
  transforms:
    - type: Resize
      target_size: {target_size}
    - type: RandomHorizontalFlip
    - type: Normalize

val_dataset:
  type: Dataset
  dataset_root: {root}
  val_path: {val}
  separator: {separator}
  num_classes: {num_classes}
  mode: val
  transforms:
    - type: Resize
      target_size: {target_size}
    - type: Normalize

model:
  type: FastSCNN
  num_classes: {num_classes}
  enable_auxiliary_loss: false

# Near the best mix on four data sets.  Learned weights: write a method such as NashMTL in the place
# of MixedLoss, delete the line coef: [0.2, 0.8], and keep coef: [1].  autoloss compare says whether
# it is better on these images.
loss:
  types:
    - type: MixedLoss
      losses:
        - type: CrossEntropyLoss
        - type: DiceLoss
      coef: [0.2, 0.8]
  coef: [1]

optimizer:
  type: AdamW

lr_scheduler:
  type: PolynomialDecay
  learning_rate: 0.008
  end_lr: 0.0
  power: 0.9
"""


@dataclass(frozen=True)
class Plan:
    """What the config says.

    Args:
        folder: the folder of the config and the lists.
        root: folder that the names in the lists start from.
        separator: what stands between the names in a list.
        num_classes: how many classes there are.
        num_train: how many images there are to train on.
        sizes: height and width of each image.
    """

    folder: Path
    root: Path
    separator: str
    num_classes: int
    num_train: int
    sizes: Sequence[tuple[int, int]]

    @property
    def batch_size(self) -> int:
        """Images in a step: PaddleSeg leaves out a batch that is not full."""
        return min(_BATCH_SIZE, self.num_train)

    @property
    def iters(self) -> int:
        """Iterations to train for."""
        iters = _EPOCHS * self.num_train / self.batch_size
        rounded = round(iters / SAVE_INTERVAL) * SAVE_INTERVAL
        return min(max(rounded, _FEWEST_ITERS), _MOST_ITERS)

    @property
    def target_size(self) -> list[int]:
        """Width and height of the network's input, in about the shape of most images."""
        height, width = (median(sides) for sides in zip(*self.sizes))
        scale = min(1.0, _LONGEST / max(height, width))
        sides = (round(scale * side / _MULTIPLE) * _MULTIPLE for side in (width, height))
        return [max(side, _SHORTEST) for side in sides]


def config_text(plan: Plan) -> str:
    """Return the config as YAML.

    Args:
        plan: what it is to say.
    """
    return _CONFIG.format(
        batch_size=plan.batch_size,
        iters=plan.iters,
        root=_text(plan.root),
        train=_text(plan.folder / "train.txt"),
        val=_text(plan.folder / "val.txt"),
        separator=_text(plan.separator),
        num_classes=plan.num_classes,
        target_size=plan.target_size,
    )


def _text(value: Path | str) -> str:
    """A string of JSON is one of YAML too, whatever it holds."""
    return json.dumps(str(value), ensure_ascii=False)
