"""Two ranks over gloo on the loopback; GPUs and NCCL have not been run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

SCRIPT = """
import sys
sys.path.insert(0, "tests")
from conftest import *
import json

paddle.set_device("cpu")
folder = Path(sys.argv[1])
model, types, _ = run_training(
    folder, 4, model=lambda: TinyNet(), log_iters=1,
    losses=lambda: [paddleseg_autoloss.AutoWeightedLoss(ce_and_dice())],
)
rank = paddle.distributed.get_rank()
state = {"c": types[0].aggregator.weighting.c.numpy().tolist()}
(folder / f"rank{rank}.json").write_text(json.dumps(state))
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2",
         "--log_dir", str(folder / "log"), str(script), str(folder)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    logs = "\n".join(path.read_text() for path in (folder / "log").glob("workerlog.*"))
    assert result.returncode == 0, result.stderr + logs
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_weights_are_the_same_on_both_ranks(ranks):
    """The ranks see other images, so their gradients differ before they are averaged."""
    _, (first, second) = ranks
    assert first == second
    assert (np.array(first["c"]) != 1).all()


def test_only_one_rank_writes(ranks):
    folder, _ = ranks
    with open(folder / "loss_weights.csv") as file:
        iterations = [line.split(",")[0] for line in file][1:]
    assert iterations == ["1", "1", "2", "2", "3", "3", "4", "4"]
