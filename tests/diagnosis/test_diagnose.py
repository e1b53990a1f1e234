"""tools/diagnose.py: figures of every loss, and advice on fixed coefficients."""

from __future__ import annotations

import html
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss, LovaszSoftmaxLoss, MixedLoss
from PIL import Image
from support import ROOT, call, run_tool

from paddleseg_autoloss.diagnosis import Diagnosis
from paddleseg_autoloss.diagnosis.advice import (
    coefficient_advice,
    describe,
    surgery_advice,
    to_dict,
)
from paddleseg_autoloss.diagnosis.report import write_report
from paddleseg_autoloss.files import write_json
from paddleseg_autoloss.integration.terms import Term

STEPS, SIZE = 40, 7
HEAD = {"config": "mine.yml", "iterations": 41, "seed": None, "notes": ["a note"]}


def diagnosis_of(gradients: np.ndarray, coefs, heads=None, values=None) -> Diagnosis:
    """The diagnosis of gradients of the losses themselves, shape [N, K, size]."""
    heads = heads or [0] * len(coefs)
    terms = [Term(f"l{i}", h, nn.Identity(), c) for i, (h, c) in enumerate(zip(heads, coefs))]
    weighted = gradients * np.array(coefs)[:, None]
    values = np.ones(gradients.shape[:2]) if values is None else values
    return Diagnosis(terms, values * coefs, weighted @ weighted.transpose(0, 2, 1))


def length(vectors: np.ndarray) -> float:
    """The median length of N vectors."""
    return np.median(np.linalg.norm(vectors, axis=-1))


@pytest.fixture
def gradients() -> np.ndarray:
    """Four losses: the last two of a second head, and of another order of magnitude."""
    random = np.random.default_rng(0)
    lengths = np.array([1.0, 30.0, 1e-4, 5e-4])[:, None]
    return lengths * random.standard_normal([STEPS, 4, SIZE]) * random.random([STEPS, 4, 1])


COEFS, HEADS = [0.8, 0.2, 40.0, 80.0], [0, 0, 1, 1]


def test_figures_against_the_gradients_themselves(gradients):
    values = np.random.default_rng(1).random([STEPS, 4])
    found = diagnosis_of(gradients, COEFS, HEADS, values)
    weighted = gradients * np.array(COEFS)[:, None]
    update = weighted.sum(axis=1)
    for i, loss in enumerate(found.losses):
        share = (weighted[:, i] * update).sum(1) / (update * update).sum(1)
        assert loss.size.value == pytest.approx(np.median(values[:, i]))
        assert loss.gradient_norm.value == pytest.approx(length(gradients[:, i]))
        assert loss.share.value == pytest.approx(share.mean())
        assert (loss.share.low, loss.share.high) == pytest.approx(np.quantile(share, [0.25, 0.75]))
    assert sum(loss.share.value for loss in found.losses) == pytest.approx(1)

    assert len(found.pairs) == 6
    for pair in found.pairs:
        a, b = weighted[:, int(pair.first[1])], weighted[:, int(pair.second[1])]
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert pair.cosine.value == pytest.approx(cosine.mean())
        assert pair.conflict_rate == pytest.approx((cosine < 0).mean())
        square = (update * update).sum(1)[cosine < 0]
        ratio = square / (square - 2 * (a * b).sum(1)[cosine < 0])
        assert pair.shortening == pytest.approx(np.median(1 - np.sqrt(ratio)))


def test_balanced_coefficients_balance(gradients):
    """Within a head equal lengths, and every head as long as before."""
    mix = diagnosis_of(gradients, COEFS, HEADS).mix
    after = np.concatenate([np.array(c) * h for c, h in zip(mix.coefs, mix.head_coefs)])
    for head in ([0, 1], [2, 3]):
        norms = [after[i] * length(gradients[:, i]) for i in head]
        assert norms[0] == pytest.approx(norms[1], rel=2e-3)
        old = (gradients[:, head] * np.array(COEFS)[head, None]).sum(1)
        new = (gradients[:, head] * after[head, None]).sum(1)
        assert length(new) == pytest.approx(length(old), rel=2e-3)
    assert [sum(coefs) for coefs in mix.coefs] == pytest.approx([1, 1], abs=1e-3)


