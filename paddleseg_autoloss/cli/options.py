"""Flags of several commands, with their checks and actions."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from paddle import nn
from paddleseg.cvlibs import Config, manager
from paddleseg.utils import logger, utils

from paddleseg_autoloss.checks import check_stride
from paddleseg_autoloss.errors import CheckpointError, ConfigError
from paddleseg_autoloss.flags import (
    default_device,
    non_negative_int,
    positive_int,
    scale_number,
    seed_int,
)
from paddleseg_autoloss.integration.loading import load_weights
from paddleseg_autoloss.integration.loggers import LOGGERS

__all__ = [
    "add_augmentation",
    "add_config",
    "add_data_format",
    "add_device",
    "add_loggers",
    "add_multilabel",
    "add_num_workers",
    "add_opts",
    "add_quiet",
    "add_seed",
    "add_window",
    "augmentation",
    "check_model_path",
    "check_window",
    "load_trained",
    "multilabel",
    "set_data_format",
    "show_config",
    "window",
]


def add_config(parser: ArgumentParser) -> None:
    """Add ``--config``."""
    parser.add_argument("--config", help="config file, or the name of a config of this package")


def add_device(parser: ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        choices=["cpu", "gpu", "xpu", "npu", "mlu"],
        default=default_device(),
        help="default: gpu if there is one, here %(default)s",
    )


def add_num_workers(parser: ArgumentParser) -> None:
    """Add ``--num_workers``."""
    parser.add_argument(
        "--num_workers",
        type=non_negative_int,
        default=0,
        help="processes that load data; default: %(default)s",
    )


def add_loggers(parser: ArgumentParser) -> None:
    """Add ``--logger``."""
    parser.add_argument(
        "--logger",
        type=_loggers,
        action="extend",
        default=[],
        metavar="NAME",
        help=f"write the curves with {', '.join(LOGGERS)}; several with commas, or by several "
        "such flags; default: none",
    )


def _loggers(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in LOGGERS:
            known = ", ".join(LOGGERS)
            raise ArgumentTypeError(f"expected one of {known}, found {name!r}")
    return names


def add_seed(parser: ArgumentParser) -> None:
    """Add ``--seed``."""
    parser.add_argument(
        "--seed",
        type=seed_int,
        help="seed of initial weights, data order and augmentation; default: another one each time",
    )


def add_opts(parser: ArgumentParser) -> None:
    """Add ``--opts``."""
    parser.add_argument(
        "--opts",
        nargs="+",
        action="extend",
        help="config keys to change, as key=value or key.inner=value; default: none",
    )


def add_quiet(parser: ArgumentParser) -> None:
    """Add ``--quiet``, which `main` acts upon."""
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing but warnings and errors"
    )


def add_multilabel(parser: ArgumentParser, function: Callable) -> None:
    """Add ``--use_multilabel`` where the installed PaddleSeg has it, that is since 2.9.

    Args:
        parser: of the command.
        function: PaddleSeg's, which takes ``use_multilabel`` there.
    """
    if "use_multilabel" in inspect.signature(function).parameters:
        parser.add_argument(
            "--use_multilabel", action="store_true", help="a pixel may belong to several classes"
        )


def multilabel(args: Namespace) -> dict[str, bool]:
    """Return the arguments of PaddleSeg's functions that the flag of `add_multilabel` gives."""
    return {"use_multilabel": True} if getattr(args, "use_multilabel", False) else {}


def add_data_format(parser: ArgumentParser) -> None:
    """Add ``--data_format``; see `set_data_format`."""
    parser.add_argument(
        "--data_format",
        choices=["NCHW", "NHWC"],
        default="NCHW",
        help="layout of the input; default: %(default)s",
    )


def set_data_format(config: Config, data_format: str) -> None:
    """Pass the layout of the input on to the model and the losses, as PaddleSeg's tools do.

    Raises:
        ConfigError: the model does not support the layout.
    """
    if data_format == "NCHW":
        return
    model = config.dic["model"]
    if model["type"] != "DeepLabV3P":
        raise ConfigError(f"--data_format: NHWC needs the model DeepLabV3P, found {model['type']}")
    model["data_format"] = data_format
    model["backbone"]["data_format"] = data_format
    for loss in _leaf_losses(config.dic["loss"]["types"]):
        if "data_format" not in inspect.signature(manager.LOSSES[loss["type"]]).parameters:
            raise ConfigError(f"--data_format: expected losses for NHWC, found {loss['type']}")
        loss["data_format"] = data_format


