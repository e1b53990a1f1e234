"""Where the curves of a run go: VisualDL, TensorBoard, Weights & Biases, SwanLab."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle
from visualdl import LogWriter

from paddleseg_autoloss.checks import checked_choice
from paddleseg_autoloss.errors import AutoLossError, ConfigError, one_line, shown
from paddleseg_autoloss.files import output_errors
from paddleseg_autoloss.missing_packages import import_for

__all__ = ["LOGGERS", "CurveLogger", "Curves", "FirstWindow", "check_loggers"]


class CurveLogger(ABC):
    """Writes the curves of a run, point by point.

    Args:
        folder: folder of the run.
        start_iter: iteration that the run continues from; points of later iterations, which an
            earlier run wrote, do not count.
    """

    #: Module that must be installed.
    package: str

    @abstractmethod
    def __init__(self, folder: str, start_iter: int) -> None: ...

    @abstractmethod
    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add one point.

        Args:
            tag: name of the curve, such as ``Train/loss``.
            value: the number.
            step: the iteration.

        Raises:
            OutputError: it cannot be written.
        """

    @abstractmethod
    def close(self, error: BaseException | None = None) -> None:
        """Write everything that is still in memory.

        Args:
            error: what ended the run, or None if it ended well.

        Raises:
            OutputError: it cannot be written.
        """


class VisualDL(CurveLogger):
    """Writes ``vdlrecords.*`` into the folder of the run, as PaddleSeg does."""

    package = "visualdl"

    def __init__(self, folder: str, start_iter: int) -> None:
        self._writer = LogWriter(folder)
        self._path = self._writer.file_name
        # VisualDL's thread only prints what goes wrong.
        self._failures: list[OSError] = []
        records = self._writer._get_file_writer()._async_writer._record_writer
        records.write = _noting(records.write, self._failures)
        records.flush = _noting(records.flush, self._failures)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add one point; see `CurveLogger.add_scalar`."""
        with self._failures_raised():
            self._writer.add_scalar(tag, value, step)

    def close(self, error: BaseException | None = None) -> None:
        """Write everything; see `CurveLogger.close`."""
        with self._failures_raised():
            self._writer.close()
        with self._failures_raised():
            pass

    @contextmanager
    def _failures_raised(self) -> Iterator[None]:
        with output_errors(self._path):
            if self._failures:
                raise self._failures[0]
            yield


def _noting(write: Callable, failures: list[OSError]) -> Callable:
    def noting(*args: Any) -> None:
        try:
            write(*args)
        except OSError as error:
            failures.append(error)

    return noting


class TensorBoard(CurveLogger):
    """Writes ``events.out.tfevents.*`` into the folder of the run.

    TensorBoard's own writer has a thread, which prints a traceback if the disk is full.  This one
    writes every point at once.
    """

    package = "tensorboard"

    def __init__(self, folder: str, start_iter: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path = Path(folder, name)
        with output_errors(self._path):
            self._records = RecordWriter(open(self._path, "xb"))  # noqa: SIM115
        self._write(file_version="brain.Event:2")
        # TensorBoard does not show points of earlier files from this step on.
        start = SessionLog(status=SessionLog.START)
        self._write(step=start_iter + 1, session_log=start)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add one point; see `CurveLogger.add_scalar`."""
        point = self._summary.Value(tag=tag, simple_value=value)
        self._write(step=step, summary=self._summary(value=[point]))

    def _write(self, **content: Any) -> None:
        event = self._event(wall_time=time.time(), **content)
        with output_errors(self._path):
            self._records.write(event.SerializeToString())
            self._records.flush()

    def close(self, error: BaseException | None = None) -> None:
        """Close the file."""
        with output_errors(self._path):
            self._records.close()


