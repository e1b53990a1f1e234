"""The benchmark of the solvers prints every row."""

from __future__ import annotations

import importlib.util
import re

from support.processes import ROOT

from paddleseg_autoloss.weighting import METHODS as ALL
from paddleseg_autoloss.weighting import GramianWeighting


def test_benchmark_runs(capsys):
    """Every row is printed: our solvers against scipy's for each K, and the time of each method."""
    specification = importlib.util.spec_from_file_location(
        "benchmark_solvers", ROOT / "tools/benchmarks/benchmark_solvers.py"
    )
    benchmark = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(benchmark)
    assert benchmark.main(["--gramians", "2", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    for name in benchmark.PROBLEMS:
        for count in (2, 4, 8):
            row = re.search(rf"^\| {name} \| {count} \| (.*) \|$", printed, flags=re.MULTILINE)
            ours = float(row[1].split(" | ")[3])
            assert ours < 1e-6
    for name, method in ALL.items():
        assert (f"\n| {name} | " in printed) == issubclass(method, GramianWeighting)
