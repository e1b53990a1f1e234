"""The benchmark of the aggregation prints every line."""

from __future__ import annotations

from support.processes import run_tool


def test_benchmark():
    done = run_tool(
        "tools/benchmarks/benchmark_gradients.py",
        "--model", "FastSCNN", "--size", "64", "--rounds", "3",
        "--batch_size", "2", "--losses", "3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for line in ("floor of K backward passes", "level: parameters", "level: logits"):
        assert line in done.stdout
