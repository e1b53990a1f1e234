"""Shared parts of all command lines: types of flags, the default device, exit statuses."""

from __future__ import annotations

import math
import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

import paddle

from paddleseg_autoloss.checks import MOST_SEED, describe_integer, is_integer
from paddleseg_autoloss.errors import AutoLossError, TrainingStopped
from paddleseg_autoloss.files import output_errors

__all__ = [
    "default_device",
    "gpu_count",
    "non_negative_int",
    "positive_int",
    "positive_number",
    "run_command",
    "scale_number",
    "seed_int",
]

#: Exit status of a run that was stopped with Ctrl-C, the same as in shells.
_INTERRUPTED = 130
#: Exit status if the program that reads the output has ended, the same as in shells.
_CLOSED_PIPE = 141


def run_command(command: Callable[[], Any]) -> int:
    """Call ``command`` and return the exit status; print errors of this package as one line."""
    try:
        with output_errors("the output"):
            command()
            sys.stdout.flush()
    except BrokenPipeError:
        print("error: the program that reads the output has ended", file=sys.stderr)
        return _CLOSED_PIPE
    except AutoLossError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except TrainingStopped as stop:
        print(stop, file=sys.stderr)
        return stop.exit_status
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        return _INTERRUPTED
    finally:
        _discard_unwritten()
    return 0


def _discard_unwritten() -> None:
    """Discard output that cannot be written: at exit Python would try again, with a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def positive_int(text: str) -> int:
    """Parse a flag that is a positive integer."""
    return _integer(text, least=1)


def non_negative_int(text: str) -> int:
    """Parse a flag that is an integer of at least 0."""
    return _integer(text, least=0)


def positive_number(text: str) -> float:
    """Parse a flag that is a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"expected a number above 0, found {text}")
    return value


def seed_int(text: str) -> int:
    """Parse a flag that is the seed of a training."""
    return _integer(text, least=0, most=MOST_SEED)


def _integer(text: str, least: int, most: float = math.inf) -> int:
    value = int(text) if text.isdecimal() else None
    if not is_integer(value, least, most):
        raise ArgumentTypeError(f"expected {describe_integer(least, most)}, found {text}")
    return int(text)


def default_device() -> str:
    """Return ``"gpu"`` if Paddle can use a GPU, else ``"cpu"``."""
    return "gpu" if gpu_count() else "cpu"


def gpu_count() -> int:
    """Return the number of GPUs that Paddle sees."""
    return paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0


def scale_number(text: str) -> float:
    """Parse a flag that is a scale of an image, from 0.1 to 10."""
    value = positive_number(text)
    if not 0.1 <= value <= 10:
        raise ArgumentTypeError(f"expected a number from 0.1 to 10, found {text}")
    return value