def test_balancing_twice_changes_nothing(gradients):
    first = diagnosis_of(gradients, COEFS, HEADS)
    after = [loss.balanced_coef.value for loss in first.losses]
    again = diagnosis_of(gradients, after, HEADS)
    for before, loss in zip(after, again.losses):
        assert loss.balanced_coef.value == pytest.approx(before, rel=2e-3)
    assert "differ by up to a factor of 1." in coefficient_advice(again)[-1]


def test_conflict_in_closed_form():
    """(2, 0) and (-1, 1): d is (1, 1); without the conflict its square were 6 in the place of 2."""
    pair_of_vectors = np.array([[[2.0, 0.0], [-1.0, 1.0]]])
    found = diagnosis_of(np.repeat(pair_of_vectors, 4, axis=0), [1, 1])
    assert [loss.share.value for loss in found.losses] == pytest.approx([1, 0])
    (pair,) = found.pairs
    assert pair.cosine.value == pytest.approx(-np.sqrt(0.5))
    assert (pair.conflict_rate, found.conflict_rate) == (1, 1)
    assert pair.shortening == pytest.approx(1 - np.sqrt(2 / 6))
    advice = surgery_advice(found)
    assert "have an effect: in 100 % of the 4 steps" in advice
    assert "l0 with l1 in 100 % (mean cosine -0.71" in advice
    assert "shortens the update by 42.3 %" in advice


def test_update_that_works_against_a_loss():
    found = diagnosis_of(np.array([[[3.0, 0.0], [-1.0, 0.5]]]), [1, 1])
    assert found.losses[1].share.value < 0
    assert sum(loss.share.value for loss in found.losses) == pytest.approx(1)
    assert "it works against l1" in coefficient_advice(found)[0]


@pytest.mark.parametrize(
    ("other", "words"),
    [([0.5, 1.0], "no effect"), ([-0.05, 1.0], "a small effect"), ([-1, 0.1], "an effect")],
)
def test_advice_on_surgery(other, words):
    advice = surgery_advice(diagnosis_of(np.array([[[1.0, 0.0], other]] * 3), [1, 1]))
    assert f"would have {words}" in advice


@pytest.mark.parametrize(
    ("coefs", "advice"),
    [
        ([0.2, 0.8], "Keep this mix: for CrossEntropyLoss"),
        ([1, 4], "Keep this mix: for CrossEntropyLoss"),
        ([0.8, 0.2], "Try 0.2:0.8 first: for CrossEntropyLoss"),
    ],
)
def test_a_mix_that_did_well_is_to_be_kept(coefs, advice):
    found = diagnosis_of(np.ones([3, 2, 2]), coefs)
    layers = [CrossEntropyLoss(), DiceLoss()]
    found.terms = [replace(term, layer=layer) for term, layer in zip(found.terms, layers)]
    assert coefficient_advice(found)[0].startswith(advice)


