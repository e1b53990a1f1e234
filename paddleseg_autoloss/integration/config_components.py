"""Components of a config: mappings with a ``type``, which PaddleSeg's builder builds."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.manager import ComponentManager

from paddleseg_autoloss.checks import checked_flag, checked_number
from paddleseg_autoloss.errors import ConfigError, did_you_mean, shown
from paddleseg_autoloss.integration.config_keys import check_keys

__all__ = [
    "TRANSFORM_KEYS",
    "check_arguments",
    "check_component",
    "check_finite",
    "check_numbers",
    "checked_type",
    "entries",
]

_ALL = (
    manager.MODELS,
    manager.BACKBONES,
    manager.DATASETS,
    manager.TRANSFORMS,
    manager.LOSSES,
    manager.OPTIMIZERS,
)
#: Arguments that hold transforms.
TRANSFORM_KEYS = ("transforms", "common_transforms", "transforms1", "transforms2")
#: Arguments that hold components of one kind; others may hold any.
_KINDS = {"losses": (manager.LOSSES,), **dict.fromkeys(TRANSFORM_KEYS, (manager.TRANSFORMS,))}


def entries(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Return the entries of a list of components, each with its key.

    Raises:
        ConfigError: the value is not a list, or the list is empty.
    """
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{key}: expected a list of components, found {shown(value)}")
    return ((f"{key}[{index}]", entry) for index, entry in enumerate(value))


def check_component(
    key: str, component: Any, managers: Sequence[ComponentManager], requires_all: bool = True
) -> None:
    """Check a component, and the components among its arguments.

    Args:
        key: the key of the config that it is the value of.
        component: the component.
        managers: where its type is registered.
        requires_all: whether every argument without a default must be given.

    Raises:
        ConfigError: the type or an argument does not exist, an argument is missing, or a flag is
            a text.
    """
    known = {name: kind for m in managers for name, kind in m.components_dict.items()}
    kind = checked_type(key, component, known)
    optional = () if requires_all else inspect.signature(known[kind]).parameters
    check_arguments(key, component, kind, known[kind], optional)
    _check_flags(key, component, known[kind])
    pretrained = component.get("pretrained")
    if not isinstance(pretrained, (str, type(None))):
        raise ConfigError(f"{key}.pretrained: expected a path, found {shown(pretrained)}")
    for name in component:
        kinds = _KINDS.get(name, _ALL)
        for inner_key, inner in _inner_components(f"{key}.{name}", component[name]):
            check_component(inner_key, inner, kinds, requires_all=False)


def _check_flags(key: str, component: Mapping[str, Any], make: Callable[..., Any]) -> None:
    """Check that flags are no text: "false" in quotes would be true."""
    for name, parameter in inspect.signature(make).parameters.items():
        if isinstance(parameter.default, bool) and isinstance(component.get(name), str):
            checked_flag(f"{key}.{name}", component[name])


def _inner_components(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what PaddleSeg's builder builds of an argument: mappings with a type."""
    found = [(key, value)]
    if isinstance(value, list):
        found = [(f"{key}[{index}]", entry) for index, entry in enumerate(value)]
    return ((k, entry) for k, entry in found if isinstance(entry, dict) and "type" in entry)


def checked_type(key: str, component: Any, known: Mapping[str, Any]) -> str:
    """Return the type of a component.

    Args:
        key: the key of the config that it is the value of.
        component: the component.
        known: all existing types.

    Raises:
        ConfigError: the component has no type, or the type does not exist.
    """
    if not isinstance(component, dict) or "type" not in component:
        raise ConfigError(f"{key}: expected a 'type', found {shown(component)}")
    kind = component["type"]
    if not isinstance(kind, str):
        raise ConfigError(f"{key}.type: expected a name, found {shown(kind)}")
    if kind not in known:
        raise ConfigError(f"{key}.type: there is no {shown(kind)}{did_you_mean(kind, known)}")
    return kind


def check_arguments(
    key: str,
    component: Mapping[str, Any],
    kind: str,
    make: Callable[..., Any],
    optional: Collection[str] = (),
) -> None:
    """Check the arguments of a component against those of its class.

    Args:
        key: the key of the config that it is the value of.
        component: the component.
        kind: its type.
        make: the class or function of that name.
        optional: arguments that need not be in the config, because the code sets them.

    Raises:
        ConfigError: the class does not take one of the arguments, or a required one is missing.
    """
    parameters = inspect.signature(make).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if not takes_any:
        known = {"type", *names}
        check_keys(f"{key}.", component, known, f"{kind} has no such argument", names)
    for name in names:
        is_needed = parameters[name].default is inspect.Parameter.empty and name not in optional
        if is_needed and name not in component:
            raise ConfigError(f"{key}.{name}: {kind} needs this argument, found none")


def check_numbers(key: str, component: Mapping[str, Any], make: Callable[..., Any]) -> None:
    """Check that numbers are numbers and flags are true or false.

    The default of an argument shows which of them it is.

    Args:
        key: the key of the config that it is the value of.
        component: the component.
        make: the class or function that takes the arguments.

    Raises:
        ConfigError: an argument has another type.
    """
    for name, parameter in inspect.signature(make).parameters.items():
        if name in component and isinstance(parameter.default, bool):
            checked_flag(f"{key}.{name}", component[name])
        elif name in component and isinstance(parameter.default, (int, float)):
            checked_number(f"{key}.{name}", component[name])


def check_finite(key: str, value: Any) -> None:
    """Check that a value contains no NaN and no infinity, at any depth.

    Raises:
        ConfigError: it contains one.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            check_finite(f"{key}.{name}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            check_finite(f"{key}[{index}]", inner)
    elif isinstance(value, float) and not math.isfinite(value):
        checked_number(key, value)
