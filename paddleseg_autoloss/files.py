"""Files that are written completely or not at all, errors of disks, JSON for every parser."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paddleseg_autoloss.errors import ConfigError, DataError, OutputError, one_line, shown

__all__ = [
    "check_save_dir",
    "json_number",
    "json_text",
    "output_errors",
    "read_json",
    "replace_file",
    "write_file",
    "write_json",
]

#: Most bytes in the name of a file or folder, and in the path of a folder with files in it.
_LONGEST_NAME, _LONGEST_PATH = 255, 3800
#: Advice for each error of a disk or a folder.
_ADVICE = {
    errno.ENOSPC: "free some space or some inodes, or choose another folder",
    errno.EDQUOT: "free some of your quota, or choose another folder",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another folder",
    errno.EROFS: "choose another folder",
    errno.EACCES: "choose another folder, or change who may write to it",
    errno.EPERM: "choose another folder, or change who may write to it",
    errno.EIO: "look whether the disk is sound, or choose another folder",
}


def check_save_dir(path: str | os.PathLike[str]) -> None:
    """Check that a folder of this path exists or can be made.

    Args:
        path: the value of ``--save_dir``.

    Raises:
        ConfigError: it is something else, such as a file, or inside of one.
    """
    folder = Path(path).absolute()
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in folder.parts):
        raise ConfigError(
            f"--save_dir: expected names of at most {_LONGEST_NAME} bytes, found {shown(str(path))}"
        )
    if len(os.fsencode(folder)) > _LONGEST_PATH:
        raise ConfigError(
            f"--save_dir: expected a path of at most {_LONGEST_PATH} bytes, found "
            f"{shown(str(path))}"
        )
    # Below a file, `exists` is false.
    nearest = next(part for part in (folder, *folder.parents) if os.path.lexists(part))
    if not nearest.is_dir():
        kind = "the file" if nearest.is_file() else "something else,"
        raise ConfigError(f"--save_dir: expected a folder, found {kind} {nearest}")


@contextmanager
def output_errors(path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Context that converts errors of a disk or a folder to an error with advice.

    Args:
        path: the file or folder that is written; the error names it if the system names none.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        where = error.filename or path
        if advice is None or where is None or isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {where}: {error.strerror}; {advice}") from error


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the name of a temporary file, which replaces ``path`` at the end of the block.

    The temporary file is in the same folder and is flushed to the disk before it is renamed.  If
    the process is killed, or the block raises an error, the previous file does not change.

    Args:
        path: the file to replace.  If it is not a regular file but, for example, a pipe, it is
            written to directly.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replace_file(Path(folder) / "figures.txt") as temporary:
        ...         _ = temporary.write_text("0.5")
        ...     print([path.name for path in Path(folder).iterdir()])
        ['figures.txt']
    """
    if os.path.exists(path) and not os.path.isfile(path):
        yield Path(path)
        return
    temporary = Path(f"{os.fspath(path)}.part")
    try:
        with output_errors(path):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file completely or not at all; see `replace_file`.

    Args:
        path: the file.
        content: its bytes, or its text, which is written in UTF-8.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replace_file(path) as temporary:
        temporary.write_bytes(data)


def json_text(value: Any, indent: int | None = None) -> str:
    """Return JSON with ``null`` for NaN and for infinity.

    JSON has neither of them, and strict parsers refuse ``NaN``.

    Args:
        value: anything that ``json.dumps`` accepts.
        indent: number of spaces for each level, or None for a single line.

    Example:
        >>> json_text({"mIoU": 0.5, "Kappa": float("nan")})
        '{"mIoU": 0.5, "Kappa": null}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON completely or not at all; see `json_text` and `write_file`.

    Args:
        path: the file.
        value: anything that ``json.dumps`` accepts.
    """
    write_file(path, json_text(value, indent=2) + "\n")


def _finite(value: Any) -> Any:
    """Replace every float that is not finite by None."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON.

    Args:
        path: the file.

    Raises:
        DataError: the file cannot be read, or it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise DataError(f"{path}: expected a JSON file: {reason}") from error


def json_number(value: float | None) -> float:
    """Return a number that `write_json` wrote: NaN for ``null``."""
    return math.nan if value is None else float(value)
