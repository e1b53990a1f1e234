"""Killed processes, full disks and checkpoints that do not fit."""

from __future__ import annotations

import json
import pickle
import resource
import signal
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
import yaml
from paddle import nn
from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.datasets import Dataset
from support import ROOT, SCRIPT_HEAD, TinyNet, ce_and_dice, run_tool, run_training

import paddleseg_autoloss
from paddleseg_autoloss.checks import build
from paddleseg_autoloss.data_checks import build_dataset
from paddleseg_autoloss.errors import CheckpointError, ConfigError, DataError
from paddleseg_autoloss.integration.checkpoint import whole_checkpoints

KILLS = (
    SCRIPT_HEAD
    + """
import json, os, shutil, signal, time
from paddleseg_autoloss.integration.checkpoint import whole_checkpoints

ITERS, KILLS = 120, 20
whole, killed = Path(sys.argv[1]), Path(sys.argv[2])


def two_heads():
    return [
        paddleseg_autoloss.AutoWeightedLoss(ce_and_dice()),
        paddleseg_autoloss.Relobralo(ce_and_dice()),
    ]


def train(folder):
    resume = {"resume_model": "latest"} if whole_checkpoints(folder) else {}
    _, losses, _ = run_training(
        folder, ITERS, losses=two_heads, model=lambda: TinyNet(2), save_interval=4,
        keep_checkpoint_max=2, **resume,
    )
    state = {f"{i}.{k}": v.numpy().tolist() for i, l in enumerate(losses)
             for k, v in l.state_dict().items()}
    (folder / "state.json").write_text(json.dumps(state))


def start(folder):
    # A fork has Paddle imported already; the parent never computes.
    child = os.fork()
    if child == 0:
        try:
            train(folder)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    return child


def again():
    # It is over before the kills are: go back to the start, as with a new run.
    shutil.rmtree(killed)
    return 0


begun = time.time()
assert os.waitpid(start(whole), 0)[1] == 0
alone = time.time() - begun
random, deaths, newest = np.random.default_rng(0), [], 0
while True:
    child, begun = start(killed), time.time()
    # Now and then in the midst of a save, which are frequent.
    pause = random.uniform(0.05, 0.6) * alone if len(deaths) < KILLS else 600
    while time.time() - begun < pause and not (done := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.005)
    if done[0]:
        assert done[1] == 0
        if len(deaths) == KILLS:
            break
        newest = again()
        continue
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    saved = [int(path.name[5:]) for path in whole_checkpoints(killed)]
    # None is lost but the one that was being written.
    assert max(saved, default=0) >= newest, (saved, newest)
    newest = max(saved, default=0)
    deaths.append(newest)
    if newest == ITERS:
        newest = again()
(killed / "deaths.json").write_text(json.dumps(deaths))
"""
)


@pytest.mark.once
def test_twenty_kills_change_nothing(tmp_path):
    """SIGKILL at random moments, resumed with `latest` each time: the state is bit for bit that of
    the run that was left alone."""
    script = tmp_path / "kills.py"
    script.write_text(KILLS, encoding="utf-8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = run_tool(script, whole, killed)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    deaths = json.loads((killed / "deaths.json").read_text())
    assert len(deaths) >= 20
    assert len(set(deaths)) > 5
    expected = json.loads((whole / "state.json").read_text())
    assert json.loads((killed / "state.json").read_text()) == expected
    for folder in (whole, killed):
        newest = whole_checkpoints(folder)[-1]
        assert newest.name == "iter_120"
        saved = paddle.load(str(newest / "model.pdopt"))["paddleseg_autoloss"]
        assert saved["terms"][0] == "head0/CrossEntropyLoss"
    weights = [paddle.load(str(f / "iter_120/model.pdparams")) for f in (whole, killed)]
    for key, value in weights[0].items():
        np.testing.assert_array_equal(value.numpy(), weights[1][key].numpy(), err_msg=key)


class TestResume:
    def test_latest_is_the_newest_whole_checkpoint(self, tmp_path, capfd):
        run_training(tmp_path, 8)
        (tmp_path / "iter_8/model.pdopt").unlink()
        run_training(tmp_path, 8, resume_model="latest")
        assert f"Resume model from {tmp_path}/iter_4" in capfd.readouterr().out

    def test_latest_of_nothing(self, tmp_path):
        with pytest.raises(CheckpointError, match="there is no whole checkpoint in"):
            run_training(tmp_path, 8, resume_model="latest")

    def test_truncated_optimizer_state(self, tmp_path):
        run_training(tmp_path, 4)
        file = tmp_path / "iter_4/model.pdopt"
        file.write_bytes(file.read_bytes()[:300])
        before = file.read_bytes()
        message = r"there is no whole checkpoint in .*iter_4/model.pdopt: it has changed"
        with pytest.raises(CheckpointError, match=message):
            run_training(tmp_path, 8, resume_model="latest")
        assert file.read_bytes() == before

    def test_another_network(self, tmp_path):
        run_training(tmp_path, 4)

        class Wider(TinyNet):
            def __init__(self):
                super().__init__()
                self.heads = nn.LayerList([nn.Conv2D(8, 3, 1)])

        with pytest.raises(
            CheckpointError,
            match=r"of another network: expected heads.0.weight of shape \[3, 8, 1, 1\], found "
            r"shape \[2, 8, 1, 1\]",
        ):
            run_training(tmp_path, 8, model=Wider, resume_model="latest")

    def test_another_optimizer(self, tmp_path):
        run_training(tmp_path, 4)

        def momentum(model):
            return paddle.optimizer.Momentum(0.1, parameters=model.parameters())

        with pytest.raises(CheckpointError, match="optimizer Adam, but the config has Momentum"):
            run_training(tmp_path, 8, optimizer=momentum, resume_model="latest")

    @pytest.mark.parametrize(
        "losses",
        [
            lambda: [paddleseg_autoloss.UncertaintyWeightedLoss(ce_and_dice())],
            lambda: [paddleseg_autoloss.AutoWeightedLoss([*ce_and_dice(), *ce_and_dice()])],
        ],
    )
    def test_another_method_or_number_of_losses(self, tmp_path, losses):
        run_training(tmp_path, 4)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(CheckpointError, match=r"trained with .* of .*, but the config has"):
            run_training(tmp_path, 8, losses=losses, resume_model="latest")
        for path, content in before.items():
            assert path.read_bytes() == content


class TestDisk:
    def test_full(self, tmp_path):
        """A limit on the size of files, which the system enforces like a full disk."""

        class Large(TinyNet):
            """Beyond the limit, which PaddleSeg's log stays below."""

            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Conv2D(3, 4000, 1), nn.Conv2D(4000, 8, 1))

        run_training(tmp_path, 4, model=Large)
        before = (tmp_path / "iter_4/model.pdopt").read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
            with pytest.raises(CheckpointError, match=r"save_dir: cannot write .*iter_8/model"):
                run_training(tmp_path, 8, model=Large, resume_model="latest")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)
        assert (tmp_path / "iter_4/model.pdopt").read_bytes() == before
        assert not list(tmp_path.rglob("*.part"))
        assert [path.name for path in whole_checkpoints(tmp_path)] == ["iter_4"]

    @pytest.mark.parametrize("folder", ["/proc/run", "/sys/run"])
    def test_folder_that_cannot_be_written(self, folder):
        if not Path(folder).parent.is_dir():
            pytest.skip("this system has no such folder")
        with pytest.raises(ConfigError, match=rf"save_dir: cannot write to {folder}: \w+"):
            run_training(Path(folder), 4)

    def test_file_in_the_place_of_the_folder(self, tmp_path):
        (tmp_path / "run").write_text("")
        with pytest.raises(ConfigError, match=r"save_dir: cannot write to .*run: File exists"):
            run_training(tmp_path / "run", 4)


