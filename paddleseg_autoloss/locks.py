"""A lock on a folder; the operating system releases it if the process with the lock dies."""

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
    # Windows does not have it.
    fcntl = None  # type: ignore[assignment]

__all__ = ["lock_folder"]

_NAME = ".lock"
#: Errors of a file system if another process has the lock.
_TAKEN = (errno.EAGAIN, errno.EACCES)


@contextmanager
def lock_folder(folder: str | Path, use: str) -> Iterator[None]:
    """Lock a folder against other processes that use this function.

    The lock is that of `fcntl.lockf`; it also works over NFS if the server supports locks.  It ends
    with the process in every case, and no child inherits it; a remaining file ``.lock`` locks
    nothing.  A process does not lock a folder against itself.

    Args:
        folder: the folder, which exists.
        use: purpose of the lock, such as ``"training"``.

    Raises:
        ConfigError: another process has the lock; the error names the process and the time.
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
    """Return the locked file, or None if the file system has no locks."""
    while fcntl is not None:
        with output_errors(path):
            # Without a buffer, closing the file writes nothing.
            file = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        # The previous process may have deleted the file in the meantime.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()
    return None
