"""Train with mutated configs: each must work, or end in one line that names what to change.

    python tools/benchmarks/fuzz_configs.py --count 1500 --seed 0

Every config is one of a few small ones with one to three changes, drawn from the seed: values of
other kinds, keys misspelled, deleted or given twice, components swapped, lines of YAML broken.  It
is read, checked, built, tried on one batch, trained for one step and evaluated, on generated
images, in a process that is killed when it takes too long.  Counted are

- ``error``: one line that names a key of the config, or the file and its line;
- ``unnamed``: one line that names neither;
- ``accepted``: the step was taken;
- ``traceback``: any other exception, or a dead process;
- ``hang``: no end within the time.

What is none of error and accepted is printed; ``--only NUMBER`` shows a single config again.  With
``--out`` the results are kept in a file, and the same command goes on after the last one.
"""

from __future__ import annotations

import copy
import io
import json
import math
import multiprocessing
import random
import re
import resource
import sys
import tempfile
import traceback
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import paddle
import yaml
from paddleseg.cvlibs import manager
from tqdm import tqdm

from paddleseg_autoloss.datasets import SyntheticFundus
from paddleseg_autoloss.errors import AutoLossError
from paddleseg_autoloss.integration.config import load_config
from paddleseg_autoloss.integration.config_keys import KEYS
from paddleseg_autoloss.integration.loss_trial import try_losses
from paddleseg_autoloss.integration.parts import build_parts
from paddleseg_autoloss.integration.training import train

#: Address space of a worker beyond what it has when it starts.
_MEMORY = 4 * 2**30
_CE, _DICE = {"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}
_LOSSES: list[dict[str, Any]] = [
    {"types": [{"type": "MixedLoss", "losses": [_CE, _DICE], "coef": [0.8, 0.2]}], "coef": [1]},
    {
        "types": [{"type": "AutoWeightedLoss", "losses": [_CE, _DICE], "names": ["a", "b"]}],
        "coef": [1],
    },
    {
        "types": [{"type": "CAGrad", "losses": [_CE, {"type": "FocalLoss"}], "calpha": 0.5}],
        "coef": [1],
    },
    {"types": [{"type": "CrossEntropyLoss", "weight": [0.4, 0.6]}, _DICE], "coef": [1, 0.4]},
    {"types": [_CE], "coef": [1, 0.4]},
    {
        "types": [
            {"type": "DWA", "losses": [_CE, {"type": "LovaszSoftmaxLoss"}], "tau": 2.0},
            {"type": "OhemCrossEntropyLoss", "min_kept": 100, "thresh": 0.7},
        ],
        "coef": [1, 0.5],
    },
]
_AGGREGATORS = [{"type": "PCGrad"}, {"type": "Relobralo", "tau": 1.0}, {"type": "RLW"}]
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 255, 10**12, 0.5, -0.1, math.nan, math.inf, "", " ", "x",
    "1e-4", "0.1", "null", "../x", [], {}, [None], [[]], [1, "a"], [0.5, 0.5], [True, False],
    [0, 64], {"type": None}, {"type": []}, {"type": "DiceLoss"}, {"tyep": "DiceLoss"}, {1: 2},
    [{"type": "Normalize"}], "é\u202e",
)  # fmt: skip
_NUMBERS = (
    0, 1, 2, 3, 4, 5, 7, 16, 17, 33, 100, 255, 1000, 10**9, 0.0, 0.1, 0.5, 0.99, 1.0, 1.5, 10.0,
    1e3, 1e8, 1e-8, -1, -0.5,
)  # fmt: skip


def base_config(data: Path, draw: random.Random) -> dict[str, Any]:
    """Return a config that works."""
    loss = copy.deepcopy(draw.choice(_LOSSES))
    config: dict[str, Any] = {"batch_size": 2, "iters": 20}
    for mode in ("train", "val"):
        transforms: list[dict[str, Any]] = [{"type": "Resize", "target_size": [32, 32]}]
        if mode == "train":
            transforms.append({"type": "RandomHorizontalFlip", "prob": 0.5})
        config[f"{mode}_dataset"] = {
            "type": "Dataset",
            "mode": mode,
            "dataset_root": str(data),
            f"{mode}_path": str(data / f"{mode}_list.txt"),
            "num_classes": 2,
            "transforms": [*transforms, {"type": "Normalize"}],
        }
    schedule = {"type": "PolynomialDecay", "learning_rate": 0.01, "power": 0.9, "end_lr": 0}
    warm = {"warmup_iters": 5, "warmup_start_lr": 1.0e-5}
    config["lr_scheduler"] = schedule | (warm if draw.random() < 0.3 else {})
    config["optimizer"] = draw.choice(
        [
            {"type": "SGD", "momentum": 0.9, "weight_decay": 4.0e-5},
            {"type": "AdamW", "custom_cfg": [{"name": "classifier", "lr_mult": 2.0}]},
            {"type": "Adam", "grad_clip_cfg": {"name": "ClipGradByNorm", "clip_norm": 1.0}},
        ]
    )
    two_heads = len(loss["coef"]) == 2
    config["model"] = {"type": "FastSCNN", "num_classes": 2, "enable_auxiliary_loss": two_heads}
    config["loss"] = loss
    if draw.random() < 0.3 and not any("losses" in entry for entry in loss["types"]):
        config["loss_aggregator"] = draw.choice(_AGGREGATORS)
    if draw.random() < 0.3:
        config["test_config"] = {"aug_eval": True, "scales": [0.5, 1.0]}
    if draw.random() < 0.3:
        config["on_nonfinite"] = "skip"
    return copy.deepcopy(config)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Return all pairs of a container and a key or index in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


