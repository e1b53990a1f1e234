"""Mutated configs end in one line or train; the script runs many more."""

from __future__ import annotations

import json

from support import run_tool


def test_mutated_configs(tmp_path):
    """The second command goes on where the first one was stopped, within a line."""
    out = tmp_path / "results.jsonl"
    command = ["tools/benchmarks/fuzz_configs.py", "--seed", "7", "--out", out, "--count"]
    run_tool(*command, "2")
    out.write_text(out.read_text(encoding="utf-8")[:-5] + "\n", encoding="utf-8")
    cut = out.read_text(encoding="utf-8").splitlines()[1]
    result = run_tool(*command, "36")
    out.write_text(out.read_text(encoding="utf-8").replace(cut + "\n", ""), encoding="utf-8")
    results = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [r["number"] for r in results] == list(range(36))
    bad = [r for r in results if r["outcome"] not in ("error", "accepted")]
    assert not bad
    assert result.returncode == 0
    outcomes = [r["outcome"] for r in results]
    assert min(outcomes.count("accepted"), outcomes.count("error")) >= 3
