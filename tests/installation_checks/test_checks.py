"""``autoloss checks``; no GPU has been there, so their results are made up from the CPU's."""

from __future__ import annotations

import copy
import json
import re
import shutil

import numpy as np
import paddle
import pytest
from support import ROOT, run_tool
from support.training import enabled_scaler

import paddleseg_autoloss
from paddleseg_autoloss.cli.main import main
from paddleseg_autoloss.conflicts import find_conflicts
from paddleseg_autoloss.installation_checks import command, devices, worker
from paddleseg_autoloss.installation_checks.trial import KINDS, digest, try_kind


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    """What a worker writes on this CPU."""
    folder = tmp_path_factory.mktemp("worker")
    worker.main("cpu", folder)
    return json.loads((folder / "rank0.json").read_text())


def broken(numbers: list[float]) -> list[float]:
    return [1.1 * number for number in numbers]


class Computer:
    """A computer with GPUs, whose results are those of the CPU."""

    def __init__(self, results: dict, gpus: int) -> None:
        self.cpu, self.gpus, self.changed = results, gpus, {}

    def run(self, device: str, processes: int) -> tuple[list[dict], str]:
        found = copy.deepcopy(self.cpu)
        if device.startswith("gpu"):
            found["fp16"] = copy.deepcopy(found["fp32"])
        ranks = [copy.deepcopy(found) for _ in range(processes)]
        for (where, count, rank, precision, method, key), change in self.changed.items():
            if (where, count) == (device, processes):
                outcome = ranks[rank][precision][method]
                outcome[key] = change(outcome.get(key))
        return ranks, "the end"

    def table(self, monkeypatch, capsys) -> tuple[int, list[list[str]], str]:
        monkeypatch.setattr(devices, "_run", self.run)
        monkeypatch.setattr(devices, "gpu_count", lambda: self.gpus)
        monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: self.gpus > 0)
        monkeypatch.setattr(command, "describe_environment", lambda: ([("system", "this")], []))
        status = main(["checks"])
        shown = capsys.readouterr()
        table = shown.out.split("\n\n")[2].splitlines()[1:]
        return status, [re.split(r"  +", line) for line in table], shown.out + shown.err


def test_every_kind_of_method_comes_to_the_expected_numbers(results, monkeypatch, capsys):
    status, table, shown = Computer(results, gpus=0).table(monkeypatch, capsys)
    assert status == 0
    # Two processes are run by the test of a broken method.
    rows = {row[2]: row for row in table if row[:2] == ["cpu", "float32"]}
    assert rows.keys() == KINDS.keys()
    assert {row[-1] for row in rows.values()} == {"ok"}
    missing = [row for row in table if row[0].startswith("gpu")]
    assert len(missing) == 4
    assert all(row[-1] == "not available here" for row in missing)
    assert "gpu, float32, all and 1 more: not available here: Paddle sees no GPU" in shown


def test_numbers_are_almost_those_that_are_expected(results, monkeypatch):
    """Far closer than the tolerance, which is for GPUs."""
    monkeypatch.setattr(devices, "_run", Computer(results, gpus=0).run)
    rows = [row for row in devices.rows_of("cpu", 1) if row.precision == "float32"]
    assert len(rows) == len(KINDS)
    assert max(max(row.weights, row.gradient) for row in rows) < 1e-4


def test_two_gpus(results, monkeypatch, capsys):
    computer = Computer(results, gpus=2)
    status, table, _ = computer.table(monkeypatch, capsys)
    assert status == 0
    for device in ("gpu:0", "gpu:1", "gpu x 2"):
        for precision in ("float32", "mixed"):
            rows = [row for row in table if row[:2] == [device, precision]]
            assert [row[-1] for row in rows] == ["ok"] * len(KINDS)
    assert "cpu x 2" not in {row[0] for row in table}


