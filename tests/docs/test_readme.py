"""Every command of README does what README says, in the words of README.

Trainings are cut short by the config files alone: ``iters`` and the number of generated images.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.own_images import write_folders
from support.pages import README, commands, snippets
from support.processes import ROOT

from paddleseg_autoloss.cli.main import main

#: The commands of each line; all but those of this package are what .ci/run is there for.
COMMANDS = [command for line in commands(README) for command in line.split(" && ")]
OURS = [shlex.split(command)[1:] for command in COMMANDS if command.startswith("autoloss ")]
OTHERS = {command for command in COMMANDS if not command.startswith("autoloss ")}
SMALL = {"num_train": 4, "num_val": 2, "image_size": 64}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with what README takes for granted, and the data of the demo, only less of them."""
    folder = tmp_path_factory.mktemp("readme") / "我的 工作"
    images, masks = write_folders(folder)
    images.rename(folder / "images")
    masks.rename(folder / "masks")
    (block,) = snippets(README, "yaml")
    write_short(folder / "auto_ce_dice_demo.yml", "auto_ce_dice_demo.yml")
    write_short(folder / "path/to/stock.yml", "fixed_ce_dice_demo.yml")
    write_short(folder / "path/to/your.yml", "auto_ce_dice_demo.yml", yaml.safe_load(block))
    return folder


def write_short(path: Path, base: str, own: dict | None = None) -> None:
    short = {"iters": 10, "batch_size": 2, "train_dataset": SMALL, "val_dataset": SMALL}
    config = {"_base_": str(ROOT / "configs" / base), **short, **(own or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")


def shorten(path: Path) -> None:
    """Let the config that ``init`` wrote train less, on smaller images."""
    text = path.read_text(encoding="utf-8")
    for key, long, short in (
        ("iters", "300", "10"),
        ("batch_size", "4", "2"),
        ("target_size", "[64, 64]", "[32, 32]"),
    ):
        assert f"{key}: {long}\n" in text
        text = text.replace(f"{key}: {long}\n", f"{key}: {short}\n")
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def output(work, monkeypatch, capsys):
    """Run the commands that begin in one way, and return what they print."""
    monkeypatch.chdir(work)

    def run(*beginning: str) -> str:
        chosen = [words for words in OURS if words[: len(beginning)] == list(beginning)]
        assert chosen
        for words in chosen:
            assert main(words) == 0, words
        return capsys.readouterr().out

    return run


def test_demo(output, work):
    assert "weights: CrossEntropyLoss" in output("train", "--config", "auto_ce_dice_demo.yml")
    assert list(work.glob("output/vdlrecords.*"))
    assert (work / "output/best_model/model.pdparams").is_file()


def test_own_images(output, work):
    """What ``init`` prints is what README says."""
    printed = output("init").splitlines()
    shorten(work / "my_data/config.yml")
    own = ["--config", "my_data/config.yml"]
    for words in OURS:
        if words[1:3] == own:
            assert f"  autoloss {shlex.join(words)}" in printed
    assert "Recommendation" in output("diagnose", *own)
    assert "weights: CrossEntropyLoss" in output("train", *own)
    output("predict", *own)
    (val,) = (shlex.split(line) for line in printed if line.startswith("  autoloss val"))
    assert main(val[1:]) == 0
    lines = (work / "my_data/val.txt").read_text(encoding="utf-8").splitlines()
    drawn = sorted((work / "my_data/pictures/added_prediction").rglob("眼底 *.jpg"))
    assert len(drawn) == len(lines)
    for picture in drawn:
        assert np.asarray(Image.open(picture)).shape == (48, 64, 3)
    beside = sorted((work / "my_data/pictures/contours").rglob("眼底 *.jpg"))
    assert len(beside) == len(lines)
    assert all(Image.open(picture).width > 2 * 64 for picture in beside)


def test_own_config(output, work):
    assert "weights: CrossEntropyLoss" in output("train", "--config", "path/to/your.yml")
    assert list(work.glob("output/mine/vdlrecords.*"))


def test_one_flag(output):
    assert "weights: CrossEntropyLoss" in output("train", "--config", "path/to/stock.yml")


def test_nothing_is_left_out():
    """Each command belongs to a test above; .ci/run installs the package and runs the tests."""
    assert [words[0] for words in OURS] == [
        "train", "init", "diagnose", "train", "predict", "train", "train",
    ]  # fmt: skip
    installs = {"pip install '.[cpu]'", "pip install -e '.[cpu,test]'"}
    assert installs | {"python3.11 -m venv .venv", ". .venv/bin/activate", "pytest"} == OTHERS
