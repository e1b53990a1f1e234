"""Two processes and one folder."""

from __future__ import annotations

import errno
import re
import signal
import socket
from unittest import mock

import pytest
from support.processes import lock_holder

from paddleseg_autoloss import locks
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.locks import lock_folder

pytestmark = pytest.mark.once


@pytest.fixture
def holder(tmp_path):
    with lock_holder(tmp_path) as process:
        yield process


def test_the_second_is_told_who_the_first_is(tmp_path, holder):
    message = (
        rf"save_dir: .* found {re.escape(str(tmp_path))}, which the training of process "
        rf"{holder.pid} on {re.escape(socket.gethostname())}, since 20\d\d-.* uses; wait for"
    )
    with pytest.raises(ConfigError, match=message), lock_folder(tmp_path, "comparison"):
        pass


def test_a_killed_holder_locks_nothing(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".lock").exists()
    with lock_folder(tmp_path, "training"):
        pass
    assert not (tmp_path / ".lock").exists()


def test_the_lock_ends_with_its_block(tmp_path, holder):
    holder.communicate("")
    assert not list(tmp_path.iterdir())
    for _ in range(2):
        with lock_folder(tmp_path, "training"):
            assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks(tmp_path):
    """No such file system can be mounted everywhere: its answer is made up."""
    refusal = OSError(errno.ENOLCK, "No locks available")
    with (
        mock.patch.object(locks.fcntl, "lockf", side_effect=refusal),
        mock.patch.object(locks.logger, "warning") as warning,
        lock_folder(tmp_path, "training"),
    ):
        pass
    assert "cannot be locked here: another training" in warning.call_args.args[0]