@pytest.mark.parametrize(
    ("second", "advice"),
    [([0.2, 0.8], "Keep this mix: "), ([0.8, 0.2], "Try 0.2:0.8 first: ")],
)
def test_a_mix_is_to_be_kept_only_if_all_heads_have_it(second, advice):
    found = diagnosis_of(np.ones([3, 4, 2]), [0.2, 0.8, *second])
    layers = [CrossEntropyLoss(), DiceLoss()] * 2
    found.terms = [
        replace(term, layer=layer, head=index // 2)
        for index, (term, layer) in enumerate(zip(found.terms, layers))
    ]
    assert coefficient_advice(found)[0].startswith(advice)


@pytest.mark.parametrize(
    ("layers", "is_said"),
    [
        ([CrossEntropyLoss(), DiceLoss()], True),
        ([DiceLoss(), CrossEntropyLoss()], True),
        ([CrossEntropyLoss(), CrossEntropyLoss()], False),
        ([CrossEntropyLoss(), DiceLoss(), LovaszSoftmaxLoss()], False),
    ],
)
def test_advice_on_a_pair_that_has_evidence(layers, is_said):
    found = diagnosis_of(np.ones([3, len(layers), 2]), [1.0] * len(layers))
    found.terms = [replace(term, layer=layer) for term, layer in zip(found.terms, layers)]
    advice = "".join(coefficient_advice(found))
    assert ("0.2:0.8 trained to a better mIoU than 0.8:0.2" in advice) == is_said


@pytest.mark.filterwarnings("error")
def test_loss_without_gradient(tmp_path):
    """It is named, and divides nothing; a head of nothing else stays as it is."""
    vectors = np.zeros([5, 4, 3])
    vectors[:, 0], vectors[:, 1] = [1, 0, 0], [0, 2, 0]
    found = diagnosis_of(vectors, [0.5, 0.25, 3.0, 0.4], [0, 0, 0, 1])
    assert [term.name for term in found.mix.terms] == ["l0", "l1", "l3"]
    assert found.mix.coefs == [pytest.approx([2 / 3, 1 / 3], rel=1e-3), [1]]
    assert found.mix.head_coefs[1] == 0.4
    absent = coefficient_advice(found)[:2]
    assert "The gradient of l2 was zero in 5 of 5 steps" in absent[0]
    assert "The gradient of l3 was zero" in absent[1]
    write_json(tmp_path / "found.json", to_dict(found))
    assert "NaN" not in (tmp_path / "found.json").read_text()


@pytest.mark.filterwarnings("error")
def test_no_gradient_at_all_and_coefficient_zero():
    found = diagnosis_of(np.zeros([3, 2, 2]), [1.0, 0.0])
    advice = " ".join(coefficient_advice(found))
    assert "l1 has the coefficient 0" in advice
    assert "the update is zero" in advice
    assert "fewer than two losses have a gradient" in surgery_advice(found)
    assert describe(found)


def test_many_pairs_stay_readable(tmp_path):
    gradients = np.random.default_rng(2).standard_normal([10, 14, 3])
    found = diagnosis_of(gradients, [1.0] * 14, list(range(14)))
    text = describe(found)
    assert "(79 more pairs, of higher cosine, in the JSON file)" in text
    assert "No head has two losses to balance" in text
    write_report(found, tmp_path, HEAD)
    page = (tmp_path / "diagnosis.html").read_text()
    assert "l0, l1" in page
    assert page.count("<tr>") == 1 + 14 + 1 + 91


def write_config(folder: Path, name: str, loss: dict) -> Path:
    """A config of two heads, whose network never changes."""
    bases = ["synthetic_fundus.yml", "fastscnn_demo.yml"]
    config = {
        "_base_": [str(ROOT / "configs/_base_" / base) for base in bases],
        "model": {"enable_auxiliary_loss": True},
        "lr_scheduler": {"learning_rate": 1e-30},
        **loss,
    }
    (folder / name).write_text(yaml.safe_dump(config))
    return folder / name


TOOL = ROOT / "tools/diagnose.py"


def flags(data: Path, config: Path, *more) -> list:
    size = ["num_train=8", "num_val=3", "image_size=64", f"dataset_root={data}"]
    opts = [f"train_dataset.{key}" for key in size]
    return ["--config", config, "--seed", 3, *more, "--opts", *opts]


LOSS = {
    "loss": {
        "types": [
            {
                "type": "AutoWeightedLoss",
                "names": ["ce", "dice"],
                "losses": [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}],
            },
            {
                "type": "MixedLoss",
                "losses": [{"type": "CrossEntropyLoss"}, {"type": "LovaszSoftmaxLoss"}],
                "coef": [0.9, 0.1],
            },
        ],
        "coef": [1, 0.4],
    },
    "loss_aggregator": {"type": "PCGrad"},
}


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory, fundus):
    """A run of the tool in a folder of its own: that folder, the figures and what was printed."""
    folder = tmp_path_factory.mktemp("diagnosed")
    (folder / "scratch").mkdir()
    config = write_config(folder, "mine.yml", LOSS)
    arguments = flags(fundus, config.name, "--iters", 12)
    result = run_tool(TOOL, *arguments, cwd=folder, TMPDIR=str(folder / "scratch"))
    assert result.returncode == 0, result.stderr
    return folder, json.loads((folder / "output/diagnosis/diagnosis.json").read_text()), result


