"""The folders of the runs: configs, checkpoints, results, and the reasons of failures."""

from __future__ import annotations

import hashlib
import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from paddleseg.cvlibs import SegBuilder

from paddleseg_autoloss.checks import build
from paddleseg_autoloss.comparison.data import (
    Split,
    check_same_data,
    read_split,
    split_data,
    without_paths,
    written_split,
)
from paddleseg_autoloss.comparison.plan import Plan, Run
from paddleseg_autoloss.comparison.records import (
    read_attempts,
    read_evaluation,
    read_result,
    read_weights,
)
from paddleseg_autoloss.data_checks import build_dataset, read_batch
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.files import json_number, write_file, write_json
from paddleseg_autoloss.integration.checkpoint import newest_good_checkpoint
from paddleseg_autoloss.integration.config import load_config
from paddleseg_autoloss.yaml_files import read_yaml

__all__ = ["RunFolder", "check_written", "prepare", "prepare_others"]

_CONFIGS = ("config.yml", "config_test.yml")
_STEP = re.compile(r"iter: (\d+)/\d+, .*batch_cost: ([\d.]+)")
#: Number of lines at the end of the log that are stored for a failed run.
_ERROR_LINES = 20
#: Number of bytes at the end of a log that always contain its latest training line.
_LOG_TAIL = 8192


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


