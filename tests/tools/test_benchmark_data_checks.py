"""The benchmark of the look at labels measures a first and a remembered look."""

from __future__ import annotations

import re

from support.processes import run_tool


def test_second_look_is_remembered():
    done = run_tool(
        "tools/benchmarks/benchmark_data_checks.py",
        "--count", "40", "--size", "256", "--repeats", "3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.findall(r"look: median (\S+) s, .* for 40 images", done.stdout)
    first, second = map(float, found)
    assert 0 <= second < first
