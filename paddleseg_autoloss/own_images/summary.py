"""What `autoloss init` prints."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from paddleseg_autoloss.data_checks.images import describe_notes
from paddleseg_autoloss.own_images.config import SAVE_INTERVAL
from paddleseg_autoloss.own_images.folder import Options, Result
from paddleseg_autoloss.own_images.masks import IGNORE
from paddleseg_autoloss.own_images.pairing import Pair
from paddleseg_autoloss.text_tables import align_columns

__all__ = ["summary"]

_MOST_SHOWN = 10
_PARTS = {"train": "to train on", "val": "to validate on", "test": "to test on"}


def summary(options: Options, result: Result) -> str:
    """Return what was found and made, and the commands to go on with.

    Args:
        options: what the user said.
        result: what was made.
    """
    return "\n".join(
        [
            _pairs(options, result),
            *_together(result),
            *_left_out(options, result),
            _masks(options, result),
            "",
            align_columns(list(_table(result))),
            *_absent(options, result),
            *_noted(result),
            "",
            f"{options.save_dir / 'config.yml'} trains {result.plan.iters} iterations at "
            f"{' x '.join(map(str, result.plan.target_size))} pixels. Next:",
            "",
            *_commands(options, result),
        ]
    )


def _pairs(options: Options, result: Result) -> str:
    parts = [f"{len(part)} {_PARTS[name]}" for name, part in result.parts.items()]
    total = sum(map(len, result.parts.values()))
    return f"{total} images with masks: {', '.join(parts)} (seed {options.seed})"


def _together(result: Result) -> Iterator[str]:
    if result.together:
        first = result.together[0]
        yield f"Images whose names begin alike stay in one list, such as those of {first}"
    if result.divided is not None:
        yield (
            f"Images of {result.divided} are in several lists, as their names show no groups that "
            "fit: if they show one thing, the figures will be too good; then write the lists by "
            "hand"
        )


def _left_out(options: Options, result: Result) -> Iterator[str]:
    if not result.left_out:
        return
    noun = "file is" if len(result.left_out) == 1 else "files are"
    path = options.save_dir / "left_out.txt"
    yield f"{len(result.left_out)} {noun} left out; {path} has the list:"
    yield from (f"  {one}" for one in result.left_out[:_MOST_SHOWN])
    if len(result.left_out) > _MOST_SHOWN:
        yield "  ..."


def _masks(options: Options, result: Result) -> str:
    if result.classes.is_identity:
        return "The masks hold classes already and are used as they are"
    return (
        f"Copies of the masks with classes from 0 to {len(result.classes) - 1} are in "
        f"{options.save_dir / 'masks'}; the masks themselves stay as they are"
    )


def _table(result: Result) -> Iterator[tuple[str, ...]]:
    """A row for each class: its share of the pixels, and in how many images it occurs."""
    parts = result.parts
    pixels = {n: sum((result.counts[p.name] for p in part), Counter()) for n, part in parts.items()}
    noun = "colour" if result.classes.is_coloured else "value"
    yield (
        "class",
        f"{noun} in the masks",
        *(f"pixels, {name}" for name in parts),
        *(f"images, {name}" for name in parts),
    )
    rows = [(number, str(number), result.classes.label(number)) for number in _numbers(result)]
    if any(count[IGNORE] for count in pixels.values()):
        rows.append((IGNORE, "ignored", str(IGNORE)))
    for number, name, label in rows:
        shares = (count[number] / sum(count.values()) for count in pixels.values())
        holding = (sum(result.counts[p.name][number] > 0 for p in one) for one in parts.values())
        yield (name, label, *(f"{share:.2%}" for share in shares), *map(str, holding))


def _numbers(result: Result) -> range:
    return range(len(result.classes))


def _absent(options: Options, result: Result) -> Iterator[str]:
    """Say which classes no mask has, and which a list lacks."""
    held = {name: _classes_in(result, part) for name, part in result.parts.items()}
    anywhere = set().union(*held.values())
    nowhere = [number for number in _numbers(result) if number not in anywhere]
    if nowhere:
        entries = " ".join(result.classes.label(number) for number in sorted(anywhere))
        advice = f"; for {len(anywhere)} classes give --palette {entries}"
        yield (
            f"warning: no mask has {_named(nowhere)}, but the network predicts "
            f"{len(result.classes)} classes{advice if options.palette is None else ''}"
        )
    for name, found in held.items():
        absent = sorted(anywhere - found)
        if absent:
            yield f"warning: {name}.txt lacks {_named(absent)}; another --seed may help"


def _noted(result: Result) -> Iterator[str]:
    """Name images that training sees in another way than their owner."""
    yield from (f"warning: {note}" for note in describe_notes(result.notes))


def _classes_in(result: Result, part: Sequence[Pair]) -> set[int]:
    held = set().union(*(result.counts[pair.name].keys() for pair in part))
    return held & {*_numbers(result)}


def _named(classes: Sequence[int]) -> str:
    noun = "class" if len(classes) == 1 else "classes"
    return f"{noun} {', '.join(map(str, classes))}"


def _commands(options: Options, result: Result) -> Iterator[str]:
    folder = options.save_dir
    config = _word(folder / "config.yml")
    model = _word(folder / "run/best_model/model.pdparams")
    run = _word(folder / "run")
    yield f"  autoloss diagnose --config {config} --save_dir {_word(folder / 'diagnosis')}"
    yield (
        f"  autoloss train --config {config} --do_eval --save_interval {SAVE_INTERVAL} "
        f"--save_dir {run}"
    )
    yield f"  autoloss val --config {config} --model_path {model}"
    unseen = _word(folder / "val.txt")
    yield (
        f"  autoloss predict --config {config} --model_path {model} --image_path {unseen} "
        f"--masks {unseen} --save_dir {_word(folder / 'pictures')}"
    )


def _word(path: Path) -> str:
    return shlex.quote(str(path))
