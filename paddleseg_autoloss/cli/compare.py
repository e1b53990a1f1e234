"""Compare losses: train each with several seeds, and report which differences are significant."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from paddleseg_autoloss.cli import options
from paddleseg_autoloss.flags import non_negative_int, positive_int
from paddleseg_autoloss.installation import CONFIG_DIR

__all__ = ["add_flags", "run"]


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags of the command."""
    add = parser.add_argument
    add("configs", nargs="*", help="a comparison file, or the train configs to compare")
    add(
        "--across",
        nargs="+",
        metavar="DIR",
        help="train nothing: one table across data sets, from the folders of two or more finished "
        "comparisons, one for each data set; default: none",
    )
    add("--config", help="one train config, for --methods and --grid")
    add(
        "--methods",
        help="methods to weigh the config's losses with, such as PCGrad,CAGrad; default: none",
    )
    add(
        "--grid",
        help="fixed mixes of its two losses, as first:last:step, like 0.1:0.9:0.2; default: none",
    )
    add("--seeds", help="number of seeds, or a list such as 3,5,8; default: 5")
    add(
        "--lr_grid",
        help="learning rates to train each variant with, like 0.001,0.002; default: the configs'",
    )
    add(
        "--lr_seeds",
        type=positive_int,
        help="number of seeds to choose the rates with; the others train at the chosen rate only; "
        "default: all",
    )
    add(
        "--baseline",
        help="variant that the others are compared with; with --across also a pattern such as "
        "'fixed *', for the best of these on the validation images; default: the first",
    )
    add("--validation", type=float, help="share of the training list to hold out; default: 0.2")

    add(
        "--save_dir",
        help="folder of the comparison; default: output/compare/NAME, or output/across",
    )
    add(
        "--jobs",
        type=positive_int,
        help="runs at the same time, on one GPU each if there are several; default: 1, or with "
        "--engine ray as many as the cluster has room for",
    )
    add(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="what executes the runs: this machine, or a running Ray cluster; default: %(default)s",
    )
    add(
        "--cores",
        type=positive_int,
        default=1,
        help="CPU cores of each run with --engine ray; default: %(default)s",
    )
    options.add_device(parser)
    add(
        "--num_workers",
        type=non_negative_int,
        default=0,
        help="processes that load data, for each run; default: %(default)s",
    )
    add("--iters", type=positive_int, help="iterations; default: the configs'")
    add(
        "--save_interval",
        type=positive_int,
        help="iterations between points of the curves; default: a tenth of all",
    )
    add(
        "--log_iters",
        type=positive_int,
        default=10,
        help="iterations between log lines; default: %(default)s",
    )
    options.add_quiet(parser)
    options.add_opts(parser)

    add("--report_only", action="store_true", help="train nothing, report on the finished runs")
    add(
        "--samples",
        type=non_negative_int,
        default=4,
        help="test images to show in report.html; default: %(default)s",
    )
    add("--no_samples", dest="samples", action="store_const", const=0, help="show none")


def run(args: Namespace) -> None:
    """Run the command."""
    # Import it here, because Matplotlib takes a second to load and the other commands do not need
    # it.
    from paddleseg_autoloss.comparison.command import compare_from

    compare_from(args, CONFIG_DIR, args.command_line)
