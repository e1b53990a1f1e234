"""Does it help?  Plans, statistics, runs that are stopped and continued, and the report."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from html.parser import HTMLParser
from pathlib import Path

import paddleseg_autoloss  # isort: skip

import numpy as np
import paddleseg.core
import pandas as pd
import pytest
import yaml
from paddleseg.cvlibs import manager
from paddleseg.models.losses import MixedLoss
from scipy import stats
from support import ROOT, Squares, ce_and_dice, run_training

from paddleseg_autoloss.cli import val
from paddleseg_autoloss.cli.main import parse_args
from paddleseg_autoloss.comparison.document import Document, Picture, Table
from paddleseg_autoloss.comparison.folders import RunFolder
from paddleseg_autoloss.comparison.plan import read_plan
from paddleseg_autoloss.comparison.report import describe, runs_worth, write_report
from paddleseg_autoloss.comparison.results import Results
from paddleseg_autoloss.comparison.runner import Runner, _Job, locked, prepare
from paddleseg_autoloss.comparison.statistics import compare, holm, paired, smallest_gap
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.installation import package_command
from paddleseg_autoloss.integration.config import load_config

CONFIGS = ROOT / "configs"


@pytest.fixture
def parse():
    """Make a plan from a command line."""
    return lambda *words: read_plan(parse_args(["compare", *map(str, words)]), CONFIGS)


def comparison_file(folder: Path, **keys) -> Path:
    variants = [{"coef": [0.8, 0.2]}, {"method": "AutoWeightedLoss"}]
    keys = {"base": "fixed_ce_dice_demo.yml", "variants": variants} | keys
    path = folder / "mine.yml"
    path.write_text(yaml.safe_dump(keys))
    return path


# ---- plans


def test_the_shipped_comparisons_are_plans(parse):
    for path in (CONFIGS / "compare").glob("*.yml"):
        plan = parse(path)
        assert plan.baseline == ("Sum" if "screening" in path.stem else "fixed 0.8:0.2"), path
    assert len(parse(CONFIGS / "compare/optic_disc.yml").runs()) == 14 * 5
    assert len(parse(CONFIGS / "compare/optic_disc_lr.yml").runs()) == 3 * 3 * 3


def test_plan_from_flags(parse):
    plan = parse(
        "--config", "fixed_ce_dice_demo.yml", "--methods", "AutoWeightedLoss,PCGrad",
        "--grid", "0.1:0.9:0.4", "--seeds", "3,5", "--lr_grid", "0.001,2e-3", "--iters", 7,
    )  # fmt: skip
    names = [variant.name for variant in plan.variants]
    fixed = ["fixed 0.1:0.9", "fixed 0.5:0.5", "fixed 0.9:0.1"]
    assert names == ["fixed_ce_dice_demo", "AutoWeightedLoss", "PCGrad", *fixed]
    assert plan.baseline == "fixed_ce_dice_demo"
    assert plan.seeds == (3, 5)
    assert plan.lr_grid == (0.001, 0.002)
    assert {variant.config["iters"] for variant in plan.variants} == {7}
    losses = [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}]
    assert plan.variant("PCGrad").config["loss"]["types"] == [{"type": "PCGrad", "losses": losses}]
    (mixed,) = plan.variant("fixed 0.9:0.1").config["loss"]["types"]
    assert mixed == {"type": "MixedLoss", "losses": losses, "coef": [0.9, 0.1]}
    assert len({run.path for run in plan.runs()}) == len(plan.runs()) == 6 * 2 * 2
    run = plan.runs()[-1]
    assert run.config["lr_scheduler"]["learning_rate"] == run.learning_rate


def test_plan_from_train_configs(parse):
    configs = ["fixed_ce_dice_demo.yml", "auto_ce_dice_demo.yml"]
    plan = parse(*configs, "--seeds", 2, "--opts", "batch_size=3", "model.num_classes=5")
    for variant in plan.variants:
        assert (variant.config["batch_size"], variant.config["model"]["num_classes"]) == (3, 5)
    assert [variant.name for variant in plan.variants] == [
        "fixed_ce_dice_demo",
        "auto_ce_dice_demo",
    ]
    assert plan.seeds == (0, 1)


def test_flags_go_before_the_file(parse, tmp_path):
    plan = parse(comparison_file(tmp_path, seeds=[4], iters=9), "--seeds", 2, "--validation", 0.5)
    assert (plan.seeds, plan.validation) == ((0, 1), 0.5)
    assert plan.variants[0].config["iters"] == 9


def test_terms_come_from_every_head(parse, tmp_path):
    """Entries that are no mixture stay as they are."""
    base = tmp_path / "base.yml"
    bases = [str(CONFIGS / "_base_" / name) for name in ("synthetic_fundus.yml", "hardnet_10k.yml")]
    cross_entropy = {"type": "CrossEntropyLoss"}
    own = {"type": "Sum", "losses": [cross_entropy, {"type": "DiceLoss"}], "names": ["a", "b"]}
    loss = {"types": [own, cross_entropy], "coef": [1, 0.4]}
    base.write_text(yaml.safe_dump({"_base_": bases, "loss": loss}))
    variants = [{"method": {"type": "CAGrad", "calpha": 0.3}}, {"coef": [3, 1]}]
    plan = parse(comparison_file(tmp_path, base="base.yml", variants=variants))
    changed = plan.variant("CAGrad").config["loss"]
    assert changed["coef"] == [1, 0.4]
    assert changed["types"] == [{**own, "type": "CAGrad", "calpha": 0.3}, cross_entropy]


ERRORS = [
    ({"seedz": 3}, "seedz: there is no such key; did you mean seeds?"),
    ({"seeds": "many"}, "seeds: expected their number or a list of integers, found 'many'"),
    ({"seeds": [1, 1]}, "seeds: expected their number or a list of integers, found [1, 1]"),
    ({"validation": 1.5}, "validation: expected a number from 0 to below 1, found 1.5"),
    ({"lr_grid": [0.1, -1]}, "lr_grid: expected a list of positive numbers, found [0.1, -1]"),
    ({"lr_grid": [0.1, 0.2], "validation": 0}, "lr_grid: expected validation above 0"),
    ({"baseline": "AutoWeighted"}, "there is no variant 'AutoWeighted'; did you mean AutoWeighted"),
    ({"variants": [{"method": "Sum"}]}, "variants: expected two or more, found 1"),
    ({"variants": [{"method": "Sum"}] * 2}, "expected different names, found 'Sum' twice"),
    ({"base": "no.yml"}, "no.yml was not found"),
    ({"iters": 0}, "iters: expected an integer of at least 1, found 0"),
]
VARIANT_ERRORS = [
    ({"metod": "Sum"}, "variants[1].metod: there is no such key; did you mean method?"),
    ({"method": "PCGard"}, "variants[1].method: there is no method 'PCGard'; did you mean PCGrad?"),
    ({"method": "Sum", "coef": [1, 1]}, "variants[1]: expected one of method, coef, config, "),
    ({"coef": [1, 1, 1]}, "variants[1].coef: expected 2 numbers, one per loss, found [1.0, 1.0, "),
    ({"coef": [1, -1]}, "variants[1].coef: expected a number of at least 0 per loss, found"),
    ({"script": "no.py", "method": "Sum"}, "variants[1].script: expected a training script"),
    ({"retrain_of": "Smu"}, "retrain_of: there is no variant 'Smu'; did you mean Sum?"),
    ({"retrain_of": "fixed 1:0"}, "expected a variant with a method or a config"),
    ({"config": "auto_ce_dice_demo.yaml"}, "was not found; did you mean auto_ce_dice_demo.yml?"),
]


@pytest.mark.parametrize(("keys", "message"), ERRORS, ids=lambda value: str(value)[:40])
def test_plan_errors(keys, message, parse, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(comparison_file(tmp_path, **keys))


@pytest.mark.parametrize(("entry", "message"), VARIANT_ERRORS, ids=lambda value: str(value)[:40])
def test_variant_errors(entry, message, parse, tmp_path):
    variants = [{"method": "Sum"}, entry, {"coef": [1, 0]}]
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(comparison_file(tmp_path, variants=variants))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "found none"),
        (["compare/demo.yml", "--methods", "Sum"], "a comparison file stands alone"),
        (["--config", "auto_ce_dice_demo.yml", "--grid", "1:0:2"], "--grid: expected first:last"),
        (["--config", "auto_ce_dice_demo.yml", "--methods", "Smu"], "did you mean Sum?"),
    ],
)
def test_flag_errors(words, message, parse):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(*words)


def test_ignored_pixels_stay_ignored(parse, tmp_path):
    base = yaml.safe_load((CONFIGS / "sum_ce_dice_demo.yml").read_text())
    base["_base_"] = [str(CONFIGS / name) for name in base["_base_"]]
    base["loss"]["types"][0]["ignore_index"] = 255
    (tmp_path / "base.yml").write_text(yaml.safe_dump(base))
    plan = parse(comparison_file(tmp_path, base="base.yml"))
    mixed, method = (variant.config["loss"]["types"][0] for variant in plan.variants)
    assert method["ignore_index"] == 255
    assert [loss["ignore_index"] for loss in mixed["losses"]] == [255, 255]


# ---- data and configs


@pytest.fixture
def base(tmp_path, fundus) -> Path:
    return write_base(tmp_path, fundus)


def write_base(folder: Path, fundus: Path) -> Path:
    """Write a config: few small images with random augmentation, a few iterations."""
    augmentation = [{"type": "RandomHorizontalFlip"}, {"type": "RandomDistort"}]
    resize = [{"type": "Resize", "target_size": [32, 32]}, {"type": "Normalize"}]
    data = {"dataset_root": str(fundus), "num_train": 8, "num_val": 3, "image_size": 64}
    bases = ["_base_/synthetic_fundus.yml", "_base_/fastscnn_demo.yml", "fixed_ce_dice_demo.yml"]
    config = {
        "_base_": [str(CONFIGS / name) for name in bases],
        "batch_size": 2,
        "iters": 4,
        "train_dataset": {**data, "transforms": augmentation + resize},
        "val_dataset": {**data, "transforms": resize},
    }
    path = folder / "base.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_split_holds_out_a_part_of_the_training_list(parse, tmp_path, base, fundus):
    plan = parse(comparison_file(tmp_path, base=str(base), validation=0.25))
    folders = prepare(plan, tmp_path / "out")
    split = tmp_path / "out" / "split"
    train, held = (
        (split / f"{name}_list.txt").read_text().splitlines() for name in ("train", "validation")
    )
    source = (fundus / "train_list.txt").read_text().splitlines()
    assert sorted(train + held) == sorted(source)
    assert (len(train), len(held)) == (6, 2)
    assert train == [line for line in source if line in train]
    folder = folders[0].path
    config, test = (
        yaml.safe_load((folder / n).read_text()) for n in ("config.yml", "config_test.yml")
    )
    assert config["train_dataset"]["train_path"] == str(split / "train_list.txt")
    assert config["val_dataset"]["val_path"] == str(split / "validation_list.txt")
    assert test["val_dataset"]["val_path"] == str(fundus / "val_list.txt")
    prepare(plan, tmp_path / "out")
    assert (split / "train_list.txt").read_text().splitlines() == train
    other = parse(comparison_file(tmp_path, base=str(base), validation=0.25, split_seed=1))
    with pytest.raises(ConfigError, match="found another split"):
        prepare(other, tmp_path / "out")


def dataset_of(config: dict):
    arguments = {k: v for k, v in config.items() if k not in ("type", "transforms", "_inherited_")}
    return manager.DATASETS[config["type"]](transforms=[], **arguments)


def test_split_keeps_the_separator(parse, tmp_path, base, fundus):
    config = yaml.safe_load(base.read_text())
    path = tmp_path / "list.txt"
    path.write_text((fundus / "train_list.txt").read_text().replace(" ", ","))
    val = tmp_path / "val.txt"
    val.write_text((fundus / "val_list.txt").read_text())
    for section, key, list_path in (("train", "train_path", path), ("val", "val_path", val)):
        config[f"{section}_dataset"] = {
            "_inherited_": False, "type": "Dataset", "mode": section, "num_classes": 2,
            "dataset_root": str(fundus), key: str(list_path),
            "transforms": [{"type": "Normalize"}],
        }  # fmt: skip
    config["train_dataset"]["separator"] = ","
    base.write_text(yaml.safe_dump(config))
    folder, *_ = prepare(parse(comparison_file(tmp_path, base=str(base))), tmp_path / "out")
    lines = (tmp_path / "out/split/validation_list.txt").read_text().splitlines()
    assert len(lines) == 2
    assert set(lines) < set(path.read_text().splitlines())
    for name, separator in (("config", ","), ("config_test", " ")):
        written = load_config(str(folder.path / f"{name}.yml")).dic
        assert written["val_dataset"].get("separator", " ") == separator
        assert dataset_of(written["val_dataset"]).file_list


def test_too_small_a_split(parse, tmp_path, base):
    plan = parse(comparison_file(tmp_path, base=str(base), validation=0.9))
    with pytest.raises(ConfigError, match=r"and 2, a batch, to be left; found 0\.9"):
        prepare(plan, tmp_path / "out")


def test_a_data_set_without_lists_cannot_be_split(parse, tmp_path, base, monkeypatch):
    monkeypatch.setattr("paddleseg_autoloss.comparison.data.OpticDiscSeg", str)
    plan = parse(comparison_file(tmp_path, base=str(base)))
    with pytest.raises(ConfigError, match="validation: expected 0 for SyntheticFundus"):
        prepare(plan, tmp_path / "out")


def test_runs_on_other_images_do_not_pair(parse, tmp_path, base):
    other = yaml.safe_load(base.read_text())
    other["val_dataset"]["dataset_root"] = "elsewhere"
    (tmp_path / "other.yml").write_text(yaml.safe_dump(other))
    with pytest.raises(
        ConfigError, match=r"val_dataset.dataset_root: expected .* found 'elsewhere'"
    ):
        prepare(parse(base, tmp_path / "other.yml"), tmp_path / "out")


def test_a_folder_of_other_runs_is_left_alone(parse, tmp_path, base):
    path = comparison_file(tmp_path, base=str(base))
    prepare(parse(path), tmp_path / "out")
    with pytest.raises(ConfigError, match="whose iters is not the present one"):
        prepare(parse(path, "--iters", 3), tmp_path / "out")


def test_bad_arguments_stop_it_before_anything_is_trained(parse, tmp_path, base):
    variants = [{"method": "Sum"}, {"method": {"type": "CAGrad", "calpha": -1}}]
    plan = parse(comparison_file(tmp_path, base=str(base), variants=variants))
    with pytest.raises(ConfigError, match=r"CAGrad: loss: .*calpha"):
        prepare(plan, tmp_path / "out")


# ---- seeds


def drawn_by(losses, folder: Path) -> tuple[list, list[float], list[str]]:
    """Train with a seed; return the images' order with augmentation's draws, and the first loss."""
    seen: list[tuple[int, float, float]] = []

    class Watched(Squares):
        def __getitem__(self, index):
            seen.append((index, random.random(), np.random.rand()))
            return super().__getitem__(index)

    random.seed(3)
    np.random.seed(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("conftest.Squares", Watched)
        run_training(folder, iters=7, losses=losses, save_interval=4, log_iters=1)
    first = pd.read_csv(folder / "loss_weights.csv").query("iteration == 1")
    return seen, first.raw.tolist(), first.term.tolist()


def test_a_seed_is_the_same_for_all_variants(tmp_path):
    """Order and augmentation over all iterations, network and losses at the first."""
    methods = [
        getattr(paddleseg_autoloss, name) for name in ("AutoWeightedLoss", "PCGrad", "CAGrad")
    ]
    makers = {method.__name__: lambda m=method: [m(ce_and_dice())] for method in methods}
    makers["MixedLoss"] = lambda: [MixedLoss(ce_and_dice(), [0.8, 0.2])]
    expected = drawn_by(makers.pop("MixedLoss"), tmp_path / "MixedLoss")
    assert len(expected[0]) >= 7 * 2
    for name, losses in makers.items():
        assert drawn_by(losses, tmp_path / name) == expected, name


@pytest.mark.parametrize("naive", [True, False])
def test_naive_recipe_adds_gradients_up(naive, tmp_path, monkeypatch):
    """Those of the loss parameters, over the whole run; the package clears them at every step."""
    monkeypatch.syspath_prepend(ROOT / "configs" / "compare")
    recipe = __import__("naive_recipe")
    if naive:
        monkeypatch.setattr(paddleseg.core, "train", recipe.naive_train)
    steps, before = [], []

    def losses():
        loss = paddleseg_autoloss.AutoWeightedLoss(ce_and_dice())
        (learned,) = loss.parameters()

        def note(gradient):
            before.append(0 * gradient.numpy() if learned.grad is None else learned.grad.numpy())
            steps.append(gradient.numpy())

        learned.register_hook(note)
        return [loss]

    run_training(tmp_path, iters=4, losses=losses, log_iters=2)
    assert len(steps) == 4
    sums = np.cumsum([0 * steps[0], *steps[:-1]], axis=0)
    np.testing.assert_allclose(before, sums if naive else 0 * sums, rtol=1e-5)
    history = pd.read_csv(tmp_path / "loss_weights.csv")
    assert history.iteration.unique().tolist() == [2, 4]


# ---- statistics


def test_paired_against_scipy():
    values = dict(enumerate([0.81, 0.85, 0.83, 0.84, 0.88]))
    baseline = dict(enumerate([0.80, 0.82, 0.84, 0.80, 0.83, 0.99]))
    found = paired(values, baseline)
    ours = np.array(list(values.values()))
    theirs = np.array([baseline[seed] for seed in values])
    expected = stats.ttest_rel(ours, theirs)
    assert found.seeds == (0, 1, 2, 3, 4)
    assert found.p_t == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(ours, theirs).pvalue)


def test_wilcoxon_has_a_floor():
    found = paired(dict(enumerate([1.0, 2.0, 3.5, 4.1, 7.0])), dict.fromkeys(range(5), 0.0))
    assert found.p_wilcoxon == pytest.approx(2 / 2**5)


def test_too_few_pairs_and_equal_figures():
    assert math.isnan(paired({0: 1.0}, {1: 1.0}).mean)
    assert paired({0: 1.5}, {0: 1.0}).mean == 0.5
    same = compare({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.0, 1: 2.0}}, "a")["b"]
    assert (same.p_t, same.p_wilcoxon) == (1, 1)
    assert describe(same, 1) == "the same figure in every pair of runs, which shows nothing"
    single = compare({"a": {0: 0.5}, "b": {0: 0.51}}, "a")["b"]
    assert describe(single, 1).startswith("+1.0 points in a single pair")
    none = compare({"a": {0: 0.5}, "b": {1: 0.51}}, "a")["b"]
    assert "no pair" in describe(none, 1)


def test_holm_by_hand():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03 and then never less than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    corrected = holm([0.01, math.nan, 0.04])
    assert math.isnan(corrected[1])
    assert corrected[::2] == pytest.approx([0.02, 0.04])


def test_interval_covers_the_truth_in_95_of_100():
    draws = np.random.default_rng(0)
    zero = dict.fromkeys(range(5), 0.0)
    covered = [
        found.low <= 0.3 <= found.high
        for _ in range(1000)
        if (found := paired(dict(enumerate(draws.normal(0.3, 2.0, 5))), zero))
    ]
    # Three standard errors.
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("count", "level"), [(3, 0.05), (5, 0.05 / 11), (10, 0.01)])
def test_smallest_gap_is_found_in_80_of_100(count, level):
    gap = smallest_gap(1.5, count, level)
    samples = np.random.default_rng(1).normal(gap, 1.5, (20000, count))
    found = stats.ttest_1samp(samples, 0, axis=1).pvalue < level
    assert found.mean() == pytest.approx(0.8, abs=0.012)


def test_sentences():
    base = {0: 0.80, 1: 0.81, 2: 0.79}
    figures = {
        "base": base,
        "better": {0: 0.84, 1: 0.851, 2: 0.829},
        "worse": {0: 0.76, 1: 0.769, 2: 0.751},
        "alike": {0: 0.81, 1: 0.79, 2: 0.80},
    }
    found = compare(figures, "base")
    assert describe(found["better"], 3) == "better by 4.0 points [3.8, 4.2]"
    assert describe(found["worse"], 3) == "worse by 4.0 points [3.8, 4.2]"
    text = describe(found["alike"], 3)
    gap = 100 * smallest_gap(found["alike"].sd, 3, 0.05 / 3)
    assert text.startswith("no difference seen (+0.0 points [-4.3, 4.3]); smallest gap")
    assert text.endswith(f"could have shown: {gap:.1f} points")


def test_holm_can_take_a_finding_back():
    draws = np.random.default_rng(4)
    base = dict.fromkeys(range(5), 0.8)
    noise = {f"n{i}": dict(enumerate(0.8 + draws.normal(0, 0.01, 5))) for i in range(8)}
    close = dict(enumerate([0.81, 0.82, 0.80, 0.815, 0.825]))
    alone = compare({"base": base, "close": close}, "base")["close"]
    among = compare({"base": base, "close": close, **noise}, "base")["close"]
    assert alone.is_significant
    assert not among.is_significant
    assert "with 9 comparisons that may be chance" in describe(among, 9)


# ---- choice, costs and the report, from results that are made up


def pretend(plan, root: Path, figure) -> list[RunFolder]:
    """Write results as runs would; ``figure(run)`` is the mIoU on validation and test images."""
    folders = [RunFolder(root, run) for run in plan.runs()]
    for folder in folders:
        folder.path.mkdir(parents=True)
        validation, test = figure(folder.run)
        if math.isnan(test):
            folder.write_error("exit status 1", folder.log_path)
            continue
        (folder.path / "train.log").write_text(
            "".join(
                f"iter: {i}/4, loss: 1, batch_cost: {c}, x\n" for i, c in ((1, 9), (2, 1), (3, 2))
            )
        )
        (folder.path / "evaluation.json").write_text(
            json.dumps(
                {
                    part: {"mIoU": value, "Dice": value, "Kappa": value}
                    for part, value in (("validation", validation), ("test", test))
                }
            )
        )
        folder.write_attempts([{"from": 0, "seconds": 60}])
        folder.write_result({"paddle": "3"}, "cpu")
    return folders


def test_learning_rates_are_chosen_on_validation_images(parse, tmp_path, base):
    path = comparison_file(tmp_path, base=str(base), lr_grid=[0.1, 0.2, 0.3], seeds=2)
    plan = parse(path)

    def figure(run):
        test = 0.9 - run.learning_rate + 0.01 * run.seed
        # At 0.3, the best on validation images, a run of AutoWeightedLoss fails.
        fails = run.variant.name == "AutoWeightedLoss" and (run.learning_rate, run.seed) == (0.3, 1)
        return run.learning_rate, math.nan if fails else test

    folders = pretend(plan, tmp_path / "out", figure)
    results = Results(plan, folders)
    assert results.rates == {"fixed 0.8:0.2": 0.3, "AutoWeightedLoss": 0.2}
    assert results.by_seed("AutoWeightedLoss", "test_mIoU") == pytest.approx({0: 0.7, 1: 0.71})
    assert results.by_seed("AutoWeightedLoss", "step_seconds") == {0: 2, 1: 2}
    write_report(results, tmp_path / "out")
    report = (tmp_path / "out/report.md").read_text()
    assert "## Learning rates" in report
    assert "AutoWeightedLoss, lr 0.3, seed 1:" in report
    assert "exit status 1" in report
    table = pd.read_csv(tmp_path / "out/results.csv")
    assert len(table) == 12
    assert (table.status == "failed").sum() == 1
    assert runs_worth(plan, plan.variants[0]) == 3


def test_costs_in_runs(parse, tmp_path, base):
    mixes = [{"coef": [w, 10 - w]} for w in range(1, 10)]
    variants = [*mixes, {"method": "Sum"}, {"retrain_of": "Sum"}]
    plan = parse(comparison_file(tmp_path, base=str(base), variants=variants, seeds=1))
    assert runs_worth(plan, plan.variant("Sum, retrained")) == 2
    best = {"fixed 3:7": 0.9}
    folders = pretend(plan, tmp_path / "out", lambda run: (best.get(run.variant.name, 0.5), 0.6))
    write_report(Results(plan, folders), tmp_path / "out")
    report = (tmp_path / "out/report.md").read_text()
    assert "| grid search over 9 fixed mixes | 9 | 9.0 |" in report
    assert "| Sum, retrained | 2 | 2.0 |" in report
    assert "the grid search chooses fixed 3:7, with a test mIoU of 0.6000" in report


def test_learned_frozen_retrained(parse, tmp_path, base):
    variants = [{"retrain_of": "Sum"}, {"method": "Sum"}]
    plan = parse(comparison_file(tmp_path, base=str(base), variants=variants, seeds=2))
    runs = [(run.variant.name, run.seed) for run in plan.runs()]
    assert runs == [("Sum", 0), ("Sum, retrained", 0), ("Sum", 1), ("Sum, retrained", 1)]
    source, retrained, *_ = prepare(plan, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"Sum, lr 0.002, seed 0 has no equivalent_mixed_loss"):
        retrained.use_learned_loss(source)
    learned = {"types": [{"type": "DiceLoss"}], "coef": [1]}
    (source.path / "equivalent_mixed_loss.yml").write_text(yaml.safe_dump({"loss": learned}))
    retrained.use_learned_loss(source)
    assert yaml.safe_load((retrained.path / "config.yml").read_text())["loss"] == learned
    prepare(plan, tmp_path / "out")


@pytest.fixture
def started(parse, tmp_path, base, monkeypatch):
    """Return a function that starts a run in its folder, and says with which command."""
    (tmp_path / "own.py").write_text("")
    variants = [{"coef": [1, 1]}, {"script": "own.py"}]
    plan = parse(comparison_file(tmp_path, base=str(base), variants=variants, seeds=1))
    folders = prepare(plan, tmp_path / "out")
    flags = {"device": "cpu", "num_workers": 0, "log_iters": 10, "samples": 0, "jobs": 1}
    runner = Runner(plan, folders, Namespace(**flags))
    commands = []
    monkeypatch.setattr(_Job, "_launch", lambda self, log, command: commands.append(command))

    def start_run(index, *checkpoints):
        folder = folders[index]
        for name in checkpoints:
            (folder.path / name).mkdir()
            for file in ("model.pdparams", "model.pdopt"):
                (folder.path / name / file).touch()
        _Job(folder, None, {}, runner)
        return folder, commands.pop()

    return start_run


def test_a_fresh_run_is_trained(started):
    folder, command = started(0)
    assert command[: command.index("train")] == package_command("paddleseg_autoloss")
    assert command[command.index("--save_dir") + 1] == str(folder.path)
    assert "--resume_model" not in command
    assert command[command.index("--log_iters") + 1] == "4"


def test_an_interrupted_run_goes_on_from_its_last_whole_checkpoint(started):
    folder, command = started(0, "iter_1", "iter_2")
    assert command[command.index("--resume_model") + 1] == str(folder.path / "iter_2")
    (folder.path / "iter_2" / "model.pdopt").unlink()
    _, command = started(0)
    assert command[command.index("--resume_model") + 1] == str(folder.path / "iter_1")


def test_a_failed_run_starts_afresh(started):
    folder, _ = started(0, "iter_2")
    folder.write_error("exit status 1", folder.log_path)
    _, command = started(0)
    assert "--resume_model" not in command
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.yml", "config_test.yml"]


def test_a_script_of_ones_own_is_never_resumed(started, tmp_path):
    """What its checkpoints leave out cannot be known."""
    _, command = started(1, "iter_2")
    assert command[:2] == [sys.executable, str(tmp_path / "own.py")]
    assert "--resume_model" not in command


def test_a_trained_run_is_evaluated(started):
    folder, command = started(0, "iter_4", "best_model")
    program = package_command("paddleseg_autoloss.comparison.evaluation")
    assert command[: len(program)] == program
    assert folder.model_path.is_file()
    assert not list(folder.path.glob("iter_*"))
    assert not (folder.path / "best_model").exists()


def test_resumed_runs_are_named(parse, tmp_path, base):
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=2))
    folders = pretend(plan, tmp_path / "out", lambda run: (0.5, 0.5))
    folders[0].write_attempts([{"from": 0, "seconds": 20}, {"from": 2, "seconds": 25}])
    result = folders[0].write_result({"paddle": "3"}, "cpu")
    assert (result["wall_seconds"], result["resumed_from"]) == (45, [2])
    write_report(Results(plan, folders), tmp_path / "out")
    assert "1 run(s) were interrupted and resumed" in (tmp_path / "out/report.md").read_text()


def test_cards_are_shared_out(parse, tmp_path, base, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    plan = parse(comparison_file(tmp_path, base=str(base)))
    runner = Runner(plan, [], Namespace(device="gpu", jobs=3))
    for expected in ("2", "5", "2"):
        environment = runner._environment()
        assert environment["CUDA_VISIBLE_DEVICES"] == expected
        assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
        runner._jobs.append(Namespace(environment=environment))


def test_one_comparison_to_a_folder(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(ConfigError, match="expected a folder that no other comparison works in"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_document_escapes_what_people_name():
    document = Document("<b>&")
    document.add(Table(pd.DataFrame({"a|b": ["<script>"]})), Picture("p", "t", b"", private=True))
    assert "<script>" not in document.html()
    assert "<b>" not in document.html()
    assert "a\\|b" in document.markdown()
    assert "figures/p.png" not in document.markdown()


# ---- the command, from start to report


class References(HTMLParser):
    """Collects what a page would load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [v for k, v in attributes if k in ("src", "href", "srcset", "action")]


