"""The split of the images, and the configs of the runs."""

from __future__ import annotations

import shutil

import pytest
import yaml
from paddleseg.cvlibs import manager
from support.comparison import CONFIGS, comparison_file, write_results
from support.data import square, write_config, write_data

from paddleseg_autoloss.cli.main import parse_args
from paddleseg_autoloss.comparison.command import compare_from
from paddleseg_autoloss.comparison.data import read_split
from paddleseg_autoloss.comparison.folders import check_written, prepare
from paddleseg_autoloss.comparison.plan_reader import read_plan
from paddleseg_autoloss.comparison.report import write_report
from paddleseg_autoloss.comparison.results import Results
from paddleseg_autoloss.errors import ConfigError, DataError
from paddleseg_autoloss.integration.config import load_config


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
    with pytest.raises(ConfigError, match="found another in"):
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
    with pytest.raises(ConfigError, match=r"leaves at least 2, one batch, to train on; found 0\.9"):
        prepare(plan, tmp_path / "out")


def test_too_few_images_for_a_method_that_holds_images_out(parse, tmp_path, base):
    config = yaml.safe_load(base.read_text())
    base.write_text(yaml.safe_dump(config | {"held_out": 0.5}))
    variants = [{"coef": [1, 1]}, {"method": "AutoLambda"}]
    keys = {"base": str(base), "variants": variants}
    plan = parse(comparison_file(tmp_path, validation=0.6, **keys))
    message = (
        r"held_out: .* the 3 training images .* at least 2, .* 'AutoLambda', found 0\.5, .* 1;"
    )
    with pytest.raises(ConfigError, match=message):
        prepare(plan, tmp_path / "out")
    assert prepare(parse(comparison_file(tmp_path, validation=0.2, **keys)), tmp_path / "other")
    base.write_text(yaml.safe_dump(config | {"held_out": 0.5, "batch_size": 5}))
    plan = parse(comparison_file(tmp_path, validation=0, **keys))
    with pytest.raises(ConfigError, match=r"the 8 training images .* at least 5, .* leaves 4;"):
        prepare(plan, tmp_path / "third")


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
    with pytest.raises(ConfigError, match="expected the iters of this config"):
        prepare(parse(path, "--iters", 3), tmp_path / "out")


@pytest.fixture
def trained(tmp_path, base):
    """A comparison whose runs have configs and made-up results."""
    path, out = comparison_file(tmp_path, base=str(base), seeds=2), tmp_path / "out"
    plan = read_plan(parse_args(["compare", str(path)]), CONFIGS)
    write_results(prepare(plan, out), lambda run: (0.5, 0.5))

    def report(*flags, folder=out):
        words = [path, "--save_dir", folder, "--report_only", "--samples", 0, *flags]
        compare_from(parse_args(["compare", *map(str, words)]), CONFIGS, "")
        return (folder / "report.md").read_text()

    return out, report


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--iters", 6000], "expected the iters of this config"),
        (["--validation", 0.5], "validation: expected the split of this config, found another in"),
        (["--validation", 0], "validation: expected the split of this config, found another in"),
        (["--opts", "optimizer.type=SGD"], "expected the optimizer of this config"),
        (["--opts", "lr_scheduler.power=2"], "expected the lr_scheduler of this config"),
    ],
)
def test_a_report_is_on_the_runs_of_this_plan(flags, message, trained):
    out, report = trained
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(ConfigError, match=message):
        report(*flags)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_report_on_a_copy_and_on_some_seeds(trained, tmp_path):
    out, report = trained
    shutil.copytree(out, tmp_path / "copy")
    assert "4 of 4 runs are done" in report(folder=tmp_path / "copy")
    assert "2 of 2 runs are done" in report("--seeds", 1, "--baseline", "AutoWeightedLoss")
    (out / "split" / "validation_list.txt").unlink()
    with pytest.raises(ConfigError, match="expected the split of this config"):
        report()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (
            [f"{group:02d}_{tile}" for group in range(6) for tile in range(2)],
            "2 of the 12 images of the training list (17%) were held out as validation images "
            "(20% asked for, split seed 0); images whose names begin alike stay together, as ",
        ),
        (
            "abcdefghijkl",
            "2 of the 12 images of the training list (17%) were held out as validation images "
            "(20% asked for, split seed 0); the config's val_dataset is the test set.",
        ),
    ],
    ids=["groups", "single images"],
)
def test_the_report_has_the_real_numbers_of_the_split(names, found, parse, tmp_path):
    write_data(tmp_path, [square() for _ in range(12)])
    lines = (tmp_path / "train.txt").read_text().splitlines()
    for line, name in zip(lines, names):
        shutil.copy(tmp_path / line.split()[0], tmp_path / f"{name}.png")
    texts = [f"{name}.png {line.split()[1]}\n" for line, name in zip(lines, names)]
    (tmp_path / "train.txt").write_text("".join(texts))
    base = write_config(tmp_path, [{"type": "Normalize"}])
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=1))
    folders = prepare(plan, tmp_path / "out")
    held_out = (tmp_path / "out/split/validation_list.txt").read_text().splitlines()
    assert f"{len(held_out)} of the 12 images" in found
    write_results(folders, lambda run: (0.5, 0.5))
    write_report(Results(plan, folders), tmp_path / "out", samples=False)
    assert found in (tmp_path / "out/report.md").read_text()


