"""Signals that ask a run to stop: Ctrl-C, SIGTERM from a scheduler, SIGHUP from a terminal."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import paddle

from paddleseg_autoloss.errors import TrainingStopped
from paddleseg_autoloss.ranks import is_writing_rank
from paddleseg_autoloss.signals import handled_signals

__all__ = ["StopRequest"]

#: Seconds in which more signals count as the same one: Paddle's launcher sends three in a row.
_SAME_REQUEST = 1.0
_ANNOUNCEMENT = b"stopping after this step; a second signal ends the process at once\n"


class StopRequest:
    """Stores the first signal, so that the current step can end; a second one ends the process.

    Attributes:
        number: number of the signal that this process received, or None.
        agreed: whether all cards know that the run must stop before the next step.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.agreed = False
        self._several_cards = paddle.distributed.ParallelEnv().nranks > 1
        self._raises = False
        self._owner = os.getpid()
        self._since = 0.0

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Context that stores signals, except ignored ones and those that a script handles."""
        with handled_signals(self._note):
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # This process reads data: it ends with the run, and ignores Ctrl-C in the terminal.
            if number == signal.SIGTERM:
                _die_of(number)
            return
        if self.number is None:
            self.number, self._since = number, time.monotonic()
            _announce()
            # The same signal may end the readers, which must not interrupt the step.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        elif time.monotonic() - self._since > _SAME_REQUEST:
            _die_of(number)
        self.agreed = self.agreed or not self._several_cards
        if self._raises and self.agreed:
            raise self.error()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Context in which a signal raises `error` immediately.

        With several cards the run continues to its next step.

        Raises:
            TrainingStopped: there was already a signal.
        """
        if self.agreed:
            raise self.error()
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def error(self) -> TrainingStopped:
        """Return the error that ends the training."""
        # If the signal was sent to another card, its number is not known here.
        return TrainingStopped(self.number or signal.SIGTERM)


def _announce() -> None:
    # A signal may come in the midst of another write to standard error, which print refuses.
    if is_writing_rank():
        with suppress(OSError):
            os.write(2, _ANNOUNCEMENT)


def _die_of(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
