"""The errors of this package for its users: one line each, which names what to change."""

from __future__ import annotations

import datetime
import difflib
import re
import signal
from collections.abc import Iterable

#: Most characters of a value within an error.
_LONGEST = 120
#: What YAML makes of texts such as ``on``, ``30`` and ``2024-01-01`` without quotes.  A truth
#: value is a number too for Python, so it comes first.
_YAML_KINDS = {
    bool: "a truth value",
    int: "a number",
    float: "a number",
    datetime.date: "a date",
}

__all__ = [
    "AutoLossError",
    "CheckpointError",
    "ChecksFailed",
    "ConfigError",
    "DataError",
    "MissingPackageError",
    "OutputError",
    "RunsFailed",
    "TensorFileError",
    "TrainingDiverged",
    "TrainingStopped",
    "UnclearedGradientError",
    "UnheldParameterError",
    "UnsupportedVersionError",
    "did_you_mean",
    "first_error",
    "one_line",
    "quotes_hint",
    "root_cause",
    "shown",
    "typed_line",
]


class AutoLossError(Exception):
    """Base of every error of this package; the command lines print it without a traceback."""


class ConfigError(AutoLossError, ValueError):
    """The value of a config key or an argument is invalid."""


class DataError(AutoLossError, ValueError):
    """A data set is incomplete or one of its files cannot be read."""


class CheckpointError(AutoLossError, RuntimeError):
    """A checkpoint folder is incomplete or belongs to another loss."""


class OutputError(AutoLossError, OSError):
    """A file or a folder cannot be written: a full disk, a quota, a folder that is read-only."""


class TensorFileError(CheckpointError):
    """A file of tensors is damaged, or contains objects other than tensors, numbers and names."""


class RunsFailed(AutoLossError, RuntimeError):
    """Some runs of a comparison failed; the others are done."""


class ChecksFailed(AutoLossError, RuntimeError):
    """The installation does not compute what it should."""


class TrainingDiverged(AutoLossError, FloatingPointError):
    """A loss or a gradient became NaN or infinite during training.

    Args:
        what: text that says which number, and when.
        rescue: text that names the checkpoint to continue from.
    """

    def __init__(self, what: str, rescue: str = "") -> None:
        super().__init__(f"{what}; {rescue}" if rescue else what)
        self.what = what
        self.rescue = rescue


class TrainingStopped(KeyboardInterrupt):
    """A signal has stopped the training after a complete step, and a checkpoint is saved.

    For every signal it can be caught as KeyboardInterrupt, the error of Ctrl-C.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_status(self) -> int:
        """128 plus the number of the signal, as in shells: 130, 143 or 129."""
        return 128 + self.number


class MissingPackageError(AutoLossError, ImportError):
    """A package that PaddleSeg imports is not installed, or cannot be loaded."""


class UnsupportedVersionError(AutoLossError, ImportError):
    """The installed PaddleSeg lacks something that this package needs."""


class UnclearedGradientError(AutoLossError, RuntimeError):
    """The gradient of learned loss weights is never cleared, and adds up over the steps."""


class UnheldParameterError(AutoLossError, RuntimeError):
    """No optimizer holds the learned loss weights, so they would never change."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: a hint with the most similar known name."""
    by_lower_case = {one.lower(): one for one in known}
    matches = difflib.get_close_matches(str(name).lower(), by_lower_case, n=1, cutoff=0.5)
    return f"; did you mean {by_lower_case[matches[0]]}?" if matches else ""


def quotes_hint(value: object) -> str:
    """Return the end of an error about a name that YAML reads as something else, such as on."""
    for kind, words in _YAML_KINDS.items():
        if isinstance(value, kind):
            return f"; YAML takes it for {words}, put it in quotes"
    return ""


def first_error(error: BaseException) -> BaseException:
    """Return the first error in a chain, or our own error."""
    while not isinstance(error, AutoLossError) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__ or error
    return error


def root_cause(error: BaseException) -> str:
    """Return the message of the first error in a chain, or of our own error, in one line."""
    first = first_error(error)
    return one_line(first) or type(first).__name__


def paddle_reason(error: BaseException) -> str:
    """Return the message of an error of Paddle in one line, without its C++ traceback."""
    message = root_cause(error).rpartition("Error Message Summary:")[2].strip("- ")
    message = re.sub(r"\s*\[Hint: .*?\]?(?=\(at |$)|\s*\(at /[^)]*\)", "", message)
    return message if message not in ("", "None") else type(error).__name__


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split())


def typed_line(error: BaseException) -> str:
    """Return the type and the message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def shown(value: object) -> str:
    """Return a value as text for an error: one short line.

    Examples:
        >>> shown("a")
        "'a'"
        >>> len(shown(list(range(1000))))
        120
    """
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
