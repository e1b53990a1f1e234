"""Show the effect of each loss of a config on the network, and the fixed weights that balance them.

Trains for a few iterations in a temporary folder, which is deleted, and writes diagnosis.json,
diagnosis.png, and diagnosis.html, a page to read.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from paddleseg_autoloss.cli import options
from paddleseg_autoloss.flags import positive_int
from paddleseg_autoloss.installation import CONFIG_DIR

__all__ = ["add_flags", "run"]


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags of the command."""
    add = parser.add_argument
    options.add_config(parser)
    add(
        "--iters",
        type=positive_int,
        default=50,
        help="number of iterations; default: %(default)s",
    )
    add("--batch_size", type=positive_int, help="images per step; default: the config's")
    add(
        "--levels",
        action="store_true",
        help="also measure what each level of gradient methods costs and loses on this network",
    )
    options.add_device(parser)
    options.add_num_workers(parser)
    options.add_seed(parser)
    add(
        "--save_dir",
        default="output/diagnosis",
        help="folder of the three files; default: %(default)s",
    )
    options.add_quiet(parser)
    options.add_opts(parser)


def run(args: Namespace) -> None:
    """Run the command."""
    # Import it here, because Matplotlib takes a second to load and the other commands do not need
    # it.
    from paddleseg_autoloss.diagnosis import diagnose_from

    diagnose_from(args, CONFIG_DIR)
