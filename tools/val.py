"""Evaluate a trained model: mIoU, Dice, Kappa, accuracy; the flags are PaddleSeg's own."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from paddleseg_autoloss.cli.commands import validate_from
from paddleseg_autoloss.flags import default_device, non_negative_int, run_command

CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--config", help="config file, or the name of one in configs/")
    add("--model_path", help="trained weights, such as output/best_model/model.pdparams")
    add("--num_workers", type=non_negative_int, default=0, help="processes that load data")
    devices = ["cpu", "gpu", "xpu", "npu", "mlu"]
    add("--device", choices=devices, default=default_device(), help="default: gpu if there is one")
    add("--json", help="file to write the figures to")

    add("--aug_eval", action="store_true", help="average over scales and flips")
    add("--scales", nargs="+", type=float, default=1.0, help="scales for --aug_eval")
    add("--flip_horizontal", action="store_true", help="flip for --aug_eval")
    add("--flip_vertical", action="store_true", help="flip for --aug_eval")

    add("--is_slide", action="store_true", help="evaluate in a sliding window")
    add("--crop_size", nargs=2, type=int, help="width and height of the window")
    add("--stride", nargs=2, type=int, help="horizontal and vertical step of the window")

    add("--data_format", choices=["NCHW", "NHWC"], default="NCHW", help="layout of the input")
    add("--auc_roc", type=bool, default=False, help="also the area under the ROC curve")
    add("--opts", nargs="+", help="config keys to change, as key=value or key.inner=value")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    return run_command(lambda: validate_from(args, CONFIG_DIR))


if __name__ == "__main__":
    sys.exit(main())