class Hostile:
    """Unpickled, it writes a file."""

    def __init__(self, victim):
        self.victim = str(victim)

    def __reduce__(self):
        return (open, (self.victim, "w"))


class TestUntrusted:
    @pytest.mark.parametrize("name", ["model.pdparams", "model.pdopt"])
    def test_checkpoint_that_would_run_code(self, tmp_path, name):
        run_training(tmp_path, 4)
        (tmp_path / "iter_4/proof.json").unlink()
        with open(tmp_path / "iter_4" / name, "wb") as file:
            pickle.dump({"weight": Hostile(tmp_path / "victim")}, file)
        message = rf"--resume_model: .*that contains only tensors, found _?io.open in .*{name}"
        with pytest.raises(CheckpointError, match=message):
            run_training(tmp_path, 8, resume_model="latest")
        assert not (tmp_path / "victim").exists()
        with pytest.raises(NotImplementedError):  # Paddle, too late
            paddle.load(str(tmp_path / "iter_4" / name))
        assert (tmp_path / "victim").exists()

    @pytest.mark.parametrize(
        "model",
        [{"type": "FastSCNN"}, {"type": "PPLiteSeg", "backbone": {"type": "STDC1"}}],
        ids=["model", "backbone"],
    )
    def test_pretrained_weights_that_would_run_code(self, tmp_path, model):
        """A config alone can name them, from a script of PaddleSeg's too."""
        weights = tmp_path / "weights.pdparams"
        with open(weights, "wb") as file:
            pickle.dump({"weight": Hostile(tmp_path / "victim")}, file)
        model.get("backbone", model)["pretrained"] = str(weights)
        config = {
            "_base_": str(ROOT / "configs/auto_ce_dice_demo.yml"),
            "model": {"_inherited_": False, "num_classes": 2, **model},
        }
        (tmp_path / "mine.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        builder = SegBuilder(Config(str(tmp_path / "mine.yml")))
        message = (
            r"model: pretrained: expected a file that contains only tensors, found _?io.open in"
        )
        with pytest.raises(ConfigError, match=message):
            build("model", lambda: builder.model)
        assert not (tmp_path / "victim").exists()

    def test_pretrained_weights_are_loaded(self, tmp_path):
        weights = tmp_path / "weights.pdparams"
        config = str(ROOT / "configs/auto_ce_dice_demo.yml")
        state = SegBuilder(Config(config)).model.state_dict()
        paddle.save(state, str(weights))
        paddle.seed(7)
        loaded = SegBuilder(Config(config, opts=[f"model.pretrained={weights}"])).model
        for name, value in loaded.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), state[name].numpy(), err_msg=name)

    @pytest.mark.parametrize("entry", ["../secret.png", "{outside}/secret.png", "./../secret.png"])
    def test_list_that_leaves_the_data_set(self, tmp_path, entry, monkeypatch):
        root, outside = tmp_path / "data", tmp_path
        root.mkdir()
        for path in (root / "image.png", root / "label.png", outside / "secret.png"):
            cv2.imwrite(str(path), np.eye(8, dtype="uint8"))
        lines = f"image.png label.png\n{entry.format(outside=outside)} label.png\n"
        (root / "train.txt").write_text(lines, encoding="utf-8")

        def build():
            return build_dataset(
                "train_dataset",
                {"type": "Dataset", "dataset_root": str(root)},
                lambda: Dataset("train", str(root), [], 2, train_path=str(root / "train.txt")),
            )

        with pytest.raises(
            DataError, match=r"train_dataset: its list names .*secret.png, which is"
        ):
            build()
        monkeypatch.setenv("AUTOLOSS_OUTSIDE_ROOT", "1")
        assert len(build()) == 2
