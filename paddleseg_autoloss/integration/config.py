"""Reading and checking configs before anything is built from them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import cv2
import yaml
from paddleseg.core import evaluate
from paddleseg.cvlibs import Config, manager
from PIL import Image, UnidentifiedImageError

from paddleseg_autoloss.errors import AutoLossError, ConfigError, DataError, did_you_mean
from paddleseg_autoloss.gradients.aggregator import method_arguments
from paddleseg_autoloss.weighting import METHODS

__all__ = ["build", "build_dataset", "check_files", "find_config", "load_config"]

_MANAGERS = (
    manager.MODELS,
    manager.BACKBONES,
    manager.DATASETS,
    manager.TRANSFORMS,
    manager.LOSSES,
    manager.OPTIMIZERS,
)
_SECTIONS = ("model", "train_dataset", "val_dataset", "optimizer", "loss", "distill_loss")
#: What PaddleSeg's builder accepts besides the names it knows, and what it passes on by itself.
_OTHER_TYPES = {"sgd", "adam"}
_OTHER_ARGUMENTS = {"type", "ignore_index", "momentum"}
_END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}

#: Environment variable that allows lists to name files outside of the data set's folder.
_OUTSIDE_ROOT = "AUTOLOSS_OUTSIDE_ROOT"

T = TypeVar("T")


def find_config(name: str | None, config_dir: Path) -> str:
    """Return the path of a config; a bare file name is looked up in ``config_dir`` too.

    Raises:
        ConfigError: there is no such file, with the nearest name of ``config_dir``.
    """
    if name is None:
        raise ConfigError("--config: expected the path of a config file, found nothing")
    for path in (Path(name), config_dir / name):
        if path.is_file():
            return str(path)
    known = [path.name for path in config_dir.glob("*.yml")]
    raise ConfigError(f"--config: {name} was not found{did_you_mean(Path(name).name, known)}")


def load_config(path: str, **overrides: Any) -> Config:
    """Read a PaddleSeg config, with everything checked that can be without building it.

    Args:
        path: the file.
        **overrides: ``learning_rate``, ``batch_size``, ``iters`` and ``opts``, as PaddleSeg's
            ``Config`` takes them.

    Raises:
        ConfigError: a file cannot be read, a component or one of its arguments does not exist, or
            PaddleSeg refuses the config.
    """
    _check_yaml(Path(path), seen=())
    try:
        config = Config(path, **overrides)
    except Exception as error:
        raise ConfigError(f"{path}: {root_cause(error)}") from error
    _check_values(config.dic)
    check_aggregator(config.dic.get("loss_aggregator"))
    check_policy(config.dic.get("on_nonfinite", "stop"))
    for section in _SECTIONS:
        for key, component in _components(section, config.dic.get(section, {})):
            _check_component(key, component)
    _check_ignore_index(config)
    return config


def _check_yaml(path: Path, seen: tuple[Path, ...]) -> None:
    """Read a file and those it is based on with the safe loader."""
    if not path.is_file():
        raise ConfigError(f"_base_: {path} was not found")
    if path.resolve() in seen:
        raise ConfigError(f"_base_: {path} is based on itself")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, found {content!r}")
    bases = content.get("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"_base_: expected a path or a list of paths, found {bases!r} in {path}")
    for base in bases:
        _check_yaml(path.parent / base, (*seen, path.resolve()))


def _check_values(dic: dict[str, Any]) -> None:
    for key in ("batch_size", "iters"):
        if not _is_integer(dic[key]) or dic[key] < 1:
            raise ConfigError(f"{key}: expected a positive integer, found {dic[key]!r}")
    loss = dic["loss"]
    if not isinstance(loss["types"], list) or not all(isinstance(t, dict) for t in loss["types"]):
        raise ConfigError(f"loss.types: expected a list of components, found {loss['types']!r}")
    for index, (component, coef) in enumerate(zip(loss["types"], loss["coef"])):
        if "type" not in component:
            raise ConfigError(f"loss.types[{index}]: expected a 'type', found {component!r}")
        if not isinstance(coef, (int, float)):
            raise ConfigError(f"loss.coef[{index}]: expected a number, found {coef!r}")
    _check_test_config(dic.get("test_config", {}))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_test_config(options: Any) -> None:
    """PaddleSeg reads these only when it evaluates, long after training began."""
    if not isinstance(options, dict):
        raise ConfigError(f"test_config: expected keys and values, found {options!r}")
    known = inspect.signature(evaluate).parameters
    for key in options.keys() - known.keys():
        raise ConfigError(f"test_config.{key}: there is no such option{did_you_mean(key, known)}")
    if options.get("is_slide") and not (options.get("crop_size") and options.get("stride")):
        raise ConfigError("test_config.is_slide: expected crop_size and stride beside it")


def _components(key: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        if "type" in value:
            yield key, value
        for name, inner in value.items():
            yield from _components(f"{key}.{name}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _components(f"{key}[{index}]", inner)


def _check_component(key: str, component: dict[str, Any]) -> None:
    kind = component["type"]
    if not isinstance(kind, str):
        raise ConfigError(f"{key}.type: expected a name, found {kind!r}")
    registered = {name: c for m in _MANAGERS for name, c in m.components_dict.items()}
    if kind in _OTHER_TYPES:
        return
    if kind not in registered:
        raise ConfigError(f"{key}.type: there is no {kind!r}{did_you_mean(str(kind), registered)}")
    parameters = inspect.signature(registered[kind]).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for argument in component.keys() - parameters.keys() - _OTHER_ARGUMENTS:
        raise ConfigError(
            f"{key}.{argument}: {kind} has no such argument{did_you_mean(argument, parameters)}"
        )


def check_aggregator(aggregator: Any) -> None:
    """Check the value of the config key ``loss_aggregator``.

    Raises:
        ConfigError: it names no method, or an argument that the method does not have.
    """
    if aggregator is None:
        return
    if not isinstance(aggregator, dict) or "type" not in aggregator:
        raise ConfigError(f"loss_aggregator: expected a 'type', found {aggregator!r}")
    kind = aggregator["type"]
    if kind not in METHODS:
        raise ConfigError(
            f"loss_aggregator.type: there is no {kind!r}{did_you_mean(str(kind), METHODS)}"
        )
    known = [argument.name for argument in method_arguments(METHODS[kind])]
    for argument in aggregator.keys() - set(known) - {"type"}:
        hint = did_you_mean(argument, known)
        raise ConfigError(f"loss_aggregator.{argument}: {kind} has no such argument{hint}")


def check_policy(policy: Any) -> None:
    """Check the value of the config key ``on_nonfinite``.

    Raises:
        ConfigError: it is neither ``stop`` nor ``skip``.
    """
    if policy not in ("stop", "skip"):
        raise ConfigError(f"on_nonfinite: expected stop or skip, found {policy!r}")


def _check_ignore_index(config: Config) -> None:
    """What PaddleSeg checks for ``MixedLoss``, for the losses inside of other components."""
    expected = _ignore_index(config.dic["train_dataset"])
    for key, loss in _components("loss.types", config.dic["loss"]["types"]):
        if expected is not None and loss.get("ignore_index", expected) != expected:
            raise ConfigError(
                f"{key}.ignore_index: expected {expected} as in train_dataset, "
                f"found {loss['ignore_index']}"
            )


def _ignore_index(dataset: dict[str, Any]) -> int | None:
    component = manager.DATASETS[dataset["type"]]
    return dataset.get("ignore_index", getattr(component, "IGNORE_INDEX", None))


def build(key: str, make: Callable[[], T]) -> T:
    """Call ``make``, which builds the component of the config key ``key``.

    Raises:
        ConfigError: it failed; the error says why in one line.
    """
    try:
        return make()
    except AutoLossError:
        raise
    except Exception as error:
        cause = root_cause(error)
        raise ConfigError(f"{key}: {cause}") from error


def build_dataset(key: str, config: dict[str, Any], make: Callable[[], T]) -> T:
    """Build a data set and check its files; see `build` and `check_files`.

    Raises:
        DataError: OpticDiscSeg is not there and cannot be downloaded, a file cannot be read, or
            the list names files outside of ``dataset_root`` and nobody said that it may.
    """
    root = config.get("dataset_root")
    absent = config["type"] == "OpticDiscSeg" and not (root and Path(root).exists())
    try:
        dataset = build(key, make)
    except ConfigError as error:
        if not absent or "`mode`" in str(error):
            raise
        Path(f"{root}.download.lock").unlink(missing_ok=True)
        raise DataError(
            f"{key}.dataset_root: expected the folder of OpticDiscSeg (train_list.txt, "
            f"val_list.txt, JPEGImages, Annotations), found none at {root}, and it could not be "
            "downloaded; put it there, or start with auto_ce_dice_demo.yml, which needs no download"
        ) from error
    if root and not os.environ.get(_OUTSIDE_ROOT):
        _check_inside(key, dataset, root)
    check_files(key, dataset)
    return dataset


def _check_inside(key: str, dataset: Any, root: str) -> None:
    """A list from elsewhere must not make training read, and show, other files of this machine."""
    inside = os.path.join(os.path.abspath(root), "")
    for pair in getattr(dataset, "file_list", []):
        for path in pair:
            if path is not None and not os.path.abspath(path).startswith(inside):
                raise DataError(
                    f"{key}: its list names {path}, outside of dataset_root {root}; if that is "
                    f"meant, set the environment variable {_OUTSIDE_ROOT}=1"
                )


def check_files(key: str, dataset: Any) -> None:
    """Check that every image and label of a data set is there, is an image and is whole.

    The pixels are not decoded: this takes about a millisecond per file.  Training itself would not
    tell: OpenCV pads what is cut short, and Paddle's reader waits for ever when one read fails.

    Raises:
        DataError: one is not; the error names it.
    """
    for pair in getattr(dataset, "file_list", []):
        for path in pair:
            if path is not None:
                try:
                    _check_image(Path(path))
                except (OSError, SyntaxError, ValueError) as error:
                    reason = "it is missing" if not Path(path).exists() else _one_line(error)
                    raise DataError(f"{key}: cannot read {path}: {reason}") from error


def _check_image(path: Path) -> None:
    """Read the header, check the checksums that the format has, and look for its end marker."""
    try:
        with Image.open(path) as image:
            marker = _END_MARKERS.get(image.format or "", b"")
            image.verify()
    except UnidentifiedImageError:
        if cv2.haveImageReader(str(path)):
            return
        raise
    if marker not in path.read_bytes():
        raise OSError("the file is cut short")


def root_cause(error: BaseException) -> str:
    """Return the message of the first error in a chain, or of our own, in one line."""
    while not isinstance(error, AutoLossError) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__ or error
    return _one_line(error) or type(error).__name__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
