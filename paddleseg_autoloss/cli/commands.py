"""What the command lines do, apart from parsing."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paddleseg.core
from paddleseg.core import evaluate, predict
from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.transforms import Compose
from paddleseg.utils import get_image_list, logger, utils

from paddleseg_autoloss.checks import build
from paddleseg_autoloss.data_checks import check_files
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.integration.checkpoint import check_plain, checkpoint_iteration
from paddleseg_autoloss.integration.config import (
    find_config,
    load_config,
)
from paddleseg_autoloss.integration.evaluation import Figures, captured_figures
from paddleseg_autoloss.integration.parts import build_parts, build_val_dataset

__all__ = [
    "predict_from",
    "train_from",
    "validate_from",
]


def train_from(args: Namespace, config_dir: Path) -> None:
    """Train as the flags of ``tools/train.py`` say.

    Args:
        args: the parsed flags.
        config_dir: where bare config names are looked up.
    """
    if args.resume_model not in (None, "latest"):
        checkpoint_iteration(args.resume_model)
    config = load_config(
        find_config(args.config, config_dir),
        learning_rate=args.learning_rate,
        iters=args.iters,
        batch_size=args.batch_size,
        opts=_with_our_flags(args),
    )
    _show(config)
    _set_data_format(config, args.data_format)
    parts = build_parts(config, args, with_val_dataset=args.do_eval)
    if args.repeats > 1:
        parts.train_dataset.file_list *= args.repeats
    paddleseg.core.train(
        parts.model,
        parts.train_dataset,
        val_dataset=parts.val_dataset,
        optimizer=parts.optimizer,
        save_dir=args.save_dir,
        iters=config.iters,
        batch_size=config.batch_size,
        resume_model=args.resume_model,
        save_interval=args.save_interval,
        log_iters=args.log_iters,
        num_workers=args.num_workers,
        use_vdl=args.use_vdl,
        use_ema=args.use_ema,
        losses=parts.losses,
        keep_checkpoint_max=args.keep_checkpoint_max,
        test_config=config.test_config,
        precision=args.precision,
        amp_level=args.amp_level,
        profiler_options=args.profiler_options,
        to_static_training=config.to_static_training,
    )


def validate_from(args: Namespace, config_dir: Path) -> Figures:
    """Evaluate as the flags of ``tools/val.py`` say, and return the figures.

    Args:
        args: the parsed flags.
        config_dir: where bare config names are looked up.
    """
    _check_model_path(args.model_path)
    _check_window(args)
    if args.json is not None and not Path(args.json).absolute().parent.is_dir():
        raise ConfigError(f"--json: there is no folder {Path(args.json).parent}")
    config = load_config(find_config(args.config, config_dir), opts=args.opts)
    _check_weights(args.model_path)
    builder = SegBuilder(config)
    _show(config)
    utils.set_device(args.device)
    _set_data_format(config, args.data_format)

    options = config.test_config
    if args.aug_eval:
        options |= _chosen(args, "aug_eval", "scales", "flip_horizontal", "flip_vertical")
    if args.is_slide:
        options |= _chosen(args, "is_slide", "crop_size", "stride")
    if args.auc_roc:
        options["auc_roc"] = True
    val_dataset = build_val_dataset(config, builder)
    model = build("model", lambda: builder.model)
    if args.model_path is not None:
        utils.load_entire_model(model, args.model_path)
        logger.info("Loaded trained weights successfully.")
    with captured_figures() as figures:
        evaluate(model, val_dataset, num_workers=args.num_workers, **options)
    if args.json is not None:
        Path(args.json).write_text(json.dumps(figures().to_dict(), indent=2) + "\n")
        logger.info(f"The figures are in {args.json}")
    return figures()


def predict_from(args: Namespace, config_dir: Path) -> None:
    """Predict as the flags of ``tools/predict.py`` say.

    Args:
        args: the parsed flags.
        config_dir: where bare config names are looked up.
    """
    _check_model_path(args.model_path)
    _check_window(args)
    config = load_config(find_config(args.config, config_dir))
    _check_weights(args.model_path)
    builder = SegBuilder(config)
    _show(config)
    utils.set_device(args.device if args.device == "cpu" else f"{args.device}:{args.device_id}")

    options = config.test_config
    for key in ("aug_eval", "auc_roc"):
        options.pop(key, None)
    if args.aug_pred:
        options |= _chosen(args, "aug_pred", "scales", "flip_horizontal", "flip_vertical")
    if args.is_slide:
        options |= _chosen(args, "is_slide", "crop_size", "stride")
    if args.custom_color is not None:
        options["custom_color"] = args.custom_color
    images, image_dir = build("--image_path", lambda: get_image_list(args.image_path or ""))
    check_files("--image_path", Namespace(file_list=[(image,) for image in images]))
    logger.info(f"The number of images: {len(images)}")
    predict(
        build("model", lambda: builder.model),
        model_path=args.model_path,
        transforms=Compose(build("val_dataset.transforms", lambda: builder.val_transforms)),
        image_list=images,
        image_dir=image_dir,
        save_dir=args.save_dir,
        **options,
    )


def _with_our_flags(args: Namespace) -> list[str]:
    """PaddleSeg's ``--opts``, with the flags that stand for config keys before them."""
    flags = []
    if args.loss_aggregator is not None:
        flags.append(f"loss_aggregator={{'type': '{args.loss_aggregator}'}}")
    if args.on_nonfinite is not None:
        flags.append(f"on_nonfinite={args.on_nonfinite}")
    return [*flags, *(args.opts or [])]


def _show(config: Config) -> None:
    utils.show_env_info()
    utils.show_cfg_info(config)


def _chosen(args: Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names}


def _check_model_path(path: str | None) -> None:
    is_url = path is not None and "://" in path
    if path is not None and not is_url and not Path(path).is_file():
        raise ConfigError(f"--model_path: expected a .pdparams file, found nothing at {path}")


def _check_weights(path: str | None) -> None:
    if path is not None and "://" not in path:
        check_plain("--model_path", path)


def _check_window(args: Namespace) -> None:
    if args.is_slide and (args.crop_size is None or args.stride is None):
        raise ConfigError("--is_slide: expected --crop_size and --stride beside it")


def _set_data_format(config: Config, data_format: str) -> None:
    """Pass the layout of the input on to the model and the losses, as PaddleSeg's tools do."""
    if data_format == "NCHW":
        return
    model = config.dic["model"]
    if model["type"] != "DeepLabV3P":
        raise ConfigError(f"--data_format: NHWC needs the model DeepLabV3P, found {model['type']}")
    model["data_format"] = data_format
    model["backbone"]["data_format"] = data_format
    for loss in _leaf_losses(config.dic["loss"]["types"]):
        loss["data_format"] = data_format


def _leaf_losses(losses: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    leaves = []
    for loss in losses:
        leaves += _leaf_losses(loss["losses"]) if "losses" in loss else [loss]
    return leaves
