"""Every file of weights and states goes through one gate, whoever loads it."""

from __future__ import annotations

import functools
import pickle
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import paddle
import paddleseg.utils
import pytest
import yaml
from paddle import nn
from paddleseg.cvlibs import Config, SegBuilder
from support import ROOT, TinyNet, adam, call, run_tool, run_training

from paddleseg_autoloss.checks import build
from paddleseg_autoloss.cli.options import load_trained
from paddleseg_autoloss.comparison.evaluation import evaluate_run
from paddleseg_autoloss.errors import CheckpointError, ConfigError
from paddleseg_autoloss.integration.loading import load_tensors, load_weights

CONFIG = str(ROOT / "configs/auto_ce_dice_demo.yml")
ALONE = "expected a file that contains only tensors, found _?io.open in"


class Hostile:
    """Unpickled, it writes a file."""

    def __init__(self, victim):
        self.victim = str(victim)

    def __reduce__(self):
        return (open, (self.victim, "w"))


@pytest.fixture
def hostile(tmp_path):
    """A file that would make ``victim``; that there is none is checked at the end."""
    path, victim = tmp_path / "hostile/model.pdparams", tmp_path / "victim"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps({"weight": Hostile(victim)}))
    yield path
    assert not victim.exists()


@pytest.fixture
def served(tmp_path):
    """The address of a server of the files below ``tmp_path``."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


#: What PaddleSeg's tools/val.py does, in short.
VAL = """
import sys
from paddleseg.core import evaluate
from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.utils import utils

model = SegBuilder(Config(sys.argv[2])).model
utils.load_entire_model(model, sys.argv[4])
"""


def assert_refused(done) -> None:
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "--model_path: expected a file that contains only tensors" in last


class TestEveryWayIn:
    @pytest.mark.parametrize("command", ["val", "predict"])
    def test_commands(self, hostile, command):
        done = call(
            command, "--config", "auto_ce_dice_demo.yml", "--device", "cpu",
            "--model_path", hostile, *(["--image_path", "x.png"] if command == "predict" else []),
        )  # fmt: skip
        assert_refused(done)

    def test_weights_from_a_server(self, tmp_path, hostile, served):
        """PaddleSeg reads the folder of its downloads when it is imported."""
        done = run_tool(
            "tools/val.py", "--config", "auto_ce_dice_demo.yml", "--device", "cpu",
            "--model_path", f"{served}/hostile/model.pdparams", SEG_HOME=str(tmp_path),
        )  # fmt: skip
        assert_refused(done)

    def test_script_of_paddleseg(self, tmp_path, hostile):
        (tmp_path / "tools").mkdir()
        script = tmp_path / "tools/val.py"
        script.write_text(VAL, encoding="utf-8")
        done = run_tool(
            "-m", "paddleseg_autoloss", "run", script, "--config", CONFIG, "--model_path", hostile
        )
        assert done.returncode == 1
        assert (
            "pretrained: expected a file that contains only tensors" in done.stderr.splitlines()[-1]
        )

    def test_folder_of_a_comparison(self, tmp_path, hostile):
        """Its model would be evaluated when the comparison is continued."""
        for name in ("config.yml", "config_test.yml"):
            content = {"_base_": CONFIG, "val_dataset": {"dataset_root": str(tmp_path / "data")}}
            (hostile.parent / name).write_text(yaml.safe_dump(content), encoding="utf-8")
        with pytest.raises(CheckpointError, match=ALONE):
            evaluate_run(hostile.parent, "cpu", 0, 0)

    @pytest.mark.parametrize("name", ["model.pdparams", "model.pdopt"])
    def test_notebook_that_resumes(self, tmp_path, hostile, name):
        model = TinyNet()
        optimizer = adam(model)
        folder = tmp_path / "iter_4"
        paddle.save(model.state_dict(), str(folder / "model.pdparams"))
        paddle.save(optimizer.state_dict(), str(folder / "model.pdopt"))
        (folder / name).write_bytes(hostile.read_bytes())
        with pytest.raises(CheckpointError, match=f"--resume_model: {ALONE} .*{name}"):
            paddleseg.utils.resume(model, optimizer, str(folder))

    @pytest.mark.parametrize(
        "load",
        [
            paddleseg.utils.load_entire_model,
            paddleseg.utils.load_pretrained_model,
            paddleseg.utils.utils.load_entire_model,
            paddleseg.utils.utils.load_pretrained_model,
        ],
    )
    def test_notebook_that_loads(self, hostile, load):
        with pytest.raises(CheckpointError, match=ALONE):
            load(TinyNet(), str(hostile))

    def test_backbone_that_loads_by_itself(self, hostile, monkeypatch):
        """PaddleSeg's vision transformers call paddle.load themselves too."""
        utils = paddleseg.utils.utils
        monkeypatch.setattr(utils, "load_pretrained_model", lambda model, path: None)
        with pytest.raises(CheckpointError, match=ALONE):
            paddleseg.models.VisionTransformer(
                img_size=32, embed_dim=8, depth=1, num_heads=1, pretrained=str(hostile)
            )

    def test_calls_from_elsewhere_are_not_touched(self, tmp_path, hostile):
        path = str(tmp_path / "mine.pdparams")
        paddle.save({"a": paddle.ones([2])}, path)
        assert isinstance(paddle.load(path, return_numpy=True)["a"], np.ndarray)
        with pytest.raises(NotImplementedError):
            paddle.load(str(hostile))
        (tmp_path / "victim").unlink()


