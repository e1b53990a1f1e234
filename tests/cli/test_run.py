"""PaddleSeg's own scripts under ``python -m paddleseg_autoloss run``."""

from __future__ import annotations

import py_compile
import shutil
import sys
import zipapp
from argparse import Namespace
from pathlib import Path

import paddleseg
import pytest
from support import ROOT, run_tool

from paddleseg_autoloss.cli.run import run as run_script
from paddleseg_autoloss.errors import ConfigError

#: What PaddleSeg's tools/train.py does, in short.
SCRIPT = """
import argparse

import paddleseg
from paddleseg.core import train
from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.utils import utils

parser = argparse.ArgumentParser()
parser.add_argument("--config")
parser.add_argument("--save_dir")
parser.add_argument("--iters", type=int)
args = parser.parse_args()
print("paddleseg from", paddleseg.__file__)
config = Config(args.config, iters=args.iters)
builder = SegBuilder(config)
utils.set_device("cpu")
train(builder.model, builder.train_dataset, optimizer=builder.optimizer, save_dir=args.save_dir,
      iters=config.iters, batch_size=config.batch_size, losses=builder.loss, log_iters=1)
"""

CONFIG = """
batch_size: 2
iters: 100
train_dataset:
  type: SyntheticFundus
  dataset_root: {root}
  mode: train
  num_train: 8
  num_val: 3
  image_size: 64
  transforms: [{{type: Resize, target_size: [32, 32]}}, {{type: Normalize}}]
model: {{type: FastSCNN, num_classes: 2, enable_auxiliary_loss: false}}
optimizer: {{type: AdamW}}
lr_scheduler: {{type: PolynomialDecay, learning_rate: 0.01, end_lr: 0.0, power: 0.9}}
loss:
  types:
    - type: MixedLoss
      losses: [{{type: CrossEntropyLoss}}, {{type: DiceLoss}}]
      coef: [0.8, 0.2]
  coef: [1]
loss_aggregator: {{type: {method}, calpha: 0.4}}
"""


def prepare(folder: Path, fundus: Path, method: str = "CAGrad") -> Path:
    """A clone of PaddleSeg, as far as the script needs it, and a config."""
    (folder / "PaddleSeg/tools").mkdir(parents=True)
    (folder / "PaddleSeg/tools/train.py").write_text(SCRIPT, encoding="utf-8")
    (folder / "c.yml").write_text(CONFIG.format(root=fundus, method=method), encoding="utf-8")
    return folder / "PaddleSeg/tools/train.py"


def run(folder: Path, script: Path):
    return run_tool(
        "-m", "paddleseg_autoloss", "run", script, "--config", folder / "c.yml",
        "--save_dir", folder / "out", "--iters", "2",
    )  # fmt: skip


