"""Show what each loss of a config does to the network, and which fixed weights balance them.

Trains for a few iterations in a temporary folder, keeps nothing of it, and writes diagnosis.json
and diagnosis.png.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from paddleseg_autoloss.diagnosis import diagnose_from
from paddleseg_autoloss.flags import default_device, non_negative_int, positive_int, run_command

CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--config", help="config file, or the name of one in configs/")
    add("--iters", type=positive_int, default=50, help="iterations to look at")
    add("--batch_size", type=positive_int, help="images per step, instead of the config's")
    devices = ["cpu", "gpu", "xpu", "npu", "mlu"]
    add("--device", choices=devices, default=default_device(), help="default: gpu if there is one")
    add("--num_workers", type=non_negative_int, default=0, help="processes that load data")
    add(
        "--seed", type=non_negative_int, help="seed of initial weights, data order and augmentation"
    )
    add("--save_dir", default="output/diagnosis", help="folder of the two files")
    add("--opts", nargs="+", help="config keys to change, as key=value or key.inner=value")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    return run_command(lambda: diagnose_from(args, CONFIG_DIR))


if __name__ == "__main__":
    sys.exit(main())
