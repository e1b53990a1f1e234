"""Reads the plan of a comparison from a comparison file and from flags."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paddleseg_autoloss.checks import (
    MOST_SEED,
    checked_integer,
    is_integer,
    is_number,
)
from paddleseg_autoloss.comparison.plan import Plan, Variant
from paddleseg_autoloss.comparison.variants import VariantReader, check_method, name_of_file
from paddleseg_autoloss.errors import ConfigError, did_you_mean, quotes_hint, shown
from paddleseg_autoloss.integration.config import find_config
from paddleseg_autoloss.yaml_files import read_yaml

__all__ = ["read_plan"]

_KEYS = {
    "base", "variants", "baseline", "seeds", "lr_grid", "lr_seeds", "validation", "split_seed",
    "iters", "save_interval",
}  # fmt: skip
#: Most seeds of a comparison.
_MOST_SEEDS = 1000
#: Smallest step of ``--grid``, which makes a thousand mixes.
_LEAST_STEP = 0.001
#: Keys that can also be set by flags.
_FLAGS = ("seeds", "lr_grid", "lr_seeds", "baseline", "validation", "iters", "save_interval")


def read_plan(args: Namespace, config_dir: Path) -> Plan:
    """Read the plan of a comparison from the flags of ``autoloss compare``.

    Args:
        args: the flags; one that is not None overrides the key of a comparison file.
        config_dir: folder in which config names without a folder are searched.

    Raises:
        ConfigError: a key, a name or a value is invalid, or one of the configs cannot be loaded.
    """
    paths = _config_paths(args, config_dir)
    folder, description = _description(args, paths)
    description |= {key: getattr(args, key) for key in _FLAGS if getattr(args, key) is not None}
    for key in description.keys() - _KEYS:
        hint = did_you_mean(key, _KEYS) or "; if it is one of a train config, set it there"
        raise ConfigError(f"{key}: there is no such key of a comparison{hint}")
    iters = _optional(description, "iters", _positive)
    variants = VariantReader(folder, config_dir, iters, args.opts).read(description)
    plan = Plan(
        name=name_of_file(paths[0]),
        variants=variants,
        baseline=_baseline(description.get("baseline"), variants),
        seeds=_seeds(description.get("seeds", 5)),
        lr_grid=_optional(description, "lr_grid", _lr_grid),
        lr_seeds=_optional(description, "lr_seeds", _positive),
        validation=_fraction("validation", description.get("validation", 0.2)),
        split_seed=checked_integer("split_seed", description.get("split_seed", 0), least=0),
        save_interval=_optional(description, "save_interval", _positive),
    )
    _check_rate_choice(plan)
    return plan


def _config_paths(args: Namespace, config_dir: Path) -> list[Path]:
    """Return the paths of the configs that the flags name."""
    if args.config is not None and args.configs:
        raise ConfigError(f"--config: expected no other configs with it, found {args.configs[0]}")
    names = args.configs or ([args.config] if args.config is not None else [])
    if not names:
        raise ConfigError("expected a comparison file, train configs, or --config; found none")
    return [Path(find_config(name, config_dir)) for name in names]


def _description(args: Namespace, paths: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
    """Return the base folder of relative paths, and the keys of the comparison."""
    has_variant_flags = args.methods is not None or args.grid is not None
    contents = [read_yaml(path) for path in paths]
    comparisons = [path for path, keys in zip(paths, contents) if "variants" in keys]
    if comparisons and (len(paths) > 1 or has_variant_flags):
        raise ConfigError(f"{comparisons[0]}: expected no other config with a comparison file")
    if comparisons:
        return paths[0].parent, contents[0]
    variants: list[dict[str, Any]] = [
        {"name": name_of_file(path), "config": str(path.absolute())} for path in paths
    ]
    if not has_variant_flags:
        return Path(), {"variants": variants}
    if len(paths) > 1:
        raise ConfigError("--methods, --grid: expected a single config, found several")
    methods = [{"method": name} for name in _method_names(args.methods)]
    mixes = [{"coef": mix} for mix in _grid_mixes(args.grid)]
    return Path(), {"base": str(paths[0].absolute()), "variants": [*variants, *methods, *mixes]}


def _method_names(flag: str | None) -> list[str]:
    """Return the methods of ``--methods``."""
    if flag is None:
        return []
    names = [name.strip() for name in flag.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--methods: expected methods such as PCGrad,CAGrad, found {flag!r}")
    for name in names:
        check_method("--methods", name)
    return names


def _grid_mixes(grid: str | None) -> list[list[float]]:
    """Return the fixed mixes of ``--grid first:last:step``, the values of the first coefficient."""
    if grid is None:
        return []
    try:
        first, last, step = (float(part) for part in grid.split(":"))
        valid = 0 <= first <= last <= 1 and _LEAST_STEP <= step <= 1
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            f"--grid: expected first:last:step within 0 and 1, with a step of at least "
            f"{_LEAST_STEP:g}, found {grid}"
        )
    count = math.floor((last - first) / step + 1e-6) + 1
    weights = [round(first + step * index, 6) for index in range(count)]
    return [[weight, round(1 - weight, 6)] for weight in weights]


def _baseline(name: Any, variants: Sequence[Variant]) -> str:
    names = [variant.name for variant in variants]
    if name is None:
        return names[0]
    if name not in names:
        hint = quotes_hint(name) or did_you_mean(name, names)
        raise ConfigError(f"baseline: there is no variant {name!r}{hint}")
    return name


def _seeds(value: Any) -> tuple[int, ...]:
    """Return the seeds: those of a list, or 0, 1, 2 and so on up to a given number of them."""
    if isinstance(value, str):
        parts = [part for part in value.split(",") if part.strip()]
        value = [_parse(part) for part in parts] if "," in value else _parse(value)
    seeds = list(range(value)) if is_integer(value, 1, _MOST_SEEDS) else value
    items = seeds if isinstance(seeds, list) else []
    valid = all(is_integer(seed, 0, MOST_SEED) for seed in items)
    if not (valid and 0 < len(items) <= _MOST_SEEDS and len(set(items)) == len(items)):
        raise ConfigError(
            f"seeds: expected their number, from 1 to {_MOST_SEEDS}, or a list of different "
            f"integers from 0 to {MOST_SEED}, found {shown(value)}"
        )
    return tuple(items)


def _lr_grid(key: str, value: Any) -> tuple[float, ...]:
    items = value.split(",") if isinstance(value, str) else value
    rates = [_parse(item) for item in items] if isinstance(items, list) else []
    if not rates or not all(is_number(rate) and rate > 0 for rate in rates):
        raise ConfigError(f"{key}: expected a list of positive numbers, found {value!r}")
    if len({f"{rate:g}" for rate in rates}) != len(rates):
        raise ConfigError(f"{key}: expected different numbers, found {value!r}")
    return tuple(float(rate) for rate in rates)


def _check_rate_choice(plan: Plan) -> None:
    if plan.lr_grid and len(plan.lr_grid) > 1 and plan.validation == 0:
        raise ConfigError(
            "lr_grid: expected validation above 0, because the test images must not be used to "
            f"choose the best rate; found {list(plan.lr_grid)} with validation 0"
        )
    if plan.lr_seeds is None:
        return
    if not plan.lr_grid:
        raise ConfigError("lr_seeds: expected lr_grid with it, found none")
    if plan.lr_seeds > len(plan.seeds):
        raise ConfigError(
            f"lr_seeds: expected at most the {len(plan.seeds)} seeds, found {plan.lr_seeds}"
        )
    for variant in plan.variants:
        if variant.source is not None:
            raise ConfigError(
                f"lr_seeds: expected no variant with retrain_of, found {variant.name!r}: it needs "
                f"the runs of {variant.source!r} with every seed at its own learning rate"
            )


def _parse(text: Any) -> Any:
    """Convert a string to a number if possible (YAML reads 1e-3 as a string); keep other values."""
    for kind in (int, float):
        try:
            return kind(text) if isinstance(text, str) else text
        except ValueError:
            continue
    return text


def _fraction(key: str, value: Any) -> float:
    if not is_number(value) or not 0 <= value < 1:
        raise ConfigError(f"{key}: expected a number from 0 to below 1, found {value!r}")
    return float(value)


def _positive(key: str, value: Any) -> int:
    return checked_integer(key, value, least=1)


def _optional(description: Mapping[str, Any], key: str, check: Callable[[str, Any], Any]) -> Any:
    value = description.get(key)
    return None if value is None else check(key, value)
