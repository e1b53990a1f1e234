"""Comparison files and flags, read as plans."""

from __future__ import annotations

import re
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import yaml
from paddleseg.utils import utils
from support import ROOT
from support.comparison import CONFIGS, comparison_file

from paddleseg_autoloss.cli.main import parse_args
from paddleseg_autoloss.comparison.engines import LocalEngine
from paddleseg_autoloss.comparison.folders import RunFolder, prepare
from paddleseg_autoloss.comparison.results import ResultTable, read_results
from paddleseg_autoloss.comparison.runner import Runner
from paddleseg_autoloss.comparison.variants import name_of_file
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.integration.config_checks import check_config


def test_the_shipped_comparisons_are_plans(parse):
    others = {
        "optic_disc_screening": "Sum",
        "membrane_controls": "Dice alone, a tenth held out",
        "membrane_long": "fixed 0:1",
        "membrane_start": "fixed 0.05:0.95",
        "camvid_seeds": "fixed 0.2:0.8",
        "camvid_others": "fixed 0.2:0.8",
        "optic_disc_seeds": "fixed 0.2:0.8",
        "optic_disc_between": "fixed 0.2:0.8",
        "optic_disc_same_rate": "fixed 0.2:0.8",
        "crackforest_naive": "AutoWeightedLoss",
        "crackforest_levels": "NashMTL",
        "crackforest_heads_levels": "CAGrad",
        "crackforest_heads": "1:0.4:0.4",
        "crackforest_heads_held_out": "1:0.4:0.4",
        "crackforest_pretrained": "fixed 0.5:0.5",
    }
    for path in (CONFIGS / "compare").glob("*.yml"):
        assert parse(path).baseline == others.get(path.stem, "fixed 0.8:0.2"), path
    assert len(parse(CONFIGS / "compare/optic_disc.yml").runs()) == 14 * 5
    assert len(parse(CONFIGS / "compare/optic_disc_lr.yml").runs()) == 3 * 3 * 3


def test_a_config_of_init_has_the_name_of_its_folder(parse, base, tmp_path):
    path = tmp_path / "my data" / "config.yml"
    path.parent.mkdir()
    shutil.copy(base, path)
    plan = parse("--config", path, "--methods", "Sum")
    assert (plan.name, plan.baseline) == ("my data", "my data")


def test_configs_in_chinese_folders_have_folders_of_their_own(parse, base, tmp_path, monkeypatch):
    for name in ("裂缝", "视盘"):
        (tmp_path / name).mkdir()
        shutil.copy(base, tmp_path / name / "config.yml")
    plan = parse(tmp_path / "裂缝/config.yml", tmp_path / "视盘/config.yml")
    assert [variant.folder for variant in plan.variants] == ["裂缝", "视盘"]
    monkeypatch.chdir(tmp_path / "裂缝")
    assert name_of_file(Path("config.yml")) == "裂缝"
    assert name_of_file(Path("../视盘/config.yml")) == "视盘"
    (tmp_path / "config.yml").touch()
    assert name_of_file(Path("../config.yml")) == tmp_path.name


def test_the_shipped_tuned_comparisons_are_plans(parse):
    """The files hold every variant of docs/evidence/plan.md, in configs that pass all checks."""
    three = ("camvid", "camvid_init", "crackforest_rates", "crackforest_sgd", "optic_disc")
    for path in (CONFIGS / "compare/tuned").glob("*.yml"):
        plan = parse(path)
        assert len(plan.seeds) == (3 if path.stem in three else 5)
        assert plan.lr_seeds == 1
        for variant in plan.variants:
            check_config(variant.config)


def test_the_grid_between_is_complete(parse):
    """With the five mixes of the tuned comparison, each grid has 0 to 1 in steps of a tenth."""
    for path in (CONFIGS / "compare/grid").glob("*.yml"):
        tuned = parse(CONFIGS / "compare/tuned" / path.name)
        plan = parse(path)
        names = {variant.name for variant in (*plan.variants, *tuned.variants)}
        mixes = {(round(0.1 * i, 1), round(1 - 0.1 * i, 1)) for i in range(11)}
        assert {f"fixed {first:g}:{second:g}" for first, second in mixes} <= names
        assert set(plan.lr_grid) <= set(tuned.lr_grid)
        assert plan.variants[0].config["iters"] == tuned.variants[0].config["iters"]