def test_files_and_table(diagnosed):
    folder, figures, result = diagnosed
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    written = {f"output/diagnosis/diagnosis.{ending}" for ending in ("json", "png", "html")}
    assert files == written | {"mine.yml"}
    page = html.unescape((folder / "output/diagnosis/diagnosis.html").read_text())
    for text in (*figures["recommendation"]["coefficients"], figures["recommendation"]["surgery"]):
        assert text in page
    with Image.open(folder / "output/diagnosis/diagnosis.png") as image:
        assert image.width > 1000
        assert np.asarray(image.convert("L")).std() > 10

    assert (figures["steps"], figures["skipped_steps"]) == (11, 1)
    names = ["head0/ce", "head0/dice", "head1/CrossEntropyLoss", "head1/LovaszSoftmaxLoss"]
    assert [loss["name"] for loss in figures["losses"]] == names
    assert [loss["coef"] for loss in figures["losses"]] == pytest.approx([1, 1, 0.36, 0.04])
    assert sum(loss["share"]["value"] for loss in figures["losses"]) == pytest.approx(1, abs=1e-5)
    lines = result.stdout.splitlines()
    header = next(line for line in lines if line.startswith("loss "))
    rows = [line for line in lines if line.startswith(tuple(names)) and ", " not in line]
    assert len(rows) == 4
    assert {len(row) for row in rows} == {len(header)}
    assert "AutoWeightedLoss learns its weights" in result.stdout
    assert "loss_aggregator is not used here" in result.stdout
    assert "Gradient surgery: PCGrad, CAGrad and similar methods would have" in result.stdout
    assert "[TRAIN]" not in result.stdout


def test_snippet_balances_a_run(diagnosed, fundus, tmp_path):
    """The printed loss is the written one; with it the same network has balanced gradients."""
    _, before, result = diagnosed
    printed = result.stdout.split("\nloss:\n")[1].split("\n\n")[0]
    loss = {"loss": yaml.safe_load(f"loss:\n{printed}")["loss"]}
    assert loss["loss"] == before["recommendation"]["loss"]

    config = write_config(tmp_path, "balanced.yml", loss)
    result = call("diagnose", *flags(fundus, config, "--iters", 12, "--save_dir", tmp_path))
    assert result.returncode == 0, result.stderr
    after = json.loads((tmp_path / "diagnosis.json").read_text())
    norms = [x["coef"] * x["gradient_norm"]["value"] for x in after["losses"]]
    assert norms[0] == pytest.approx(norms[1], rel=5e-3)
    assert norms[2] == pytest.approx(norms[3], rel=5e-3)
    for old, new in zip(before["losses"], after["losses"]):
        assert new["gradient_norm"]["value"] == pytest.approx(
            old["gradient_norm"]["value"], rel=1e-3
        )
        assert new["size"]["value"] == pytest.approx(old["size"]["value"], rel=1e-3)
        assert new["balanced_coef"]["value"] == pytest.approx(new["coef"], rel=5e-3)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"type": "DieceLoss"}, "there is no 'DieceLoss'; did you mean DiceLoss?"),
        ({"type": "DiceLoss"}, "expected two or more losses to compare, found DiceLoss alone"),
    ],
    ids=["typo", "alone"],
)
def test_errors_are_one_line(loss, message, fundus, tmp_path):
    config = tmp_path / "mine.yml"
    head = {"model": {"enable_auxiliary_loss": False}, "loss": {"types": [loss], "coef": [1]}}
    write_config(tmp_path, config.name, head)
    result = call("diagnose", *flags(fundus, config, "--save_dir", tmp_path / "out"))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_nothing(fundus, tmp_path):
    config = write_config(tmp_path, "mine.yml", LOSS)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(TOOL), *map(str, flags(fundus, config.name, "--iters", 1000))],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell lets its background jobs ignore Ctrl-C, and so would the tests' own children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not any(scratch.iterdir()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yml", "scratch"}
    assert not any(scratch.iterdir())


def test_component_counts_as_its_losses():
    """The stand-in for a component trains on the sum of its losses, with the head's coefficient."""
    from support import ce_and_dice

    from paddleseg_autoloss import AutoWeightedLoss
    from paddleseg_autoloss.diagnosis.measurement import fixed_mix
    from paddleseg_autoloss.integration.terms import terms_of

    inner = [MixedLoss(ce_and_dice(), [0.3, 0.7]), *ce_and_dice()]
    fixed = fixed_mix({"types": [AutoWeightedLoss(inner)], "coef": [0.5]})
    assert [term.coef for term in terms_of(fixed)] == pytest.approx([0.15, 0.35, 0.5, 0.5])
    assert all(not term.sources for term in terms_of(fixed))
