"""Checks of a config that need nothing to be built from it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import paddle
from paddleseg.core import evaluate
from paddleseg.cvlibs import manager
from paddleseg.utils import logger

from paddleseg_autoloss.checks import (
    check_stride,
    checked_choice,
    checked_flag,
    checked_integer,
    checked_number,
    checked_range,
)
from paddleseg_autoloss.errors import ConfigError, did_you_mean, shown
from paddleseg_autoloss.gradients.aggregator import method_arguments
from paddleseg_autoloss.integration.config_components import (
    TRANSFORM_KEYS,
    check_arguments,
    check_component,
    check_finite,
    check_numbers,
    checked_type,
    entries,
)
from paddleseg_autoloss.integration.config_keys import SECTIONS, check_keys, check_top_level
from paddleseg_autoloss.integration.config_warnings import warn_of_normalization, warn_of_warmup
from paddleseg_autoloss.integration.held_out import held_out_options, needs_held_out
from paddleseg_autoloss.losses.targets import TARGETS
from paddleseg_autoloss.weighting import METHODS

__all__ = ["check_aggregator", "check_config", "check_loss", "check_opt", "check_policy"]

_NETWORKS = (manager.MODELS, manager.BACKBONES)
_POLICIES = ("stop", "skip")
#: Python takes a number instead of a path for the number of an open file, and reads that file.
_TEXTS = ("mode", "dataset_root", "train_path", "val_path", "test_path", "separator")
_SHARED = ("type", "num_classes", "img_channels", "ignore_index")
_WARMUP = ("warmup_iters", "warmup_start_lr")
#: Arguments that PaddleSeg's loop passes to ``evaluate`` in addition to ``test_config``.
_GIVEN_BY_LOOP = {"model", "eval_dataset", "num_workers", "precision", "amp_level"}


def check_opt(config: dict[str, Any], opt: str) -> None:
    """Check the form of an entry of ``--opts``, and that the parents of its key exist.

    Args:
        config: the config from the files, with the earlier options applied.
        opt: the entry, for example ``loss.coef=[1,2]``.

    Raises:
        ConfigError: the entry does not have the form key=value, or a parent of its key does not
            exist.
    """
    if opt.count("=") != 1:
        raise ConfigError(f"--opts: expected key=value with a single =, found {shown(opt)}")
    *parents, _ = opt.split("=")[0].split(".")
    place: Any = config
    for depth, key in enumerate(parents):
        if not isinstance(place, dict) or key not in place:
            hint = did_you_mean(key, map(str, place)) if isinstance(place, dict) else ""
            path = ".".join(parents[: depth + 1])
            raise ConfigError(f"--opts {opt}: the config has no {path}{hint}")
        place = place[key]
    if not isinstance(place, dict):
        found = shown(place)
        raise ConfigError(f"--opts {opt}: expected keys below {'.'.join(parents)}, found {found}")


def check_config(config: dict[str, Any]) -> None:
    """Check all keys of a config, and those values whose errors in PaddleSeg would name no key.

    Args:
        config: all keys and values, including those of the base files.

    Raises:
        ConfigError: a key, a component or one of its arguments does not exist, or a value is
            invalid.
    """
    check_top_level(config)
    for section in SECTIONS:
        if section in config and not isinstance(config[section], dict):
            found = shown(config[section])
            raise ConfigError(f"{section}: expected keys and values, found {found}")
    for key in ("batch_size", "iters"):
        checked_integer(key, config[key], least=1)
    checked_flag("to_static_training", config.get("to_static_training", False))
    for key in ("train_dataset", "val_dataset"):
        if config.get(key):
            _check_dataset(key, config[key])
    _check_model(config["model"])
    _check_agreement(config)
    _check_optimizer(config["optimizer"])
    _check_schedule(config["lr_scheduler"], config["iters"])
    for key in ("loss", "distill_loss"):
        if key in config:
            check_loss(key, config[key])
    _check_ignore_index(config)
    _check_test_config(config.get("test_config", {}))
    check_aggregator(config.get("loss_aggregator"))
    check_policy(config.get("on_nonfinite", "stop"))
    held_out_options(config.get("held_out"))
    _check_held_out(config)
    warn_of_normalization(config)
    warn_of_warmup(config)


def _check_held_out(config: dict[str, Any]) -> None:
    """Check that images are held out for methods that learn from them."""
    kinds = [loss.get("type") for _, loss in _losses("loss.types", config["loss"]["types"])]
    kinds.append((config.get("loss_aggregator") or {}).get("type"))
    for kind in kinds:
        if kind in METHODS and METHODS[kind].uses_held_out and config.get("held_out") is None:
            raise ConfigError(needs_held_out(kind))


def check_aggregator(aggregator: Any) -> None:
    """Check the value of the config key ``loss_aggregator``.

    Raises:
        ConfigError: the value names no method, or an argument that the method does not have.
    """
    if aggregator is None:
        return
    kind = checked_type("loss_aggregator", aggregator, METHODS)
    known = [argument.name for argument in method_arguments(METHODS[kind])]
    check_keys(
        "loss_aggregator.", aggregator, {"type", *known}, f"{kind} has no such argument", known
    )
    check_finite("loss_aggregator", aggregator)
    _check_target("loss_aggregator", aggregator)


def _check_target(key: str, method: dict[str, Any]) -> None:
    """Check what a method rates held-out data by, if it does."""
    target = method.get("target", "mIoU") if METHODS[method["type"]].uses_held_out else "mIoU"
    if isinstance(target, dict):
        check_component(f"{key}.target", target, (manager.LOSSES,))
    else:
        checked_choice(f"{key}.target", target, list(TARGETS))


def check_policy(policy: Any) -> None:
    """Check the value of the config key ``on_nonfinite``.

    Raises:
        ConfigError: the value is neither ``stop`` nor ``skip``.
    """
    if policy not in _POLICIES:
        raise ConfigError(f"on_nonfinite: expected stop or skip, found {shown(policy)}")


def _check_dataset(key: str, dataset: dict[str, Any]) -> None:
    check_component(key, dataset, (manager.DATASETS,))
    _check_mode(key, dataset)
    _check_num_classes(key, dataset)
    if "ignore_index" in dataset:
        checked_integer(f"{key}.ignore_index", dataset["ignore_index"], least=-(2**31))
    for name, value in dataset.items():
        if name in _TEXTS and not isinstance(value, (str, type(None))):
            raise ConfigError(f"{key}.{name}: expected text, found {shown(value)}")
        if name in TRANSFORM_KEYS and value not in (None, []):
            for entry_key, entry in entries(f"{key}.{name}", value):
                check_component(entry_key, entry, (manager.TRANSFORMS,))
                if entry["type"] == "Normalize":
                    _check_normalize(entry_key, entry)


def _check_normalize(key: str, transform: dict[str, Any]) -> None:
    """Check mean and standard deviation; PaddleSeg's own errors name no key."""
    for name in transform.keys() & {"mean", "std"}:
        values = transform[name]
        if not isinstance(values, list) or not values:
            found = shown(values)
            raise ConfigError(f"{key}.{name}: expected a list of numbers, found {found}")
        for value in values:
            checked_number(f"{key}.{name}", value)
    if 0 in transform.get("std", []):
        found = shown(transform["std"])
        raise ConfigError(f"{key}.std: expected numbers other than 0, found {found}")