def test_new_seeds_on_optic_discs_have_the_rates_that_were_chosen(parse):
    plans = [parse(path) for path in (CONFIGS / "compare/optic_disc_others").glob("*.yml")]
    rates = {run.variant.name: run.learning_rate for plan in plans for run in plan.runs()}
    known = read_results(ROOT / "docs/evidence/tuned_optic_disc/results.csv")
    assert rates == ResultTable(known).rates
    assert {run.seed for plan in plans for run in plan.runs()} == {3, 4}
    iters = {run.variant.config["iters"] for plan in plans for run in plan.runs()}
    assert iters == {parse(CONFIGS / "compare/tuned/optic_disc.yml").variants[0].config["iters"]}


def test_new_seeds_on_streets_have_the_rates_that_were_chosen(parse):
    plans = [parse(CONFIGS / f"compare/camvid_{name}.yml") for name in ("seeds", "others")]
    rates = {run.variant.name: run.learning_rate for plan in plans for run in plan.runs()}
    known = ResultTable(read_results(ROOT / "docs/evidence/tuned_camvid/results.csv")).rates
    assert rates == known | {"fixed 0.3:0.7": 0.008, "fixed 0.1:0.9": 0.008}


def test_images_are_held_out_for_methods_that_learn_from_them(parse, tmp_path):
    own = {"fraction": 0.25, "seed": 3}
    for shares, expected in ((None, 0.1), (own, own)):
        base = yaml.safe_load((CONFIGS / "fixed_ce_dice_demo.yml").read_text())
        base["_base_"] = [str(CONFIGS / name) for name in base["_base_"]]
        base |= {"held_out": shares} if shares else {}
        (tmp_path / "base.yml").write_text(yaml.safe_dump(base))
        variants = [
            {"method": "AutoLambda"},
            {"method": {"type": "CoBa"}},
            {"method": "PCGrad"},
            {"coef": [1, 1]},
            {"retrain_of": "AutoLambda"},
        ]
        plan = parse(comparison_file(tmp_path, base="base.yml", variants=variants))
        held_out = [variant.config.get("held_out") for variant in plan.variants]
        assert held_out == [expected, expected, None, None, None]
        for variant in plan.variants:
            check_config(variant.config)


def test_plan_from_flags(parse):
    plan = parse(
        "--config", "fixed_ce_dice_demo.yml", "--methods", "AutoWeightedLoss,PCGrad",
        "--grid", "0.1:0.9:0.4", "--seeds", "3,5", "--lr_grid", "0.001,2e-3", "--iters", 7,
        "--lr_seeds", 1,
    )  # fmt: skip
    names = [variant.name for variant in plan.variants]
    fixed = ["fixed 0.1:0.9", "fixed 0.5:0.5", "fixed 0.9:0.1"]
    assert names == ["fixed_ce_dice_demo", "AutoWeightedLoss", "PCGrad", *fixed]
    assert plan.baseline == "fixed_ce_dice_demo"
    assert plan.seeds == (3, 5)
    assert plan.lr_grid == (0.001, 0.002)
    assert plan.seeds_for_rates == (3,)
    assert {variant.config["iters"] for variant in plan.variants} == {7}
    losses = [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}]
    assert plan.variant("PCGrad").config["loss"]["types"] == [{"type": "PCGrad", "losses": losses}]
    (mixed,) = plan.variant("fixed 0.9:0.1").config["loss"]["types"]
    assert mixed == {"type": "MixedLoss", "losses": losses, "coef": [0.9, 0.1]}
    assert len({run.path for run in plan.runs()}) == len(plan.runs()) == 6 * 2
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


@pytest.mark.parametrize(
    ("changed", "grid", "found"),
    [
        ({}, None, {}),
        ({"loss": {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]}}, None, {}),
        ({"held_out": 0.2}, None, {}),
        ({"batch_size": 3, "iters": 8}, None, {"batch_size": [2, 3], "iters": [4, 8]}),
        ({"optimizer": {"beta1": 0.5}}, None, {"optimizer.beta1": [None, 0.5]}),
        (
            {"lr_scheduler": {"learning_rate": 0.5}}, None,
            {"lr_scheduler.learning_rate": [0.002, 0.5]},
        ),
        ({"lr_scheduler": {"learning_rate": 0.5}}, [0.1], {}),
    ],
)  # fmt: skip
def test_what_differs_beside_the_losses(changed, grid, found, parse, tmp_path, base):
    other = tmp_path / "other.yml"
    other.write_text(yaml.safe_dump({"_base_": str(base), **changed}))
    variants = [{"config": str(base)}, {"config": str(other)}]
    plan = parse(comparison_file(tmp_path, base=str(base), variants=variants, lr_grid=grid))
    assert plan.other_differences == found


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


