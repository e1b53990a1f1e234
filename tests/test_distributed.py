"""Two ranks over gloo on the loopback; GPUs and NCCL have not been run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from paddleseg_autoloss.weighting import METHODS

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


def launched(folder, text) -> list[dict]:
    """Run a script on two ranks, and return what each wrote to its JSON file."""
    script = folder / "script.py"
    script.write_text(text)
    result = subprocess.run(
        [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2",
         "--log_dir", str(folder / "log"), str(script), str(folder)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    logs = "\n".join(path.read_text() for path in (folder / "log").glob("workerlog.*"))
    assert result.returncode == 0, result.stderr + logs
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, launched(folder, SCRIPT)


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


GRADIENTS = """
import sys
sys.path.insert(0, "tests")
from conftest import *
import json
from paddleseg_autoloss.aggregator import LossAggregator
from paddleseg_autoloss.weighting import METHODS

paddle.set_device("cpu")
paddle.distributed.init_parallel_env()
rank = paddle.distributed.get_rank()
random = np.random.default_rng(0)
images = paddle.to_tensor(random.standard_normal((4, 6)), dtype="float32")
wanted = paddle.to_tensor(random.standard_normal((4, 3)), dtype="float32")


def losses(model, x, y):
    outputs = model(x)
    return {"a": ((outputs - y) ** 2).mean(), "b": ((outputs + 2 * y) ** 2).mean()}


found = {}
for name, method in METHODS.items():
    if method.needs == "losses":
        continue
    paddle.seed(3)
    model = paddle.DataParallel(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))
    aggregator = LossAggregator(["a", "b"], method(2))
    aggregator.bind(model.parameters())
    half = slice(2 * rank, 2 * rank + 2)
    aggregator(losses(model, images[half], wanted[half])).backward()
    whole = losses(model._layers, images, wanted)
    rows = [paddle.grad(x, model.parameters(), retain_graph=True) for x in whole.values()]
    jacobian = np.stack([np.concatenate([g.numpy().ravel() for g in row]) for row in rows])
    gramian = paddle.to_tensor(jacobian @ jacobian.T)
    values = paddle.to_tensor([float(x) for x in whole.values()])
    weights = method(2)(values, gramian).numpy()
    gradient = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
    found[name] = {
        "weights": aggregator.last_weights.tolist(), "expected_weights": weights.tolist(),
        "gradient": gradient.tolist(), "expected_gradient": (weights @ jacobian).tolist(),
    }
Path(sys.argv[1], f"rank{rank}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    return launched(tmp_path_factory.mktemp("gradients"), GRADIENTS)


@pytest.mark.parametrize("name", [n for n, method in METHODS.items() if method.needs != "losses"])
def test_gradient_is_that_of_one_rank_with_the_whole_batch(gradients, name):
    first, second = (ranks[name] for ranks in gradients)
    assert first["weights"] == second["weights"]
    np.testing.assert_allclose(first["weights"], first["expected_weights"], rtol=1e-4)
    for rank in (first, second):
        np.testing.assert_allclose(
            rank["gradient"], rank["expected_gradient"], rtol=1e-4, atol=1e-6
        )
