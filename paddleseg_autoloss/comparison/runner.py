"""Trains the runs of a comparison, each in a process of its own."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import paddle
import paddleseg
from paddleseg.utils import logger
from tqdm import tqdm

import paddleseg_autoloss
from paddleseg_autoloss.comparison.data import Split, check_same_data, split_data
from paddleseg_autoloss.comparison.folders import RunFolder
from paddleseg_autoloss.comparison.plan import Plan, Run
from paddleseg_autoloss.errors import AutoLossError, ConfigError
from paddleseg_autoloss.installation import CHECKOUT, package_command

__all__ = ["Runner", "locked", "prepare", "versions"]

#: Seconds between two looks at the processes.
_POLL = 0.1
#: Seconds that a process gets to stop by itself.
_GRACE = 30
_SET_PARENT_DEATH_SIGNAL = 1


def versions() -> dict[str, str]:
    """Return the versions of what runs are made with."""
    return {
        "paddleseg_autoloss": paddleseg_autoloss.__version__,
        "paddle": paddle.__version__,
        "paddleseg": paddleseg.__version__,
        "python": platform.python_version(),
    }


def prepare(plan: Plan, save_dir: Path) -> list[RunFolder]:
    """Write the list files and the configs of all runs, and check all that can be.

    Args:
        plan: the comparison.
        save_dir: its folder.

    Raises:
        ConfigError: something cannot work; nothing has been trained then.
        DataError: an image is missing or broken.
    """
    check_same_data(plan)
    split: Split = split_data(plan, save_dir / "split")
    folders = [RunFolder(save_dir, run) for run in plan.runs()]
    for folder in folders:
        folder.write_configs(split)
    for folder in {folder.run.variant.name: folder for folder in folders}.values():
        folder.check_loss()
    return folders


class Runner:
    """Trains and evaluates the runs that are not done.

    Args:
        plan: the comparison.
        folders: of its runs, in the order to start them.
        args: the flags ``jobs``, ``device``, ``num_workers``, ``log_iters`` and ``samples``.
    """

    def __init__(self, plan: Plan, folders: Sequence[RunFolder], args: Namespace) -> None:
        self.plan = plan
        self.folders = list(folders)
        self.args = args
        self.by_key = {_key(folder.run): folder for folder in folders}
        self.failed: list[RunFolder] = []
        self._devices = _visible_devices() if args.device == "gpu" else []
        self._jobs: list[_Job] = []

    def run(self) -> list[RunFolder]:
        """Do what is left to do; return the folders of the runs that failed.

        Raises:
            KeyboardInterrupt: the comparison was stopped; its processes have ended.
        """
        waiting = [folder for folder in self.folders if not folder.is_done]
        done = len(self.folders) - len(waiting)
        if done:
            logger.info(f"{done} of {len(self.folders)} runs are done already")
        total = sum(folder.run.config["iters"] for folder in waiting)
        seconds = 1 if sys.stderr.isatty() else 60
        progress = tqdm(total=total, unit="it", smoothing=0, mininterval=seconds)
        with _Interruption() as interruption, progress:
            try:
                self._work(waiting, progress, interruption)
            except BaseException:
                for job in self._jobs:
                    job.interrupt()
                for job in self._jobs:
                    job.wait()
                raise
        return self.failed

    def _work(self, waiting: list[RunFolder], progress: tqdm, interruption: _Interruption) -> None:
        finished = 0
        while waiting or self._jobs:
            interruption.check()
            self._start(waiting)
            time.sleep(_POLL)
            for job in list(self._jobs):
                if job.is_over():
                    self._jobs.remove(job)
                    finished += job.folder.run.config["iters"]
                    self._report(job, f"{self._count(waiting)} runs", progress)
            progress.set_description(f"{self._count(waiting)} runs", refresh=False)
            progress.update(finished + sum(job.iteration() for job in self._jobs) - progress.n)

    def _start(self, waiting: list[RunFolder]) -> None:
        """Start as many of the waiting runs as there is room for."""
        for folder in list(waiting):
            if len(self._jobs) >= self.args.jobs:
                return
            source = self._source(folder.run)
            if source is not None and (source in waiting or self._is_running(source)):
                continue
            waiting.remove(folder)
            self._jobs.append(_Job(folder, source, self._environment(), self))

    def _source(self, run: Run) -> RunFolder | None:
        name = run.variant.source
        return self.by_key[name, run.learning_rate, run.seed] if name is not None else None

    def _is_running(self, folder: RunFolder) -> bool:
        return any(job.folder is folder for job in self._jobs)

    def _environment(self) -> dict[str, str]:
        """Let a process find this package, and have a card of its own where there are several."""
        environment = dict(os.environ)
        if CHECKOUT is not None:
            path = filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")])
            environment["PYTHONPATH"] = os.pathsep.join(path)
        if self._devices:
            used = [job.environment["CUDA_VISIBLE_DEVICES"] for job in self._jobs]
            environment["CUDA_VISIBLE_DEVICES"] = min(self._devices, key=used.count)
        return environment

    def _count(self, waiting: list[RunFolder]) -> str:
        left = len(waiting) + len(self._jobs)
        return f"{len(self.folders) - left}/{len(self.folders)}"

    def _report(self, job: _Job, count: str, progress: tqdm) -> None:
        folder = job.folder
        if job.error is not None:
            self.failed.append(folder)
            progress.write(f"{count}: failed: {folder.run}: {job.error}; see {folder.error_path}")
            return
        result = folder.result() or {}
        progress.write(
            f"{count}: done: {folder.run}: test mIoU {result['test']['mIoU']:.4f}, "
            f"{result['wall_seconds']:.0f} s"
        )


class _Job:
    """A run at work: a process that trains, then one that evaluates.

    Args:
        folder: of the run.
        source: of the run whose weights it trains with, or None.
        environment: of its processes.
        runner: knows the flags.
    """

    def __init__(
        self,
        folder: RunFolder,
        source: RunFolder | None,
        environment: dict[str, str],
        runner: Runner,
    ) -> None:
        self.folder = folder
        self.environment = environment
        self.error: str | None = None
        self._runner = runner
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder.log_path
        self._since = 0.0
        self._start_iter = 0
        self._iteration = 0
        self._guarded(lambda: self._begin(source))

    def _guarded(self, step: Callable[[], Any]) -> None:
        """Do something; where it fails, the run has failed and not the comparison."""
        try:
            step()
        except AutoLossError as error:
            self._fail(str(error))
        except (OSError, ValueError, KeyError) as error:
            self._fail(f"{type(error).__name__}: {error}")

    def _begin(self, source: RunFolder | None) -> None:
        """Start the run; what failed, or cannot be continued, starts afresh."""
        folder = self.folder
        foreign = folder.run.variant.script is not None
        if folder.error_path.is_file() or (foreign and not folder.model_path.is_file()):
            folder.clear()
        if source is not None and not source.is_done:
            raise ConfigError(
                f"retrain_of: {source.run} failed, and with it the weights to train with"
            )
        if source is not None and not folder.model_path.is_file():
            folder.use_learned_loss(source)
        self._next()

    def _next(self) -> None:
        """Start the next process, or write the result if there is nothing left to do."""
        folder = self.folder
        checkpoint = folder.checkpoint()
        iterations = folder.run.config["iters"]
        self._start_iter = int(checkpoint.name[5:]) if checkpoint else 0
        if not folder.model_path.is_file() and self._start_iter == iterations:
            folder.keep_model()
        if not folder.model_path.is_file():
            self._launch(folder.log_path, self._train_command(checkpoint))
        elif not folder.evaluation_path.is_file():
            self._launch(folder.path / "evaluation.log", self._evaluation_command())
        else:
            folder.write_result(versions(), self._runner.args.device)

    def _train_command(self, checkpoint: Path | None) -> list[str]:
        run, args = self.folder.run, self._runner.args
        program = [*package_command("paddleseg_autoloss"), "train"]
        if run.variant.script is not None:
            program = [sys.executable, str(run.variant.script)]
        iterations = run.config["iters"]
        interval = min(self._runner.plan.interval(run.variant), iterations)
        options = {
            "config": self.folder.path / "config.yml",
            "save_dir": self.folder.path,
            "seed": run.seed,
            "device": args.device,
            "num_workers": args.num_workers,
            "save_interval": interval,
            "log_iters": min(args.log_iters, iterations),
            "keep_checkpoint_max": 1,
        }
        if checkpoint is not None:
            options["resume_model"] = checkpoint
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        return [*program, *flags, "--do_eval", "--use_vdl"]

    def _evaluation_command(self) -> list[str]:
        args = self._runner.args
        # The report shows predictions of the first seed only.
        samples = args.samples if self.folder.run.seed == self._runner.plan.seeds[0] else 0
        program = package_command("paddleseg_autoloss.comparison.evaluation")
        options = ["--device", args.device, "--num_workers", args.num_workers, "--samples", samples]
        return [*program, "--folder", str(self.folder.path), *map(str, options)]

    def _launch(self, log: Path, command: list[str]) -> None:
        self._log = log
        self._since = time.monotonic()
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_follow_parent,
            )

    def is_over(self) -> bool:
        """Look after the process; return whether the run is done or has failed."""
        if self._process is None:
            return True
        status = self._process.poll()
        if status is None:
            return False
        self._process = None
        training = self._log == self.folder.log_path
        if training:
            self._note_attempt()
        if status != 0:
            self._fail(_reason(status))
        elif training and not self.folder.keep_model():
            self._fail(f"the script wrote no iter_{self.folder.run.config['iters']}")
        else:
            self._guarded(self._next)
        return self._process is None

    def _note_attempt(self) -> None:
        seconds = round(time.monotonic() - self._since, 2)
        attempt = {"from": self._start_iter, "seconds": seconds}
        self.folder.write_attempts([*self.folder.attempts(), attempt])

    def _fail(self, reason: str) -> None:
        self.error = reason
        self.folder.write_error(reason, self._log)

    def iteration(self) -> int:
        """Return how far training is; the log loses sight of it during an evaluation."""
        self._iteration = max(self._iteration, self.folder.iteration())
        return self._iteration

    def interrupt(self) -> None:
        """Let the process stop as after Ctrl-C: training can be continued."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Wait for the process to stop, for some time only."""
        if self._process is None:
            return
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._log == self.folder.log_path:
            self._note_attempt()


def _key(run: Run) -> tuple[str, float, int]:
    return run.variant.name, run.learning_rate, run.seed


def _reason(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


_LIBC = ctypes.CDLL(None)


def _follow_parent() -> None:
    """Between fork and exec: listen to Ctrl-C, and do not outlive a parent that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _visible_devices() -> list[str]:
    """The cards to share out, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device.strip()]
    return [str(index) for index in range(paddle.device.cuda.device_count())]


class _Interruption:
    """Keeps Ctrl-C, and a request to end, until it is safe: between two processes' starts."""

    def __init__(self) -> None:
        self._requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Shells let background jobs ignore Ctrl-C.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was one."""
        if self._requested:
            raise KeyboardInterrupt


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other comparisons out of a folder.

    Raises:
        ConfigError: there is one at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"--save_dir: expected a folder that no other comparison works in, found {folder}"
            ) from error
        yield
