"""Proof of a checkpoint: its iteration, its time and the checksums of its files: ``proof.json``.

The folder ``best_model`` has a proof too, without an iteration.

The proof shows whether a checkpoint has changed since it was saved: by a flipped bit, a block of
zeros, a file of another iteration, or a renamed folder.  It is not a signature: a person who
changes a file on purpose can change its checksum too.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddleseg_autoloss.checks import is_integer
from paddleseg_autoloss.errors import CheckpointError
from paddleseg_autoloss.files import write_json

__all__ = [
    "PROOF",
    "check_iteration",
    "check_proof",
    "has_proof",
    "iteration_of",
    "time_of",
    "write_proof",
]

PROOF = "proof.json"

_NAME = re.compile(r".*_(\d+)")
_CHUNK = 2**20
_LARGEST = 2**16


def iteration_of(folder: str | os.PathLike[str]) -> int | None:
    """Return the iteration in the name of a checkpoint's folder, or None."""
    match = _NAME.fullmatch(os.path.basename(os.path.normpath(folder)))
    return int(match[1]) if match else None


def has_proof(folder: Path) -> bool:
    """Whether a checkpoint has a proof; those of version 0.2 and of plain PaddleSeg have none."""
    return (folder / PROOF).is_file()


def write_proof(folder: Path, iteration: int | None, files: Mapping[str, Path]) -> None:
    """Write the proof of a checkpoint.

    Args:
        folder: folder of the checkpoint.
        iteration: iteration of the checkpoint; None for the best model.
        files: maps the final name of each file to the path where it can be read now.
    """
    checksums = {name: _checksum(path) for name, path in files.items()}
    proof = {"iteration": iteration, "written": time.time(), "files": checksums}
    write_json(folder / PROOF, proof)


def time_of(folder: Path) -> float:
    """Return when a checkpoint was written, in seconds since 1970, also if it is a copy.

    It is 0 if no proof says so, as in checkpoints of version 0.2 and of plain PaddleSeg.
    """
    try:
        return float(_read(folder)["written"])
    except (CheckpointError, KeyError):
        return 0.0


def check_proof(path: str | os.PathLike[str]) -> None:
    """Check a file against the proof in its folder, if there is a proof that lists the file.

    Raises:
        CheckpointError: the file has changed since it was saved.
    """
    file = Path(path)
    expected = _read(file.parent)["files"].get(file.name) if has_proof(file.parent) else None
    if expected is None:
        return
    try:
        found = _checksum(file)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if found != expected:
        raise CheckpointError(
            f"cannot read {path}: it has changed since it was saved: expected {_shown(expected)}, "
            f"found {_shown(found)}; if you have replaced it yourself, delete {PROOF} beside it"
        )


def check_iteration(folder: Path) -> None:
    """Check that the iteration in the folder's name is the one in its proof.

    Raises:
        CheckpointError: the two iterations differ.
    """
    if has_proof(folder):
        saved, named = _read(folder)["iteration"], iteration_of(folder)
        if saved != named:
            raise CheckpointError(
                f"{folder}: the name says iteration {named}, but its {PROOF} says iteration "
                f"{saved}: the folder was renamed, or contains files of another checkpoint"
            )


def _checksum(path: Path) -> dict[str, Any]:
    """Return the size and the CRC-32 of a file; 100 MB take less than a tenth of a second."""
    checksum, size = 0, 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            checksum, size = zlib.crc32(chunk, checksum), size + len(chunk)
    return {"bytes": size, "crc32": f"{checksum:08x}"}


def _shown(checksum: Mapping[str, Any]) -> str:
    return f"{checksum.get('bytes')} bytes with CRC-32 {checksum.get('crc32')}"


def _read(folder: Path) -> dict[str, Any]:
    path = folder / PROOF
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_LARGEST))
        files = found["files"]
        is_iteration = found["iteration"] is None or is_integer(found["iteration"])
        is_time = math.isfinite(found.get("written", 0))
        is_proof = is_iteration and is_time and all(isinstance(one, dict) for one in files.values())
        if not is_proof:
            raise ValueError("it is not a proof")
    except (
        OSError, ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{path} is damaged; delete it to use the checkpoint without a proof"
        ) from error
    return found
