"""A cache of the check results of files that have not changed since."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paddleseg.utils import logger

from paddleseg_autoloss.files import write_file

try:
    import fcntl
except ImportError:  # Windows does not have it.
    fcntl = None  # type: ignore[assignment]

__all__ = ["Memory", "cache_folder"]

#: Seconds between two attempts to get a lock, until the log mentions the wait, and until the work
#: continues without the lock.
_INTERVAL, _PATIENCE, _LIMIT = 0.05, 2.0, 600.0


def cache_folder() -> Path | None:
    """Return the user's folder for this package's caches, or None if there is no home folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return home / "paddleseg_autoloss"


class Memory:
    """Entries in a file that several processes may share.

    A file that cannot be read or written is treated as empty; then the checks only take longer.

    Args:
        name: identifies the set of entries; each name has its own file.
    """

    def __init__(self, name: str) -> None:
        folder = cache_folder()
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:24]
        self._path = folder / "labels" / f"{digest}.json" if folder else None

    def load(self) -> dict[str, Any]:
        """Return all entries by name."""
        try:
            entries = json.loads(self._path.read_bytes()) if self._path else {}
        except (OSError, ValueError, RecursionError):
            return {}
        return entries if isinstance(entries, dict) else {}

    def save(self, entries: dict[str, Any]) -> None:
        """Replace all entries, completely or not at all."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_file(self._path, json.dumps(entries, separators=(",", ":")))
        except OSError:
            # With a full or read-only disk, the next run only has to check the files again.
            return

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the file against other processes, such as other ranks; they wait."""
        try:
            if fcntl is None or self._path is None:
                raise OSError
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = open(self._path.with_suffix(".lock"), "w")  # noqa: SIM115
        except OSError:
            yield
            return
        with file:
            _lock(file)
            yield


def _lock(file: Any) -> None:
    since = time.monotonic()
    told = False
    while time.monotonic() - since < _LIMIT:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(_INTERVAL)
        except OSError:
            # Some network file systems have no locks.
            return
        if not told and time.monotonic() - since > _PATIENCE:
            logger.info("Waiting for another process, which checks the same labels")
            told = True
