"""Checks of values from users: each returns the value, or raises an error."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from paddleseg_autoloss.errors import AutoLossError, ConfigError, root_cause, shown
from paddleseg_autoloss.escaping import printable

__all__ = [
    "MOST_SEED",
    "build",
    "check_stride",
    "checked_choice",
    "checked_flag",
    "checked_integer",
    "checked_length",
    "checked_lr_mult",
    "checked_number",
    "checked_numbers",
    "checked_preference",
    "checked_range",
    "checked_reference",
    "describe_integer",
    "is_integer",
    "is_name",
    "is_number",
    "number_hint",
    "one_for_each",
]

#: Largest count: tensors hold no integers of any length, and floats none above that exactly.
_MOST_COUNT = 2**53
#: Largest seed that NumPy's global generator takes.
MOST_SEED = 2**32 - 1

T = TypeVar("T")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; True and False are not numbers."""
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def is_integer(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether a value is an integer within bounds; True and False are not integers."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_whole and least <= int(value) <= most


def describe_integer(least: int, most: float = math.inf) -> str:
    """Describe an integer within bounds, for an error."""
    if most != math.inf:
        return f"an integer from {least} to {most}"
    return "a positive integer" if least == 1 else f"an integer of at least {least}"


def checked_number(name: str, value: float) -> float:
    """Return ``value`` as a float, or raise ConfigError if it is not a finite number."""
    if not is_number(value):
        raise ConfigError(f"{name}: expected a number, found {shown(value)}{number_hint(value)}")
    return float(value)


def number_hint(value: object) -> str:
    """Return a hint for text that looks like a number: YAML 1.1 reads 1e-4 and 08 as text."""
    try:
        float(value if isinstance(value, str) else "no number")
    except ValueError:
        return ""
    if re.match(r"0\d", str(value)):
        return "; it is text: write it without the leading 0"
    return "; it is text: write it without quotes, and 1e-4 as 1.0e-4"


def checked_range(name: str, value: float, least: float, most: float = math.inf) -> float:
    """Return ``value`` as a float, or raise ConfigError if it is not a number within bounds."""
    bounds = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    if isinstance(value, (int, float)) and not least <= value <= most:
        raise ConfigError(f"{name}: expected a number {bounds}, found {value!r}")
    return checked_number(name, value)


def checked_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Return ``value``, or raise ConfigError if it is none of the choices."""
    if value not in choices:
        raise ConfigError(f"{name}: expected one of {', '.join(choices)}, found {value!r}")
    return value


def checked_flag(name: str, value: Any) -> bool:
    """Return ``value``, or raise ConfigError if it is neither True nor False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: expected true or false, found {shown(value)}")
    return value


def checked_integer(name: str, value: Any, least: int, most: float = math.inf) -> int:
    """Return ``value`` as an int, or raise ConfigError if it is not an integer within bounds.

    Without ``most`` the bound is 2**53.
    """
    if most == math.inf and is_integer(value, least=_MOST_COUNT + 1):
        most = _MOST_COUNT
    if not is_integer(value, least, most):
        raise ConfigError(f"{name}: expected {describe_integer(least, most)}, found {shown(value)}")
    return int(value)


def checked_length(name: str, values: Sequence[Any], num_losses: int) -> list[Any]:
    """Return ``values`` as a list, or raise ConfigError if there is not one for each loss."""
    if len(values) != num_losses:
        raise ConfigError(
            f"{name}: expected one for each of {num_losses} losses, found {len(values)}"
        )
    return list(values)


def checked_numbers(
    name: str, values: Any, num_losses: int, least: float | None = None
) -> list[float]:
    """Return ``values`` as floats, or raise ConfigError if it is no list of one for each loss."""
    if not isinstance(values, (list, tuple)):
        raise ConfigError(f"{name}: expected a list of {num_losses} numbers, found {shown(values)}")
    items = checked_length(name, values, num_losses)
    if least is not None:
        return [checked_range(name, item, least=least) for item in items]
    return [checked_number(name, item) for item in items]


def checked_preference(name: str, values: Sequence[float] | None, num_losses: int) -> list[float]:
    """Return how important each loss is, with the mean 1; if ``values`` is None, all are 1.

    Raises:
        ConfigError: ``values`` is no list of one number for each loss, a number is negative, or all
            are 0.
    """
    if values is None:
        return [1.0] * num_losses
    numbers = checked_numbers(name, values, num_losses, least=0)
    largest = max(numbers)
    if not math.isfinite(sum(numbers)):
        numbers = [number / largest for number in numbers]
    total = sum(numbers)
    if total == 0:
        raise ConfigError(f"{name}: expected a number above 0, found none")
    return [num_losses * number / total for number in numbers]


def is_name(value: Any) -> bool:
    """Whether a value can be a name: text that is not blank and has no control characters."""
    return isinstance(value, str) and bool(value.strip()) and printable(value) == value


def checked_reference(name: str, values: Sequence[float] | None, num_losses: int) -> list[float]:
    """Return the reference point of the losses; if ``values`` is None, all are 0."""
    return [0.0] * num_losses if values is None else checked_numbers(name, values, num_losses)


def check_stride(name: str, stride: Sequence[int], crop_size: Sequence[int]) -> None:
    """Check the step of a sliding window.

    Raises:
        ConfigError: a step is larger than the window, so pixels between two windows are left out.
    """
    if any(step > size for step, size in zip(stride, crop_size)):
        raise ConfigError(
            f"{name}: expected at most crop_size {shown(list(crop_size))}, found "
            f"{shown(list(stride))}: pixels between two windows would have no prediction"
        )


def one_for_each(name: str, value: Any, num_losses: int) -> list[Any]:
    """Return a list with one value for each loss; a single number or name is used for all losses.

    Raises:
        ConfigError: the value is a list of another length, or neither.
    """
    if isinstance(value, (int, float, str)):
        return [value] * num_losses
    if not isinstance(value, (list, tuple)):
        raise ConfigError(
            f"{name}: expected one value for all losses, or a list of {num_losses}, found "
            f"{shown(value)}"
        )
    return checked_length(name, value, num_losses)


def checked_lr_mult(lr_mult: float) -> float:
    """Return ``lr_mult`` as a float, or raise ConfigError if it is not positive and finite."""
    if isinstance(lr_mult, (int, float)) and lr_mult <= 0:
        raise ConfigError(f"lr_mult: expected a positive number, found {lr_mult!r}")
    return checked_number("lr_mult", lr_mult)


def build(key: str, make: Callable[[], T]) -> T:
    """Call ``make``, which builds the component of the config key ``key``.

    Raises:
        ConfigError: ``make`` failed; the error gives the reason in one line.
    """
    try:
        return make()
    except AutoLossError:
        raise
    except Exception as error:
        cause = root_cause(error)
        raise ConfigError(f"{key}: {cause}") from error
