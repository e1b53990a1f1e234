"""Mutated configs end in one line or train; the script runs many more."""

from __future__ import annotations

import json

from support import run_tool


def test_mutated_configs(tmp_path):
    out = tmp_path / "results.jsonl"
    result = run_tool(
        "tools/benchmarks/fuzz_configs.py", "--count", "60", "--seed", "7", "--out", out
    )
    results = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [r["number"] for r in results] == list(range(60))
    bad = [r for r in results if r["outcome"] not in ("error", "accepted")]
    assert not bad
    assert result.returncode == 0
    outcomes = [r["outcome"] for r in results]
    assert min(outcomes.count("accepted"), outcomes.count("error")) >= 3