def test_arguments_of_a_method_go_before_those_of_the_base(parse, tmp_path, base):
    losses = [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}]
    own = {"type": "Sum", "losses": losses, "names": ["a", "b"], "ignore_index": 255}
    loss = {"types": [own], "coef": [1]}
    base.write_text(yaml.safe_dump({"_base_": str(CONFIGS / "sum_ce_dice_demo.yml"), "loss": loss}))
    method = {"type": "CAGrad", "names": ["c", "d"]}
    variants = [{"method": method}, {"name": "plain", "method": "CAGrad"}]
    plan = parse(comparison_file(tmp_path, base="base.yml", variants=variants))
    (changed,), (plain,) = (v.config["loss"]["types"] for v in plan.variants)
    assert changed == {**own, **method}
    assert plain == {**own, "type": "CAGrad"}


ERRORS = [
    ({"held_out": 0.1}, "held_out: there is no such key of a comparison; if it is one of a train"),
    ({"seedz": 3}, "seedz: there is no such key of a comparison; did you mean seeds?"),
    ({"seeds": "many"}, "seeds: expected their number, from 1 to 1000, or a list of different"),
    ({"seeds": [1, 1]}, "different integers from 0 to 4294967295, found [1, 1]"),
    ({"seeds": [2**32]}, "integers from 0 to 4294967295, found [4294967296]"),
    ({"seeds": f"1,{2**32}"}, "integers from 0 to 4294967295, found [1, 4294967296]"),
    ({"seeds": 10**12}, "from 1 to 1000, or a list of different integers"),
    ({"validation": 1.5}, "validation: expected a number from 0 to below 1, found 1.5"),
    ({"lr_grid": [0.1, -1]}, "lr_grid: expected a list of positive numbers, found [0.1, -1]"),
    ({"lr_grid": [0.1, 0.2], "validation": 0}, "lr_grid: expected validation above 0"),
    ({"lr_seeds": 1}, "lr_seeds: expected lr_grid with it, found none"),
    ({"lr_grid": [0.1, 0.2], "lr_seeds": 6}, "lr_seeds: expected at most the 5 seeds, found 6"),
    (
        {"lr_grid": [0.1, 0.2], "lr_seeds": 0},
        "lr_seeds: expected a positive integer, found 0",
    ),
    ({"baseline": 3661}, "there is no variant 3661; YAML takes it for a number, put it in quotes"),
    ({"baseline": "AutoWeighted"}, "there is no variant 'AutoWeighted'; did you mean AutoWeighted"),
    ({"variants": [{"method": "Sum"}]}, "variants: expected two or more, found 1"),
    ({"variants": [{"method": "Sum"}] * 2}, "expected different names, found 'Sum' twice"),
    ({"base": "no.yml"}, "base: no.yml was not found"),
    ({"base": ""}, "base: expected the path of a config file, found nothing"),
    ({"iters": 0}, "iters: expected a positive integer, found 0"),
]
VARIANT_ERRORS = [
    ({"metod": "Sum"}, "variants[1].metod: there is no such key; did you mean method?"),
    ({"method": "PCGard"}, "variants[1].method: there is no method 'PCGard'; did you mean PCGrad?"),
    ({"method": "Sum", "coef": [1, 1]}, "variants[1]: expected one of method, coef, config, "),
    ({"coef": [1, 1, 1]}, "variants[1].coef: expected 2 numbers, one per loss, found [1.0, 1.0, "),
    ({"coef": [1, -1]}, "variants[1].coef: expected a number of at least 0 per loss, found"),
    ({"script": "no.py", "method": "Sum"}, "variants[1].script: expected a training script"),
    ({"retrain_of": "Smu"}, "retrain_of: there is no variant 'Smu'; did you mean Sum?"),
    ({"retrain_of": None}, "variants[1].retrain_of: expected a value, found none"),
    ({"retrain_of": ["Sum"]}, "retrain_of: there is no variant ['Sum']"),
    ({"config": None}, "variants[1].config: expected a value, found none"),
    ({"coef": [1, 1], "name": "x" * 300}, "variants[1].name: expected at most 200 bytes, bec"),
    ({"method": "Sum", "name": " "}, "variants[1].name: expected a name, found ' '"),
    ({"method": "Sum", "name": 3661}, "found 3661; YAML takes it for a number, put it in quotes"),
    ({"method": "Sum", "name": True}, "found True; YAML takes it for a truth value, put it in"),
    ({"retrain_of": date(2024, 1, 1)}, "2024, 1, 1); YAML takes it for a date, put it in quotes"),
    ({"retrain_of": "fixed 1:0"}, "expected a variant with a method or a config"),
    (
        {"method": {"type": "PCGrad", "losses": [{"type": "DiceLoss"}]}},
        "variants[1].method.losses: expected none, because the losses are those of base, found [{",
    ),
    (
        {"config": "auto_ce_dice_demo.yaml"},
        "variants[1].config: auto_ce_dice_demo.yaml was not found; did you mean auto_ce_dice_demo.",
    ),
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
        (
            ["compare/demo.yml", "--methods", "Sum"],
            "expected no other config with a comparison file",
        ),
        *(
            (["--config", "auto_ce_dice_demo.yml", "--grid", grid], "--grid: expected first:last")
            for grid in ("1:0:2", "0:1:0", "0:1:1e-9", "0:1:5e-324", "0:1:inf", "0:1:nan")
        ),
        (
            ["--config", "auto_ce_dice_demo.yml", "--methods", "CAGrad, Smu"],
            "--methods: there is no method 'Smu'; did you mean Sum?",
        ),
        (
            ["--config", "auto_ce_dice_demo.yml", "--methods", " ,"],
            "--methods: expected methods such as PCGrad,CAGrad, found ' ,'",
        ),
    ],
)
def test_flag_errors(words, message, parse):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(*words)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_every_seed_that_is_accepted_can_be_set(seed, parse, tmp_path):
    plan = parse(comparison_file(tmp_path, seeds=[seed], split_seed=2**40))
    utils.set_seed(plan.seeds[0])
    assert parse_args(["train", "--config", "x", "--seed", str(seed)]).seed == seed


