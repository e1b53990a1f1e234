"""The sweep of PaddleSeg's models and the soak, on a sample."""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import manager
from support import ROOT, run_tool
from support.calls import OF_TRAINING

import paddleseg_autoloss

sys.path.insert(0, str(ROOT / "tools/benchmarks"))

import _processes
import soak
import sweep_models

PADDLESEG, AUTO, PCGRAD = sweep_models.STEPS


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    """The loop sleeps for a second when it is done."""
    clock = SimpleNamespace(time=time.time, sleep=lambda seconds: None)
    monkeypatch.setattr(sys.modules["paddleseg.core.train"], "time", clock)


# One output; two; four, the last with a loss of another kind.
@pytest.mark.parametrize("name", ["PPMobileSeg", "FastSCNN", "STDCSeg"])
def test_sweep(name):
    *_, result = sweep_models.sweep(name)
    assert result["status"] == dict.fromkeys(sweep_models.STEPS, "works"), result["traceback"]


def test_model_with_a_loss_computation_of_its_own():
    def take(step):
        model = sweep_models.build_model("MaskFormer")
        losses = sweep_models.output_losses("MaskFormer", model)
        sweep_models.take_step("MaskFormer", step, model, losses)

    try:
        take(PADDLESEG)
    except RuntimeError as error:
        # Paddle 2.6 has no gather of bool on a CPU.
        pytest.skip(f"PaddleSeg itself cannot train it here: {error}")
    take(AUTO)


def test_every_model_has_a_recipe():
    assert sweep_models.RECIPES.keys() == manager.MODELS.components_dict.keys()


def test_sweep_notes_what_fails(monkeypatch):
    def fail(name, step, model, outputs):
        if step == failing:
            raise RuntimeError("\n  it broke\nsomewhere")

    monkeypatch.setattr(sweep_models, "take_step", fail)
    monkeypatch.setattr(sweep_models, "build_model", lambda name: None)
    monkeypatch.setattr(sweep_models, "output_losses", lambda name, model: [])
    failing = AUTO
    *_, result = sweep_models.sweep("UNet")
    assert result["status"] == {PADDLESEG: "works", AUTO: "RuntimeError: it broke", PCGRAD: "works"}
    assert sweep_models.ours_fails(result)
    failing = PADDLESEG
    *_, result = sweep_models.sweep("UNet")
    assert result["status"] == {PADDLESEG: "RuntimeError: it broke"}
    assert not sweep_models.ours_fails(result)


def test_step_that_moves_nothing(monkeypatch):
    monkeypatch.setattr(sweep_models.paddleseg.core, "train", lambda *args, **kwargs: None)
    with pytest.raises(ValueError, match="no parameter moved"):
        sweep_models.take_step("UNet", AUTO, paddle.nn.Conv2D(3, 2, 1), [])


class OnlyTrains(paddle.nn.Conv2D):
    def forward(self, images):
        if not self.training:
            raise RuntimeError("no prediction")
        return [super().forward(images)]


def test_network_that_cannot_predict(monkeypatch):
    def train(model, *args, **kwargs):
        model.weight.set_value(model.weight + 1)

    monkeypatch.setattr(sweep_models.paddleseg.core, "train", train)
    train.__wrapped__ = train
    with pytest.raises(RuntimeError, match="no prediction"):
        sweep_models.take_step("UNet", PADDLESEG, OnlyTrains(3, 2, 1), [])


def test_page():
    works = dict.fromkeys(sweep_models.STEPS, "works")
    seg = ["CrossEntropyLoss", "DiceLoss"]
    results = {
        "UNet": {"status": works, "outputs": [seg]},
        "OCRNet": {"status": works | {PCGRAD: "KeyError: a|b"}, "outputs": [seg, seg]},
        "ANN": {"status": {PADDLESEG: "ValueError: <x>"}, "outputs": [seg, ["SECrossEntropyLoss"]]},
        "SINet": {"error": "not done after 600 s"},
    }
    page = sweep_models.page(results)
    for row in (
        "| UNet | seg | works | works | works |",
        "| OCRNet | 2 x seg | works | works | KeyError: a\\|b |",
        "| ANN | seg, SECrossEntropyLoss | ValueError: &lt;x> |  |  |",
        "| SINet |  | not done after 600 s |  |  |",
    ):
        assert row in page
    assert "4 were tried; PaddleSeg itself trains 2 of them here, 2 of" in page
    assert "and 1 with `PCGrad`" in page


def test_component_hands_on_labels_of_any_kind():
    """MaskFormer's labels are a dict, and so are its outputs."""

    class Masks(paddle.nn.Layer):
        def forward(self, outputs, targets):
            loss = (outputs["masks"] * targets["gt_masks"].clone()).sum()
            targets["gt_masks"][:] = 0
            return loss

    masks = paddle.ones([2, 3])
    masks.stop_gradient = False
    targets = {"gt_masks": paddle.ones([2, 3]), "image_shape": [8, 8]}
    loss = paddleseg_autoloss.PCGrad([Masks(), Masks()], level="logits", reduction="sum")
    assert float(loss({"masks": masks}, targets)) == 12
    assert targets["gt_masks"].numpy().all()