def mutate(config: dict[str, Any], draw: random.Random) -> None:
    """Change one thing of a config."""
    found = list(places(config))
    kind = draw.choice(("number",) * 4 + ("value",) * 3 + ("type", "delete", "swap", "wrap", "key"))
    wanted: Callable[[Any, Any], bool] = {
        "number": lambda owner, key: type(owner[key]) in (int, float),
        "type": lambda owner, key: key == "type",
        "key": lambda owner, key: isinstance(owner, dict),
    }.get(kind, lambda owner, key: True)
    owner, key = draw.choice([place for place in found if wanted(*place)] or found)
    value = owner[key]
    if kind == "delete":
        del owner[key]
    elif kind == "key" and isinstance(owner, dict):
        owner[misspelled(str(key), draw)] = draw.choice((owner.pop(key), draw.choice(_VALUES)))
    elif kind == "swap":
        other, other_key = draw.choice(found)
        owner[key] = copy.deepcopy(other[other_key])
    elif kind == "wrap":
        forms = ([value], {"type": value}, [value, value], {key: value}, str(value))
        owner[key] = draw.choice(forms)
    else:
        choices = {"number": _NUMBERS, "type": _types()}.get(kind, _VALUES)
        owner[key] = copy.deepcopy(draw.choice(choices))


def _types() -> Sequence[str]:
    registries = (manager.LOSSES, manager.LOSSES, manager.TRANSFORMS, manager.OPTIMIZERS)
    names = [name for registry in registries for name in registry.components_dict]
    return [*names, "StepDecay", "NoamDecay", "LinearLR", "ReduceOnPlateau", "Dataset", "nothing"]


def misspelled(word: str, draw: random.Random) -> str:
    """Return a word with two letters swapped, or one lost, doubled or capital."""
    place = draw.randrange(max(len(word) - 1, 1))
    left, right = word[:place], word[place:]
    return draw.choice(
        (left + right[1:2] + right[:1] + right[2:], left + right[1:], left + right[:1] + right,
         left + right[:1].upper() + right[1:])
    )  # fmt: skip


def mutate_text(text: str, draw: random.Random) -> str:
    """Change one line of YAML, or one character."""
    lines = text.split("\n")
    row = draw.randrange(len(lines))
    line = lines[row]
    column = draw.randrange(len(line) + 1)
    sign = draw.choice("{}[]:,&*!|>'\"%@`#\0\u2028-? ")
    lines[row] = draw.choice(
        (f"{line}\n{line}", " " + line, line[1:], line[:column], f"{line} &a", f"{line} *a",
         "\t" + line, line[:column] + sign + line[column:], f"<<: *a\n{line}")
    )  # fmt: skip
    return "\n".join(lines)


def make(number: int, seed: int, data: Path) -> str:
    """Return the text of a mutated config."""
    draw = random.Random(f"{seed}:{number}")
    config = base_config(data, draw)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        mutate(config, draw)
        if not config:
            break
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return mutate_text(text, draw) if draw.random() < 0.15 else text


