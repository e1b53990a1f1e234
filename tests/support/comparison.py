"""Comparison files, small base configs and made-up results."""

from __future__ import annotations

import json
import math
from pathlib import Path

import yaml

from paddleseg_autoloss.comparison.folders import RunFolder
from support.processes import ROOT

CONFIGS = ROOT / "configs"


def comparison_file(folder: Path, **keys) -> Path:
    variants = [{"coef": [0.8, 0.2]}, {"method": "AutoWeightedLoss"}]
    keys = {"base": "fixed_ce_dice_demo.yml", "variants": variants} | keys
    path = folder / "mine.yml"
    path.write_text(yaml.safe_dump(keys))
    return path


def write_base(folder: Path, fundus: Path) -> Path:
    """Write a config: few small images with random augmentation, a few iterations."""
    augmentation = [{"type": "RandomHorizontalFlip"}, {"type": "RandomDistort"}]
    resize = [{"type": "Resize", "target_size": [32, 32]}, {"type": "Normalize"}]
    data = {"dataset_root": str(fundus), "num_train": 8, "num_val": 3, "image_size": 64}
    bases = ["_base_/synthetic_fundus.yml", "_base_/fastscnn_demo.yml", "fixed_ce_dice_demo.yml"]
    config = {
        "_base_": [str(CONFIGS / name) for name in bases],
        "batch_size": 2,
        "iters": 4,
        "train_dataset": {**data, "transforms": augmentation + resize},
        "val_dataset": {**data, "transforms": resize},
    }
    path = folder / "base.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def pretend(plan, root: Path, figure) -> list[RunFolder]:
    """Write results as runs would; ``figure(run)`` is the mIoU on validation and test images."""
    folders = [RunFolder(root, run) for run in plan.runs()]
    write_results(folders, figure)
    return folders


def write_results(folders: list[RunFolder], figure) -> None:
    """Write results into the folders of runs; see `pretend`."""
    for folder in folders:
        folder.path.mkdir(parents=True, exist_ok=True)
        validation, test = figure(folder.run)
        if math.isnan(test):
            folder.write_error("exit status 1", folder.log_path)
            continue
        (folder.path / "train.log").write_text(
            "".join(
                f"iter: {i}/4, loss: 1, batch_cost: {c}, x\n" for i, c in ((1, 9), (2, 1), (3, 2))
            )
        )
        (folder.path / "evaluation.json").write_text(
            json.dumps(
                {
                    part: {"mIoU": value, "Dice": value, "Kappa": value}
                    for part, value in (("validation", validation), ("test", test))
                }
            )
        )
        folder.write_attempts([{"from": 0, "seconds": 60}])
        folder.write_result({"paddle": "3"}, "cpu")
