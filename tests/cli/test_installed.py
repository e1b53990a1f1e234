"""The wheel holds all that a user needs: commands, configs, types; and so does the sdist.

The fresh environment has nothing but the wheel.  What the wheel depends on is borrowed: a ``.pth``
file names the folder of packages of the environment that the tests run in.  Python reads no
``.pth`` files in that folder, so an editable install of the checkout stays unseen.  A package of
the fresh environment goes before one of the same name in the borrowed folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from support.processes import ROOT

import paddleseg_autoloss

pytestmark = pytest.mark.once

#: What the wheel is made from; the rest of a checkout does not count.
SOURCES = ["setup.py", "pyproject.toml", "README.md", "LICENSE", "configs", "paddleseg_autoloss"]
#: Endings of the package's own files; the last three are those of the templates of pages.
SUFFIXES = (".py", ".pyi", ".html", ".css", ".js")
TINY = [
    f"{part}_dataset.{key}"
    for part in ("train", "val")
    for key in ("num_train=8", "num_val=3", "image_size=64")
]


def run(*command, cwd: Path) -> subprocess.CompletedProcess:
    """Run a command as in a new shell, that knows nothing of the checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> SimpleNamespace:
    """The wheel made from the sources, the sdist, and the wheel made from the sdist."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", source, "--outdir", folder / "sdist", cwd=folder)
    run(sys.executable, "-m", "build", "--wheel", source, "--outdir", folder / "wheel", cwd=folder)
    (sdist,) = (folder / "sdist").glob("*.tar.gz")
    (from_sdist,) = (folder / "sdist").glob("*.whl")
    (wheel,) = (folder / "wheel").glob("*.whl")
    return SimpleNamespace(wheel=wheel, sdist=sdist, from_sdist=from_sdist)


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_is_whole(built):
    found = names(built.wheel)
    own = [p for p in (ROOT / "paddleseg_autoloss").rglob("*") if p.suffix in SUFFIXES]
    configs = [p for p in (ROOT / "configs").rglob("*") if p.suffix in (".py", ".yml")]
    expected = {path.relative_to(ROOT).as_posix() for path in own}
    expected |= {f"paddleseg_autoloss/{path.relative_to(ROOT).as_posix()}" for path in configs}
    expected.add("paddleseg_autoloss/py.typed")
    assert {name for name in found if ".dist-info/" not in name} == expected
    assert any(name.endswith("LICENSE") for name in found)


def test_sdist_makes_the_same_wheel(built):
    assert names(built.from_sdist) == names(built.wheel)
    with tarfile.open(built.sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "configs/auto_ce_dice_demo.yml"} <= files


def test_metadata(built):
    with zipfile.ZipFile(built.wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = message_from_string(archive.read(name).decode("utf-8"))
    assert metadata["Version"] == paddleseg_autoloss.__version__
    assert metadata["Requires-Python"] in ("<3.13,>=3.9", ">=3.9,<3.13")
    assert metadata["License"] == "Apache-2.0"
    versions = [f"Programming Language :: Python :: 3.{minor}" for minor in (9, 10, 11, 12)]
    classifiers = metadata.get_all("Classifier")
    assert [c for c in classifiers if c.startswith("Programming Language :: Python :: 3.")] == (
        versions
    )
    assert metadata.get_all("Project-URL")


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory) -> Path:
    """A fresh environment with the wheel; returns its folder of programs."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    run(*pip, "--no-deps", "--no-index", built.from_sdist, cwd=folder)
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-c", show, cwd=folder).stdout.strip())
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python.parent


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    """An empty folder to work in."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def trained(environment, empty) -> Path:
    """The demo, trained by its bare name."""
    run(
        environment / "autoloss", "train", "--config", "auto_ce_dice_demo.yml", "--iters", 2,
        "--save_interval", 2, "--log_iters", 1, "--do_eval", "--device", "cpu", "--opts", *TINY,
        cwd=empty,
    )  # fmt: skip
    return empty / "output"


def test_checkout_is_not_seen(environment, empty):
    code = "from importlib.util import find_spec; print(find_spec('paddleseg_autoloss').origin)"
    found = Path(run(environment / "python", "-c", code, cwd=empty).stdout.strip())
    assert environment.parent in found.parents


def test_train(trained):
    assert (trained / "best_model" / "model.pdparams").is_file()
    assert (trained / "equivalent_mixed_loss.yml").is_file()


def test_val(trained, environment, empty):
    run(
        environment / "autoloss", "val", "--config", "auto_ce_dice_demo.yml", "--model_path",
        trained / "best_model/model.pdparams", "--json", "figures.json", "--device", "cpu",
        "--opts", *TINY,
        cwd=empty,
    )  # fmt: skip
    assert 0 <= json.loads((empty / "figures.json").read_text())["mIoU"] <= 1


def test_predict(trained, environment, empty):
    run(
        environment / "autoloss", "predict", "--config", "auto_ce_dice_demo.yml", "--model_path",
        trained / "best_model/model.pdparams", "--image_path",
        "data/synthetic_fundus/JPEGImages", "--save_dir", "pictures", "--device", "cpu",
        cwd=empty,
    )  # fmt: skip
    assert len(list((empty / "pictures/added_prediction").iterdir())) == 8 + 3


def test_list(environment, empty):
    assert (
        "CAGrad"
        in run(environment / "python", "-m", "paddleseg_autoloss", "list", cwd=empty).stdout
    )


def test_compare(trained, environment, empty):
    """Two variants, one seed.  The runs use the installed package, whatever lies in the folder."""
    other = empty / "paddleseg_autoloss"
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit('the package of another checkout')")
    comparison = {
        "base": "fixed_ce_dice_demo.yml",
        "seeds": 1,
        "variants": [{"coef": [0.8, 0.2]}, {"method": "AutoWeightedLoss"}],
    }
    (empty / "mine.yml").write_text(yaml.safe_dump(comparison))
    run(
        environment / "autoloss", "compare", "mine.yml", "--iters", 2, "--save_interval", 2,
        "--samples", 1, "--device", "cpu", "--opts", *TINY,
        cwd=empty,
    )  # fmt: skip
    folder = empty / "output/compare/mine"
    results = [json.loads(path.read_text()) for path in folder.glob("runs/*/*/*/result.json")]
    assert len(results) == 2
    assert "autoloss compare mine.yml --iters 2" in (folder / "report.md").read_text()
