"""What a comparison trains: variants times learning rates times seeds."""

from __future__ import annotations

import copy
import math
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.config import update_config_dict

from paddleseg_autoloss.errors import ConfigError, did_you_mean, shown
from paddleseg_autoloss.integration.config import find_config, load_config, read_config
from paddleseg_autoloss.weighting import METHODS
from paddleseg_autoloss.yaml_files import read_yaml

__all__ = ["Plan", "Run", "Variant", "read_plan"]

_PLAN_KEYS = {
    "base", "variants", "baseline", "seeds", "lr_grid", "validation", "split_seed", "iters",
    "save_interval",
}  # fmt: skip
_LOSS_KEYS = ("method", "coef", "config", "retrain_of")
_VARIANT_KEYS = {"name", "script", *_LOSS_KEYS}
#: Points on the curves of validation figures, where nothing else is said.
_POINTS = 10


@dataclass(frozen=True)
class Variant:
    """One of the things that are compared.

    Args:
        name: what the report calls it.
        kind: ``"config"``, ``"method"``, ``"coef"`` or ``"retrain_of"``: where its loss comes from.
        config: the complete PaddleSeg config.  For ``"retrain_of"`` the loss is a stand-in.
        source: for ``"retrain_of"``, the name of the variant whose final weights it trains with.
        script: the training script, or None for ``autoloss train``.
    """

    name: str
    kind: str
    config: dict[str, Any]
    source: str | None = None
    script: Path | None = None

    @property
    def learning_rate(self) -> float:
        """The learning rate of its config."""
        return float(self.config["lr_scheduler"]["learning_rate"])

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^A-Za-z0-9.]+", "_", self.name).strip("_.") or "_"


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        variant: what it trains.
        learning_rate: at the start of the schedule.
        seed: of initial weights, augmentation and dropout.
    """

    variant: Variant
    learning_rate: float
    seed: int

    @property
    def path(self) -> Path:
        """The run's folder in that of the comparison."""
        return Path("runs") / self.variant.folder / f"lr{self.learning_rate:g}" / f"seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.variant.name}, lr {self.learning_rate:g}, seed {self.seed}"

    @property
    def config(self) -> dict[str, Any]:
        """The variant's config with the run's learning rate."""
        config = copy.deepcopy(self.variant.config)
        config["lr_scheduler"]["learning_rate"] = self.learning_rate
        return config


