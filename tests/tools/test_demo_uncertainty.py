"""Tests of tools/demo_uncertainty.py."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "demo_uncertainty.py"
sys.path.insert(0, str(TOOL.parent))

import demo_uncertainty  # noqa: E402

HEADS = range(len(demo_uncertainty.LINES))
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
Demo = tuple[Path, str, dict[str, Any]]
#: Steps that are longer than the default ones reach the same optimum sooner.
LINEAR = ["--iters", "1500", "--learning_rate", "0.1"]
#: The form of the notebook, shortened in the same way, with batches that disturb long steps less.
HIDDEN = ["--epochs", "400", "--batch_size", "100", "--hidden", "512", "--learning_rate", "0.01"]


def run_tool(folder: Path, arguments: list[str]) -> Demo:
    """Run the tool; return its folder, what it printed and its JSON."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert demo_uncertainty.main([*arguments, "--save_dir", str(folder)]) == 0
    figures = json.loads((folder / "demo_uncertainty.json").read_text(encoding="utf-8"))
    return folder, printed.getvalue(), figures


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return run_tool(tmp_path_factory.mktemp("demo") / "new" / "folder", LINEAR)


def least_squares(index: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (slope, intercept), their standard errors and the residual rms, in closed form."""
    x, y = demo_uncertainty.make_data(seed=0)
    design = np.stack([x, np.ones_like(x)], axis=1)
    solution, squares, _, _ = np.linalg.lstsq(design, y[index], rcond=None)
    variance = squares[0] / (x.size - 2)
    errors = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    return solution, errors, float(np.sqrt(squares[0] / x.size))


def test_data_follow_the_specification() -> None:
    x, y = demo_uncertainty.make_data(seed=0)
    assert x.shape == (300,)
    assert y.shape == (2, 300)
    noise = [y[0] - (-2 * x + 1), y[1] - (1.5 * x + 3)]
    # Four standard errors of the standard deviation of 300 samples are 16 %.
    np.testing.assert_allclose([part.std() for part in noise], [3.0, 0.5], rtol=0.16)


@pytest.mark.parametrize("index", HEADS)
def test_sigma_is_the_residual_rms(demo: Demo, index: int) -> None:
    head = demo[2]["heads"][index]
    rms = least_squares(index)[2]
    assert head["residual_rms"] == pytest.approx(rms, rel=1e-5)
    assert head["sigma"] == pytest.approx(rms, rel=1e-4)
    assert head["difference_percent"] == pytest.approx(100 * (head["sigma"] / rms - 1), abs=1e-2)


@pytest.mark.parametrize("index", HEADS)
def test_fit_is_the_least_squares_line(demo: Demo, index: int) -> None:
    head, line = demo[2]["heads"][index], demo_uncertainty.LINES[index]
    fitted = np.array([head["slope"], head["intercept"]])
    solution, errors, _ = least_squares(index)
    np.testing.assert_allclose(fitted, solution, atol=1e-4)
    assert np.all(np.abs(fitted - [line.slope, line.intercept]) < 4 * errors)


def test_files_and_table(demo: Demo) -> None:
    folder, printed, figures = demo
    assert (folder / "demo_uncertainty.png").read_bytes().startswith(PNG_SIGNATURE)
    assert (figures["iters"], figures["learning_rate"], figures["seed"]) == (1500, 0.1, 0)
    assert [head["true_noise"] for head in figures["heads"]] == [3.0, 0.5]
    rows = [line.split() for line in printed.splitlines()[1:3]]
    for row, head in zip(rows, figures["heads"]):
        assert row[0] == head["name"]
        keys = ("true_noise", "residual_rms", "sigma", "difference_percent")
        assert [float(cell) for cell in row[1:5]] == pytest.approx(
            [head[key] for key in keys], abs=6e-3
        )
    assert "not settled" not in printed


def test_defaults() -> None:
    """The table of README's page is of a run with these; its sigmas are those of the optimum."""
    defaults = vars(demo_uncertainty._parser().parse_args([]))
    defaults.pop("save_dir")
    assert demo_uncertainty.Settings(**defaults) == demo_uncertainty.Settings(
        iters=22000, learning_rate=3e-4, seed=0, epochs=None, batch_size=300, hidden=0
    )
    page = (TOOL.parents[1] / "docs/own_loops.md").read_text(encoding="utf-8")
    sigmas = [f"{least_squares(index)[2]:.4f}" for index in HEADS]
    assert f"the learned sigmas are {sigmas[0]} and {sigmas[1]}" in page


def test_hidden_layer_and_batches(tmp_path: Path) -> None:
    """A network that can bend fits the samples about as closely as the lines do."""
    _, printed, figures = run_tool(tmp_path, HIDDEN)
    assert "not settled" not in printed
    for index in HEADS:
        rms = least_squares(index)[2]
        head, line = figures["heads"][index], demo_uncertainty.LINES[index]
        assert head["residual_rms"] == pytest.approx(rms, rel=0.1)
        assert head["sigma"] == pytest.approx(rms, rel=0.15)
        assert head["slope"] == pytest.approx(line.slope, abs=0.15)
    assert (tmp_path / "demo_uncertainty.png").read_bytes().startswith(PNG_SIGNATURE)


def test_epochs_pass_over_all_samples() -> None:
    settings = demo_uncertainty.Settings(epochs=2, batch_size=16, hidden=4)
    assert settings.steps == 2 * 19
    x, y = demo_uncertainty.make_data(seed=0)
    columns = demo_uncertainty._float32(x[:, None]), demo_uncertainty._float32(y.T)
    batches = demo_uncertainty._batches(*columns, settings)
    passes = []
    for _ in range(2):
        parts = [next(batches) for _ in range(19)]
        assert [len(part) for part, _ in parts] == [16] * 18 + [12]
        rows = np.concatenate([np.hstack([a.numpy(), b.numpy()]) for a, b in parts])
        passes.append(rows)
    whole = np.hstack([column.numpy() for column in columns])
    assert not np.array_equal(passes[0], passes[1])
    for rows in passes:
        np.testing.assert_array_equal(rows[rows[:, 0].argsort()], whole[whole[:, 0].argsort()])


def test_seed_repeats_a_run() -> None:
    settings = demo_uncertainty.Settings(epochs=1, batch_size=16, hidden=8, seed=3)
    first, second = demo_uncertainty.run(settings), demo_uncertainty.run(settings)
    assert first.heads == second.heads
    assert first.history.totals == second.history.totals


def test_json_holds_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--iters", "7", "--learning_rate", "0.01", "--seed", "5"]
    assert demo_uncertainty.main([*arguments, "--save_dir", str(tmp_path)]) == 0
    assert "raise --iters" in capsys.readouterr().out
    figures = json.loads((tmp_path / "demo_uncertainty.json").read_text(encoding="utf-8"))
    result = demo_uncertainty.run(demo_uncertainty.Settings(7, 0.01, 5))
    assert result.history.steps == list(range(8))
    for index, (head, fit) in enumerate(zip(figures["heads"], result.heads)):
        assert head == {**vars(fit), "difference_percent": fit.difference_percent}
        residuals = result.y[index] - fit.slope * result.x - fit.intercept
        assert fit.residual_rms == pytest.approx(np.sqrt(np.mean(residuals**2)))
        assert fit.residual_rms**2 == pytest.approx(result.history.losses[-1][index], rel=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--iters", "0"],
        ["--iters", "-3"],
        ["--learning_rate", "0"],
        ["--learning_rate", "nan"],
        ["--learning_rate", "inf"],
        ["--seed", "-1"],
        ["--epochs", "0"],
        ["--batch_size", "0"],
        ["--batch_size", "301"],
        ["--hidden", "-1"],
    ],
)
def test_bad_value_is_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert demo_uncertainty.main([*arguments, "--save_dir", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert not folder.exists()
    assert err.count("\n") == 1
    assert err.startswith(f"error: {arguments[0]}: expected")


def test_bad_type_is_left_to_argparse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        demo_uncertainty.main(["--iters", "many"])
    assert stop.value.code == 2
    assert "--iters: invalid int value" in capsys.readouterr().err


def test_save_dir_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.touch()
    assert demo_uncertainty.main(["--iters", "1", "--save_dir", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert str(path) in err


def test_divergence_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--iters", "3", "--learning_rate", "1e30", "--save_dir", str(tmp_path)]
    assert demo_uncertainty.main(arguments) == 2
    assert "error: the loss became" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_runs_from_another_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL), "--iters", "0"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: --iters: expected a positive integer, found 0"
    assert list(tmp_path.iterdir()) == []
