"""Write docs/commands.md and docs/config_reference.md from the parsers and the registries."""

from __future__ import annotations

import inspect
import re
import sys
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import paddle
from paddleseg.core import evaluate
from paddleseg.cvlibs import manager

from paddleseg_autoloss.cli.main import COMMANDS, EXIT_STATUSES
from paddleseg_autoloss.gradients.aggregator import method_arguments
from paddleseg_autoloss.integration.config_keys import KEYS, REQUIRED
from paddleseg_autoloss.weighting import METHODS

FOLDER = Path(__file__).resolve().parent

_NOTE = "<!-- Written by docs/write_reference.py; change that, or the code that it reads. -->"

_COMMANDS = """\
# Commands

{note}

`autoloss COMMAND --help` prints the same in the terminal. `python -m paddleseg_autoloss COMMAND`
does the same as `autoloss COMMAND`, and in a checkout `python tools/COMMAND.py` does it with the
code of that checkout.

{table}

{statuses}

{sections}
"""

_CONFIG = """\
# Config keys

{note}

All keys that a config can have, with the defaults of PaddleSeg 2.8.0 and of this package. A key
that is not here is an error that names the nearest known key. [configs/](../configs) has complete
examples.

## Top level

{top}

A few more keys of the configs in PaddleSeg's repository are known, but training does not read them;
a warning names them.

`--opts key=value inner.key=value` changes keys from the command line.

## Data sets

`train_dataset` and `val_dataset` have the key `type` and the arguments of that type. Data of your
own have the type `Dataset`; `autoloss init` writes such a config. `ignore_index` is the label of
the pixels that do not count.

{datasets}

## Transforms

Entries of `train_dataset.transforms` and `val_dataset.transforms`.

{transforms}

## Models

`model` has the key `type` and the arguments of that type; `model.backbone` too, where the model has
one. [Models of PaddleSeg](models.md) says which of them train.

{models}

### Backbones

{backbones}

## Optimizers

`optimizer` has the key `type` and the arguments of that type; `sgd` and `adam` mean `SGD` and
`Adam`. `custom_cfg` is a list of groups of parameters, each with a part of their `name`, `lr_mult`
and `weight_decay_mult`.

{optimizers}

## Learning rate

`lr_scheduler` has the key `type`, one of the schedules of `paddle.optimizer.lr`, and their
arguments: {schedules}. For `PolynomialDecay`, `decay_steps` is the number of iterations if it is
missing. `warmup_iters` and `warmup_start_lr` let the rate rise to `learning_rate` first.

## Losses

`loss.types` is a list with one entry per output of the model, `loss.coef` their coefficients; a
single entry in `loss.types` is used for all outputs. `distill_loss` has the same form.

### Losses of PaddleSeg

{losses}

### Methods that weigh losses

An entry with such a `type` has `losses`, a list of two or more of the losses above, and can have
`names`, one for each loss, for logs and curves. `reduction` is `sum` or `mean`: the scale of the
total. With `level: features` a gradient method looks at the gradients for the outputs of a layer,
the backbone or the one that `layer` names, with `level: logits` at those for the outputs of the
network; with `update_interval: N` it finds new weights in every Nth step only.

{methods}

## loss_aggregator

Weighs all terms of all heads: `type` is one of the methods above, and its arguments are those of
the table, without `losses` and `names`.

## test_config

Options of the evaluation, during training and by `autoloss val`.

{test_config}

## Comparison files

Keys of the files that `autoloss compare` reads.

{comparison}

Entries of `variants` have one of `method`, `coef`, `config` and `retrain_of`, or `script` alone:

{variants}

## Environment variables

{environment}
"""