@pytest.mark.parametrize("command", ["train", "diagnose"])
def test_a_seed_that_numpy_refuses(command, capsys):
    with pytest.raises(ValueError, match="between 0 and 2"):
        np.random.seed(2**32)
    with pytest.raises(SystemExit):
        parse_args([command, "--config", "x", "--seed", str(2**32)])
    assert "expected an integer from 0 to 4294967295, found 4294967296" in capsys.readouterr().err


def test_names_may_be_as_long_as_folders(parse, tmp_path):
    variants = [{"name": "x" * 200, "coef": [1, 1]}, {"name": "失" * 66, "coef": [1, 2]}]
    for variant in parse(comparison_file(tmp_path, variants=variants)).variants:
        (tmp_path / variant.folder).mkdir()


def test_a_retrained_variant_has_the_rate_of_its_source(parse, tmp_path):
    config = yaml.safe_load((CONFIGS / "auto_ce_dice_demo.yml").read_text())
    config["_base_"] = [str(CONFIGS / name) for name in np.atleast_1d(config["_base_"])]
    config["lr_scheduler"] = {"learning_rate": 0.01}
    (tmp_path / "own.yml").write_text(yaml.safe_dump(config))
    variants = [{"name": "own", "config": "own.yml"}, {"retrain_of": "own"}, {"method": "Sum"}]
    plan = parse(comparison_file(tmp_path, variants=variants, seeds=1))
    base = plan.variant("Sum").learning_rate
    assert base != 0.01
    assert {run.variant.name: run.learning_rate for run in plan.runs()} == {
        "own": 0.01, "own, retrained": 0.01, "Sum": base,
    }  # fmt: skip
    runner = Runner([RunFolder(tmp_path, run) for run in plan.runs()], LocalEngine)
    sources = [runner._source(folder.run) for folder in runner.folders]
    assert [source and source.run.variant.name for source in sources] == [None, None, "own"]


