"""The objects that a run trains with, which PaddleSeg's builder builds from a config."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from typing import Any

from paddle import nn
from paddle.optimizer import Optimizer
from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.utils import logger, utils

from paddleseg_autoloss.checks import build
from paddleseg_autoloss.data_checks import build_dataset
from paddleseg_autoloss.data_checks.overlap import note_overlap
from paddleseg_autoloss.errors import ConfigError, did_you_mean, shown

__all__ = ["Parts", "build_parts", "build_val_dataset"]


@dataclass(frozen=True)
class Parts:
    """The objects that PaddleSeg trains with.

    Args:
        train_dataset: the data set to train on.
        val_dataset: the data set to evaluate on, or None.
        model: the network.
        optimizer: its optimizer.
        losses: PaddleSeg's loss dict, which also has the value of ``loss_aggregator`` or None.
    """

    train_dataset: Any
    val_dataset: Any
    model: nn.Layer
    optimizer: Optimizer
    losses: dict[str, Any]


def build_parts(config: Config, args: Namespace, with_val_dataset: bool = False) -> Parts:
    """Set the seed and the device, then build all objects that a config trains with.

    Args:
        config: the config.
        args: the flags ``seed``, ``device`` and ``num_workers``.
        with_val_dataset: whether to build the data set to evaluate on.
    """
    builder = SegBuilder(config)
    utils.set_seed(args.seed)
    utils.set_device(args.device)
    utils.set_cv2_num_threads(args.num_workers)
    train_dataset = build_dataset(
        "train_dataset", config.train_dataset_cfg, lambda: builder.train_dataset
    )
    val_dataset = build_val_dataset(config, builder) if with_val_dataset else None
    note_overlap(train_dataset, val_dataset)
    # Keep this order: it determines the parameter names, by which checkpoints are resumed.
    build("lr_scheduler", lambda: builder.lr_scheduler)
    model = build("model", lambda: utils.convert_sync_batchnorm(builder.model, args.device))
    _check_groups(config.optimizer_cfg.get("custom_cfg"), model)
    optimizer = build("optimizer", lambda: builder.optimizer)
    losses = build("loss", lambda: builder.loss)
    return Parts(train_dataset, val_dataset, model, optimizer, losses)


def _check_groups(groups: list[dict[str, Any]] | None, model: nn.Layer) -> None:
    """Check that each group of parameters has some; a parameter belongs to the first that fits.

    Raises:
        ConfigError: the first group has none, with which Paddle's optimizers fail.
    """
    left = [name for name, p in model.named_parameters() if not p.stop_gradient]
    parts = dict.fromkeys(part for name in left for part in name.split("."))
    tops = ", ".join(dict.fromkeys(name.partition(".")[0] for name in left))
    for index, group in enumerate(groups or []):
        others = [name for name in left if group["name"] not in name]
        if len(others) == len(left):
            text = (
                f"optimizer.custom_cfg[{index}].name: expected a part of the names of trained "
                f"parameters that no earlier group has, found {shown(group['name'])}; the names "
                f"begin with {tops}{did_you_mean(group['name'], parts)}"
            )
            if index == 0:
                raise ConfigError(text)
            logger.warning(text)
        left = others


def build_val_dataset(config: Config, builder: SegBuilder) -> Any:
    """Build the data set that a config evaluates on.

    Raises:
        ConfigError: the config has no ``val_dataset``.
    """
    if not config.val_dataset_cfg:
        raise ConfigError("val_dataset: expected one to evaluate on, found none")
    return build_dataset("val_dataset", config.val_dataset_cfg, lambda: builder.val_dataset)
