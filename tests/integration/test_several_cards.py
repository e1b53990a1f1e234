"""What several cards meet: a card that dies, data that they cannot share evenly, another number.

Ranks over gloo on the loopback stand for the cards; GPUs and NCCL have not been run.
"""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from support.processes import SCRIPT_HEAD, launch, launched, logs_of_ranks

from paddleseg_autoloss.integration.checkpoint import whole_checkpoints

TRAIN = (
    SCRIPT_HEAD
    + """
import json
import os
import signal
from support import training

paddle.set_device("cpu")
folder = Path(sys.argv[1])
options = json.loads((folder / "options.json").read_text())
rank = int(paddle.distributed.ParallelEnv().rank)


class Linear(nn.Layer):
    # Without batch norm and dropout, whose numbers depend on how the batch is shared.
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 2, 3, padding=1)
        self.passes = 0

    def forward(self, x):
        self.passes += self.training
        if self.passes == options.get("dies") and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return [self.conv(x)]


def losses():
    method = getattr(paddleseg_autoloss, options["method"])
    return [method([CrossEntropyLoss(), FocalLoss()])]


training.Squares = lambda: Squares(length=options["images"])
model, (loss,), _ = run_training(
    Path(options["save_dir"]), options["iters"], losses, Linear, log_iters=1,
    save_interval=3, batch_size=options["batch_size"],
    resume_model=options.get("resume_model"),
)
state = {**model.state_dict(), **loss.state_dict()}
found = {"state": {name: value.numpy().tolist() for name, value in state.items()}}
(folder / f"rank{rank}.json").write_text(json.dumps(found))
"""
)


def prepared(folder, **options):
    folder.mkdir(exist_ok=True)
    options = {"save_dir": str(folder / "run"), "images": 12} | options
    (folder / "options.json").write_text(json.dumps(options))
    return folder


@pytest.mark.parametrize(
    ("method", "count"),
    [("AutoWeightedLoss", 2), pytest.param("CAGrad", 3, marks=pytest.mark.once)],
)
def test_a_run_goes_on_with_another_number_of_cards(tmp_path, method, count):
    """The batch of all cards together stays the same, and so does the run."""
    whole = prepared(tmp_path / "whole", method=method, iters=6, batch_size=6)
    (expected,) = launched(whole, TRAIN, 1)
    start = str(tmp_path / "whole" / "run" / "iter_3")
    more = {"iters": 6, "batch_size": 6 // count, "resume_model": start}
    first, *others = launched(prepared(tmp_path / "parts", method=method, **more), TRAIN, count)
    assert all(other == first for other in others)
    assert first["state"].keys() == expected["state"].keys()
    for name, value in expected["state"].items():
        np.testing.assert_allclose(first["state"][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.once
def test_images_that_three_cards_cannot_share_evenly(tmp_path):
    folder = prepared(tmp_path / "run", method="CAGrad", iters=6, batch_size=2, images=13)
    first, *others = launched(folder, TRAIN, 3)
    assert others == [first, first]
    assert all(np.isfinite(value).all() for value in first["state"].values())


def test_a_card_that_dies_ends_the_others(tmp_path):
    folder = prepared(
        tmp_path / "run", method="AutoWeightedLoss", iters=500, batch_size=2, dies=5
    )  # fmt: skip
    start = time.monotonic()
    done = launch(folder, TRAIN, 3)
    assert done.returncode != 0
    assert "iter: 1/500" in logs_of_ranks(folder)
    assert time.monotonic() - start < 120
    saved = whole_checkpoints(folder / "run")
    assert [path.name for path in saved] == ["iter_3"]


GROUPS = (
    SCRIPT_HEAD
    + """
import json
import time
from paddleseg_autoloss.integration.process_groups import separate_gloo_groups

paddle.set_device("cpu")
paddle.distributed.init_parallel_env()
rank = paddle.distributed.get_rank()
sums = []
with separate_gloo_groups():
    for turn in range(6):
        # The first rank is behind at one time, the last at another.
        time.sleep(0.3 * (rank == turn % 3))
        group = paddle.distributed.new_group([0, 1, 2])
        sums.append(paddle.to_tensor(float(rank + turn)))
        paddle.distributed.all_reduce(sums[-1], group=group)
found = [float(total) for total in sums]
Path(sys.argv[1], f"rank{rank}.json").write_text(json.dumps(found))
"""
)


def test_groups_of_processes_are_not_mistaken_for_each_other(tmp_path):
    """Where one rank is late, the others still have the addresses of the group before at hand."""
    expected = [3.0 + 3.0 * turn for turn in range(6)]
    assert launched(tmp_path, GROUPS, 3) == [expected] * 3
