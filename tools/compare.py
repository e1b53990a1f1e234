"""Does it help? Train several losses with several seeds, and report what may be concluded."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from paddleseg_autoloss.comparison.command import compare_from
from paddleseg_autoloss.flags import default_device, non_negative_int, positive_int, run_command

TOOLS_DIR = Path(__file__).resolve().parent
CONFIG_DIR = TOOLS_DIR.parent / "configs"


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("configs", nargs="*", help="a comparison file, or the train configs to compare")
    add("--config", help="one train config, for --methods and --grid")
    add("--methods", help="methods to weigh the config's losses with, such as PCGrad,CAGrad")
    add("--grid", help="fixed mixes of its two losses, as first:last:step, such as 0.1:0.9:0.2")
    add("--seeds", help="number of seeds, or a list such as 3,5,8; default: 5")
    add("--lr_grid", help="learning rates to train each variant with, such as 0.001,0.002")
    add("--baseline", help="variant to measure the others against; default: the first")
    add("--validation", type=float, help="share of the training list to hold out; default: 0.2")

    add("--save_dir", help="folder of the comparison; default: output/compare/NAME")
    add(
        "--jobs",
        type=positive_int,
        default=1,
        help="runs at a time, on a GPU each if there are several",
    )
    devices = ["cpu", "gpu", "xpu", "npu", "mlu"]
    add("--device", choices=devices, default=default_device(), help="default: gpu if there is one")
    add(
        "--num_workers",
        type=non_negative_int,
        default=0,
        help="processes that load data, for each run",
    )
    add("--iters", type=positive_int, help="iterations, instead of the configs'")
    add("--save_interval", type=positive_int, help="iterations between points of the curves")
    add("--log_iters", type=positive_int, default=10, help="iterations between log lines")
    add("--opts", nargs="+", help="config keys to change, as key=value or key.inner=value")

    add("--report_only", action="store_true", help="train nothing, report on what there is")
    add("--samples", type=non_negative_int, default=4, help="test images to show in report.html")
    add("--no_samples", dest="samples", action="store_const", const=0, help="show none")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parse_args(arguments)
    command = shlex.join(["python", "tools/compare.py", *arguments])
    return run_command(lambda: compare_from(args, CONFIG_DIR, TOOLS_DIR / "train.py", command))


if __name__ == "__main__":
    sys.exit(main())
