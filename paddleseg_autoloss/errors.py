"""The errors that this package raises for its users: one line each, naming what to change."""

from __future__ import annotations

__all__ = [
    "AutoLossError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "TrainingDiverged",
    "UnheldParameterError",
]


class AutoLossError(Exception):
    """Base of every error of this package; the command lines print it without a traceback."""


class ConfigError(AutoLossError, ValueError):
    """A config key or an argument has a value that cannot work."""


class DataError(AutoLossError, ValueError):
    """A data set is incomplete or one of its files cannot be read."""


class CheckpointError(AutoLossError, RuntimeError):
    """A checkpoint folder is incomplete or belongs to another loss."""


class TrainingDiverged(AutoLossError, FloatingPointError):
    """A loss became NaN or infinite during training."""


class UnheldParameterError(AutoLossError, RuntimeError):
    """No optimizer holds the learned loss weights, which would stay as they are for ever."""