def test_bad_arguments_stop_it_before_anything_is_trained(parse, tmp_path, base):
    variants = [{"method": "Sum"}, {"method": {"type": "CAGrad", "calpha": -1}}]
    plan = parse(comparison_file(tmp_path, base=str(base), variants=variants))
    with pytest.raises(ConfigError, match=r"CAGrad: loss.types\[0\].calpha: "):
        prepare(plan, tmp_path / "out")


def test_images_that_make_no_batch_are_found_before_the_first_run(parse, tmp_path):
    write_data(tmp_path, [square(size=size) for size in (32, 48, 64, 32, 48, 64)])
    path = write_config(tmp_path, [{"type": "Normalize"}])
    with pytest.raises(DataError, match=r"^train_dataset\.transforms: expected images that make"):
        prepare(parse("--config", path, "--methods", "PCGrad"), tmp_path / "out")


@pytest.mark.parametrize("inside", ["", "compare/mine"])
@pytest.mark.parametrize("flags", [[], ["--report_only"]])
def test_a_file_in_the_place_of_the_folder(inside, flags, tmp_path, base):
    (tmp_path / "file").write_text("mine")
    words = [comparison_file(tmp_path, base=str(base)), "--save_dir", tmp_path / "file" / inside]
    with pytest.raises(ConfigError, match=r"--save_dir: expected a folder, found the file .*file"):
        compare_from(parse_args(["compare", *map(str, words), *flags]), CONFIGS, "")
    assert (tmp_path / "file").read_text() == "mine"


#: Names of images and labels, the line of a list, its separator, and what the line has for "/".
LISTS = {
    "spaces in names": ("my image {}.png", "my label {}.png", "{} {}", " ", "/"),
    "a list from Windows": ("images/{}.png", "labels/{}.png", "{} {}", " ", "\\"),
    "several spaces": ("images/{}.png", "labels/{}.png", "{}   {}", " ", "/"),
    "spaces around a comma": ("a b/{}.png", "c d/{}.png", "{} , {}", ",", "/"),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_that_training_reads(case, parse, tmp_path):
    """The network reads its images, and the report finds the split that was written."""
    image, label, line, separator, slash = LISTS[case]
    lines = []
    write_data(tmp_path, [square()] * 10)
    for index in range(10):
        names = [name.format(index) for name in (image, label)]
        for old, new in zip((f"{index}.png", f"{index}_label.png"), names):
            (tmp_path / new).parent.mkdir(exist_ok=True)
            (tmp_path / old).rename(tmp_path / new)
        lines.append(line.format(*names).replace("/", slash))
    (tmp_path / "train.txt").write_text("\ufeff\n" + "\n".join(lines), encoding="utf-8")
    sets = ("train_dataset", "val_dataset")
    config = yaml.safe_load(write_config(tmp_path).read_text())
    separated = {name: {**config[name], "separator": separator} for name in sets}
    plan = parse(comparison_file(tmp_path, base=str(write_config(tmp_path, **separated))))
    folders = prepare(plan, tmp_path / "out")
    check_written(plan, tmp_path / "out", folders)
    found = read_split(plan, tmp_path / "out" / "split")
    assert (found.count, found.total) == (2, 10)
    held_out = (tmp_path / "out/split/validation_list.txt").read_text().splitlines()
    assert len(held_out) == 2
    assert set(held_out) < set(lines)