def test_script_trains_with_the_components_and_the_aggregator(tmp_path, fundus):
    result = run(tmp_path, prepare(tmp_path, fundus))
    assert result.returncode == 0, result.stderr
    assert "iter: 2/2" in result.stdout + result.stderr
    assert "weights: CrossEntropyLoss" in result.stdout + result.stderr
    rows = (tmp_path / "out/loss_weights.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 2 * 2
    assert (tmp_path / "out/loss_gradients.csv").is_file()


def test_clone_goes_before_the_installed_paddleseg(tmp_path, fundus):
    script = prepare(tmp_path, fundus)
    clone = tmp_path / "PaddleSeg/paddleseg"
    shutil.copytree(Path(paddleseg.__file__).parent, clone)
    result = run(tmp_path, script)
    assert result.returncode == 0, result.stderr
    assert f"paddleseg from {clone}" in result.stdout
    assert (tmp_path / "out/loss_gradients.csv").is_file()


def test_a_script_deep_in_a_clone_gets_that_clone_from_within_another(tmp_path, fundus):
    """python -m looks into the folder it is called from first."""
    script = prepare(tmp_path, fundus)
    deep = tmp_path / "PaddleSeg/deploy/slim/own.py"
    deep.parent.mkdir(parents=True)
    shutil.copy(script, deep)
    clone, other = tmp_path / "PaddleSeg/paddleseg", tmp_path / "Other/paddleseg"
    for place in (clone, other):
        shutil.copytree(Path(paddleseg.__file__).parent, place)
    result = run_tool(
        "-m", "paddleseg_autoloss", "run", deep, "--config", tmp_path / "c.yml",
        "--save_dir", tmp_path / "out", "--iters", "1",
        cwd=other.parent, PYTHONPATH=str(ROOT),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert f"paddleseg from {clone}" in result.stdout


def test_a_clone_that_is_never_found_ends_the_command(tmp_path):
    script = tmp_path / "PaddleSeg/tools/own.py"
    (tmp_path / "PaddleSeg/paddleseg").mkdir(parents=True)
    (tmp_path / "PaddleSeg/paddleseg/__init__.py").write_text("")
    script.parent.mkdir()
    script.write_text("")
    result = run_tool(
        "-m", "paddleseg_autoloss", "run", script, AUTOLOSS_CLONE=str(tmp_path / "PaddleSeg")
    )
    assert result.returncode == 1
    assert "error: run: expected the PaddleSeg of" in result.stderr.splitlines()[-1]


def test_two_cards(tmp_path, fundus):
    """The launcher starts the command ``autoloss``, which is no Python file."""
    script = prepare(tmp_path, fundus)
    command = tmp_path / "autoloss"
    code = "import sys; from paddleseg_autoloss.cli.main import main; sys.exit(main())"
    command.write_text(f"#!{sys.executable}\n{code}\n")
    command.chmod(0o755)
    result = run_tool(
        "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", tmp_path / "log",
        command, "run", script, "--config", tmp_path / "c.yml",
        "--save_dir", tmp_path / "out", "--iters", "2", PYTHONPATH=str(ROOT),
    )  # fmt: skip
    log = (tmp_path / "log/workerlog.0").read_text()
    assert result.returncode == 0, log
    assert "iter: 2/2" in log
    assert (tmp_path / "out/loss_gradients.csv").is_file()


@pytest.mark.parametrize(
    ("script", "method", "message"),
    [
        ("nothing.py", "CAGrad", "error: run: expected a Python script, found nothing at"),
        (None, "CAGard", "error: loss_aggregator.type: there is no 'CAGard'; did you mean CAGrad?"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path, fundus, script, method, message):
    made = prepare(tmp_path, fundus, method)
    result = run(tmp_path, script or made)
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "content",
    [b"print(1)\0", "print(1)\n".encode("utf-16"), b"# \xe9\nprint(1)\n", b"# coding: xyz\n"],
)
def test_a_file_that_is_no_script(tmp_path, content):
    path = tmp_path / "script.py"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        run_script(Namespace(script=str(path), arguments=[]))
    assert str(caught.value) == (
        f"run: expected a Python script, found a file that is no text in UTF-8: {path}; save it as "
        "UTF-8, or give the path of a Python script"
    )


@pytest.mark.parametrize("kind", ["text", "gbk", "compiled", "archive"])
def test_files_that_python_runs(tmp_path, kind, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [])
    monkeypatch.setattr("sys.path", [*sys.path])
    source, path = "print('图')\n", tmp_path / ("__main__.py" if kind == "archive" else "a.py")
    encoding = "gbk" if kind == "gbk" else "utf-8"
    path.write_text(f"# coding: {encoding}\n{source}", encoding)
    if kind == "compiled":
        path = Path(py_compile.compile(str(path), str(tmp_path / "a.pyc")))
    elif kind == "archive":
        zipapp.create_archive(tmp_path, tmp_path.with_suffix(".pyz"))
        path = tmp_path.with_suffix(".pyz")
    run_script(Namespace(script=str(path), arguments=[]))
    assert capsys.readouterr().out == "图\n"
