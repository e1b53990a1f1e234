"""Write contours, overlays and pseudo-colour masks of a trained model.

The flags are PaddleSeg's own, and --masks.  The folder contours/ has the contour of each class on
the image, beside the truth if there are masks.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from paddleseg.core import predict
from paddleseg.cvlibs import SegBuilder
from paddleseg.transforms import Compose
from paddleseg.utils import logger, utils

from paddleseg_autoloss.checks import build
from paddleseg_autoloss.cli import options
from paddleseg_autoloss.contour_files import (
    contours_of_predictions,
    find_masks,
    without_predictions,
)
from paddleseg_autoloss.data_checks.image_files import find_images
from paddleseg_autoloss.data_checks.images import NOTES, describe_notes, look_at_image
from paddleseg_autoloss.errors import ConfigError, DataError
from paddleseg_autoloss.installation import CONFIG_DIR
from paddleseg_autoloss.integration.checkpoint import check_writable
from paddleseg_autoloss.integration.config import find_config, load_config
from paddleseg_autoloss.seams import replaced

__all__ = ["add_flags", "run"]


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags of the command."""
    add = parser.add_argument
    options.add_config(parser)
    add("--model_path", required=True, help="trained weights")
    add("--image_path", required=True, help="an image, a list of images, or a folder of images")
    add(
        "--masks",
        help="the truth, to be drawn beside the prediction: a folder of masks with the names of "
        "the images, or a list of images and masks; default: none",
    )
    add(
        "--save_dir",
        default="./output/result",
        help="folder for the pictures; default: %(default)s",
    )
    options.add_device(parser)
    add("--device_id", type=int, default=0, help="which of the devices; default: %(default)s")
    options.add_augmentation(parser, "aug_pred")
    options.add_window(parser)
    add(
        "--custom_color",
        nargs="+",
        type=int,
        help="colours of the classes, as R G B R G B ...; default: PaddleSeg's",
    )
    options.add_multilabel(parser, predict)
    options.add_quiet(parser)


def run(args: Namespace) -> None:
    """Run the command."""
    options.check_model_path(args.model_path)
    options.check_window(args)
    config = load_config(find_config(args.config, CONFIG_DIR))
    builder = SegBuilder(config)
    utils.set_device(args.device if args.device == "cpu" else f"{args.device}:{args.device_id}")

    chosen = options.augmentation(args, "aug_pred") | options.window(args)
    chosen |= options.multilabel(args)
    if args.custom_color is not None:
        _check_colours(args.custom_color)
        chosen["custom_color"] = args.custom_color
    of_evaluation = {"aug_eval", "auc_roc"}
    of_config = {k: v for k, v in config.test_config.items() if k not in of_evaluation}
    model = build("model", lambda: builder.model)
    options.load_trained(model, args.model_path)
    val_dataset = config.dic.get("val_dataset") or {}
    list_root = val_dataset.get("dataset_root")
    check_writable(args.save_dir)
    images, image_dir = find_images("--image_path", args.image_path, list_root)
    images = without_predictions(images, args.save_dir, args.image_path)
    _check_names(images)
    if image_dir is not None:
        # PaddleSeg removes this text from the paths; without the end, "a" is also part of "a..".
        image_dir = os.path.join(image_dir, "")
    looks = {image: look_at_image(Path(image)) for image in images}
    for image, look in looks.items():
        if look.error:
            raise DataError(f"--image_path: cannot read {image}: {look.error}")
    # Without masks an orientation does no harm.
    harmful = ["16 bits"] if args.masks is None else list(NOTES)
    notes = [(image, look.note) for image, look in looks.items() if look.note in harmful]
    for note in describe_notes(notes):
        logger.warning(f"--image_path: {note}")
    logger.info(f"The number of images: {len(images)}")
    masks = {} if args.masks is None else find_masks(args.masks, images, val_dataset)
    options.show_config(config)
    transforms = Compose(
        build("val_dataset.transforms", lambda: builder.val_transforms),
        img_channels=val_dataset.get("img_channels", 3),
    )
    with (
        replaced(utils, "load_entire_model", lambda model, path: None),
        contours_of_predictions(args.save_dir, masks, config.model_cfg.get("num_classes")),
    ):
        predict(
            model,
            model_path=args.model_path,
            transforms=transforms,
            image_list=images,
            image_dir=image_dir,
            save_dir=args.save_dir,
            **of_config | chosen,
        )


def _check_colours(numbers: Sequence[int]) -> None:
    if len(numbers) % 3 or not all(0 <= number <= 255 for number in numbers):
        found = " ".join(map(str, numbers))
        raise ConfigError(f"--custom_color: expected R G B from 0 to 255 per class, found {found}")


def _check_names(images: Sequence[str]) -> None:
    """Check that no two images have predictions of one name."""
    first: dict[str, str] = {}
    for image in images:
        other = first.setdefault(os.path.splitext(image)[0], image)
        if other != image:
            raise DataError(
                "--image_path: expected names that differ in more than their endings, found "
                f"{other} and {image}: the second prediction would replace the first"
            )
