"""The benchmark of memory finds what the page about memory states."""

from __future__ import annotations

import re

import paddle
import pytest
from support.processes import run_tool


@pytest.mark.skipif(
    not hasattr(paddle.base.core, "host_memory_stat_reset_peak_value"),
    reason="this Paddle cannot reset its peak of memory",
)
def test_gradients_beyond_a_plain_step():
    done = run_tool(
        "tools/benchmarks/benchmark_memory.py",
        "--model", "UNet", "--size", "32", "--batch_size", "2", "--losses", "3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    more = {
        name.strip(): float(gradients)
        for name, gradients in re.findall(r"^(.+?) +\d.* ([+-]\S+) gradients$", done.stdout, re.M)
    }
    assert abs(more["level: logits"]) < 0.05
    # The largest parameter is 0.18 of the network.
    assert 3 <= more["Gramian, level: parameters"] < 3 + 4 * 0.18
    assert 3 < more["Jacobian (GradDrop)"] < 3 + 4.2
    assert 3 < more["Jacobian with memory (MoCo)"] < 4.2 * 3