class RunFolder:
    """The folder of one run.

    A user can train the run with ``autoloss train --config config.yml``, and evaluate it on the
    test images with ``autoloss val --config config_test.yml``.  ``result.json`` is written last: if
    it exists, the run is done.

    Args:
        root: folder of the comparison.
        run: the run.
    """

    def __init__(self, root: Path, run: Run) -> None:
        self.run = run
        self.path = root / run.path
        self.result_path = self.path / "result.json"
        self.error_path = self.path / "error.txt"
        self.log_path = self.path / "train.log"
        self.model_path = self.path / "model.pdparams"
        self.evaluation_path = self.path / "evaluation.json"
        self.learned_path = self.path / "equivalent_mixed_loss.yml"

    @property
    def is_done(self) -> bool:
        """Whether the run has a result."""
        return self.result_path.is_file()

    def result(self) -> dict[str, Any] | None:
        """Return the results of the run, or None if it is not done."""
        return read_result(self.result_path) if self.is_done else None

    def error(self) -> str | None:
        """Return the last log lines of a failed run, or None if it did not fail."""
        if self.is_done or not self.error_path.is_file():
            return None
        return self.error_path.read_text(encoding="utf-8", errors="replace")

    def write_configs(self, split: Split) -> None:
        """Write the complete config; if the file already exists, check that it is the same.

        Args:
            split: the data sets for training and evaluation.

        Raises:
            ConfigError: the config cannot be loaded, or the folder belongs to a run with another
                config or origin.
        """
        self._check_origin()
        for path, content in self._configs(split).items():
            if path.is_file():
                found = read_yaml(path)
                self._check_same(path, found, content)
                self._check_paths(path, found, content)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_file(path, _yaml(content))
        for name in _CONFIGS:
            load_config(str(self.path / name))

    def check_configs(self, split: Split) -> None:
        """Check that the configs that are written are those of the run; write nothing.

        The paths of the images may be others, as somebody may report on a copy of the folder.

        Args:
            split: the data sets for training and evaluation.

        Raises:
            ConfigError: the folder belongs to a run with another config or origin.
        """
        self._check_origin()
        for path, content in self._configs(split).items():
            if path.is_file():
                self._check_same(path, read_yaml(path), content)

    def _configs(self, split: Split) -> dict[Path, dict[str, Any]]:
        """Return the contents of the configs, by their paths."""
        config = split.training(self.run.config)
        test_data = {**split.test(self.run.config), "_inherited_": False}
        test = {"_base_": "config.yml", "val_dataset": test_data}
        contents = (yaml.safe_load(_yaml(content)) for content in (config, test))
        return {self.path / name: content for name, content in zip(_CONFIGS, contents)}

    @property
    def has_config(self) -> bool:
        """Whether a config is written."""
        return (self.path / _CONFIGS[0]).is_file()

    def check_loss(self) -> None:
        """Build the loss as in training, to check it.

        Raises:
            ConfigError: the value of an argument is invalid.
        """
        builder = SegBuilder(load_config(str(self.path / _CONFIGS[0])))
        try:
            with redirect_stdout(StringIO()):
                build("loss", lambda: builder.loss)
        except ConfigError as error:
            raise ConfigError(f"{self.run.variant.name}: {error}") from error

    def read_first_images(self) -> None:
        """Read a training batch and a validation image, to check the transforms.

        Raises:
            DataError: a transform fails, or the images do not form a batch.
        """
        config = load_config(str(self.path / _CONFIGS[0]))
        builder = SegBuilder(config)
        with redirect_stdout(StringIO()):
            train = build_dataset(
                "train_dataset", config.train_dataset_cfg, lambda: builder.train_dataset
            )
            val = build_dataset("val_dataset", config.val_dataset_cfg, lambda: builder.val_dataset)
        for dataset, size in ((train, config.batch_size), (val, 1)):
            read_batch(dataset, range(min(size, len(dataset))))

    def _check_same(self, path: Path, found: dict[str, Any], content: dict[str, Any]) -> None:
        """Check that two configs are the same but for the paths of the images."""
        found, content = without_paths(found), without_paths(content)
        known = found.keys() | content.keys()
        if self.run.variant.kind == "retrain_of":
            known -= {"loss"}
        for key in sorted(known):
            if found.get(key) != content.get(key):
                raise ConfigError(
                    f"--save_dir: expected the {key} of this config in {path}, found another one; "
                    "choose another --save_dir"
                )

    def _check_paths(self, path: Path, found: dict[str, Any], content: dict[str, Any]) -> None:
        if any(found.get(key) != content.get(key) for key in ("train_dataset", "val_dataset")):
            raise ConfigError(
                f"--save_dir: {path} names other data sets or lists than this comparison has now; "
                "a folder that was moved or copied can only be read, with --report_only: move it "
                "or the data sets back, or choose another --save_dir"
            )

    def _origin(self) -> dict[str, str | None]:
        """Return what a run depends on and its config does not say."""
        script = self.run.variant.script
        return {
            "script": hashlib.sha256(script.read_bytes()).hexdigest() if script else None,
            "retrain_of": self.run.variant.source,
        }

    def _check_origin(self) -> None:
        """Check that a finished run has this origin."""
        result = self.result() or {}
        for key, own in self._origin().items():
            # Earlier versions did not write it.
            if result.get(key, own) != own:
                raise ConfigError(
                    f"--save_dir: expected the {key} of this config in {self.result_path}, found "
                    f"another one, or none; delete {self.path}, or choose another --save_dir"
                )

    def check_learned_loss(self, source: RunFolder) -> None:
        """Check that a finished run was trained with the final weights of another run.

        Args:
            source: folder of that run.

        Raises:
            ConfigError: it was trained with other weights, such as those of another variant.
        """
        path = self.path / _CONFIGS[0]
        if not (self.is_done and path.is_file() and source.learned_path.is_file()):
            return
        if read_yaml(path).get("loss") != source.learned_loss():
            raise ConfigError(
                f"--save_dir: expected the weights of {source.run} in {path}, found others; delete "
                f"{self.path}, or choose another --save_dir"
            )

    def learned_loss(self) -> dict[str, Any]:
        """Return the config of the loss with the final weights as fixed coefficients.

        Raises:
            ConfigError: the run has no weights that fixed coefficients can replace.
        """
        if not self.learned_path.is_file():
            raise ConfigError(
                f"retrain_of: expected equivalent_mixed_loss.yml from {self.run}, found none: it "
                "learned no weights, or weights that fixed coefficients cannot replace"
            )
        final = read_yaml(self.learned_path)
        if "loss" not in final:
            raise ConfigError(f"retrain_of: {self.learned_path}: expected the key loss, found none")
        return final["loss"]

    def use_learned_loss(self, source: RunFolder) -> None:
        """Train with the final weights of another run as fixed coefficients.

        What was trained with other weights before is deleted.

        Args:
            source: folder of that run.

        Raises:
            ConfigError: that run has no weights that fixed coefficients can replace.
        """
        path, loss = self.path / _CONFIGS[0], source.learned_loss()
        config = read_yaml(path)
        if config.get("loss") != loss:
            self.clear()
            write_file(path, _yaml({**config, "loss": loss}))

    def clear(self) -> None:
        """Delete all files except the configs."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in _CONFIGS:
                path.unlink()

    def clear_evaluation(self) -> None:
        """Delete the evaluation and the error, and keep the trained network."""
        # The error is last: without it, a run that is killed here would keep a broken evaluation.
        for name in ("samples.npz", "evaluation.log", "evaluation.json", "error.txt"):
            (self.path / name).unlink(missing_ok=True)

    def checkpoint(self) -> Path | None:
        """Return the newest good checkpoint, or None."""
        return newest_good_checkpoint(self.path)

    def attempts(self) -> list[dict[str, float]]:
        """Return the first iteration and the seconds of every attempt to train the run."""
        path = self.path / "attempts.json"
        return read_attempts(path) if path.is_file() else []

    def write_attempts(self, attempts: list[dict[str, float]]) -> None:
        """Write the list that `attempts` reads."""
        write_json(self.path / "attempts.json", attempts)

    def keep_model(self) -> bool:
        """Keep only the network of the final checkpoint; return whether there is one."""
        final = self.path / f"iter_{self.run.config['iters']}" / self.model_path.name
        if not final.is_file():
            return False
        final.replace(self.model_path)
        for folder in [*self.path.glob("iter_*"), self.path / "best_model"]:
            shutil.rmtree(folder, ignore_errors=True)
        return True

    def iteration(self) -> int:
        """Return the iteration of the latest training line in the log, 0 before the first one."""
        if not self.log_path.is_file():
            return 0
        with open(self.log_path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _LOG_TAIL))
            steps = _STEP.findall(file.read().decode(errors="replace"))
        return int(steps[-1][0]) if steps else 0

    def write_result(self, versions: Mapping[str, str], device: str) -> dict[str, Any]:
        """Write the results of the run; after that the run counts as done.

        Args:
            versions: versions of the software, by name.
            device: device of the run.
        """
        attempts = self.attempts()
        steps = _STEP.findall(self.log_path.read_text(encoding="utf-8", errors="replace"))
        result = {
            "variant": self.run.variant.name,
            "learning_rate": self.run.learning_rate,
            "seed": self.run.seed,
            "iterations": self.run.config["iters"],
            **self._origin(),
            "wall_seconds": round(sum(attempt["seconds"] for attempt in attempts), 2),
            "step_seconds": statistics.median(float(cost) for _, cost in steps) if steps else None,
            "resumed_from": [attempt["from"] for attempt in attempts if attempt["from"]],
            "weights": self._final_weights(),
            "validation_curve": list(self._recorded_curve().items()),
            "learned_parameters": self._recorded_parameters(),
            **read_evaluation(self.evaluation_path),
            "device": device,
            "versions": dict(versions),
        }
        self.error_path.unlink(missing_ok=True)
        write_json(self.result_path, result)
        return result

    def _final_weights(self) -> dict[str, float]:
        history = self.weights()
        if history is None or history.empty:
            return {}
        last = history[history.iteration == history.iteration.max()]
        return dict(zip(last.term, last.weight))

    def weights(self) -> pd.DataFrame | None:
        """Return ``loss_weights.csv``: iteration, term, raw, weight, weighted; None without it.

        A loss that learns weights of its own has no weight there and is left out.
        """
        path = self.path / "loss_weights.csv"
        if not path.is_file():
            return None
        return read_weights(path).dropna(subset=["weight"])

    def validation_curve(self) -> dict[int, float]:
        """Return the mIoU on the validation images by iteration."""
        result = self.result() or {}
        if "validation_curve" not in result:
            # The run is not done, or an earlier version trained it.
            return self._recorded_curve()
        return {int(i): json_number(value) for i, value in result["validation_curve"]}

    def learned_parameters(self) -> dict[str, float]:
        """Return the final values of what methods learn, named ``PARAMETER/TERM``."""
        result = self.result() or {}
        if "learned_parameters" not in result:
            return self._recorded_parameters()
        return {name: json_number(v) for name, v in result["learned_parameters"].items()}

    def _recorded_curve(self) -> dict[int, float]:
        return dict(sorted(self._records("Evaluate/mIoU").get("", {}).items()))

    def _recorded_parameters(self) -> dict[str, float]:
        curves = self._records("Loss_parameter/")
        return {name: curve[max(curve)] for name, curve in curves.items()}

    def _records(self, prefix: str) -> dict[str, dict[int, float]]:
        """Return VisualDL's curves with a prefix, by the rest of their names."""
        from visualdl import LogReader

        curves: dict[str, dict[int, float]] = {}
        for path in sorted(self.path.glob("vdlrecords.*.log")):
            reader = LogReader(file_path=str(path))
            for tag in reader.get_tags().get("scalar", ()):
                if tag.startswith(prefix):
                    points = {record.id: record.value for record in reader.get_data("scalar", tag)}
                    curves.setdefault(tag.removeprefix(prefix), {}).update(points)
        return curves

    def write_error(self, reason: str, log: Path) -> None:
        """Write why the run failed, with the last lines of a log."""
        lines = []
        if log.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        write_file(self.error_path, "\n".join([reason, *lines[-_ERROR_LINES:]]) + "\n")