def samples(growth=0.0, slower=1.0, disturbed=1.0, count=2000):
    """Made-up numbers: 400 MB after a warm-up, and steps of 10 ms, some of them disturbed."""
    iterations = np.arange(count)
    memory = 400e6 + 2e6 * np.minimum(iterations, 100) + growth * iterations
    seconds = np.where(iterations < count * 3 // 4, 0.01, 0.01 * slower)
    reference = np.full(count, 0.001)
    # The machine is slower for some time.
    for measured in (seconds, reference):
        measured[count * 3 // 4 :] *= disturbed
    # A few steps that write checkpoints take longer, and do not count.
    seconds[:: count // 8] += 1
    return soak.Samples(memory.tolist(), seconds.tolist(), reference.tolist())


@pytest.mark.parametrize(
    ("made_up", "verdict"),
    [
        ({}, "flat"),
        ({"growth": -1000}, "flat"),
        ({"growth": 100_000}, "memory grows"),
        ({"growth": 5_000, "slower": 1.05}, "flat"),
        ({"slower": 1.2}, "steps slow down"),
        ({"slower": 0.5}, "flat"),
        ({"disturbed": 2}, "flat"),
    ],
)
def test_soak_verdict(made_up, verdict):
    row = soak.judge(samples(**made_up))
    assert soak.verdict(row) == verdict
    assert row["growth"] == pytest.approx(made_up.get("growth", 0), abs=1)
    assert row["time_ratio"] == pytest.approx(made_up.get("slower", 1))
    table = soak.table({"PCGrad": row, "MGDA": {"error": "not done after 5 s"}})
    assert f"| {verdict} |" in table
    assert "| MGDA | | | | | | | not done after 5 s |" in table


def test_soak_needs_enough_iterations():
    with pytest.raises(ValueError, match="expected more than 200 iterations, found 200"):
        soak.judge(samples(count=200))


def test_soak_measures(capfd):
    measured = soak.measure("PCGrad", 60)
    assert len(measured.memory) == len(measured.seconds) == len(measured.reference) == 60
    assert min(measured.memory) > 50e6
    assert min(measured.seconds + measured.reference) > 0
    row = soak.judge(measured, settled=20)
    assert row["iters"] == 60
    assert 0.5 < row["memory_ratio"] < 1.5


LEAK = """
import json, sys
sys.path.insert(0, "tools/benchmarks")
import soak
import numpy as np

kept, stock = [], soak.Probe.step

def step(self, epoch=None):
    kept.append(np.ones(2**18))
    stock(self, epoch)

soak.Probe.step = step
row = soak.judge(soak.measure("Sum", 60), settled=20)
print(json.dumps(row | {"verdict": soak.verdict(row)}))
"""


def test_soak_notices_memory_that_is_kept():
    """In a process of its own, as other tests leave memory behind that is used again."""
    done = run_tool("-c", LEAK)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["growth"] == pytest.approx(2**21, rel=0.2)
    assert row["verdict"] == "memory grows"


def test_soak_covers_every_method():
    assert set(OF_TRAINING) <= soak.CASES.keys()
    for case in soak.CASES.values():
        soak.make_loss(case)


SCRIPT = """
import sys, time
sys.path.insert(0, {tools!r})
from _processes import emit
name = sys.argv[2]
emit({{"name": name, "step": 1}})
if name == "crashes":
    sys.exit("out of memory")
if name == "hangs":
    time.sleep(60)
emit({{"name": name, "step": 2}})
"""


def test_processes(tmp_path):
    script, path = tmp_path / "script.py", tmp_path / "results.jsonl"
    script.write_text(SCRIPT.format(tools=str(ROOT / "tools/benchmarks")))
    path.write_text('{"name": "done", "step": 3}\n{"name": "works", "st')
    names = ["done", "works", "crashes", "hangs"]
    results = _processes.run_each(str(script), names, path, timeout=20)
    assert results == {
        "done": {"name": "done", "step": 3},
        "works": {"name": "works", "step": 2},
        "crashes": {"name": "crashes", "step": 1, "error": "ended with status 1: out of memory"},
        "hangs": {"name": "hangs", "step": 1, "error": "not done after 20 s"},
    }
    assert _processes.read_results(path) == results
    assert json.loads(path.read_text().splitlines()[-1]) == results["hangs"]
    script.write_text("")
    assert _processes.run_each(str(script), names, path, timeout=60) == results
    missing = _processes.run_one(str(script), "new", timeout=60)
    assert missing == {"name": "new", "error": "ended without a result"}
