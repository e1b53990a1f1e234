"""Evaluate a trained model: mIoU, Dice, Kappa, accuracy; the flags are PaddleSeg's own."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from paddleseg.core import evaluate
from paddleseg.cvlibs import SegBuilder
from paddleseg.utils import logger, utils

from paddleseg_autoloss.checks import build
from paddleseg_autoloss.cli import options
from paddleseg_autoloss.data_checks import reader_errors
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.files import write_json
from paddleseg_autoloss.installation import CONFIG_DIR
from paddleseg_autoloss.integration.config import find_config, load_config
from paddleseg_autoloss.integration.evaluation import Figures, capture_figures
from paddleseg_autoloss.integration.parts import build_val_dataset

__all__ = ["add_flags", "run"]


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags of the command."""
    add = parser.add_argument
    options.add_config(parser)
    add(
        "--model_path",
        help="trained weights, such as output/best_model/model.pdparams; default: those of the "
        "config, random without model.pretrained",
    )
    options.add_num_workers(parser)
    options.add_device(parser)
    add("--json", help="file to write the metrics to; default: none")
    options.add_augmentation(parser, "aug_eval")
    options.add_window(parser)
    options.add_data_format(parser)
    add(
        "--auc_roc",
        nargs="?",
        type=_boolean,
        const=True,
        default=False,
        metavar="True",
        help="compute the area under the ROC curve too, also as --auc_roc True; default: no",
    )
    options.add_multilabel(parser, evaluate)
    options.add_quiet(parser)
    options.add_opts(parser)


def _boolean(text: str) -> bool:
    if text not in ("True", "False"):
        raise ArgumentTypeError(f"expected True, False or nothing, found {text}")
    return text == "True"


def run(args: Namespace) -> Figures:
    """Run the command, and return the metrics."""
    options.check_model_path(args.model_path)
    options.check_window(args)
    if args.json is not None and not Path(args.json).absolute().parent.is_dir():
        raise ConfigError(f"--json: there is no folder {Path(args.json).parent}")
    if args.json is not None and Path(args.json).is_dir():
        raise ConfigError(f"--json: expected a file, found the folder {args.json}")
    config = load_config(find_config(args.config, CONFIG_DIR), opts=args.opts)
    builder = SegBuilder(config)
    utils.set_device(args.device)
    options.set_data_format(config, args.data_format)

    chosen = options.augmentation(args, "aug_eval") | options.window(args)
    chosen |= options.multilabel(args)
    if args.auc_roc:
        chosen["auc_roc"] = True
    model = build("model", lambda: builder.model)
    if args.model_path is not None:
        options.load_trained(model, args.model_path)
    elif not config.model_cfg.get("pretrained"):
        logger.warning(
            "--model_path: found none, so the network has its random initial values: the results "
            "are not meaningful"
        )
    val_dataset = build_val_dataset(config, builder)
    options.show_config(config)
    with reader_errors(), capture_figures() as figures:
        evaluate(model, val_dataset, num_workers=args.num_workers, **config.test_config | chosen)
    if args.json is not None:
        write_json(args.json, figures().to_dict())
        logger.info(f"The metrics are in {args.json}")
    return figures()