def _yaml(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=_NoAliases, sort_keys=False, allow_unicode=True)


def prepare(plan: Plan, save_dir: Path) -> list[RunFolder]:
    """Check everything that can be checked before training; write lists and configs of all runs.

    Args:
        plan: the comparison.
        save_dir: its folder.

    Raises:
        ConfigError: a config or an option is invalid; nothing was trained.
        DataError: an image is missing or broken.
    """
    check_same_data(plan)
    split = split_data(plan, save_dir / "split")
    folders = [RunFolder(save_dir, run) for run in plan.runs()]
    for folder in folders:
        folder.write_configs(split)
    _check_learned_losses(folders)
    for folder in {folder.run.variant.name: folder for folder in folders}.values():
        folder.check_loss()
    for folder in {_reading(folder.run.config): folder for folder in folders}.values():
        folder.read_first_images()
    return folders


def prepare_others(plan: Plan, save_dir: Path, rates: Mapping[str, float]) -> list[RunFolder]:
    """Write the configs of the runs at the chosen learning rates, after `prepare`.

    Args:
        plan: the comparison.
        save_dir: its folder.
        rates: the chosen learning rate of each variant that has one, by its name.

    Raises:
        ConfigError: a folder belongs to a run with another config.
    """
    folders = [RunFolder(save_dir, run) for run in plan.runs_at(rates)]
    split = written_split(plan, save_dir / "split")
    for folder in folders:
        folder.write_configs(split)
    return folders


def check_written(plan: Plan, save_dir: Path, folders: Sequence[RunFolder]) -> None:
    """Check that a folder has the runs of a plan, as `prepare` does; write nothing.

    Args:
        plan: the comparison.
        save_dir: its folder.
        folders: the folders of its runs.

    Raises:
        ConfigError: a run was trained with another config, or with other images held out.
    """
    found, split = [f for f in folders if f.has_config], written_split(plan, save_dir / "split")
    if found:
        read_split(plan, save_dir / "split")
    for folder in found:
        folder.check_configs(split)
    _check_learned_losses(folders)


def _check_learned_losses(folders: Sequence[RunFolder]) -> None:
    """Check that finished runs that are retrained have the weights of the runs they name."""
    by_run = {folder.run.key: folder for folder in folders}
    for folder in folders:
        source = folder.run.source
        if source is not None:
            folder.check_learned_loss(by_run[source])


def _reading(config: dict[str, Any]) -> str:
    """Return the part of a config on which reading depends."""
    return _yaml({key: config.get(key) for key in ("train_dataset", "val_dataset", "batch_size")})