MIXTURE = [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}]
#: Losses of a config whose method learns weights, and the types that stand in for them.
SOURCES = [
    ({"types": [{"type": "GradNorm", "losses": MIXTURE}], "coef": [1]}, {}, ["MixedLoss"]),
    (
        {"types": [{"type": "MixedLoss", "losses": MIXTURE, "coef": [1, 1]}], "coef": [1]},
        {"loss_aggregator": {"type": "GradNorm"}},
        ["MixedLoss"],
    ),
    (
        {"types": [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}], "coef": [1, 0.4]},
        {"loss_aggregator": {"type": "GradNorm"}},
        ["CrossEntropyLoss", "DiceLoss"],
    ),
    (
        {"types": [{"type": "OLAUX", "losses": MIXTURE}], "coef": [1]},
        {"held_out": 0.5},
        ["MixedLoss"],
    ),
]


@pytest.mark.parametrize(("loss", "keys", "types"), SOURCES)
def test_a_retrained_variant_trains_as_its_source(loss, keys, types, parse, tmp_path, base):
    """Only the loss differs; the base is for other variants."""
    model = {"type": "FastSCNN", "num_classes": 2, "enable_auxiliary_loss": len(types) > 1}
    own = {"model": model, "batch_size": 1, "iters": 6, "loss": loss, **keys}
    own["optimizer"] = {"_inherited_": False, "type": "SGD"}
    (tmp_path / "own.yml").write_text(yaml.safe_dump({"_base_": "base.yml", **own}))
    variants = [{"retrain_of": "own"}, {"config": "own.yml"}]
    for options in ({"variants": variants}, {"variants": [*variants, {"coef": [1, 2]}]}):
        plan = parse(comparison_file(tmp_path, base=str(base), **options))
        retrained, source = plan.variants[0].config, plan.variants[1].config
        assert [entry["type"] for entry in retrained["loss"]["types"]] == types
        expected = {k: v for k, v in source.items() if k not in ("loss", *keys)}
        assert {k: v for k, v in retrained.items() if k != "loss"} == expected
    folders = prepare(plan, tmp_path / "out")
    assert folders[-1].run.variant.name == "own, retrained"


def test_a_fixed_mix_is_not_retrained(parse, tmp_path):
    path = tmp_path / "mine.yml"
    variants = [{"config": "fixed_ce_dice_demo.yml"}, {"retrain_of": "fixed_ce_dice_demo"}]
    path.write_text(yaml.safe_dump({"variants": variants}))
    with pytest.raises(ConfigError, match=r"^variants: .* has losses of PaddleSeg only and "):
        parse(path)


def test_a_method_within_a_fixed_mix_is_retrained(parse, tmp_path, base):
    inner = {"type": "AutoWeightedLoss", "losses": MIXTURE}
    mix = {"type": "MixedLoss", "losses": [inner, {"type": "DiceLoss"}], "coef": [0.5, 0.5]}
    own = {"_base_": "base.yml", "loss": {"types": [mix], "coef": [1]}}
    (tmp_path / "own.yml").write_text(yaml.safe_dump(own))
    variants = [{"config": "own.yml"}, {"retrain_of": "own"}]
    plan = parse(comparison_file(tmp_path, base=str(base), variants=variants))
    assert plan.variants[1].source == "own"


def test_a_retrained_variant_needs_no_base(parse, tmp_path):
    path = tmp_path / "mine.yml"
    variants = [{"config": "auto_ce_dice_demo.yml"}, {"retrain_of": "auto_ce_dice_demo"}]
    path.write_text(yaml.safe_dump({"variants": variants}))
    assert parse(path).variants[1].config["iters"] == 500


def test_ignored_pixels_stay_ignored(parse, tmp_path):
    base = yaml.safe_load((CONFIGS / "sum_ce_dice_demo.yml").read_text())
    base["_base_"] = [str(CONFIGS / name) for name in base["_base_"]]
    base["loss"]["types"][0]["ignore_index"] = 255
    (tmp_path / "base.yml").write_text(yaml.safe_dump(base))
    plan = parse(comparison_file(tmp_path, base="base.yml"))
    mixed, method = (variant.config["loss"]["types"][0] for variant in plan.variants)
    assert method["ignore_index"] == 255
    assert [loss["ignore_index"] for loss in mixed["losses"]] == [255, 255]