#: What the keys at the top level of a config mean.
TOP = {
    "batch_size": "images per card and step",
    "iters": "number of iterations",
    "train_dataset": "the images to train on, see [Data sets](#data-sets)",
    "val_dataset": "the images to evaluate on; needed with `--do_eval`",
    "model": "the network, see [Models](#models)",
    "optimizer": "see [Optimizers](#optimizers)",
    "lr_scheduler": "see [Learning rate](#learning-rate)",
    "loss": "see [Losses](#losses)",
    "distill_loss": "losses between a student and its teacher, in the form of `loss`",
    "loss_aggregator": "a method that weighs all terms of all heads, see "
    "[loss_aggregator](#loss_aggregator)",
    "on_nonfinite": "`stop` (default) or `skip`: what happens to a step whose losses or gradients "
    "are NaN or infinite",
    "held_out": "a share of the training images that is not trained on, above 0 and at most 0.5, "
    "or a mapping with `fraction`, `seed` (default 0) and `batch_size` (default: that of "
    "training); methods that learn from held-out images draw their batches from it",
    "test_config": "options of the evaluation, see [test_config](#test_config)",
    "to_static_training": "`true`: train the model as a static graph",
    "_base_": "a path or a list of paths of configs that this one is based on, relative to it",
    "_inherited_": "`false` in a mapping: do not merge it with the mapping of the base",
    "print_mem_info": "newer PaddleSeg: print the memory of the device",
    "log_ranks": "newer PaddleSeg: the cards that write a log",
    "uniform_output_enabled": "newer PaddleSeg: the layout of its output folder",
    "pdx_model_name": "newer PaddleSeg: the name of the model in PaddleX",
    "hpi_config_path": "newer PaddleSeg: the config of PaddleX's inference",
}

COMPARISON = {
    "base": "the config from which variants with `method`, `coef` and `retrain_of` are made",
    "variants": "two or more variants",
    "baseline": "name of the variant that the others are compared with; default: the first",
    "seeds": "their number, or a list of them; default: 5",
    "lr_grid": "learning rates to train every variant with",
    "validation": "share of the training list that is held out to choose rates on; default: 0.2",
    "split_seed": "seed of that split; default: 0",
    "iters": "number of iterations, instead of the configs'",
    "save_interval": "iterations between the points of the curves",
}

VARIANTS = {
    "method": "a name, or `type` and arguments: the losses of `base`, weighed by it",
    "coef": "fixed coefficients for the losses of `base`",
    "config": "path of a config of its own",
    "retrain_of": "name of another variant, whose last weights are frozen and trained with from "
    "the start",
    "script": "a training script of its own, which takes PaddleSeg's flags",
    "name": "its name in the report; by default it follows from the other keys",
}

ENVIRONMENT = {
    "AUTOLOSS_OUTSIDE_ROOT": "`1`: lists of a data set may name files outside of `dataset_root`",
    "AUTOLOSS_MAX_IMAGE_PIXELS": "most pixels of an image; Pillow alone allows 178,956,970",
    "XDG_CACHE_HOME": "folder whose folder `paddleseg_autoloss` keeps what was seen of the labels; "
    "default: `~/.cache`",
}

#: Arguments of PaddleSeg's ``evaluate`` that its loop sets.
_GIVEN = {"model", "eval_dataset", "num_workers", "precision", "amp_level", "print_detail"}


def commands() -> str:
    """Return docs/commands.md."""
    rows = [(f"[`{name}`](#{name})", _summary(module)) for name, module in COMMANDS.items()]
    return _COMMANDS.format(
        note=_NOTE,
        table=_table(("Command", "Meaning"), rows),
        statuses=_table(("Exit status", "Meaning"), EXIT_STATUSES.items()),
        sections="\n\n".join(_command(name, module) for name, module in COMMANDS.items()),
    )


def _summary(module: Any) -> str:
    return str(module.__doc__).partition("\n")[0].rstrip(".")


def _command(name: str, module: Any) -> str:
    parser = ArgumentParser(prog=f"autoloss {name}", add_help=False)
    module.add_flags(parser)
    rows = [(_flag(action), _meaning(action)) for action in parser._actions]
    parts = [f"## {name}", inspect.cleandoc(module.__doc__)]
    if rows:
        parts.append(_table(("Argument", "Meaning"), rows))
    return "\n\n".join(parts)


