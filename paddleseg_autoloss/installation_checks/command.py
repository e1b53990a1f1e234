"""The command: what is installed, a table of trainings, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import TextWrapper

from paddleseg_autoloss.errors import ChecksFailed
from paddleseg_autoloss.installation_checks.devices import TOLERANCES, Row, check_devices
from paddleseg_autoloss.installation_checks.environment import describe_environment
from paddleseg_autoloss.text_tables import align_columns

__all__ = ["check_installation"]

_HEADER = ["device", "precision", "method", "weights", "gradient", "result"]


def check_installation() -> None:
    """Print what is installed, and whether every kind of method computes what it should.

    Raises:
        ChecksFailed: a training failed or came to other numbers, or packages are in conflict.
    """
    environment, conflicts = describe_environment()
    width = 2 + max(len(name) for name, _ in environment)
    wrapper = TextWrapper(
        100, subsequent_indent=" " * width, break_long_words=False, break_on_hyphens=False
    )
    for name, value in environment:
        print(wrapper.fill(f"{name.ljust(width)}{value}"))
    print(
        "\nFive steps of every kind of method. weights, gradient: relative difference in the last\n"
        f"step; tolerance {TOLERANCES['fp32']:g} in float32, {TOLERANCES['fp16']:g} in mixed "
        "precision.\n",
        flush=True,
    )
    rows = list(check_devices())
    print(align_columns([_HEADER, *map(_cells, rows)]))
    failed = [row for row in rows if row.result == "FAILED"]
    print("\n" + "\n".join(_notes(rows)))
    if failed or conflicts:
        raise ChecksFailed(
            f"checks: {len(failed)} trainings failed, {len(conflicts)} conflicts of packages, "
            "shown above"
        )


def _notes(rows: Sequence[Row]) -> list[str]:
    """Return the reasons why rows are not "ok", each of them once for a device."""
    notes: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.reason:
            notes.setdefault((row.device, row.reason), []).append(row)
    lines = []
    for (device, reason), alike in notes.items():
        first, more = alike[0], len(alike) - 1
        where = f"{device}, {first.precision}, {first.method}"
        lines.append(f"{where}{f' and {more} more' if more else ''}: {first.result}: {reason}")
    return lines


def _cells(row: Row) -> list[str]:
    numbers = ["-" if one is None else f"{one:.0e}" for one in (row.weights, row.gradient)]
    return [row.device, row.precision, row.method, *numbers, row.result]
