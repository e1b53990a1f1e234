"""The commands that people type; in processes of their own where the process matters."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image
from support import ROOT, call, run_tool

from paddleseg_autoloss.cli.main import parse_args
from paddleseg_autoloss.data_checks.image_files import IMAGE_ENDINGS
from paddleseg_autoloss.integration.checkpoint import whole_checkpoints

#: The flags of tools/train.py, val.py and predict.py of PaddleSeg's release 2.8, with defaults.
PADDLESEG_FLAGS = {
    "train": {
        "config": None, "save_dir": "./output", "num_workers": 0, "do_eval": False,
        "use_vdl": False, "use_ema": False, "resume_model": None, "iters": None,
        "batch_size": None, "learning_rate": None, "save_interval": 1000, "log_iters": 10,
        "keep_checkpoint_max": 5, "seed": None, "precision": "fp32", "amp_level": "O1",
        "profiler_options": None, "data_format": "NCHW", "repeats": 1, "opts": None,
    },
    "val": {
        "config": None, "model_path": None, "num_workers": 0, "aug_eval": False, "scales": 1.0,
        "flip_horizontal": False, "flip_vertical": False, "is_slide": False, "crop_size": None,
        "stride": None, "data_format": "NCHW", "auc_roc": False, "opts": None,
    },
    "predict": {
        "config": None, "model_path": "m", "image_path": "i", "save_dir": "./output/result",
        "device_id": 0, "aug_pred": False, "scales": 1.0, "flip_horizontal": False,
        "flip_vertical": False, "is_slide": False, "crop_size": None, "stride": None,
        "custom_color": None,
    },
}  # fmt: skip


def demo(data: Path, *arguments) -> list:
    """The demo config on a small data set that is there already."""
    size = ["num_train=8", "num_val=3", "image_size=64", f"dataset_root={data}"]
    opts = [f"{part}_dataset.{key}" for part in ("train", "val") for key in size]
    return ["--config", "auto_ce_dice_demo.yml", *arguments, "--opts", *opts]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, fundus):
    """The demo config for a few iterations: its folder and what was printed."""
    folder = tmp_path_factory.mktemp("trained")
    options = ["--iters", 6, "--save_interval", 3, "--log_iters", 2, "--do_eval", "--use_vdl"]
    result = run_tool("tools/train.py", *demo(fundus, *options, "--save_dir", folder, "--seed", 1))
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


@pytest.mark.parametrize("tool", PADDLESEG_FLAGS)
def test_every_flag_of_paddleseg(tool):
    required = ["--model_path", "m", "--image_path", "i"] if tool == "predict" else []
    flags = vars(parse_args([tool, *required]))
    assert PADDLESEG_FLAGS[tool].items() <= flags.items()
    assert flags["device"] == ("gpu" if paddle.is_compiled_with_cuda() else "cpu")


def test_train(trained):
    folder, output = trained
    assert re.search(r"iter: 6/6, .* ETA 00:00:00 \| weights: CrossEntropyLoss", output)
    assert "equivalent MixedLoss coef: [" in output
    names = {path.name for path in folder.iterdir()}
    expected = {"iter_3", "iter_6", "best_model", "loss_weights.csv", "loss_weights.png"}
    assert expected | {"equivalent_mixed_loss.yml"} <= names


def test_equivalent_mix_can_be_trained(trained, fundus, tmp_path):
    """Learn once, freeze, retrain: the written file takes the place of the loss."""
    mix = trained[0] / "equivalent_mixed_loss.yml"
    config = tmp_path / "frozen.yml"
    bases = [str(mix), str(ROOT / "configs/_base_/synthetic_fundus.yml")]
    bases.append(str(ROOT / "configs/_base_/fastscnn_demo.yml"))
    config.write_text(json.dumps({"_base_": bases}))
    arguments = demo(fundus, "--iters", 2, "--log_iters", 1, "--save_dir", tmp_path / "out")
    arguments[1] = config
    result = call("train", *arguments)
    assert result.returncode == 0, result.stderr
    assert "MixedLoss" in result.stdout


def test_resume(trained, fundus):
    folder, _ = trained
    again = ["--iters", 8, "--log_iters", 2, "--save_dir", folder]
    result = call("train", *demo(fundus, *again, "--resume_model", folder / "iter_6"))
    assert result.returncode == 0, result.stderr
    assert "iter: 8/8" in result.stdout


def test_val_without_weights_says_so(fundus):
    warning = "--model_path: found none, so the network has its random initial values"
    assert warning in call("val", *demo(fundus)).stdout


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--aug_eval", "--flip_horizontal", "--flip_vertical", "--scales", "0.75", "1.0"],
        ["--is_slide", "--crop_size", "64", "64", "--stride", "32", "32"],
    ],
    ids=["plain", "augmented", "sliding"],
)
def test_val(flags, trained, fundus, tmp_path):
    weights, figures = trained[0] / "best_model" / "model.pdparams", tmp_path / "figures.json"
    result = call("val", *demo(fundus, "--model_path", weights, "--json", figures, *flags))
    assert result.returncode == 0, result.stderr
    found = json.loads(figures.read_text())
    line = re.search(
        r"mIoU: ([\d.]+) Acc: ([\d.]+) Kappa: (-?[\d.]+) Dice: ([\d.]+)", result.stdout
    )
    for name, printed in zip(("mIoU", "Acc", "Kappa", "Dice"), line.groups()):
        assert found[name] == pytest.approx(float(printed), abs=1e-4)
    assert len(found["class_IoU"]) == len(found["class_Recall"]) == 2
    # Accuracy is the mean of the recalls over the pixels.
    assert sum(found["class_share"]) == pytest.approx(1)
    assert found["Acc"] == pytest.approx(np.dot(found["class_share"], found["class_Recall"]))
    iou = np.array(found["class_IoU"])
    np.testing.assert_allclose(found["class_Dice"], 2 * iou / (1 + iou), rtol=1e-9)


@pytest.mark.parametrize(
    ("tool", "flags", "message"),
    [
        ("train", ["--log_iters", "0"], "--log_iters: expected a positive integer, found 0"),
        ("train", ["--seed", "-1"], "--seed: expected an integer from 0 to 4294967295, found -1"),
        ("val", ["--is_slide"], "--is_slide: expected --crop_size and --stride too"),
        ("val", ["--json", "no/such/folder.json"], "--json: there is no folder no/such"),
    ],
)
def test_flags_that_cannot_work(tool, flags, message, fundus):
    result = call(tool, *demo(fundus, *flags))
    assert result.returncode in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_val_of_weights_that_are_not_there(fundus):
    result = call("val", *demo(fundus, "--model_path", "no.pdparams"))
    assert result.returncode == 1
    assert "error: --model_path: expected a .pdparams file, found nothing" in result.stderr


def test_predict(trained, fundus, tmp_path):
    """The config goes without --opts here, as in PaddleSeg; it needs no data set to predict."""
    weights = trained[0] / "best_model" / "model.pdparams"
    image = Image.open(sorted((fundus / "JPEGImages").iterdir())[0])
    folder = tmp_path / "所有 格式"
    for ending in IMAGE_ENDINGS:
        folder.joinpath(ending[1:]).mkdir(parents=True)
        form = image.convert("L") if ending == ".pgm" else image
        form.save(folder / ending[1:] / f"眼底 1{ending}")
        masks = tmp_path / "masks" / ending[1:]
        masks.mkdir(parents=True)
        shutil.copy(sorted((fundus / "Annotations").iterdir())[0], masks / "眼底 1.png")
    result = call(
        "predict", "--config", "auto_ce_dice_demo.yml", "--model_path", weights,
        "--image_path", folder, "--masks", tmp_path / "masks", "--save_dir", tmp_path / "out",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for ending in IMAGE_ENDINGS:
        overlay = {".pgm": ".ppm"}.get(ending, ending)
        with Image.open(tmp_path / f"out/added_prediction/{ending[1:]}/眼底 1{overlay}") as drawn:
            assert drawn.size == (64, 64)
        with Image.open(tmp_path / f"out/contours/{ending[1:]}/眼底 1{overlay}") as contours:
            assert contours.width > 2 * 64
        with Image.open(tmp_path / f"out/pseudo_color_prediction/{ending[1:]}/眼底 1.png") as mask:
            assert mask.mode == "P"
            assert set(np.unique(mask)) <= {0, 1}


def test_a_list_cannot_lead_predictions_out_of_their_folder(trained, fundus, tmp_path):
    """The name of the second folder begins with that of the list's folder, and with two dots."""
    weights = trained[0] / "best_model" / "model.pdparams"
    for name in ("L", "L../run"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(sorted((fundus / "JPEGImages").iterdir())[0], tmp_path / "L../run/x.jpg")
    (tmp_path / "L/list.txt").write_text("../L../run/x.jpg\n")
    result = call(
        "predict", "--config", "auto_ce_dice_demo.yml", "--model_path", weights,
        "--image_path", tmp_path / "L/list.txt", "--save_dir", tmp_path / "out",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    kinds = {"added_prediction", "contours", "pseudo_color_prediction"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == kinds
    assert len(list(tmp_path.glob("out/added_prediction/**/x.jpg"))) == 1


def test_predictions_have_a_folder_that_can_be_written(trained, fundus, tmp_path):
    weights = trained[0] / "best_model" / "model.pdparams"
    (tmp_path / "file").touch()
    result = call(
        "predict", "--config", "auto_ce_dice_demo.yml", "--model_path", weights,
        "--image_path", fundus / "JPEGImages", "--save_dir", tmp_path / "file",
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith("error: save_dir: cannot write to")


def test_unreadable_image_stops_before_training(fundus, tmp_path):

    data = tmp_path / "data"
    shutil.copytree(fundus, data)
    victim = sorted((data / "JPEGImages").iterdir())[0]
    victim.write_bytes(b"")
    result = call("train", *demo(data, "--save_dir", tmp_path / "out"))
    assert result.returncode == 1
    assert f"cannot read {victim}" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def start(data: Path, folder: Path, *arguments) -> subprocess.Popen:
    arguments = demo(data, "--save_dir", folder, *arguments)
    return subprocess.Popen(
        [sys.executable, "tools/train.py", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell lets its background jobs ignore Ctrl-C, and so would the tests' own children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_and_resume(fundus, tmp_path):
    options = ["--iters", 500, "--save_interval", 2, "--log_iters", 1]
    process = start(fundus, tmp_path, *options)
    wait_for(lambda: whole_checkpoints(tmp_path), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in output
    folder = re.search(r"the same command with --resume_model (\S+)", output)[1]
    iteration = int(folder.rpartition("_")[2])
    result = run_tool(
        "tools/train.py",
        *demo(fundus, "--save_dir", tmp_path, "--iters", iteration + 2, "--resume_model", folder),
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.once
def test_kill_leaves_every_checkpoint_whole(fundus, tmp_path):
    """Killed while it saves at every iteration, five times."""
    for round_ in range(5):
        process = start(fundus, tmp_path, "--iters", 500, "--save_interval", 1, "--do_eval")
        known = len(list(tmp_path.glob("iter_*/*")))
        wait_for(lambda: len(list(tmp_path.glob("iter_*/*"))) > known, process)  # noqa: B023
        time.sleep(0.013 * round_)
        process.kill()
        process.communicate()
        for path in [*tmp_path.glob("iter_*/model.pd*"), *tmp_path.glob("best_model/*.pdparams")]:
            if path.suffix != ".part":
                assert paddle.load(str(path))
        for path in tmp_path.glob("iter_*"):
            path.rename(tmp_path / f"kept_{round_}_{path.name}")


@contextlib.contextmanager
def visualdl_server(folder: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "visualdl"), "--logdir", str(folder)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--language", "en"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        start_new_session=True,
    )
    try:
        yield f"http://127.0.0.1:{port}/app"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()


def fetch(url: str, seconds: float = 60) -> bytes:
    deadline = time.monotonic() + seconds
    while True:
        try:
            request = urllib.request.Request(url, headers={"Accept-Language": "de"})
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.read()
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.once
def test_quiet_training_prints_warnings_only(fundus, tmp_path):
    options = ["--iters", 2, "--save_dir", tmp_path, "--do_eval", "--quiet", "--to_static_training"]
    result = run_tool("-m", "paddleseg_autoloss", "train", *demo(fundus, *options))
    assert result.returncode == 0, result.stderr
    assert all("[WARNING]" in line for line in result.stdout.splitlines())
    assert (tmp_path / "equivalent_mixed_loss.yml").is_file()


def test_visualdl_page_opens(trained):
    """With the command of the README, for a browser that asks for neither English nor Chinese."""
    with visualdl_server(trained[0]) as url:
        assert b"<html" in fetch(f"{url}/index")
        tags = json.loads(fetch(f"{url}/api/scalar/tags"))
    assert tags["status"] == 0
    assert "Loss_weight/DiceLoss" in json.dumps(tags["data"])


def test_help_names_every_flag():
    result = run_tool("tools/train.py", "--help")
    assert result.returncode == 0
    assert all(f"--{flag}" in result.stdout for flag in PADDLESEG_FLAGS["train"])