def _check_mode(key: str, dataset: dict[str, Any]) -> None:
    """Check that images to evaluate on are not read as those to train on, nor the other way."""
    expected, other = ("train", "val") if key == "train_dataset" else ("val", "train")
    arguments = inspect.signature(manager.DATASETS[dataset["type"]]).parameters
    default = arguments["mode"].default if "mode" in arguments else None
    mode = dataset.get("mode", default)
    if isinstance(mode, str) and mode.lower() == other:
        origin = "" if "mode" in dataset else f", the default of {dataset['type']}"
        raise ConfigError(f"{key}.mode: expected {expected}, found {mode}{origin}")


def _check_model(model: dict[str, Any]) -> None:
    check_component("model", model, _NETWORKS, requires_all=False)
    _check_num_classes("model", model)
    if "backbone" in model:
        check_component("model.backbone", model["backbone"], _NETWORKS, requires_all=False)


def _check_agreement(config: dict[str, Any]) -> None:
    """Check that data sets, model and losses agree; PaddleSeg's own errors name no key."""
    dataset = config["train_dataset"]
    if dataset["type"] != "Dataset":
        return
    for section in ("val_dataset", "model"):
        shared = ("num_classes",) if section == "model" else _SHARED
        for name in shared:
            other = config.get(section, {})
            if name in other and name in dataset and other[name] != dataset[name]:
                raise ConfigError(
                    f"{section}.{name}: expected {shown(dataset[name])} as in train_dataset, found "
                    f"{shown(other[name])}"
                )


def _check_num_classes(key: str, component: dict[str, Any]) -> None:
    if component.get("num_classes") is not None:
        checked_integer(f"{key}.num_classes", component["num_classes"], least=1)