@dataclass(frozen=True)
class Plan:
    """All that a comparison trains, and how it is judged.

    Args:
        name: of the comparison.
        variants: in the order of the report.
        baseline: name of the variant that the others are measured against.
        seeds: each variant is trained once with each.
        lr_grid: learning rates that each variant is trained with, or None for that of its config.
        validation: share of the training list that is held out to choose learning rates on, in
            [0, 1); with 0 nothing is.
        split_seed: of the choice of the images that are held out.
        save_interval: iterations between points of the validation curves, or None for a tenth of
            the run.
    """

    name: str
    variants: tuple[Variant, ...]
    baseline: str
    seeds: tuple[int, ...]
    lr_grid: tuple[float, ...] | None = None
    validation: float = 0.2
    split_seed: int = 0
    save_interval: int | None = None

    def runs(self) -> list[Run]:
        """List the runs: seed by seed, so that a comparison that is stopped early is balanced.

        A retrained variant comes behind the one that it takes the weights from.
        """
        ordered = sorted(self.variants, key=lambda variant: variant.source is not None)
        return [
            Run(variant, rate, seed)
            for seed in self.seeds
            for variant in ordered
            for rate in self.rates(variant)
        ]

    def rates(self, variant: Variant) -> tuple[float, ...]:
        """The learning rates that a variant is trained with."""
        return self.lr_grid or (variant.learning_rate,)

    def interval(self, variant: Variant) -> int:
        """Iterations between the evaluations of a variant's runs."""
        return self.save_interval or max(1, variant.config["iters"] // _POINTS)

    def variant(self, name: str) -> Variant:
        """Return a variant by its name."""
        return next(variant for variant in self.variants if variant.name == name)


def read_plan(args: Namespace, config_dir: Path) -> Plan:
    """Make the plan that the flags of ``autoloss compare`` ask for.

    Args:
        args: the flags; those that are not None go before what a comparison file says.
        config_dir: where bare config names are looked up.

    Raises:
        ConfigError: a key, a name or a value cannot work, or one of the configs cannot be loaded.
    """
    name, folder, description = _description(args, config_dir)
    for key in ("seeds", "lr_grid", "baseline", "validation", "iters", "save_interval"):
        if getattr(args, key) is not None:
            description[key] = getattr(args, key)
    for key in description.keys() - _PLAN_KEYS:
        raise ConfigError(f"{key}: there is no such key{did_you_mean(str(key), _PLAN_KEYS)}")
    reader = _Reader(folder, config_dir, _optional(description, "iters", _positive), args.opts)
    variants = reader.variants(description)
    plan = Plan(
        name=name,
        variants=variants,
        baseline=_baseline(description.get("baseline"), variants),
        seeds=_seeds(description.get("seeds", 5)),
        lr_grid=_optional(description, "lr_grid", _lr_grid),
        validation=_fraction("validation", description.get("validation", 0.2)),
        split_seed=_natural("split_seed", description.get("split_seed", 0)),
        save_interval=_optional(description, "save_interval", _positive),
    )
    if plan.lr_grid and len(plan.lr_grid) > 1 and plan.validation == 0:
        raise ConfigError(
            "lr_grid: expected validation above 0, as the best rate must not be chosen on the "
            f"images that the result is reported on; found {list(plan.lr_grid)} with validation 0"
        )
    return plan


def _description(args: Namespace, config_dir: Path) -> tuple[str, Path, dict[str, Any]]:
    """The comparison's name, the folder that its paths start from, and its keys."""
    from_flags = args.methods is not None or args.grid is not None
    if args.config is not None and args.configs:
        raise ConfigError(f"--config: expected no configs beside it, found {args.configs[0]}")
    names = args.configs or ([args.config] if args.config is not None else [])
    if not names:
        raise ConfigError("expected a comparison file, train configs, or --config; found none")
    paths = [Path(find_config(name, config_dir)) for name in names]
    contents = [read_yaml(path) for path in paths]
    comparisons = [path for path, keys in zip(paths, contents) if "variants" in keys]
    if comparisons and (len(paths) > 1 or from_flags):
        raise ConfigError(f"{comparisons[0]}: a comparison file stands alone, with no other config")
    if comparisons:
        return paths[0].stem, paths[0].parent, contents[0]
    variants: list[dict[str, Any]] = [
        {"name": path.stem, "config": str(path.absolute())} for path in paths
    ]
    description: dict[str, Any] = {"variants": variants}
    if from_flags:
        if len(paths) > 1:
            raise ConfigError("--methods, --grid: expected a single config, found several")
        description["base"] = str(paths[0].absolute())
        variants += [
            {"method": method.strip()} for method in (args.methods or "").split(",") if method
        ]
        variants += [{"coef": mix} for mix in _mixes(args.grid)]
    return paths[0].stem, Path(), description


def _mixes(grid: str | None) -> list[list[float]]:
    """The fixed mixes of ``--grid first:last:step``, the first coefficient of each being that."""
    if grid is None:
        return []
    try:
        first, last, step = (float(part) for part in grid.split(":"))
        valid = 0 <= first <= last <= 1 and step > 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"--grid: expected first:last:step within 0 and 1, found {grid}")
    count = math.floor((last - first) / step + 1e-6) + 1
    weights = [round(first + step * index, 6) for index in range(count)]
    return [[weight, round(1 - weight, 6)] for weight in weights]