class WandB(CurveLogger):
    """Starts a run of Weights & Biases, whose files are in the folder ``wandb`` of the run.

    Its environment variables apply, such as ``WANDB_MODE=offline`` and ``WANDB_PROJECT``.
    """

    package = "wandb"

    def __init__(self, folder: str, start_iter: int) -> None:
        import wandb

        self._run = wandb.init(dir=folder)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add one point; see `CurveLogger.add_scalar`."""
        self._run.log({tag: value}, step=step)

    def close(self, error: BaseException | None = None) -> None:
        """Finish the run, as failed after an error."""
        self._run.finish(exit_code=0 if error is None else 1)


class SwanLab(CurveLogger):
    """Starts an experiment of SwanLab, whose files are in the folder ``swanlog`` of the run.

    Its environment variables apply, such as ``SWANLAB_MODE=offline`` and ``SWANLAB_PROJ_NAME``.
    """

    package = "swanlab"

    def __init__(self, folder: str, start_iter: int) -> None:
        import swanlab

        with _own_interrupt():
            self._run = swanlab.init(log_dir=str(Path(folder, "swanlog")))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add one point; see `CurveLogger.add_scalar`."""
        self._run.log({tag: value}, step=step)

    def close(self, error: BaseException | None = None) -> None:
        """Finish the experiment, as crashed after an error."""
        with _own_interrupt():
            if error is None:
                self._run.finish()
            else:
                self._run.finish(state="crashed", error=one_line(error) or type(error).__name__)


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Keep the reaction of a run to Ctrl-C, which SwanLab replaces by its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stock = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, stock)


#: The loggers by the name that ``--logger`` takes.
LOGGERS: dict[str, type[CurveLogger]] = {
    "visualdl": VisualDL,
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "swanlab": SwanLab,
}


def check_loggers(names: Sequence[str], use_vdl: bool = False) -> list[str]:
    """Return the names of all loggers of a run, without duplicates.

    Args:
        names: names in `LOGGERS`.
        use_vdl: whether ``"visualdl"`` is one more.

    Raises:
        ConfigError: there is no logger of that name.
        MissingPackageError: its package is not installed.
    """
    if isinstance(names, str):
        raise ConfigError(f"loggers: expected a list of names, found {shown(names)}")
    for name in names:
        checked_choice("loggers", name, list(LOGGERS))
        import_for(f"the logger {name}", LOGGERS[name].package)
    return list(dict.fromkeys(["visualdl", *names] if use_vdl else names))


@dataclass(frozen=True)
class FirstWindow:
    """The first log window of a run, which is shorter than the others after some resumes.

    PaddleSeg's loop divides the sum of the losses by ``log_iters`` nevertheless.

    Args:
        start_iter: iteration that the run continues from.
        log_iters: iterations of the other windows.
    """

    start_iter: int = 0
    log_iters: int = 1

    def factor(self, step: int) -> float:
        """Return what PaddleSeg's mean loss at an iteration is to be multiplied with."""
        return self.log_iters / min(self.log_iters, max(step - self.start_iter, 1))


class Curves:
    """Passes each point on to several loggers.

    Of several cards only the first has loggers, except for VisualDL: there each card has a file, as
    in PaddleSeg.

    Args:
        names: names in `LOGGERS`.
        folder: folder of the run.
        window: the first log window of the run.

    Raises:
        ConfigError: a logger does not start, for example because nobody is logged in.
        OutputError: the folder cannot be written to.
    """

    def __init__(self, names: Sequence[str], folder: str, window: FirstWindow) -> None:
        self._window = window
        is_first = paddle.distributed.ParallelEnv().rank == 0
        self._loggers: list[CurveLogger] = []
        for name in names:
            if is_first or name == "visualdl":
                self._loggers.append(_started(name, folder, window.start_iter))

    def add_scalar(self, tag: str, value: Any, step: int) -> None:
        """Add one point; ``value`` may also be an array with one element."""
        factor = self._window.factor(step) if tag.startswith("Train/loss") else 1.0
        for logger in self._loggers:
            logger.add_scalar(tag, factor * float(value), step)

    def close(self, error: BaseException | None = None) -> None:
        """Close all loggers; a second call does nothing.

        Args:
            error: what ended the run, or None if it ended well.
        """
        with ExitStack() as stack:
            while self._loggers:
                stack.callback(self._loggers.pop().close, error)


def _started(name: str, folder: str, start_iter: int) -> CurveLogger:
    try:
        return LOGGERS[name](folder, start_iter)
    except (AutoLossError, OSError):
        raise
    except Exception as error:
        raise ConfigError(f"--logger {name}: {one_line(error)}") from error