def _check_optimizer(optimizer: dict[str, Any]) -> None:
    known = dict(manager.OPTIMIZERS.components_dict)
    # PaddleSeg's builder treats these two values alike.
    known |= {"sgd": known["SGD"], "adam": known["Adam"]}
    kind = checked_type("optimizer", optimizer, known)
    if known[kind] is known["SGD"] and "momentum" in optimizer:
        kind, known["Momentum"] = "Momentum", manager.OPTIMIZERS["Momentum"]
    check_arguments("optimizer", optimizer, kind, known[kind])
    check_numbers("optimizer", optimizer, known[kind])
    check_finite("optimizer", optimizer)
    for key, value in optimizer.items():
        if isinstance(value, (int, float)):
            checked_range(f"optimizer.{key}", float(value), least=0)
    if optimizer.get("custom_cfg") is not None:
        for key, group in entries("optimizer.custom_cfg", optimizer["custom_cfg"]):
            _check_parameter_group(key, group)
    if isinstance(optimizer.get("grad_clip_cfg"), dict):
        # PaddleSeg and Paddle check the other arguments.
        for name in optimizer["grad_clip_cfg"].keys() & {"clip_norm", "max"}:
            key = f"optimizer.grad_clip_cfg.{name}"
            checked_range(key, optimizer["grad_clip_cfg"][name], least=1e-30)
        _check_clip_bounds("optimizer.grad_clip_cfg", optimizer["grad_clip_cfg"])


def _check_clip_bounds(key: str, clip: dict[str, Any]) -> None:
    """Check the bounds of ClipGradByValue; Paddle would compare them at the first step only."""
    if {"min", "max"} <= clip.keys() and clip["min"] is not None:
        least = checked_number(f"{key}.min", clip["min"])
        if least >= clip["max"]:
            raise ConfigError(
                f"{key}.min: expected a number below max {clip['max']}, found {clip['min']}"
            )


def _check_parameter_group(key: str, group: Any) -> None:
    if not isinstance(group, dict) or not isinstance(group.get("name"), str):
        raise ConfigError(f"{key}: expected a 'name' of parameters, found {shown(group)}")
    check_keys(f"{key}.", group, ("name", "lr_mult", "lr_multi", "weight_decay_mult"))
    if "lr_multi" in group:
        # PaddleSeg's configs of PP-MobileSeg have this spelling.
        logger.warning(f"{key}.lr_multi: PaddleSeg does not read this key; it reads lr_mult")
    for name in group.keys() - {"name"}:
        checked_range(f"{key}.{name}", group[name], least=0)


def _check_schedule(schedule: dict[str, Any], iters: int) -> None:
    kinds = {
        name: kind
        for name, kind in vars(paddle.optimizer.lr).items()
        if inspect.isclass(kind) and issubclass(kind, paddle.optimizer.lr.LRScheduler)
    }
    kind = checked_type("lr_scheduler", schedule, kinds)
    given = {name: value for name, value in schedule.items() if name not in _WARMUP}
    # PaddleSeg itself gives these arguments to the schedule.
    computed = {"decay_steps"} if kind == "PolynomialDecay" else set()
    check_arguments("lr_scheduler", given, kind, kinds[kind], computed)
    check_numbers("lr_scheduler", schedule, kinds[kind])
    if _WARMUP[0] in schedule:
        checked_integer("lr_scheduler.warmup_iters", schedule["warmup_iters"], least=1)
        if "warmup_start_lr" not in schedule or "learning_rate" not in schedule:
            raise ConfigError(
                "lr_scheduler.warmup_iters: expected warmup_start_lr and learning_rate too"
            )
    for key in ("learning_rate", "end_lr", "warmup_start_lr"):
        if key in schedule:
            checked_range(f"lr_scheduler.{key}", schedule[key], least=0)
    if schedule.get("learning_rate") == 0:
        raise ConfigError("lr_scheduler.learning_rate: expected a number above 0, found 0")
    for key in ("decay_steps", "step_size", "T_max", "T_0", "total_steps"):
        if key in schedule:
            checked_integer(f"lr_scheduler.{key}", schedule[key], least=1)
    if kind == "OneCycleLR" and schedule["total_steps"] < iters:
        raise ConfigError(
            f"lr_scheduler.total_steps: expected at least the {iters} iters, found "
            f"{schedule['total_steps']}: OneCycleLR has no learning rate after its last step"
        )
    _check_lists(schedule)
    check_finite("lr_scheduler", schedule)


def _check_lists(schedule: dict[str, Any]) -> None:
    """Check that lists, such as milestones, are lists of numbers."""
    for key, values in schedule.items():
        for index, value in enumerate(values if isinstance(values, list) else []):
            checked_number(f"lr_scheduler.{key}[{index}]", value)


