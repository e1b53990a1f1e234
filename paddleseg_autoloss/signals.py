"""The signals that ask a process to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["handled_signals"]

_SIGNALS: list[int] = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@contextmanager
def handled_signals(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Context in which a function handles Ctrl-C, SIGTERM and SIGHUP.

    Ignored signals stay ignored: a background job of a shell ignores Ctrl-C by default.  Signals
    that a script handles itself stay with the script.

    Args:
        handler: as `signal.signal` takes it.
    """
    defaults = (signal.SIG_DFL, signal.default_int_handler, None)
    previous: dict[int, Any] = {}
    # Python allows only the main thread to handle signals.
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) in defaults:
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, stock in previous.items():
            signal.signal(number, signal.SIG_DFL if stock is None else stock)
