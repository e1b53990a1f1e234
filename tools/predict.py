"""Write overlays and pseudo-colour masks of a trained model; the flags are PaddleSeg's own."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from paddleseg_autoloss.cli.commands import predict_from
from paddleseg_autoloss.flags import default_device, run_command

CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--config", help="config file, or the name of one in configs/")
    add("--model_path", required=True, help="trained weights")
    add("--image_path", required=True, help="an image, a list of images, or a folder of images")
    add("--save_dir", default="./output/result", help="folder for the pictures")
    devices = ["cpu", "gpu", "xpu", "npu", "mlu"]
    add("--device", choices=devices, default=default_device(), help="default: gpu if there is one")
    add("--device_id", type=int, default=0, help="which of the devices")

    add("--aug_pred", action="store_true", help="average over scales and flips")
    add("--scales", nargs="+", type=float, default=1.0, help="scales for --aug_pred")
    add("--flip_horizontal", action="store_true", help="flip for --aug_pred")
    add("--flip_vertical", action="store_true", help="flip for --aug_pred")

    add("--is_slide", action="store_true", help="predict in a sliding window")
    add("--crop_size", nargs=2, type=int, help="width and height of the window")
    add("--stride", nargs=2, type=int, help="horizontal and vertical step of the window")

    add("--custom_color", nargs="+", type=int, help="colours of the classes, as R G B R G B ...")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    return run_command(lambda: predict_from(args, CONFIG_DIR))


if __name__ == "__main__":
    sys.exit(main())