def check_loss(section: str, loss: dict[str, Any]) -> None:
    """Check the value of the config key ``loss`` or ``distill_loss``.

    Raises:
        ConfigError: a key, a loss or an argument of a loss does not exist, or a value is invalid.
    """
    check_keys(f"{section}.", loss, ("types", "coef", "_inherited_"))
    for key in ("types", "coef"):
        if key not in loss:
            raise ConfigError(
                f"{section}.{key}: expected a list, one entry per output of the model"
            )
    types = list(entries(f"{section}.types", loss["types"]))
    _check_coef(f"{section}.coef", loss["coef"], len(types), one_for_all=True)
    for key, entry in types:
        _check_loss_entry(key, entry)
    check_finite(section, loss)


def _check_loss_entry(key: str, loss: Any) -> None:
    """Check a loss and its inner losses."""
    check_component(key, loss, (manager.LOSSES,))
    kind = loss["type"]
    if kind in METHODS:
        _check_target(key, loss)
    if kind == "MixedLoss" or kind in METHODS:
        inner = list(entries(f"{key}.losses", loss["losses"]))
        if kind == "MixedLoss":
            _check_coef(f"{key}.coef", loss["coef"], len(inner))
        for inner_key, entry in inner:
            _check_loss_entry(inner_key, entry)
    if "weight" in loss:
        _check_class_weights(f"{key}.weight", loss["weight"], kind)


def _check_coef(key: str, coef: Any, count: int, one_for_all: bool = False) -> None:
    """Check coefficients; with ``one_for_all``, a single loss is used for all outputs."""
    if not isinstance(coef, list) or not coef:
        raise ConfigError(f"{key}: expected a list of numbers, found {shown(coef)}")
    for index, value in enumerate(coef):
        checked_range(f"{key}[{index}]", value, least=0)
    if not any(coef):
        raise ConfigError(f"{key}: expected a number above 0, found {shown(coef)}: nothing trains")
    if len(coef) != count and not (one_for_all and count == 1):
        raise ConfigError(f"{key}: expected {count}, one per loss, found {len(coef)}")


def _check_class_weights(key: str, weights: Any, kind: str) -> None:
    if weights is None or (weights == "dynamic" and kind == "BCELoss"):
        return
    if kind == "BCELoss":
        raise ConfigError(f"{key}: expected dynamic or nothing, found {shown(weights)}")
    if not isinstance(weights, list) or not weights:
        found = shown(weights)
        raise ConfigError(f"{key}: expected a list of numbers, one per class, found {found}")
    for index, value in enumerate(weights):
        checked_range(f"{key}[{index}]", value, least=0)
    if not any(weights):
        raise ConfigError(f"{key}: expected a number above 0, found {shown(weights)}")


def _check_ignore_index(config: dict[str, Any]) -> None:
    """Check ``ignore_index`` of all inner losses; PaddleSeg checks it for ``MixedLoss`` only."""
    dataset = config["train_dataset"]
    component = manager.DATASETS[dataset["type"]]
    expected = dataset.get("ignore_index", getattr(component, "IGNORE_INDEX", None))
    for key, loss in _losses("loss.types", config["loss"]["types"]):
        found = loss.get("ignore_index", expected)
        if expected is not None and found != expected:
            raise ConfigError(
                f"{key}.ignore_index: expected {expected} as in train_dataset, found {shown(found)}"
            )


def _losses(key: str, losses: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all losses with their keys, including inner losses."""
    for index, loss in enumerate(losses if isinstance(losses, list) else []):
        if isinstance(loss, dict):
            yield f"{key}[{index}]", loss
            yield from _losses(f"{key}[{index}].losses", loss.get("losses"))


def _check_test_config(options: dict[str, Any]) -> None:
    """Check ``test_config`` before training; PaddleSeg reads it only at the first evaluation."""
    known = inspect.signature(evaluate).parameters.keys() - _GIVEN_BY_LOOP
    check_keys("test_config.", options, known, "there is no such option")
    for name in ("aug_eval", "flip_horizontal", "flip_vertical", "is_slide", "auc_roc"):
        checked_flag(f"test_config.{name}", options.get(name, False))
    scales = options.get("scales", 1.0)
    for scale in scales if isinstance(scales, list) else [scales]:
        checked_range("test_config.scales", scale, least=0.1, most=10)
    for name in ("crop_size", "stride"):
        if options.get(name) is not None:
            _check_pair(f"test_config.{name}", options[name])
    if options.get("is_slide"):
        if not (options.get("crop_size") and options.get("stride")):
            raise ConfigError("test_config.is_slide: expected crop_size and stride too")
        check_stride("test_config.stride", options["stride"], options["crop_size"])


def _check_pair(key: str, pair: Any) -> None:
    if not isinstance(pair, list) or len(pair) != 2:
        raise ConfigError(f"{key}: expected two positive integers, found {shown(pair)}")
    for value in pair:
        checked_integer(key, value, least=1)