def _flag(action: Action) -> str:
    """Return how an argument is written."""
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    value = "|".join(map(str, action.choices)) if action.choices else action.metavar
    value = str(value or action.dest.upper())
    words = {0: "", None: f" {value}", "?": f" [{value}]"}
    shown = words.get(action.nargs, f" {value} ...")
    if isinstance(action.nargs, int) and action.nargs:
        shown = f" {value}" * action.nargs
    return f"`{action.option_strings[-1]}{shown}`".replace("|", r"\|")


def _meaning(action: Action) -> str:
    text = (action.help or "") % vars(action) if action.help != SUPPRESS else ""
    needed = "; required" if action.required and action.option_strings else ""
    # What the default is on the machine that writes the page says nothing about others.
    return re.sub(r", here \w+", "", text).replace("|", r"\|") + needed


def config_reference() -> str:
    """Return docs/config_reference.md."""
    kinds = paddle.optimizer.lr
    schedules = sorted(
        name
        for name, kind in vars(kinds).items()
        if inspect.isclass(kind)
        and issubclass(kind, kinds.LRScheduler)
        and kind not in (kinds.LRScheduler, kinds.LinearWarmup)
    )
    top = [
        (f"`{key}`", "yes" if key in REQUIRED else "", TOP[key])
        for key in [key for key in TOP if key in KEYS or key == "_base_"]
    ]
    return _CONFIG.format(
        note=_NOTE,
        top=_table(("Key", "Required", "Meaning"), top),
        datasets=_components(manager.DATASETS.components_dict),
        transforms=_components(manager.TRANSFORMS.components_dict),
        models=_components(manager.MODELS.components_dict),
        backbones=", ".join(f"`{name}`" for name in _sorted(manager.BACKBONES.components_dict)),
        optimizers=_components(manager.OPTIMIZERS.components_dict),
        schedules=", ".join(f"`{name}`" for name in schedules),
        losses=_components(
            {k: v for k, v in manager.LOSSES.components_dict.items() if k not in METHODS}
        ),
        methods=_methods(),
        test_config=_table(("Key", "Default"), _rows(evaluate, _GIVEN)),
        comparison=_meanings(COMPARISON),
        variants=_meanings(VARIANTS),
        environment=_meanings(ENVIRONMENT),
    )


def _components(components: Mapping[str, Callable]) -> str:
    # Whoever imports this page may have registered components of their own.
    own = [name for name, make in components.items() if make.__module__.startswith("paddleseg")]
    rows = [(f"`{name}`", _arguments(components[name])) for name in _sorted(own)]
    return _table(("type", "Arguments and defaults"), rows)


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=str.lower)


def _arguments(make: Callable) -> str:
    parameters = inspect.signature(make).parameters.values()
    return ", ".join(_argument(parameter) for parameter in parameters)


def _argument(parameter: inspect.Parameter) -> str:
    """Return an argument as the docs write it; one without a default is needed."""
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return "more"
    if parameter.default is parameter.empty:
        return f"**`{parameter.name}`**"
    return f"`{parameter.name}: {_value(parameter.default)}`"


def _value(value: Any) -> str:
    """Return a default as YAML has it."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_value, value))}]"
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__name__
    return repr(value) if value == " " else str(value)


def _methods() -> str:
    rows = []
    for name in _sorted(METHODS):
        arguments = ", ".join(map(_argument, method_arguments(METHODS[name])))
        rows.append((f"[`{name}`](methods/{name}.md)", arguments))
    return _table(("type", "Arguments and defaults"), rows)


def _rows(function: Callable, left_out: set[str]) -> list[tuple[str, ...]]:
    parameters = inspect.signature(function).parameters.values()
    return [(f"`{p.name}`", f"`{_value(p.default)}`") for p in parameters if p.name not in left_out]


def _meanings(meanings: Mapping[str, str]) -> str:
    return _table(("Name", "Meaning"), [(f"`{key}`", text) for key, text in meanings.items()])


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PAGES = {"commands.md": commands, "config_reference.md": config_reference}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
