"""Reads the variants of a comparison: short descriptions, which it extends to complete configs."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.config import update_config_dict

from paddleseg_autoloss.checks import is_name, is_number
from paddleseg_autoloss.comparison.plan import Variant
from paddleseg_autoloss.errors import ConfigError, did_you_mean, quotes_hint, shown
from paddleseg_autoloss.integration.config import find_config, load_config, read_config
from paddleseg_autoloss.integration.held_out import DEFAULT_FRACTION
from paddleseg_autoloss.weighting import METHODS

__all__ = ["VariantReader", "check_method", "name_of_file"]

#: Keys that define the origin of a variant's loss.
_KINDS = ("method", "coef", "config", "retrain_of")
_KEYS = {"name", "script", *_KINDS}
#: Most characters of a folder that file systems allow, less some for endings.
_LONGEST_NAME = 200
#: Keys of a config that only methods need.
_METHOD_KEYS = ("loss_aggregator", "held_out")
#: Keys of a mixture of losses that define its terms.
_TERM_KEYS = ("losses", "names", "ignore_index")


@dataclass(frozen=True)
class VariantReader:
    """Reads the variants of a comparison.

    Args:
        folder: base folder of relative paths.
        config_dir: folder in which config names without a folder are searched.
        iters: number of iterations, or None for those of the configs.
        opts: config keys to change, or None.
    """

    folder: Path
    config_dir: Path
    iters: int | None
    opts: list[str] | None

    def read(self, description: Mapping[str, Any]) -> tuple[Variant, ...]:
        """Return the variants.

        Args:
            description: the keys of a comparison file, of which ``variants`` and ``base`` are read.

        Raises:
            ConfigError: a key or a value is invalid, or one of the configs cannot be loaded.
        """
        entries = description.get("variants")
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise ConfigError(f"variants: expected a list of variants, found {entries!r}")
        base = self._config("base", description["base"]) if "base" in description else None
        variants = [self._variant(f"variants[{i}]", e, base) for i, e in enumerate(entries)]
        if len(variants) < 2:
            raise ConfigError(f"variants: expected two or more, found {len(variants)}")
        _check_names(variants)
        return tuple(_with_source_configs(variants))

    def _variant(self, key: str, entry: dict[str, Any], base: dict[str, Any] | None) -> Variant:
        kind = _kind(key, entry)
        script = self._script(f"{key}.script", entry["script"]) if "script" in entry else None
        config = self._variant_config(f"{key}.{kind}", kind, entry.get(kind), base)
        name = entry.get("name", _default_name(kind, entry))
        if not is_name(name):
            raise ConfigError(
                f"{key}.name: expected a name, found {shown(name)}{quotes_hint(name)}"
            )
        variant = Variant(name, kind, config, entry.get("retrain_of"), script)
        length = len(os.fsencode(variant.folder))
        if length > _LONGEST_NAME:
            raise ConfigError(
                f"{key}.name: expected at most {_LONGEST_NAME} bytes, because a folder is "
                f"named after it, found {length} in {shown(name)}"
            )
        return variant

    def _variant_config(
        self, key: str, kind: str, value: Any, base: dict[str, Any] | None
    ) -> dict[str, Any]:
        if kind == "config" and value is not None:
            return self._config(key, value)
        if kind == "retrain_of":
            # It is that of the source, see `_with_source_configs`.
            return {}
        if base is None:
            raise ConfigError(f"{key}: expected the key base in addition to variants, found none")
        if kind == "config":
            return copy.deepcopy(base)
        if kind == "method":
            return _with_method(key, base, value)
        return _with_coef(key, base, _coef(key, value))

    def _config(self, key: str, name: Any) -> dict[str, Any]:
        """Read and check a train config."""
        if not isinstance(name, str):
            raise ConfigError(f"{key}: expected the path of a config, found {name!r}")
        own = self.folder / name
        path = str(own) if own.is_file() else find_config(name, self.config_dir, key)
        load_config(path, iters=self.iters, opts=self.opts)
        config = update_config_dict(read_config(path), iters=self.iters, opts=self.opts)
        rate = config.get("lr_scheduler", {}).get("learning_rate")
        if not isinstance(rate, (int, float)):
            raise ConfigError(
                f"{key}: expected a number as lr_scheduler.learning_rate in {path}, found {rate!r}"
            )
        return config

    def _script(self, key: str, name: Any) -> Path:
        path = self.folder / str(name)
        if not path.is_file():
            raise ConfigError(f"{key}: expected a training script, found nothing at {path}")
        return path.absolute()


def _kind(key: str, entry: Mapping[str, Any]) -> str:
    """Return the key that defines the origin of a variant's loss."""
    for name in entry.keys() - _KEYS:
        raise ConfigError(f"{key}.{name}: there is no such key{did_you_mean(name, _KEYS)}")
    kinds = [kind for kind in _KINDS if kind in entry]
    if len(kinds) > 1 or not (kinds or "script" in entry):
        found = " and ".join(kinds) or "none"
        raise ConfigError(f"{key}: expected one of {', '.join(_KINDS)}, found {found}")
    kind = kinds[0] if kinds else "config"
    if kinds and entry[kind] is None:
        raise ConfigError(f"{key}.{kind}: expected a value, found none")
    return kind


def _default_name(kind: str, entry: Mapping[str, Any]) -> str:
    value: Any = entry.get(kind)
    if kind == "method":
        return str(value.get("type")) if isinstance(value, Mapping) else str(value)
    if kind == "coef":
        return "fixed " + ":".join(f"{c:g}" for c in value)
    if kind == "retrain_of":
        return f"{value}, retrained"
    return name_of_file(Path(str(entry.get("config", entry.get("script")))))


