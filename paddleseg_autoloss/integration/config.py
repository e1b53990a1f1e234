"""Reading and checking configs before anything is built from them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from paddleseg.core import evaluate
from paddleseg.cvlibs import Config, manager

from paddleseg_autoloss.errors import ConfigError, did_you_mean, one_line, root_cause
from paddleseg_autoloss.gradients.aggregator import method_arguments
from paddleseg_autoloss.weighting import METHODS

__all__ = ["find_config", "load_config"]

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
        raise ConfigError(f"{path}: {one_line(error)}") from error
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