def _leaf_losses(losses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    leaves = []
    for loss in losses:
        leaves += _leaf_losses(loss["losses"]) if "losses" in loss else [loss]
    return leaves


def add_augmentation(parser: ArgumentParser, switch: str) -> None:
    """Add the flags of test-time augmentation.

    Args:
        parser: parser of the command.
        switch: name of the flag that turns augmentation on, PaddleSeg's ``aug_eval`` or
            ``aug_pred``.
    """
    add = parser.add_argument
    add(f"--{switch}", action="store_true", help="average over scales and flips")
    add(
        "--scales",
        nargs="+",
        type=scale_number,
        default=1.0,
        help=f"scales for --{switch}; default: %(default)s",
    )
    add("--flip_horizontal", action="store_true", help=f"flip for --{switch}")
    add("--flip_vertical", action="store_true", help=f"flip for --{switch}")


def augmentation(args: Namespace, switch: str) -> dict[str, Any]:
    """Return arguments for PaddleSeg's functions from the flags of `add_augmentation`.

    Raises:
        ConfigError: the switch of the other flags is missing.
    """
    names = (switch, "scales", "flip_horizontal", "flip_vertical")
    if getattr(args, switch):
        return {name: getattr(args, name) for name in names}
    if args.scales != 1.0 or args.flip_horizontal or args.flip_vertical:
        raise ConfigError(f"--scales, --flip_horizontal, --flip_vertical: expected --{switch} too")
    return {}


def add_window(parser: ArgumentParser) -> None:
    """Add the flags of a sliding window."""
    add = parser.add_argument
    add("--is_slide", action="store_true", help="process the image in a sliding window")
    add(
        "--crop_size",
        nargs=2,
        type=positive_int,
        help="width and height of the window, pixels; no default",
    )
    add(
        "--stride",
        nargs=2,
        type=positive_int,
        help="horizontal and vertical step of the window, pixels; no default",
    )


def check_window(args: Namespace) -> None:
    """Check the flags of `add_window`.

    Raises:
        ConfigError: the size or the step of the window is missing, or ``--is_slide`` is; or the
            step is larger than the window.
    """
    if not args.is_slide and (args.crop_size or args.stride):
        raise ConfigError("--crop_size, --stride: expected --is_slide too")
    if args.is_slide and (args.crop_size is None or args.stride is None):
        raise ConfigError("--is_slide: expected --crop_size and --stride too")
    if args.is_slide:
        check_stride("--stride", args.stride, args.crop_size)


def window(args: Namespace) -> dict[str, Any]:
    """Return arguments for PaddleSeg's functions from the flags of `add_window`."""
    names = ("is_slide", "crop_size", "stride")
    return {name: getattr(args, name) for name in names} if args.is_slide else {}


def check_model_path(path: str | None) -> None:
    """Check ``--model_path`` before anything is built.

    Raises:
        ConfigError: the path is not a URL, and there is no such file.
    """
    if path is not None and "://" not in path and not Path(path).is_file():
        raise ConfigError(f"--model_path: expected a .pdparams file, found nothing at {path}")


def load_trained(model: nn.Layer, path: str) -> None:
    """Load the weights at ``--model_path``; a warning counts the missing tensors.

    Raises:
        CheckpointError: the weights cannot be read, or belong to another network.
    """
    own = model.state_dict()
    missing = load_weights(model, path, "--model_path")
    for name, shape in missing.items():
        if shape is not None:
            raise CheckpointError(
                f"--model_path: expected {name} of shape {list(own[name].shape)}, as the network "
                f"of the config has it, found {shape} in {path}; use the config of the training, "
                "with the same num_classes"
            )
    if missing:
        logger.warning(
            f"--model_path: {path} lacks {len(missing)} of the network's {len(own)} "
            "tensors, which keep their random initial values: the results are not meaningful"
        )


def show_config(config: Config) -> None:
    """Log the machine and the config, as PaddleSeg's tools do."""
    utils.show_env_info()
    text = yaml.dump(
        config.dic, Dumper=utils.NoAliasDumper, allow_unicode=True, sort_keys=False
    ).rstrip()
    logger.info(f"The config:\n{text}\n")