def name_of_file(path: Path) -> str:
    """Return the name of a config or script.

    A ``config.yml`` has the name of its folder: ``autoloss init`` calls all configs so.

    Args:
        path: the file.
    """
    folder = os.path.basename(os.path.dirname(os.path.abspath(path)))
    return folder or path.stem if path.stem == "config" else path.stem


def check_method(key: str, name: Any) -> None:
    """Check that there is a method of this name.

    Args:
        key: the key or flag that names it.
        name: the name.

    Raises:
        ConfigError: there is none.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ConfigError(f"{key}: there is no method {name!r}{did_you_mean(name, METHODS)}")


def _with_method(key: str, base: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """Return the base config with its losses weighted by a method."""
    arguments = dict(value) if isinstance(value, Mapping) else {"type": value}
    name = arguments.pop("type", None)
    check_method(key, name)
    if "losses" in arguments:
        raise ConfigError(
            f"{key}.losses: expected none, because the losses are those of base, found "
            f"{shown(arguments['losses'])}; for others write a config, and name it with config"
        )
    config = _with_mixture(base, lambda terms: {"type": name, **terms, **arguments})
    if METHODS[name].uses_held_out:
        config["held_out"] = base.get("held_out", DEFAULT_FRACTION)
    return config


def _with_coef(key: str, base: Mapping[str, Any], coef: list[float] | None) -> dict[str, Any]:
    """Return the base config with fixed coefficients; by default they are equal."""

    def mix(terms: dict[str, Any]) -> dict[str, Any]:
        count = len(terms["losses"])
        if coef is not None and len(coef) != count:
            raise ConfigError(f"{key}: expected {count} numbers, one per loss, found {coef}")
        # MixedLoss does not pass ignore_index to its losses.
        shared = {name: terms[name] for name in ("ignore_index",) if name in terms}
        losses = [{**shared, **loss} for loss in terms["losses"]]
        return {"type": "MixedLoss", "losses": losses, "coef": coef or [1 / count] * count}

    return _with_mixture(base, mix)


def _with_mixture(
    base: Mapping[str, Any], make: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Return the base config with another mixture of the same losses in every head.

    No image is held out of training: this is for methods that learn from such images.

    Args:
        base: a complete config.
        make: function that returns the new mixture, for the keys of the old one that define its
            terms.
    """
    entries = base["loss"]["types"]
    if not any("losses" in entry for entry in entries):
        found = ", ".join(entry["type"] for entry in entries)
        raise ConfigError(
            "base: expected MixedLoss, or a component with losses, in loss.types to take the "
            f"losses from; found {found}"
        )
    config = copy.deepcopy(dict(base))
    for key in _METHOD_KEYS:
        config.pop(key, None)
    config["loss"]["types"] = [
        make({key: entry[key] for key in _TERM_KEYS if key in entry})
        if "losses" in entry
        else entry
        for entry in config["loss"]["types"]
    ]
    return config


def _coef(key: str, value: Any) -> list[float]:
    is_list = isinstance(value, list) and len(value) > 1
    if not is_list or not all(is_number(c) and c >= 0 for c in value) or sum(value) <= 0:
        raise ConfigError(f"{key}: expected a number of at least 0 per loss, found {value!r}")
    return [float(c) for c in value]


def _check_names(variants: Sequence[Variant]) -> None:
    first: dict[str, Variant] = {}
    for variant in variants:
        other = first.setdefault(variant.folder, variant)
        if other.name == variant.name and other is not variant:
            raise ConfigError(f"variants: expected different names, found {other.name!r} twice")
        if other is not variant:
            raise ConfigError(
                f"variants: expected names that differ in Latin letters and digits, because "
                f"folders are named after them, found {other.name!r} and {variant.name!r}"
            )


def _with_source_configs(variants: Sequence[Variant]) -> list[Variant]:
    """Return the variants; a retrained one trains as its source does, but with fixed weights."""
    by_name = {variant.name: variant for variant in variants}
    return [
        replace(variant, config=_frozen(_source_of(variant, by_name).config))
        if variant.kind == "retrain_of"
        else variant
        for variant in variants
    ]


def _frozen(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without a method; its loss is a placeholder for the learned weights."""
    if any("losses" in entry for entry in config["loss"]["types"]):
        return _with_coef("retrain_of", config, None)
    return {k: copy.deepcopy(v) for k, v in config.items() if k not in _METHOD_KEYS}


def _source_of(variant: Variant, by_name: Mapping[str, Variant]) -> Variant:
    key = f"variants: {variant.name!r}: retrain_of"
    source = by_name.get(variant.source) if isinstance(variant.source, str) else None
    if source is None:
        hint = quotes_hint(variant.source) or did_you_mean(variant.source, by_name)
        raise ConfigError(f"{key}: there is no variant {variant.source!r}{hint}")
    if source.kind not in ("method", "config") or source.script is not None:
        raise ConfigError(
            f"{key}: expected a variant with a method or a config whose runs learn weights, "
            f"found {source.name!r}"
        )
    if _is_fixed(source.config):
        raise ConfigError(
            f"{key}: expected a variant whose runs learn weights, found {source.name!r}, whose "
            "config has losses of PaddleSeg only and no loss_aggregator"
        )
    return source


def _is_fixed(config: Mapping[str, Any]) -> bool:
    """Return whether all losses of a config are PaddleSeg's own, and nothing weighs them."""
    return "loss_aggregator" not in config and all(map(_is_stock, config["loss"]["types"]))


def _is_stock(loss: Mapping[str, Any]) -> bool:
    kind = manager.LOSSES.components_dict.get(loss.get("type"))
    is_own = kind is None or not kind.__module__.startswith("paddleseg.")
    return not is_own and all(map(_is_stock, loss.get("losses", [])))