FAILING_SCRIPT = "print('a line of the log')\nraise SystemExit('it cannot work')\n"


def start(path: Path, folder: Path) -> subprocess.Popen:
    words = [path, "--save_dir", folder, "--save_interval", 1, "--log_iters", 1, "--samples", 2]
    return subprocess.Popen(
        [sys.executable, "tools/compare.py", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition, process: subprocess.Popen, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_in(folder: Path) -> list[str]:
    """The command lines of the processes that name a folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_text().replace("\0", " "))
    return [line for line in lines if str(folder) in line]


@pytest.fixture(scope="module")
def compared(tmp_path_factory, fundus):
    """Two variants and two seeds, killed after the first run, stopped after the second, continued.

    A third variant fails.
    """
    folder = tmp_path_factory.mktemp("compared")
    (folder / "fails.py").write_text(FAILING_SCRIPT)
    variants = [
        {"name": "broken", "script": "fails.py"},
        {"name": "learned", "method": {"type": "GradNorm", "lr_mult": 50}},
        {"retrain_of": "learned"},
    ]
    path = comparison_file(
        folder, base=str(write_base(folder, fundus)), variants=variants, seeds=2,
        baseline="learned",
        validation=0.25,
    )  # fmt: skip
    out = folder / "out"
    results = lambda: sorted(out.glob("runs/*/*/*/result.json"))  # noqa: E731
    process = start(path, out)
    wait_for(
        lambda: len(results()) == 1 and list(out.glob("runs/learned_retrained/*/*/train.log")),
        process,
    )
    first = results()[0], results()[0].stat().st_mtime_ns
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while processes_in(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_in(out)

    process = start(path, out)
    wait_for(
        lambda: len(results()) == 2 and list(out.glob("runs/learned/*/seed1/train.log")), process
    )
    process.send_signal(signal.SIGINT)
    stopped = process.communicate(timeout=60)[0], process.returncode
    assert not processes_in(out)

    process = start(path, out)
    output, _ = process.communicate(timeout=300)
    return out, first, stopped, (output, process.returncode)


def test_stop_and_continue(compared):
    _, (first, modified), (output, status), (last_output, last_status) = compared
    assert status == 130, output
    assert "2 of 6 runs done; the same command continues" in output
    assert "Traceback" not in output
    assert last_status == 1, last_output
    assert "2 of 6 runs are done already" in last_output
    assert "Traceback" not in last_output
    assert first.stat().st_mtime_ns == modified
    log = (first.parent / "train.log").read_text()
    assert log.count("iter: 1/4") == 1


def test_a_failing_variant_does_not_stop_the_others(compared):
    out, _, _, (output, _) = compared
    assert "error: 2 of 6 runs failed" in output
    table = pd.read_csv(out / "results.csv")
    assert table.groupby("variant").status.unique().map(list).to_dict() == {
        "broken": ["failed"],
        "learned": ["done"],
        "learned, retrained": ["done"],
    }
    error = (out / "runs/broken/lr0.002/seed0/error.txt").read_text()
    assert error.startswith("exit status 1\n")
    assert "it cannot work" in error
    assert "it cannot work" in (out / "report.md").read_text()


def test_runs_of_a_seed_begin_alike(compared):
    """Raw losses of the first iteration: weights, images and augmentation are the same."""
    out, *_ = compared
    first = {
        path.parent.relative_to(out / "runs").parts: pd.read_csv(path)
        .query("iteration == 1")
        .raw.tolist()
        for path in out.glob("runs/*/*/*/loss_weights.csv")
    }
    assert len(first) == 4
    by_seed = {seed: [v for k, v in first.items() if k[2] == seed] for seed in ("seed0", "seed1")}
    for one, other in by_seed.values():
        assert one == other
    assert by_seed["seed0"][0] != by_seed["seed1"][0]


def test_retrained_with_the_weights_that_were_learned(compared):
    out, *_ = compared
    learned = out / "runs/learned/lr0.002/seed1"
    retrained = out / "runs/learned_retrained/lr0.002/seed1"
    weights = json.loads((learned / "result.json").read_text())["weights"]
    fixed = json.loads((retrained / "result.json").read_text())["weights"]
    total = sum(weights.values())
    assert fixed == pytest.approx({name: w / total for name, w in weights.items()}, rel=1e-2)
    assert abs(fixed["CrossEntropyLoss"] - fixed["DiceLoss"]) > 0.02


def test_a_run_can_be_evaluated_by_hand(compared):
    out, *_ = compared
    folder = out / "runs/learned/lr0.002/seed0"
    result = json.loads((folder / "result.json").read_text())
    assert result["resumed_from"] == []
    words = ["val", "--config", str(folder / "config_test.yml"), "--device", "cpu"]
    words += ["--model_path", str(folder / "model.pdparams")]
    found = val.run(parse_args(words)).to_dict()
    assert found.keys() == result["test"].keys()
    for name, value in found.items():
        assert value == pytest.approx(result["test"][name]), name


def test_curve_of_a_run(compared, parse):
    """The first run was not interrupted."""
    out, *_ = compared
    plan = parse(out.parent / "mine.yml")
    run = next(run for run in plan.runs() if run.variant.name == "learned")
    folder = RunFolder(out, run)
    curve = folder.validation_curve()
    assert list(curve) == [1, 2, 3, 4]
    result = folder.result()
    assert curve[4] == pytest.approx(result["validation"]["mIoU"])
    assert result["validation"] != result["test"]


def test_report_files(compared):
    out, *_ = compared
    page = (out / "report.html").read_text()
    references = References()
    references.feed(page)
    assert references.found
    assert all(reference.startswith("data:") for reference in references.found)
    assert "@import" not in page
    assert "url(" not in page
    report = (out / "report.md").read_text()
    for picture in re.findall(r"\]\((figures/\w+\.png)\)", report):
        assert (out / picture).is_file()
    assert "figures/curves.png" in report
    assert "figures/weights.png" in report
    assert not (out / "figures/samples.png").exists()
    assert "Test images, truth and predictions" in page
    table = pd.read_csv(out / "results.csv")
    done = table[table.status == "done"]
    assert done.test_mIoU.between(0, 1).all()
    assert (done.step_seconds > 0).all()
    assert (done.wall_seconds > 0).all()


CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
PROBE = """<script>addEventListener("load", () => {
  const broken = [...document.images].filter(image => !image.naturalWidth).length;
  const wide = document.documentElement.scrollWidth > innerWidth;
  document.title = `images ${document.images.length} broken ${broken} wide ${wide}`;
})</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_page_in_a_browser(compared, tmp_path):
    """From disk, with all its pictures, and no wider than the window."""
    out, *_ = compared
    page = tmp_path / "page.html"
    page.write_text((out / "report.html").read_text().replace("</body>", PROBE + "</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,800"]
    command += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000",
        "--dump-dom",
    ]
    result = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=120, env=os.environ
    )
    assert "<title>images 5 broken 0 wide false</title>" in result.stdout, result.stderr[-500:]
    assert "learned, retrained" in result.stdout