@dataclass(frozen=True)
class _Reader:
    """Makes variants from their description.

    Args:
        folder: where relative paths start.
        config_dir: where bare config names are looked up.
        iters: iterations, instead of the configs', or None.
        opts: config keys to change, or None.
    """

    folder: Path
    config_dir: Path
    iters: int | None
    opts: list[str] | None

    def variants(self, description: dict[str, Any]) -> tuple[Variant, ...]:
        entries = description.get("variants")
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise ConfigError(f"variants: expected a list of variants, found {entries!r}")
        base = self._config("base", description["base"]) if "base" in description else None
        variants = [self._variant(f"variants[{i}]", e, base) for i, e in enumerate(entries)]
        if len(variants) < 2:
            raise ConfigError(f"variants: expected two or more, found {len(variants)}")
        for key in ("name", "folder"):
            counts = Counter(getattr(variant, key) for variant in variants)
            for name, count in counts.items():
                if count > 1:
                    raise ConfigError(f"variants: expected different names, found {name!r} twice")
        _check_sources(variants)
        return tuple(variants)

    def _variant(self, key: str, entry: dict[str, Any], base: dict[str, Any] | None) -> Variant:
        for name in entry.keys() - _VARIANT_KEYS:
            raise ConfigError(
                f"{key}.{name}: there is no such key{did_you_mean(name, _VARIANT_KEYS)}"
            )
        kinds = [kind for kind in _LOSS_KEYS if kind in entry]
        if len(kinds) > 1 or not (kinds or "script" in entry):
            found = " and ".join(kinds) or "none"
            raise ConfigError(f"{key}: expected one of {', '.join(_LOSS_KEYS)}, found {found}")
        kind = kinds[0] if kinds else "config"
        script = self._script(f"{key}.script", entry["script"]) if "script" in entry else None
        value = entry.get(kind)
        if kind in entry and value is None:
            raise ConfigError(f"{key}.{kind}: expected a value, found none")
        if value is not None and kind == "config":
            config = self._config(f"{key}.config", value)
        elif base is None:
            raise ConfigError(f"{key}.{kind}: expected the key base beside variants, found none")
        else:
            config = _changed(base, kind, value, f"{key}.{kind}")
        default = Path(script).stem if script and not kinds else _default_name(kind, value)
        name = entry.get("name", default)
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{key}.name: expected a name, found {shown(name)}")
        return Variant(name, kind, config, value if kind == "retrain_of" else None, script)

    def _config(self, key: str, name: Any) -> dict[str, Any]:
        """Read a train config; what is wrong with it is found here."""
        if not isinstance(name, str):
            raise ConfigError(f"{key}: expected the path of a config, found {name!r}")
        own = self.folder / name
        path = str(own) if own.is_file() else find_config(name, self.config_dir)
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


def _changed(base: dict[str, Any], kind: str, value: Any, key: str) -> dict[str, Any]:
    """The base config with another loss over the same terms."""
    config = copy.deepcopy(base)
    if kind == "config":
        return config
    config.pop("loss_aggregator", None)
    if kind == "method":
        name, arguments = _method(key, value)
        config["loss"] = _with_terms(base, lambda terms: {"type": name, **arguments, **terms})
        return config
    coef = _coef(key, value) if kind == "coef" else None

    def mixed(terms: dict[str, Any]) -> dict[str, Any]:
        count = len(terms["losses"])
        if coef is not None and len(coef) != count:
            raise ConfigError(f"{key}: expected {count} numbers, one per loss, found {coef}")
        # MixedLoss hands no ignore_index on.
        shared = {key: terms[key] for key in ("ignore_index",) if key in terms}
        losses = [{**shared, **loss} for loss in terms["losses"]]
        return {"type": "MixedLoss", "losses": losses, "coef": coef or [1 / count] * count}

    config["loss"] = _with_terms(base, mixed)
    return config


