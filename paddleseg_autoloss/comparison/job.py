"""The execution of one run: train, evaluate, write the result."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle
import paddleseg

import paddleseg_autoloss
from paddleseg_autoloss.comparison.folders import RunFolder
from paddleseg_autoloss.comparison.plan import Plan
from paddleseg_autoloss.comparison.processes import describe_status, kill_process, start_process
from paddleseg_autoloss.errors import AutoLossError, ConfigError, typed_line
from paddleseg_autoloss.installation import package_command

__all__ = ["Commands", "Job"]

#: How an error about data begins.
_DATA_KEYS = ("train_dataset: ", "train_dataset.", "val_dataset: ", "val_dataset.")


class _ProcessFailed(AutoLossError):
    """A process of a run failed."""


@dataclass(frozen=True)
class Commands:
    """The command lines of the runs.

    Args:
        plan: the comparison.
        args: the flags ``device``, ``num_workers``, ``log_iters`` and ``samples``.
    """

    plan: Plan
    args: Namespace

    def train(self, folder: RunFolder, checkpoint: Path | None) -> list[str]:
        """Return the command that trains a run, from a checkpoint if there is one."""
        run, iterations = folder.run, folder.run.config["iters"]
        program = [*package_command("paddleseg_autoloss"), "train"]
        if run.variant.script is not None:
            program = [sys.executable, str(run.variant.script)]
        options: dict[str, Any] = {
            "config": folder.path / "config.yml",
            "save_dir": folder.path,
            "seed": run.seed,
            "device": self.args.device,
            "num_workers": self.args.num_workers,
            "save_interval": min(self.plan.interval(run.variant), iterations),
            "log_iters": min(self.args.log_iters, iterations),
            "keep_checkpoint_max": 1,
        }
        if checkpoint is not None:
            options["resume_model"] = checkpoint
        return [*program, *_flags(options), "--do_eval", "--use_vdl"]

    def evaluate(self, folder: RunFolder) -> list[str]:
        """Return the command that evaluates the final network of a run."""
        options: dict[str, Any] = {
            "folder": folder.path,
            "device": self.args.device,
            "num_workers": self.args.num_workers,
            # The report shows predictions of the first seed only.
            "samples": self.args.samples if folder.run.seed == self.plan.seeds[0] else 0,
        }
        program = package_command("paddleseg_autoloss.comparison.evaluation")
        return [*program, *_flags(options)]


def _flags(options: dict[str, Any]) -> list[str]:
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


class Job:
    """The execution of a run: one process trains, then another one evaluates.

    Args:
        folder: folder of the run.
        source: folder of the run whose weights it trains with, or None.
        environment: environment variables of its processes.
        commands: the command lines of the comparison.

    Attributes:
        error: the reason why the run failed, or None.
        is_data_error: whether the reason is the data, which all runs share.
    """

    def __init__(
        self,
        folder: RunFolder,
        source: RunFolder | None,
        environment: dict[str, str],
        commands: Commands,
    ) -> None:
        self.folder = folder
        self.environment = environment
        self.error: str | None = None
        self.is_data_error = False
        self._commands = commands
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder.log_path
        self._iteration = 0
        self._is_over = False
        self._steps = self._work(source)
        self._go_on()

    def _work(self, source: RunFolder | None) -> Generator[None, None, None]:
        """Do all remaining work of the run; yield while one of its processes is running."""
        folder = self.folder
        self._discard_leftovers()
        if source is not None and not source.is_done:
            raise ConfigError(
                f"retrain_of: {source.run} failed, so there are no weights to train with"
            )
        if not folder.model_path.is_file():
            if source is not None:
                folder.use_learned_loss(source)
            yield from self._train()
        if not folder.evaluation_path.is_file():
            yield from self._run(folder.path / "evaluation.log", self._commands.evaluate(folder))
        folder.write_result(_versions(), self._commands.args.device)

    def _discard_leftovers(self) -> None:
        """Delete what a failed run, or a stopped script of the user, cannot go on from."""
        folder = self.folder
        has_failed, is_trained = folder.error_path.is_file(), folder.model_path.is_file()
        if has_failed and is_trained:
            folder.clear_evaluation()
        elif has_failed or (folder.run.variant.script is not None and not is_trained):
            folder.clear()

    def _train(self) -> Generator[None, None, None]:
        folder, iterations = self.folder, self.folder.run.config["iters"]
        checkpoint = folder.checkpoint()
        start = int(checkpoint.name[5:]) if checkpoint else 0
        since = time.monotonic()
        try:
            # This is also needed if no iteration is left, because the work after the last one may
            # be missing.
            yield from self._run(folder.log_path, self._commands.train(folder, checkpoint))
        finally:
            self._note_attempt(start, time.monotonic() - since)
        if not folder.keep_model():
            raise _ProcessFailed(f"the script wrote no iter_{iterations}")

    def _run(self, log: Path, command: list[str]) -> Generator[None, None, None]:
        """Run a command; yield while it is running.

        Raises:
            _ProcessFailed: its exit status is not 0.
        """
        self._log = log
        process = self._process = start_process(command, self.environment, log)
        while process.poll() is None:
            yield
        self._process = None
        if process.returncode != 0:
            reason = _last_error(log)
            self.is_data_error = reason.startswith(_DATA_KEYS)
            status = describe_status(process.returncode)
            raise _ProcessFailed(f"{status}: {reason}" if reason else status)

    def _note_attempt(self, start: int, seconds: float) -> None:
        attempt = {"from": start, "seconds": round(seconds, 2)}
        self.folder.write_attempts([*self.folder.attempts(), attempt])

    def is_over(self) -> bool:
        """Continue the work as far as possible; return whether the run is done or has failed."""
        if not self._is_over:
            self._go_on()
        return self._is_over

    def _go_on(self) -> None:
        """Work until the next wait; an error only makes this run fail, not the comparison."""
        try:
            next(self._steps)
        except StopIteration:
            self._is_over = True
        except AutoLossError as error:
            self._fail(str(error))
        except (OSError, ValueError, KeyError) as error:
            self._fail(typed_line(error))

    def _fail(self, reason: str) -> None:
        self._is_over = True
        self.error = reason
        self.folder.write_error(reason, self._log)

    def iteration(self) -> int:
        """Return the latest training iteration in the log."""
        self._iteration = max(self._iteration, self.folder.iteration())
        return self._iteration

    def stop(self) -> None:
        """Kill the process, and close the run.

        It continues from its last regular checkpoint, as after a crash.  So its numbers are the
        same as without the stop; from another iteration, dropout would draw other numbers.
        """
        if self._process is not None:
            kill_process(self._process)
        self._steps.close()


def _last_error(log: Path) -> str:
    """Return the last message of one of our commands if it is an error, otherwise an empty text."""
    lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    last = lines[-1] if lines else ""
    return last[len("error: ") :] if last.startswith("error: ") else ""


def _versions() -> dict[str, str]:
    """Return the versions of the software that a run uses."""
    return {
        "paddleseg_autoloss": paddleseg_autoloss.__version__,
        "paddle": paddle.__version__,
        "paddleseg": paddleseg.__version__,
        "python": platform.python_version(),
    }
