"""Functions of the operating system for a comparison: processes, signals and the cards."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import paddle

from paddleseg_autoloss.errors import TrainingStopped
from paddleseg_autoloss.signals import handled_signals

__all__ = [
    "Interruption",
    "describe_status",
    "kill_process",
    "start_process",
    "visible_cards",
]

#: The option PR_SET_PDEATHSIG of Linux's prctl.
_SET_PARENT_DEATH_SIGNAL = 1
_LIBC = ctypes.CDLL(None)


def start_process(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own; it ends when this process is killed.

    Args:
        command: the program and its arguments.
        environment: its environment variables.
        log: the file to which its output is appended.
    """
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_follow_parent if sys.platform == "linux" else None,
        )


def _follow_parent() -> None:
    """Let the new process end when its parent is killed."""
    _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def kill_process(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its children, and wait until it has ended."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def describe_status(status: int) -> str:
    """Say how a process ended.

    Args:
        status: its exit status; negative for the number of the signal that killed it.
    """
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def visible_cards() -> list[str]:
    """Return the names of the usable cards, in the form of CUDA_VISIBLE_DEVICES."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [card for card in named.split(",") if card.strip()]
    return [str(index) for index in range(paddle.device.cuda.device_count())]


class Interruption:
    """Delays Ctrl-C, SIGTERM and SIGHUP until `check` is called.

    So a signal never interrupts the start of a process.  A second signal stops immediately.
    """

    def __init__(self) -> None:
        self._number: int | None = None

    @contextmanager
    def delayed(self) -> Iterator[None]:
        """Context in which signals are delayed."""
        with handled_signals(self._note):
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None:
            raise TrainingStopped(number)
        self._number = number

    def check(self) -> None:
        """Raise TrainingStopped if there was a signal."""
        if self._number is not None:
            raise TrainingStopped(self._number)
