"""Make a folder to train from own images: lists, masks with classes, a config.

Masks are found by the names of the images; endings and words such as _mask, _label or _gt do not
count.  What the values of the masks mean is found out, or said with --palette.  Images and masks
stay as they are, and nothing is overwritten.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from paddleseg_autoloss.flags import non_negative_int
from paddleseg_autoloss.own_images.folder import Options, make_folder
from paddleseg_autoloss.own_images.masks import parse_palette
from paddleseg_autoloss.own_images.summary import summary

__all__ = ["add_flags", "run"]


def add_flags(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("images", metavar="IMAGES", type=Path, help="folder of the images")
    add("masks", metavar="MASKS", type=Path, help="folder of the masks, which may be the same")
    add(
        "--save_dir",
        type=Path,
        default=Path("my_data"),
        help="the folder to make; default: %(default)s",
    )
    add(
        "--val",
        type=float,
        default=0.2,
        help="share of the images to validate on; default: %(default)s",
    )
    add(
        "--test",
        type=float,
        default=0.0,
        help="share of the images for a test list; default: %(default)s",
    )
    add("--seed", type=non_negative_int, default=0, help="seed of the split; default: %(default)s")
    add(
        "--palette",
        nargs="+",
        metavar="ENTRY",
        help="what stands for class 0, 1, ... in the masks: grey levels such as 0 127 254, or "
        "colours such as 0,0,0 255,0,0; default: what occurs in them, in ascending order",
    )


def run(args: Namespace) -> None:
    """Make the folder, and print what was found and how to go on."""
    options = Options(
        images=args.images,
        masks=args.masks,
        save_dir=args.save_dir,
        val=args.val,
        test=args.test,
        seed=args.seed,
        palette=None if args.palette is None else parse_palette(args.palette),
    )
    print(summary(options, make_folder(options)))
