"""Disks that are really full: small file systems in memory, in a mount namespace of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.processes import ROOT, SCRIPT_HEAD, lock_holder
from support.training import run_training

from paddleseg_autoloss.errors import ConfigError

pytestmark = pytest.mark.once

SCRIPT = (
    SCRIPT_HEAD
    + """
import contextlib
import io
import json
import subprocess
from paddleseg_autoloss.flags import run_command
from paddleseg_autoloss.integration.checkpoint import fault_of, whole_checkpoints

paddle.set_device("cpu")


class Large(TinyNet):
    def __init__(self):
        super().__init__()
        self.more = nn.Conv2D(8, 64, 9)


def run(name, mount, model=TinyNet, prepare=lambda folder: None, **options):
    place = Path(sys.argv[1], name)
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", mount, "tmpfs", str(place)], check=True)
    folder = place / "run"
    folder.mkdir()
    prepare(folder)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        status = run_command(lambda: run_training(
            folder, 2000, model=model, **{"save_interval": 10**6, "log_iters": 1} | options
        ))
    whole = whole_checkpoints(folder)
    found[name] = {
        "status": status, "error": errors.getvalue().strip().splitlines()[-1],
        "whole": len(whole), "faults": [fault_of(one) for one in whole],
    }


def no_curves(folder):
    (folder / "loss_weights.csv").symlink_to("/dev/null")


def full(folder):
    with open(folder.parent / "ballast", "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))


found = {}
run("curves", "size=64k")
run("gradients", "size=64k", losses=lambda: [paddleseg_autoloss.PCGrad(ce_and_dice())],
    prepare=lambda folder: no_curves(folder))
run("checkpoint", "size=700k", Large, save_interval=1)
run("inodes", "size=4m,nr_inodes=14", Large, save_interval=1)
run("visualdl", "size=24k", prepare=no_curves, use_vdl=True)
run("tensorboard", "size=24k", prepare=no_curves, loggers=["tensorboard"])
run("start", "size=64k", prepare=full)
Path(sys.argv[1], "found.json").write_text(json.dumps(found))
"""
)
NAMES = ["curves", "gradients", "checkpoint", "inodes", "visualdl", "tensorboard", "start"]


@pytest.fixture(scope="module")
def disks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disks")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    for unshare in (["unshare", "-m"], ["unshare", "-rm"]):
        if subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("this system gives no mount namespace, in which a small disk can be mounted")
    done = subprocess.run(
        [*unshare, sys.executable, "-W", "ignore", str(script), str(folder)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_one_line_names_the_file(disks, name):
    found = disks[name]
    files = {
        "curves": "loss_weights.csv", "gradients": "loss_gradients.csv", "checkpoint": "iter_",
        "inodes": "iter_", "visualdl": "vdlrecords", "tensorboard": "events.out.tfevents",
        "start": "run",
    }  # fmt: skip
    if name == "tensorboard":
        pytest.importorskip(name)
    assert found["status"] == 1
    assert found["error"].startswith("error: ")
    assert files[name] in found["error"]
    assert "free some space" in found["error"] or "No space left" in found["error"]


@pytest.mark.parametrize("name", ["checkpoint", "inodes"])
def test_the_checkpoints_before_are_whole(disks, name):
    assert disks[name]["whole"] >= 1
    assert set(disks[name]["faults"]) == {None}


def test_one_training_to_a_folder(tmp_path):
    run_training(tmp_path, 4)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with lock_holder(tmp_path), pytest.raises(ConfigError, match="nothing else uses"):
        run_training(tmp_path, 8)
    assert before == {path: path.read_bytes() for path in before}