def _with_terms(
    config: dict[str, Any], make: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """The config key ``loss`` with every mixture made anew from the keys that name its terms."""
    entries = config["loss"]["types"]
    if not any("losses" in entry for entry in entries):
        found = ", ".join(entry["type"] for entry in entries)
        raise ConfigError(
            "base: expected MixedLoss, or a component with losses, in loss.types to take the "
            f"losses from; found {found}"
        )
    kept = ("losses", "names", "ignore_index")
    types = [
        make({key: copy.deepcopy(entry[key]) for key in kept if key in entry})
        if "losses" in entry
        else copy.deepcopy(entry)
        for entry in entries
    ]
    return {**config["loss"], "types": types}


def _method(key: str, value: Any) -> tuple[str, dict[str, Any]]:
    """A component's name and its arguments."""
    keys = dict(value) if isinstance(value, Mapping) else {"type": value}
    name = keys.pop("type", None)
    component = manager.LOSSES.components_dict.get(name) if isinstance(name, str) else None
    if component is None or name not in METHODS:
        raise ConfigError(f"{key}: there is no method {name!r}{did_you_mean(str(name), METHODS)}")
    return str(name), keys


def _coef(key: str, value: Any) -> list[float]:
    is_list = isinstance(value, list) and len(value) > 1
    if not is_list or not all(_is_number(c) and c >= 0 for c in value) or sum(value) <= 0:
        raise ConfigError(f"{key}: expected a number of at least 0 per loss, found {value!r}")
    return [float(c) for c in value]


def _default_name(kind: str, value: Any) -> str:
    if kind == "method":
        return str(value.get("type")) if isinstance(value, Mapping) else str(value)
    if kind == "coef":
        return "fixed " + ":".join(f"{c:g}" for c in value)
    if kind == "retrain_of":
        return f"{value}, retrained"
    return Path(str(value)).stem


def _check_sources(variants: list[Variant]) -> None:
    by_name = {variant.name: variant for variant in variants}
    for variant in variants:
        if variant.source is None:
            continue
        source = by_name.get(variant.source) if isinstance(variant.source, str) else None
        key = f"variants: {variant.name!r}: retrain_of"
        if source is None:
            raise ConfigError(
                f"{key}: there is no variant {variant.source!r}"
                f"{did_you_mean(str(variant.source), by_name)}"
            )
        if source.kind not in ("method", "config") or source.script is not None:
            raise ConfigError(
                f"{key}: expected a variant with a method or a config, whose runs learn weights, "
                f"found {source.name!r}"
            )


def _baseline(name: Any, variants: tuple[Variant, ...]) -> str:
    names = [variant.name for variant in variants]
    if name is None:
        return names[0]
    if name not in names:
        raise ConfigError(f"baseline: there is no variant {name!r}{did_you_mean(str(name), names)}")
    return name


def _seeds(value: Any) -> tuple[int, ...]:
    """Seeds from a list of them, or from their number."""
    if isinstance(value, str):
        parts = [part for part in value.split(",") if part.strip()]
        value = [_parsed(part) for part in parts] if "," in value else _parsed(value)
    seeds = list(range(value)) if _is_integer(value) else value
    valid = isinstance(seeds, list) and seeds and all(_is_integer(s) and s >= 0 for s in seeds)
    if not valid or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds: expected their number or a list of integers, found {value!r}")
    return tuple(seeds)


def _lr_grid(key: str, value: Any) -> tuple[float, ...]:
    items = value.split(",") if isinstance(value, str) else value
    rates = [_parsed(item) for item in items] if isinstance(items, list) else []
    if not rates or not all(_is_number(rate) and rate > 0 for rate in rates):
        raise ConfigError(f"{key}: expected a list of positive numbers, found {value!r}")
    if len({f"{rate:g}" for rate in rates}) != len(rates):
        raise ConfigError(f"{key}: expected different numbers, found {value!r}")
    return tuple(float(rate) for rate in rates)


def _parsed(text: Any) -> Any:
    """A number from a string, which is also what YAML makes of 1e-3; all else stays."""
    for kind in (int, float):
        try:
            return kind(text) if isinstance(text, str) else text
        except ValueError:
            continue
    return text


def _fraction(key: str, value: Any) -> float:
    if not _is_number(value) or not 0 <= value < 1:
        raise ConfigError(f"{key}: expected a number from 0 to below 1, found {value!r}")
    return float(value)


def _positive(key: str, value: Any) -> int:
    return _at_least(key, value, 1)


def _natural(key: str, value: Any) -> int:
    return _at_least(key, value, 0)


def _at_least(key: str, value: Any, least: int) -> int:
    if not _is_integer(value) or value < least:
        raise ConfigError(f"{key}: expected an integer of at least {least}, found {value!r}")
    return value


def _optional(description: dict[str, Any], key: str, check: Callable[[str, Any], Any]) -> Any:
    value = description.get(key)
    return None if value is None else check(key, value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