@pytest.mark.parametrize(
    ("change", "value", "where", "reason"),
    [
        (("gpu:0", 1, 0, "fp32", "CAGrad", "weights"), broken, "gpu:0, float32, CAGrad",
         "the weights differ by 0.1, tolerance 0.002"),
        (("gpu:0", 1, 0, "fp16", "MoCo", "gradient"), broken, "gpu:0, mixed, MoCo",
         "the gradient differs by 0.1, tolerance 0.01"),
        (("gpu", 2, 1, "fp32", "Sum", "parameters"), broken, "gpu x 2, float32, Sum",
         "the cards have different parameters after the last step"),
        (("gpu", 2, 1, "fp16", "FAMO", "error"), lambda _: "no memory", "gpu x 2, mixed, FAMO",
         "no memory"),
    ],
)  # fmt: skip
def test_what_differs_on_a_gpu_is_named(change, value, where, reason, results, monkeypatch, capsys):
    computer = Computer(results, gpus=2)
    computer.changed[change] = value
    status, table, shown = computer.table(monkeypatch, capsys)
    assert status == 1
    assert [row[-1] for row in table].count("FAILED") == 1
    assert f"{where}: FAILED: {reason}" in shown
    assert "error: checks: 1 trainings failed, 0 conflicts of packages, shown above" in shown


def test_mixed_precision_with_a_scaler_has_the_same_gradient(results, monkeypatch, tmp_path):
    """On a CPU only the scaler can be had; the numbers stay in float32."""
    scaler = enabled_scaler(1024.0)
    monkeypatch.setattr(paddle.amp, "GradScaler", lambda **options: scaler)
    outcome = try_kind("CAGrad", "fp16", tmp_path)
    assert outcome.gradient == pytest.approx(results["fp32"]["CAGrad"]["gradient"], abs=1e-5)


def test_digest_shows_a_difference_of_one_number():
    numbers = np.ones(260)
    other = numbers.copy()
    other[17] = 1.1
    assert digest(numbers) != digest(other)


def test_device_that_does_not_exist_is_a_row():
    (row,) = devices.rows_of("nonsense", 1)
    assert row.result == "FAILED"
    assert row.reason.startswith("exit status 1; the last line was: ValueError: ")


def test_process_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(devices, "SECONDS", -29)
    (row,) = devices.rows_of("cpu", 1)
    assert (row.result, row.method) == ("FAILED", "all")
    assert row.reason.startswith("no end after -29 s")


def test_broken_method_ends_the_command_with_status_1(tmp_path):
    """In a copy of the package, CAGrad's weights are wrong by a tenth."""
    shutil.copytree(ROOT / "paddleseg_autoloss", tmp_path / "paddleseg_autoloss")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    path = tmp_path / "paddleseg_autoloss/weighting/cagrad.py"
    code = path.read_text(encoding="utf-8")
    wrong = re.sub(r"(    def solve\(.*?\n        return )(.*?)\n", r"\g<1>1.1 * (\2)\n", code,
                   flags=re.DOTALL)  # fmt: skip
    assert wrong != code
    path.write_text(wrong, encoding="utf-8")
    done = run_tool("-m", "paddleseg_autoloss", "checks", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("cpu")]
    failed = {row[-4] for row in rows if row[-1] == "FAILED"}
    assert failed == {"CAGrad"}, done.stdout + done.stderr
    assert sum(row[-1] == "ok" for row in rows) == 2 * (len(KINDS) - 1)
    words = done.stdout.split()
    assert words[words.index("paddleseg_autoloss") + 1] == f"{paddleseg_autoloss.__version__},"
    assert str(tmp_path / "paddleseg_autoloss") in words
    assert done.stderr.splitlines()[-1].startswith("error: checks: 2 trainings failed")


@pytest.mark.parametrize(
    ("versions", "found"),
    [
        ({"numpy": "1.26.4", "opencv-python": "4.5.5.64", "pandas": "3.0.6"}, []),
        ({"numpy": "2.3.5", "opencv-python": "4.5.5.64"}, ["OpenCV before 4.10"]),
        ({"numpy": "2.3.5", "opencv-python-headless": "4.12.0.88"}, []),
        ({"opencv-python": "4.10.0", "opencv-contrib-python": "4.11.0"}, ["several OpenCV"]),
        ({"paddlepaddle": "2.6.2", "protobuf": "7.36.2"}, ["Paddle 2 cannot train on several"]),
        ({"paddlepaddle": "3.3.1", "protobuf": "7.36.2"}, []),
        ({"paddlepaddle": "3.3.1", "paddlepaddle-gpu": "2.6.2"}, ["paddlepaddle and paddlepa"]),
        ({"numpy": "1.26.4", "pandas": "3.1.1"}, ["pandas 3.1 needs NumPy 2"]),
    ],
)  # fmt: skip
def test_conflicts(versions, found):
    assert [text[: len(start)] for text, start in zip(find_conflicts(versions), found)] == found
    assert len(find_conflicts(versions)) == len(found)
