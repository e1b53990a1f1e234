"""Where the curves go: each logger gets those of PaddleSeg and ours."""

from __future__ import annotations

import importlib.util
import re
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from support.records import scalars
from support.training import Squares, TinyNet, adam, ce_and_dice, run_training

from paddleseg_autoloss import AutoWeightedLoss
from paddleseg_autoloss.cli.main import main, parse_args
from paddleseg_autoloss.errors import ConfigError, MissingPackageError, TrainingDiverged
from paddleseg_autoloss.integration.loggers import FirstWindow
from paddleseg_autoloss.integration.report import TrainLogger
from paddleseg_autoloss.integration.session import TrainingSession


def events(folder) -> dict[str, list]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: read.Scalars(tag) for tag in read.Tags()["scalars"]}


def needs(package: str):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


@needs("tensorboard")
def test_tensorboard_has_the_points_of_visualdl(tmp_path):
    options = {"val_dataset": Squares("val", 2), "use_vdl": True, "use_ema": True}
    run_training(tmp_path, 8, loggers=["tensorboard"], **options)
    expected, found = scalars(tmp_path), events(tmp_path)
    assert found.keys() == expected.keys()
    tags = {"Train/loss", "Train/lr", "Evaluate/mIoU", "Evaluate/Ema_mIoU", "Evaluate/Ema_Dice"}
    assert tags | {"Loss_weight/DiceLoss", "Loss_parameter/c/DiceLoss"} <= found.keys()
    for tag, points in expected.items():
        assert [point.step for point in found[tag]] == [point.id for point in points]
        np.testing.assert_array_equal([p.value for p in found[tag]], [p.value for p in points])


@needs("tensorboard")
def test_resumed_run_goes_on_in_tensorboard(tmp_path):
    """Without VisualDL; the iterations after the checkpoint are those of the later run."""
    run_training(tmp_path, 6, loggers=["tensorboard"])
    run_training(tmp_path, 8, loggers=["tensorboard"], resume_model=str(tmp_path / "iter_4"))
    assert [point.step for point in events(tmp_path)["Loss_raw/DiceLoss"]] == [2, 4, 6, 8]
    assert not list(tmp_path.glob("vdlrecords.*"))


def test_the_first_mean_after_a_resume_is_that_of_its_own_iterations(tmp_path, capfd):
    """PaddleSeg's loop divides the sum of 3 losses by 4."""
    options = {"save_interval": 5, "use_vdl": True}
    run_training(tmp_path / "whole", 8, log_iters=1, **options)
    each = [point.value for point in scalars(tmp_path / "whole")["Train/loss"]]
    capfd.readouterr()
    options["resume_model"] = str(tmp_path / "whole/iter_5")
    run_training(tmp_path / "part", 12, log_iters=4, **options)
    points = scalars(tmp_path / "part")["Train/loss"]
    assert [point.id for point in points] == [8, 12]
    assert points[0].value == pytest.approx(np.mean(each[5:8]), rel=1e-5)
    losses = [float(number) for number in re.findall(r", loss: ([\d.]+)", capfd.readouterr().out)]
    assert losses == pytest.approx([point.value for point in points], abs=2e-4)


def test_the_first_mean_may_be_negative(tmp_path):
    losses = {"types": [AutoWeightedLoss(ce_and_dice())], "coef": [1]}
    model = TinyNet()
    session = TrainingSession(model, Squares(), adam(model), losses, str(tmp_path), 95, 10)
    session.report.window = FirstWindow(95, 10)
    session.monitor.iteration = 100
    said = []
    logger = TrainLogger(SimpleNamespace(info=said.append), session.report)
    logger.info("[TRAIN] epoch: 3, iter: 100/200, loss: -0.2500, lr: 0.1")
    assert said[0].startswith("[TRAIN] epoch: 3, iter: 100/200, loss: -0.5000, lr: 0.1")


@needs("tensorboard")
def test_curves_are_whole_after_an_error(tmp_path):
    """A learning rate of 1e30 ends the run; PaddleSeg's loop does not close its writer then."""

    def wild(model):
        optimizer = adam(model)
        optimizer._learning_rate.base_lr = 1e30
        return optimizer

    with pytest.raises(TrainingDiverged):
        run_training(tmp_path, 8, optimizer=wild, loggers=["tensorboard"], log_iters=1)
    assert events(tmp_path)["Train/loss"][0].step == 1


#: Some curves of PaddleSeg and some of ours.
TAGS = ["Train/loss", "Evaluate/mIoU", "Loss_raw/DiceLoss", "Loss_weight/DiceLoss", "Evaluate/Dice"]


@needs("wandb")
def test_wandb_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_training(tmp_path, 4, loggers=["wandb"], val_dataset=Squares("val", 2))
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = path.read_bytes()
    assert all(tag.encode() in content for tag in TAGS)


@needs("swanlab")
def test_swanlab_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    reaction = signal.getsignal(signal.SIGINT)
    run_training(tmp_path, 4, loggers=["swanlab"], val_dataset=Squares("val", 2))
    (path,) = tmp_path.glob("swanlog/run-*/run-*.swanlab")
    content = path.read_bytes()
    assert all(tag.encode() in content for tag in TAGS)
    assert signal.getsignal(signal.SIGINT) is reaction


class TestFlag:
    def test_is_repeatable_and_takes_commas(self):
        assert parse_args(["train"]).logger == []
        words = ["train", "--logger", "tensorboard,wandb", "--logger", "swanlab", "--use_vdl"]
        assert parse_args(words).logger == ["tensorboard", "wandb", "swanlab"]

    def test_unknown_name(self, capsys):
        with pytest.raises(SystemExit):
            parse_args(["train", "--logger", "tensorbord"])
        expected = "expected one of visualdl, tensorboard, wandb, swanlab, found 'tensorbord'"
        assert expected in capsys.readouterr().err

    def test_missing_package_is_one_line(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "wandb", None)
        config = ["--config", "auto_ce_dice_demo.yml"]
        assert main(["train", *config, "--logger", "wandb"]) == 1
        expected = "error: the logger wandb needs the package wandb, which is missing: pip install "
        assert capsys.readouterr().err == f"{expected}wandb\n"


class TestFromPython:
    def test_visualdl_by_name_is_use_vdl(self, tmp_path):
        run_training(tmp_path, 2, loggers=["visualdl"])
        assert {"Train/loss", "Loss_raw/DiceLoss"} <= scalars(tmp_path).keys()

    def test_mistakes(self, tmp_path, monkeypatch):
        with pytest.raises(ConfigError, match="loggers: expected a list of names, found 'wandb'"):
            run_training(tmp_path, 2, loggers="wandb")
        with pytest.raises(ConfigError, match=r"loggers: expected one of visualdl, .* found 'mlfl"):
            run_training(tmp_path, 2, loggers=["mlflow"])
        monkeypatch.setitem(sys.modules, "swanlab", None)
        with pytest.raises(MissingPackageError, match="pip install swanlab"):
            run_training(tmp_path, 2, loggers=["swanlab"])
        assert not list(tmp_path.iterdir())

    @needs("swanlab")
    def test_nobody_is_logged_in(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SWANLAB_MODE", "online")
        monkeypatch.setenv("SWANLAB_ROOT", str(tmp_path))
        monkeypatch.setenv("SWANLAB_INTERACTIVE", "false")
        monkeypatch.delenv("SWANLAB_API_KEY", raising=False)
        with pytest.raises(ConfigError, match=r"--logger swanlab: .* online mode"):
            run_training(tmp_path, 2, loggers=["swanlab"])