def attempt(path: Path, folder: Path) -> dict[str, str]:
    """Do with a config all that training does, and say how it ended."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            _train_one_step(path, folder)
        return {"outcome": "accepted", "message": ""}
    except AutoLossError as error:
        message = str(error)
        if "\n" in message or len(message) > 1000:
            return {"outcome": "traceback", "message": f"not one line: {message}"}
        return {"outcome": "error" if names_a_key(message, path) else "unnamed", "message": message}
    except Exception:
        return {"outcome": "traceback", "message": traceback.format_exc()}


def _train_one_step(path: Path, folder: Path) -> None:
    with paddle.utils.unique_name.guard():
        config = load_config(str(path))
        flags = Namespace(seed=0, device="cpu", num_workers=0)
        has_val = bool(config.val_dataset_cfg)
        parts = build_parts(config, flags, with_val_dataset=has_val)
        try_losses(parts.model, parts.train_dataset, parts.losses, config.batch_size)
        train(
            parts.model, parts.train_dataset, val_dataset=parts.val_dataset,
            optimizer=parts.optimizer, save_dir=str(folder), iters=1, save_interval=1, log_iters=1,
            batch_size=config.batch_size, losses=parts.losses, test_config=config.test_config,
        )  # fmt: skip


def names_a_key(message: str, path: Path) -> bool:
    """Whether an error begins with a key of the config, or names the file and its line."""
    if message.startswith((f"{path}, line ", f"{path}: it ", f"{path}: expected keys")):
        return True
    key = re.match(r"\s*([^.:\[]+)(\[\d+\])*(\.|:)", message)
    if key and key[1] in KEYS | {"_base_", "iteration 1"}:
        return True
    # An unknown key at top level may be anything.
    return ": there is no such key" in message


def work(connection: Any, data: Path) -> None:
    """Answer requests for attempts until there are no more."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
    while (request := connection.recv()) is not None:
        number, seed = request
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "config.yml")
            path.write_text(make(number, seed, data), encoding="utf-8")
            connection.send(attempt(path, Path(folder, "run")))


class Worker:
    """A process that attempts one config after the other, and is started anew when it dies."""

    def __init__(self, data: Path, seed: int, timeout: float) -> None:
        self.data, self.seed, self.timeout = data, seed, timeout
        self.process: Any = None

    def start(self) -> None:
        """Start the process."""
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, self.data), daemon=True)
        self.process.start()
        other.close()

    def run(self, number: int) -> dict[str, str]:
        """Attempt one config."""
        # Another process imports Paddle first, which takes its time.
        extra = 0.0
        if self.process is None or not self.process.is_alive():
            self.start()
            extra = 120.0
        try:
            self.connection.send((number, self.seed))
            if self.connection.poll(self.timeout + extra):
                return self.connection.recv()
            self.stop()
            return {"outcome": "hang", "message": f"no end within {self.timeout:g} s"}
        except (EOFError, BrokenPipeError):
            self.stop()
            return {"outcome": "traceback", "message": f"exit code {self.process.exitcode}"}

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()


def fuzz(
    numbers: Sequence[int], seed: int, timeout: float, report: Callable[[int, dict[str, str]], None]
) -> None:
    """Attempt configs in a worker, and report each result.

    Args:
        numbers: of the configs.
        seed: of the changes.
        timeout: seconds for each.
        report: takes the number and the result.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        with redirect_stdout(io.StringIO()):
            SyntheticFundus(str(data), transforms=[], num_train=8, num_val=2, image_size=64)
        worker = Worker(data, seed, timeout)
        try:
            for number in numbers:
                report(number, worker.run(number))
        finally:
            worker.stop()


def earlier_results(path: str, seed: int) -> dict[int, dict[str, Any]]:
    """Return the results in a file that are of a seed, by number; a line cut short is left out."""
    results = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []:
        with suppress(ValueError):
            result = json.loads(line)
            if result["seed"] == seed:
                results[result["number"]] = result
    return results


def main() -> int:
    """Run the command, and return its exit status."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1500, help="configs; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the changes; default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--only", type=int, help="number of the only one, which is shown")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for each")
    parser.add_argument("--out", help="JSON-lines file of all results, to go on from")
    args = parser.parse_args()
    numbers = list(range(args.first, args.first + args.count))
    if args.only is not None:
        numbers = [args.only]
        print(make(args.only, args.seed, Path("data")))
    results = earlier_results(args.out, args.seed) if args.only is None and args.out else {}
    counts = Counter(results[number]["outcome"] for number in numbers if number in results)
    progress = tqdm(total=len(numbers), initial=sum(counts.values()), disable=None)

    def report(number: int, result: dict[str, str]) -> None:
        counts[result["outcome"]] += 1
        progress.update()
        if args.out:
            with open(args.out, "a", encoding="utf-8") as file:
                file.write(json.dumps({"seed": args.seed, "number": number, **result}) + "\n")
        if result["outcome"] not in ("error", "accepted") or args.only is not None:
            progress.write(f"{number}: {result['outcome']}: {result['message']}")

    fuzz([n for n in numbers if n not in results], args.seed, args.timeout, report)
    progress.close()
    for outcome in ("error", "unnamed", "accepted", "traceback", "hang"):
        print(f"{outcome:10} {counts[outcome]}")
    return 1 if counts["traceback"] or counts["hang"] else 0


if __name__ == "__main__":
    sys.exit(main())