class TestDownload:
    def test_is_read_like_a_local_file(self, tmp_path, served, monkeypatch):
        home = tmp_path / "home"
        home.mkdir()
        monkeypatch.setattr(paddleseg.utils.seg_env, "PRETRAINED_MODEL_HOME", str(home))
        source, model = TinyNet(), TinyNet()
        paddle.save(source.state_dict(), str(tmp_path / "run/model.pdparams"))
        assert load_weights(model, f"{served}/run/model.pdparams") == {}
        for name, value in source.state_dict().items():
            np.testing.assert_array_equal(model.state_dict()[name].numpy(), value.numpy())

    def test_fails_in_one_line(self):
        with pytest.raises(
            CheckpointError, match=r"pretrained: cannot download http://127\S*: \w+"
        ):
            load_weights(TinyNet(), "http://127.0.0.1:1/run/model.pdparams")


class TestFit:
    def saved(self, tmp_path, change) -> str:
        path = str(tmp_path / "model.pdparams")
        state = TinyNet().state_dict()
        paddle.save({name: change(name, value) for name, value in state.items()}, path)
        return path

    def test_nothing_fits(self, tmp_path):
        path = str(tmp_path / "model.pdparams")
        paddle.save({"other": paddle.ones([2])}, path)
        model = TinyNet()
        before = {name: value.numpy() for name, value in model.state_dict().items()}
        message = f"pretrained: found none of the 8 tensors of TinyNet in {path}"
        with pytest.raises(CheckpointError, match=message):
            paddleseg.utils.load_entire_model(model, path)
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), before[name])

    def test_shapes_of_another_network(self, tmp_path):
        path = self.saved(tmp_path, lambda name, value: paddle.ones([5, 5]))
        with pytest.raises(CheckpointError, match="found none of the 8 tensors"):
            load_weights(TinyNet(), path)

    def test_some_fit(self, tmp_path, capfd):
        """As in PaddleSeg: warnings, and the count."""
        path = self.saved(tmp_path, lambda name, x: x if "body" in name else paddle.ones([5]))
        assert load_weights(TinyNet(), path) == {"heads.0.weight": [5], "heads.0.bias": [5]}
        shown = capfd.readouterr()
        assert "There are 6/8 variables loaded into TinyNet" in shown.out + shown.err

    @pytest.mark.parametrize("classes", [1, 3, 19])
    def test_another_number_of_classes(self, tmp_path, classes):
        """Training may begin with such weights; figures and pictures of them mean nothing."""
        shape = [classes, 8, 1, 1]

        def change(name, value):
            return paddle.ones(shape) if name == "heads.0.weight" else value

        path = self.saved(tmp_path, change)
        message = (
            f"--model_path: expected heads.0.weight of shape [2, 8, 1, 1], as the network of the "
            f"config has it, found {shape} in {path}; use the config of the training"
        )
        with pytest.raises(CheckpointError, match=re.escape(message)):
            load_trained(TinyNet(), path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "expected tensors by name in .*, found a list"),
            ({"heads.0.bias": None}, "expected a tensor heads.0.bias in .*, found a NoneType"),
            ({"heads.0.bias": 3}, "expected a tensor heads.0.bias in .*, found a int"),
            ({"heads.0.bias": "x"}, "expected a tensor heads.0.bias in .*, found a str"),
            ({}, "found none of the 8 tensors"),
        ],
    )
    def test_no_weights(self, tmp_path, content, message):
        path = str(tmp_path / "model.pdparams")
        paddle.save(content, path)
        with pytest.raises(CheckpointError, match=message):
            load_weights(TinyNet(), path)

    def test_another_type(self, tmp_path):
        path = self.saved(tmp_path, lambda name, value: value.astype("float16"))
        with pytest.raises(CheckpointError, match=r"cannot load .*dtype not match"):
            load_weights(TinyNet(), path)

    def test_evaluation_of_a_comparison_needs_all(self, tmp_path):
        model = SegBuilder(Config(CONFIG)).model.state_dict()
        del model[next(iter(model))]
        paddle.save(model, str(tmp_path / "model.pdparams"))
        for name in ("config.yml", "config_test.yml"):
            (tmp_path / name).write_text(yaml.safe_dump({"_base_": CONFIG}), encoding="utf-8")
        total = len(model) + 1
        message = rf"run: expected all {total} tensors of the network in \S+, found {total - 1}"
        with pytest.raises(CheckpointError, match=message):
            evaluate_run(tmp_path, "cpu", 0, 0)

    def test_commands(self, tmp_path):
        path = tmp_path / "model.pdparams"
        paddle.save({"other": paddle.ones([2])}, str(path))
        done = call(
            "predict", "--config", "auto_ce_dice_demo.yml", "--device", "cpu",
            "--model_path", path, "--image_path", "x.png",
        )  # fmt: skip
        assert done.returncode == 1
        assert "--model_path: found none of the" in done.stderr.splitlines()[-1]

    def test_config(self, tmp_path):
        paddle.save({"other": paddle.ones([2])}, str(tmp_path / "model.pdparams"))
        config = Config(CONFIG, opts=[f"model.pretrained={tmp_path}/model.pdparams"])
        message = "model: pretrained: found none of the 238 tensors of FastSCNN in"
        with pytest.raises(ConfigError, match=message):
            build("model", lambda: SegBuilder(config).model)


def test_resume_of_another_network_is_refused(tmp_path):
    run_training(tmp_path, 4)

    class Other(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2D(3, 2, 1)

        def forward(self, x):
            return [self.conv(x)]

    with pytest.raises(CheckpointError, match="of another network"):
        run_training(tmp_path, 8, model=Other, resume_model="latest")


def test_directory_and_absent_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"--model_path: cannot read .*: it is not a reg"):
        load_tensors(str(tmp_path), "--model_path")
    with pytest.raises(CheckpointError, match=r"--model_path: cannot read .*: No such file"):
        load_tensors(str(Path(tmp_path, "none")), "--model_path")
