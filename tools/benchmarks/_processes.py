"""Several measurements, each in a process of its own; what is done survives an interruption."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from paddleseg_autoloss.files import json_text

_MARK = "RESULT "


def emit(result: dict[str, Any]) -> None:
    """Hand the result of one measurement to the process that started it."""
    print(f"\n{_MARK}{json_text(result)}", flush=True)


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Return what a JSON-lines file holds, by name; of several results the last counts."""
    if not path.exists():
        return {}
    found = [_parsed(line) for line in path.read_text("utf-8").splitlines()]
    return {result["name"]: result for result in found if result is not None}


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        # An interruption may leave half a line.
        return None


def run_each(
    script: str, names: Iterable[str], path: Path, timeout: float, flags: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Measure what the file has no result of yet, one name after the other.

    Args:
        script: measures one name, ``--only NAME``, and ends with `emit`.
        names: what to measure.
        path: JSON-lines file, to which every result is appended as it comes.
        timeout: seconds for each.
        flags: further flags of the script.

    Returns:
        The results of all names, those of the file included.
    """
    names, results = list(names), read_results(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in tqdm([name for name in names if name not in results]):
        results[name] = run_one(script, name, timeout, flags)
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * _ends_inside_a_line(path) + json_text(results[name]) + "\n")
    return {name: results[name] for name in names}


def _ends_inside_a_line(path: Path) -> bool:
    return path.read_bytes()[-1:] not in (b"", b"\n")


def run_one(script: str, name: str, timeout: float, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Measure one name; a crash or a hang adds an ``error`` to what there was until then."""
    command = [sys.executable, script, "--only", name, *flags]
    # Files, as a killed process's pipes may stay open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            status = subprocess.run(command, stdout=out, stderr=err, timeout=timeout).returncode
            error = f"ended with status {status}: {_last_words(err)}" if status else None
        except subprocess.TimeoutExpired:
            error = f"not done after {timeout:g} s"
        results = [line for line in _lines(out) if line.startswith(_MARK)]
    if not results:
        return {"name": name, "error": error or "ended without a result"}
    result = json.loads(results[-1][len(_MARK) :])
    return {**result, "error": error} if error else result


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return file.read().decode("utf-8", "replace").splitlines()


def _last_words(file: IO[bytes]) -> str:
    spoken = [line.strip() for line in _lines(file) if line.strip()]
    return spoken[-1] if spoken else "it said nothing"
