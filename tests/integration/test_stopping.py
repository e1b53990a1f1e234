"""Signals sent to real training processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import paddle
import pytest
from support.processes import ROOT, SCRIPT_HEAD, logs_of_ranks

from paddleseg_autoloss.integration.checkpoint import fault_of, whole_checkpoints

pytestmark = pytest.mark.once

TRAIN = (
    SCRIPT_HEAD
    + """
import json
from paddleseg_autoloss.flags import run_command

paddle.set_device("cpu")
options = json.loads(sys.argv[2])


class Slow(TinyNet):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Identity()

    def forward(self, x):
        print("forward", flush=True)
        time.sleep(options["pause"])
        return super().forward(x)


class SlowValidation(Squares):
    def __getitem__(self, index):
        print("evaluates", flush=True)
        time.sleep(options["pause"])
        return super().__getitem__(index)


val = SlowValidation("val", 60) if options.get("val") else None
sys.exit(run_command(lambda: run_training(
    Path(sys.argv[1]), options["iters"], model=Slow, save_interval=options["save_interval"],
    val_dataset=val, log_iters=1, num_workers=options.get("num_workers", 0),
    pictures=options.get("pictures", False),
    resume_model=options.get("resume_model"),
    keep_checkpoint_max=options.get("keep_checkpoint_max", 5),
)))
"""
)
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def start(folder, *launcher, before=None, pause=0.1, **options):
    """Start a training in a process group of its own."""
    script = folder / "script.py"
    script.write_text(TRAIN)
    options = {"iters": 12, "save_interval": 100, "pause": pause} | options
    return subprocess.Popen(
        [sys.executable, *launcher, str(script), str(folder / "run"), json.dumps(options)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=before or partial(handle_as_usual, STATUS),
    )  # fmt: skip


def handle_as_usual(numbers):
    """A shell in the background lets what it starts ignore some signals."""
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)


def read_until(process, text) -> str:
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def weights_of(folder, iteration) -> list[np.ndarray]:
    content = paddle.load(str(folder / "run" / f"iter_{iteration}" / "model.pdparams"))
    state = paddle.load(str(folder / "run" / f"iter_{iteration}" / "model.pdopt"))
    learned = state["paddleseg_autoloss"]["losses"]
    return [*content.values(), *(value for layer in learned.values() for value in layer.values())]


def finish(process, seconds=60) -> str:
    output, _ = process.communicate(timeout=seconds)
    return output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(folder, pause=0)
    output = finish(process)
    assert process.returncode == 0, output
    return weights_of(folder, 12)


@pytest.mark.parametrize("number", STATUS)
def test_the_iteration_that_was_reached_is_saved(tmp_path, undisturbed, number):
    process = start(tmp_path, pause=0.3, pictures=True)
    read_until(process, "iter: 3/12")
    process.send_signal(number)
    output = finish(process)
    assert process.returncode == STATUS[number], output
    (folder,) = whole_checkpoints(tmp_path / "run")
    iteration = int(folder.name[5:])
    assert 3 <= iteration < 12
    assert fault_of(folder) is None
    line = f"Stopped at iteration {iteration}; to go on: the same command with --resume_model"
    assert f"{line} {folder}" in output
    assert (tmp_path / "run" / "loss_weights.png").is_file()
    process = start(tmp_path, pause=0, resume_model="latest")
    output = finish(process)
    assert process.returncode == 0, output
    for one, other in zip(weights_of(tmp_path, 12), undisturbed):
        np.testing.assert_array_equal(one, other)


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    process = start(tmp_path, pause=30)
    read_until(process, "forward")
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


def test_ignored_signals_stay_ignored(tmp_path):
    def ignore():
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    process = start(tmp_path, before=ignore, iters=6)
    read_until(process, "iter: 2/6")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGHUP)
    output = finish(process)
    assert process.returncode == 0, output


def test_an_evaluation_is_broken_off(tmp_path):
    process = start(tmp_path, pause=2, val=True, save_interval=2)
    read_until(process, "evaluates")
    process.send_signal(signal.SIGTERM)
    # All images would take 120 seconds.
    output = finish(process, 60)
    assert process.returncode == 143, output
    assert output.count("stopping after this step; a second signal") == 1
    assert [folder.name for folder in whole_checkpoints(tmp_path / "run")] == ["iter_2"]


def test_no_more_checkpoints_than_wanted(tmp_path):
    process = start(tmp_path, pause=0.2, save_interval=2, keep_checkpoint_max=2)
    read_until(process, "iter: 7/12")
    process.send_signal(signal.SIGTERM)
    assert "Stopped at iteration" in finish(process)
    assert len(whole_checkpoints(tmp_path / "run")) == 2


def test_readers_that_get_the_signal_too(tmp_path):
    process = start(tmp_path, pause=0.3, num_workers=2)
    read_until(process, "iter: 3/12")
    os.killpg(process.pid, signal.SIGTERM)
    output = finish(process)
    assert process.returncode == 143, output
    (folder,) = whole_checkpoints(tmp_path / "run")
    assert int(folder.name[5:]) >= 3


def test_all_cards_stop_at_the_same_iteration(tmp_path):
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2",
                "--log_dir", str(tmp_path / "log")]  # fmt: skip
    process = start(tmp_path, *launcher, iters=2000, pause=0.05)
    log = tmp_path / "log" / "workerlog.0"
    while not log.is_file() or "iter: 3/2000" not in log.read_text():
        assert process.poll() is None, finish(process) + logs_of_ranks(tmp_path)
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    finish(process)
    # Paddle's launcher has exit statuses of its own.
    assert process.returncode == signal.SIGTERM
    (folder,) = whole_checkpoints(tmp_path / "run")
    iteration = folder.name[5:]
    logs = logs_of_ranks(tmp_path)
    assert f"Stopped at iteration {iteration};" in logs
    for rank in (0, 1):
        text = (tmp_path / "log" / f"workerlog.{rank}").read_text()
        assert "Traceback" not in text
        assert "Termination signal" not in text
