"""What needs no Torch of the comparison with TorchJD and LibMTL."""

from __future__ import annotations

import json
import sys

import _peers_exact as exact
import _peers_paddle
import benchmark_peers
import numpy as np
import pytest
from benchmark_solvers import COUNTS, KINDS, PROBLEMS, make_gramian

from paddleseg_autoloss.errors import ConfigError, RunsFailed


@pytest.mark.parametrize("name", exact.EXACT)
def test_exact_solutions(name):
    """They fulfil the conditions of the optimum, which say nothing about how they were found."""
    random, problem, seen = np.random.default_rng(0), PROBLEMS[name], 0
    for count in COUNTS:
        for kind in KINDS:
            gramian = make_gramian(kind, count, random)
            found = exact.EXACT[name](gramian)
            if found is not None:
                error = problem.error(gramian, problem.solution(gramian, found.weights))
                # A Gramian fixes gradients that depend on each other to the root of the rounding.
                assert not error > 1.5e-8, (count, kind)
                assert found.error(found.weights) < 1e-14
                seen += 1
    assert seen >= len(COUNTS) * 5


def test_error_is_that_of_the_update():
    """Gradients (2, 0) and (0, 1); the shortest combination has the weights 1 / 5 and 4 / 5."""
    found = exact.mgda(np.diag([4.0, 1.0]))
    np.testing.assert_allclose(found.weights, [0.2, 0.8], rtol=1e-14)
    # Off by (0.3 x 2, -0.4 x 1), relative to 2.
    assert found.error(np.array([0.5, 0.4])) == pytest.approx(np.hypot(0.6, 0.4) / 2)


def test_error_of_a_direction():
    """Gradients of length 1 at right angles have NashMTL's weights alike, of any length."""
    found = exact.nash(np.eye(2))
    assert found.error([5, 5]) < 1e-15
    assert found.error([1, 0]) == pytest.approx(np.sqrt(0.5))


@pytest.fixture
def worker(capsys):
    """Run our worker in this process; return its result."""

    def run(*flags) -> dict:
        found = {"Paddle": "3"}
        make = _peers_paddle.make_steps, _peers_paddle.make_solvers
        assert _peers_paddle.run_worker(*make, found, list(map(str, flags))) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_steps(worker):
    """The steps of our worker make a row of each method, beside those of a peer."""
    ours = worker("steps", "--losses", 2, "--size", 16, "--batch_size", 1, "--rounds", 1)
    peer = {"plain": [0.01, 0.02], "TorchJD UPGrad": [0.02, 0.06], "LibMTL UPGrad": [0.03, 0.06]}
    theirs = {**ours, "seconds": peer, "share": 0.5}
    benchmark_peers.compare_networks(ours, theirs)
    rows = [row.split(" | ") for row in benchmark_peers.rows_of_steps(2, [ours], [theirs])]
    assert [row[1] for row in rows] == ["plain step, ms", "floor", *_peers_paddle.ARGUMENTS]
    assert rows[0][3:] == ["15", "15 |"]
    assert rows[1][3:] == ["1.50", "1.50 |"]
    assert rows[2][3:] == ["2.67 (2.25 to 2.75)", "3.00 (3.00 to 3.00) |"]


def test_other_network_is_an_error():
    ours, theirs = {"losses": [1, 2], "gradient": 3}, {"losses": [1, 2], "gradient": 3.1}
    with pytest.raises(RunsFailed, match="network: expected the same losses and gradient, found"):
        benchmark_peers.compare_networks(ours, theirs)


def test_solvers(worker, tmp_path):
    """Our worker solves what the file holds; a peer without weights counts as failed."""
    gramians = {"2": np.stack([np.diag([4.0, 1.0]), np.array([[1.0, -0.5], [-0.5, 1]])])}
    np.savez(tmp_path / "gramians.npz", **gramians)
    ours = worker("solvers", "--gramians", tmp_path / "gramians.npz", "--repeats", 1)
    peer = {"seconds": [1e-4, 3e-4], "weights": [[0.2, 0.8], None]}
    rows = benchmark_peers.rows_of_solvers(gramians, [ours], [{"2": {"TorchJD MGDA": peer}}])
    assert [row.split(" | ")[0] for row in rows[2:]] == [f"| {name}" for name in exact.EXACT]
    cells = rows[2].strip("| ").split(" | ")
    assert cells[3] == "200 (150 to 250)"
    assert float(cells[5]) < 1e-14
    assert cells[6] == "1e-16, 1 failed"


def test_environment_errors(tmp_path, monkeypatch, capsys):
    """What stops the installation is said in one line."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 9, 18))
        with pytest.raises(ConfigError, match=r"Python: expected 3\.10 or newer for TorchJD"):
            benchmark_peers.make_environment(tmp_path / "old", None)
    # Its Python is no Python: it fails as pip does where no index has the wheel.
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        "#!/bin/sh\necho 'ERROR: No matching distribution for torch==2.13.0+cpu' >&2\nexit 1"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", "true")
    assert benchmark_peers.main(["--environment", str(tmp_path)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "error: --index: expected an index that has Torch 2.13.0+cpu, found none"
    )


def test_failed_process_is_one_line():
    with pytest.raises(RunsFailed, match=r"-c .*expected status 0, found 1: ValueError: no"):
        benchmark_peers.call(sys.executable, "-c", "raise ValueError('no')")


def test_size_is_checked(capsys):
    with pytest.raises(SystemExit):
        benchmark_peers.parse_args(["--size", "20"])
    assert "--size: expected a multiple of 16, found 20" in capsys.readouterr().err
