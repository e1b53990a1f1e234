"""The notebooks run from top to bottom, and the output in them is that of their code."""

from __future__ import annotations

import base64
import importlib
import re
import sys
from pathlib import Path

import matplotlib.font_manager
import nbformat
import pytest
from support.processes import ROOT

sys.path.insert(0, str(ROOT / "docs"))

import run_notebooks

pytestmark = pytest.mark.once
NAMES = ["ce_dice_optic_disc", "uncertainty_regression"]


@pytest.fixture(autouse=True)
def fonts_are_known(monkeypatch):
    """Matplotlib has made its list of fonts in this process; without it a kernel reports one."""
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "docs/notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook: nbformat.NotebookNode) -> str:
    """All text that the cells printed."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    shown = [output.data for output in outputs if output.output_type == "display_data"]
    return [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]


def run(name: str, folder: Path, **parameters) -> nbformat.NotebookNode:
    notebook = read(name)
    run_notebooks.set_parameters(notebook, **parameters)
    run_notebooks.run(notebook, folder)
    check_output(notebook)
    return notebook


def check_output(notebook: nbformat.NotebookNode) -> None:
    """Every cell was run, in order, without an error or a warning."""
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type in ("stream", "display_data"), output
            assert output.get("name") != "stderr", output.text


def sigmas(notebook: nbformat.NotebookNode) -> list[dict[str, float]]:
    """The rows of the table of sigmas."""
    rows = re.findall(r"^y\d +([\d.]+) +([\d.]+) +([\d.]+)$", printed(notebook), flags=re.M)
    return [dict(zip(("noise", "rms", "sigma"), map(float, row))) for row in rows]


def figures(notebook: nbformat.NotebookNode) -> dict[str, list[float]]:
    """mIoU, Dice and kappa of each row of the table of results."""
    pattern = r"^((?:auto|fixed).*?) +([\d.]+) +([\d.]+) +([\d.]+)$"
    rows = re.findall(pattern, printed(notebook), flags=re.M)
    return {name: [float(number) for number in numbers] for name, *numbers in rows}


def learned(notebook: nbformat.NotebookNode) -> dict[str, tuple[float, float, float]]:
    """The learned c, weight and share of each loss."""
    pattern = r"^(\w+Loss) +([\d.]+) +([\d.]+) +([\d.]+)$"
    rows = re.findall(pattern, printed(notebook), flags=re.M)
    return {name: tuple(map(float, numbers)) for name, *numbers in rows}


def test_all_notebooks_are_tested():
    assert sorted(path.stem for path in (ROOT / "docs/notebooks").glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_committed_output_is_that_of_the_code(name):
    """If it is not: python docs/run_notebooks.py docs/notebooks/NAME.ipynb."""
    notebook = read(name)
    nbformat.validate(notebook)
    check_output(notebook)
    assert notebook.metadata[run_notebooks.HASH] == run_notebooks.hash_of_code(notebook)
    assert len(pictures(notebook)) >= 2
    assert max(map(len, pictures(notebook))) <= run_notebooks.LARGEST
    assert not re.search(r"/(home|root|tmp|work|opt|Users)/", nbformat.writes(notebook))


def test_committed_sigmas_are_the_noise():
    """300 samples estimate a standard deviation within 16 %, four standard errors."""
    rows = sigmas(read("uncertainty_regression"))
    assert [row["noise"] for row in rows] == [3.0, 0.5]
    for row in rows:
        assert row["sigma"] == pytest.approx(row["rms"], rel=0.02)
        assert row["sigma"] == pytest.approx(row["noise"], rel=0.16)


def test_committed_figures_are_of_generated_images():
    """Pictures of the data set of PaddleSeg may not be shown."""
    notebook = read("ce_dice_optic_disc")
    assert "SyntheticFundus with " in printed(notebook)
    assert min(min(row) for row in figures(notebook).values()) > 0.5


def test_uncertainty_regression(tmp_path):
    """Longer steps learn the sigmas in fewer epochs; the data are those of the script."""
    notebook = run(
        "uncertainty_regression", tmp_path, EPOCHS=400, BATCH_SIZE=100, LEARNING_RATE=0.01
    )
    for row in sigmas(notebook):
        assert row["sigma"] == pytest.approx(row["rms"], rel=0.15)
        assert row["sigma"] == pytest.approx(row["noise"], rel=0.16)
    assert len(pictures(notebook)) == 2
    tool = importlib.import_module("demo_uncertainty")
    _, y = tool.make_data(seed=0)
    assert f"standard deviation of y1 and y2: {y.std(axis=1).round(3)}" in printed(notebook)


def test_ce_dice_optic_disc(tmp_path):
    small = {"num_train": 8, "num_val": 4, "image_size": 64}
    notebook = run("ce_dice_optic_disc", tmp_path, GENERATED=small, SIZE=64, ITERS=10)
    assert "SyntheticFundus with 8 images to train on, 4 to validate on" in printed(notebook)
    rows = learned(notebook)
    assert rows.keys() == {"CrossEntropyLoss", "DiceLoss"}
    for c, weight, share in rows.values():
        assert c != 1
        assert weight == pytest.approx(1 / (2 * c**2), rel=1e-2)
        assert share == pytest.approx(weight / sum(row[1] for row in rows.values()), abs=2e-3)
    pair = ("auto", "fixed 0.8 : 0.2")
    assert list(figures(notebook)) == [*pair, *(f"{name}, with flips" for name in pair)]
    assert len(pictures(notebook)) == 3
    assert (tmp_path / "output/auto/loss_weights.csv").is_file()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Run the first cell in a folder where no package is there; return what pip installs.

    pip itself is not run: that takes minutes and a network.
    """
    cell = code_cells(read(NAMES[0]))[0]
    assert cell.source == code_cells(read(NAMES[1]))[0].source
    calls: list[list[str]] = []

    def start(folder: Path) -> str:
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setattr("importlib.util.find_spec", lambda name: None)
            patch.setattr("subprocess.run", lambda command, check: calls.append(command))
            patch.delitem(sys.modules, "numpy")
            exec(cell.source, {})
        return calls.pop()[-1]

    return start


def test_install_cell_asks_for_a_checkout(install, tmp_path):
    with pytest.raises(FileNotFoundError, match="upload a checkout of paddleseg_autoloss"):
        install(tmp_path)


def make_checkout(folder: Path) -> str:
    """Return what pip installs from a checkout in ``folder``."""
    (folder / "docs/notebooks").mkdir(parents=True)
    (folder / "paddleseg_autoloss").mkdir()
    (folder / "paddleseg_autoloss/__init__.py").touch()
    return f"{folder}[cpu]"


def test_install_cell_finds_the_checkout(install, tmp_path):
    """It lies above the notebook, or beside it."""
    package = make_checkout(tmp_path / "cloned")
    for folder in (tmp_path, tmp_path / "cloned/docs/notebooks"):
        assert install(folder) == package


def test_folder_of_a_clone_is_no_checkout(install, tmp_path):
    """`git clone` gives the checkout the name of the package."""
    package = make_checkout(tmp_path / "paddleseg_autoloss")
    (tmp_path / "notebooks").mkdir()
    assert install(tmp_path) == package
    with pytest.raises(FileNotFoundError, match="upload a checkout"):
        install(tmp_path / "notebooks")
