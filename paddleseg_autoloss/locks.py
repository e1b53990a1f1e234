"""A lock on a folder, which the operating system gives back when its holder dies."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from paddleseg.utils import logger

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.files import output_errors

try:
    import fcntl
except ImportError:
    # Windows has none.
    fcntl = None  # type: ignore[assignment]

__all__ = ["lock_folder"]

_NAME = ".lock"
#: The answers of a file system to whoever asks for a lock that another process has.
_TAKEN = (errno.EAGAIN, errno.EACCES)


@contextmanager
def lock_folder(folder: str | Path, use: str) -> Iterator[None]:
    """Keep other processes out of a folder, as long as they lock it too.

    The lock is that of `fcntl.flock`, over NFS too where the server has locks.  It ends with the
    process, however that ends; a file ``.lock`` that is left behind locks nothing.

    Args:
        folder: the folder, which exists.
        use: what it is used for, such as ``"training"``.

    Raises:
        ConfigError: another process has the lock; the error says which, and since when.
        OutputError: the folder cannot be written to.
    """
    path = Path(folder, _NAME)
    file = _open_locked(path, use)
    if file is None:
        logger.warning(
            f"{folder} cannot be locked here: another {use} in the same folder would not be noticed"
        )
        yield
        return
    with file:
        with output_errors(path):
            file.truncate(0)
            begun = time.strftime("%Y-%m-%d %H:%M:%S")
            holder = f"{use} of process {os.getpid()} on {socket.gethostname()}, since {begun}"
            file.write(holder.encode())
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def _open_locked(path: Path, use: str) -> FileIO | None:
    """Return the locked file, or None where nothing can be locked."""
    while fcntl is not None:
        with output_errors(path):
            # Without a buffer nothing is left to be written when it is closed.
            file = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().decode(errors="replace") or f"another {use}"
            file.close()
            if error.errno in _TAKEN:
                raise ConfigError(
                    f"save_dir: expected a folder that nothing else uses, found {path.parent}, "
                    f"which the {holder} uses; wait for its end, or choose another folder"
                ) from error
            return None
        # Its last holder may have deleted the file meanwhile.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()
    return None
