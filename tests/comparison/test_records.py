"""Files of runs that somebody has damaged or changed by hand."""

from __future__ import annotations

import json
import zlib
from zipfile import BadZipFile

import numpy as np
import pytest
from support.comparison import comparison_file, pretend

from paddleseg_autoloss.comparison.folders import check_written, prepare
from paddleseg_autoloss.comparison.records import read_samples
from paddleseg_autoloss.comparison.report import write_report
from paddleseg_autoloss.comparison.results import Results
from paddleseg_autoloss.errors import AutoLossError, ConfigError, DataError

HEADER = "iteration,term,raw,weight,weighted\n"
#: What is written over parts of result.json, and what the error names.
CHANGED = [
    ({"versions": None}, "versions: expected a version for each name, found None"),
    ({"versions": {"paddle": 3}}, "versions: expected a version for each name"),
    ({"device": 0}, "device: expected a name, found 0"),
    ({"test": []}, r"test: expected keys and values, found \[\]"),
    ({"test": {}}, "test: expected the key mIoU, found none"),
    ({"test": {"mIoU": "x"}}, "test.mIoU: expected a number or null, found 'x'"),
    ({"validation": {"mIoU": float("inf")}}, "validation.mIoU: expected a number or null, found i"),
    ({"test": {"mIoU": 0.5, "class_IoU": ["x"]}}, "test.class_IoU: expected a list of numbers"),
    (
        {"test": {"mIoU": 0.5, "class_IoU": [0.5], "class_share": [0.9, 0.09, 0.01]}},
        "test.class_IoU: expected 3 numbers as in class_share, found 1",
    ),
    ({"weights": [1]}, "weights: expected a number for each name"),
    ({"weights": {"ce": "1"}}, "weights: expected a number for each name"),
    ({"resumed_from": None}, "resumed_from: expected a list of iterations, found None"),
    ({"wall_seconds": None}, "wall_seconds: expected a number of seconds, found None"),
    ({"step_seconds": True}, "step_seconds: expected a number or null, found True"),
    ({"validation_curve": [1]}, "validation_curve: expected a list of pairs"),
    ({"validation_curve": [[10**400, 0.5]]}, "validation_curve: expected a list of pairs"),
    ({"step_seconds": 10**400}, "step_seconds: expected a number or null, found 1000000"),
    ({"script": 1}, "script: expected a text or null, found 1"),
    ({"learned_parameters": "x"}, "learned_parameters: expected a number for each name"),
]  # fmt: skip
TEXTS = [
    ("result.json", "[]", r"expected keys and values, found \[\]"),
    ("result.json", "null", "expected keys and values, found None"),
    ("result.json", "", "expected a JSON file"),
    ("../../../../setup.json", "[]", "expected keys and values"),
    ("../../../../setup.json", "x", "expected a JSON file"),
    ("loss_weights.csv", "", "expected a table"),
    ("loss_weights.csv", "x", "expected the column term, found none"),
    ("loss_weights.csv", "\xff\0", "expected "),
    ("loss_weights.csv", HEADER + "a,b,c,d,e\n", "iteration: expected numbers only, found text"),
    ("loss_weights.csv", HEADER + "1,ce,1,1,x\n", "weighted: expected numbers only, found text"),
    ("loss_weights.csv", HEADER + ",ce,1,1,1\n", "iteration: expected a number in every line"),
]


@pytest.fixture
def made(parse, tmp_path, base):
    """Runs of one seed, the first of them, and a function that reports on them."""
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=1))
    folders = pretend(plan, tmp_path, lambda run: (0.5, 0.5))
    return folders[0], lambda: write_report(Results(plan, folders), tmp_path)


@pytest.mark.parametrize(("keys", "message"), CHANGED, ids=lambda value: str(value)[:40])
def test_values_that_do_not_fit(keys, message, made):
    folder, report = made
    folder.result_path.write_text(json.dumps({**folder.result(), **keys}))
    with pytest.raises(DataError, match=f"result.json: {message}") as caught:
        report()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["versions", "device", "test", "validation", "wall_seconds"])
def test_keys_that_are_missing(key, made):
    folder, report = made
    result = folder.result()
    del result[key]
    folder.result_path.write_text(json.dumps(result))
    with pytest.raises(DataError, match=f"result.json: expected the key {key}, found none"):
        report()


@pytest.mark.parametrize(("name", "text", "message"), TEXTS)
def test_files_that_are_something_else(name, text, message, made):
    folder, report = made
    (folder.path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=rf"{name.split('/')[-1]}: {message}") as caught:
        report()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"from": 0}]', '[{"from": "x", "seconds": 1}]'])
def test_attempts(text, made):
    folder, _ = made
    (folder.path / "attempts.json").write_text(text)
    with pytest.raises(DataError, match=r"attempts.json: .*expected "):
        folder.attempts()


@pytest.mark.parametrize("text", ["[]", '{"test": {"mIoU": 0.5}}', '{"test": 1, "validation": 1}'])
def test_evaluations(text, made):
    folder, _ = made
    folder.evaluation_path.write_text(text)
    with pytest.raises(DataError, match=r"evaluation.json: .*expected "):
        folder.write_result({}, "cpu")


PICTURES = {
    "image0": np.arange(27, dtype="uint8").reshape(3, 3, 3),
    "truth0": np.eye(3, dtype="uint8"),
    "prediction0": np.ones([3, 3], "uint8"),
}


def test_samples_with_a_wrong_byte(made):
    """Every byte of the file, in turn; a checksum finds most, and the file says what it can."""
    folder, _ = made
    path = folder.path / "samples.npz"
    np.savez_compressed(path, **PICTURES)
    whole = path.read_bytes()
    assert read_samples(path).keys() == PICTURES.keys()
    errors, lines = set(), []
    for index, byte in enumerate(whole):
        path.write_bytes(whole[:index] + bytes([byte ^ 0x21]) + whole[index + 1 :])
        try:
            read_samples(path)
        except DataError as error:
            errors.add(type(error.__cause__))
            lines.append(str(error))
    assert not any("\n" in line for line in lines)
    assert {zlib.error, NotImplementedError, BadZipFile} <= errors


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("truth0", np.full([3, 3], np.nan)),
        ("truth0", np.zeros([0, 3], "uint8")),
        ("prediction0", np.zeros(9, "uint8")),
        ("image0", np.zeros([3, 3], "uint8")),
        ("image0", np.array([[["a"]]])),
    ],
)
def test_samples_that_are_no_pictures(name, array, made):
    folder, report = made
    np.savez_compressed(folder.path / "samples.npz", **PICTURES | {name: array})
    with pytest.raises(DataError, match=rf"samples.npz: {name}: expected [23] dimensions of bytes"):
        report()


@pytest.mark.parametrize("name", ["train_list.txt", "validation_list.txt"])
@pytest.mark.parametrize("text", [b"", b"\n \n", b"\xff\xfe", b"a"])
def test_lists_of_images(name, text, parse, tmp_path, base):
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=1))
    folders = prepare(plan, tmp_path)
    (tmp_path / "split" / name).write_bytes(text)
    with pytest.raises(AutoLossError, match=r"split.*; choose another|list.txt.*: expected "):
        check_written(plan, tmp_path, folders)
    with pytest.raises(ConfigError, match=rf"found another in .*{name}; choose another --save_dir"):
        prepare(plan, tmp_path)


def test_a_list_of_the_data_set_that_is_gone(parse, tmp_path, base, fundus):
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=1))
    folders = prepare(plan, tmp_path)
    root = tmp_path / "moved"
    for variant in plan.variants:
        variant.config["train_dataset"]["dataset_root"] = str(root)
    with pytest.raises(DataError, match=r"moved/train_list.txt: expected a list of images: No su"):
        check_written(plan, tmp_path, folders)
    root.mkdir()
    (root / "train_list.txt").write_text("\n")
    with pytest.raises(DataError, match=r"train_list.txt: expected the list of .*, found no line"):
        check_written(plan, tmp_path, folders)


def test_runs_without_figures_of_the_classes(parse, tmp_path, base):
    """As earlier versions wrote them; other runs of the comparison have these figures."""
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=2))
    folders = pretend(plan, tmp_path, lambda run: (0.5, 0.5))
    test = {"mIoU": 0.5, "class_IoU": [0.2, 0.3, 0.4], "class_share": [0.6, 0.3, 0.1]}
    for folder in folders:
        lacks = (folder.run.variant.name, folder.run.seed) == ("AutoWeightedLoss", 1)
        own = {"mIoU": 0.5} if lacks else test
        folder.result_path.write_text(json.dumps({**folder.result(), "test": own}))
    write_report(Results(plan, folders), tmp_path)
    report = (tmp_path / "report.md").read_text()
    classes = report.split("## Classes")[1].split("##")[0]
    assert "| fixed 0.8:0.2 | 0.400 | 0.300 | 0.200 |" in classes
    assert "AutoWeightedLoss |" not in classes


def test_what_a_run_writes_is_read(made):
    """Also figures that are undefined, an empty table, and a reason that is not UTF-8."""
    folder, report = made
    result = {**folder.result(), "step_seconds": None, "weights": {"ce": None}}
    result["test"] = {"mIoU": None, "Dice": float("nan")}
    folder.result_path.write_text(json.dumps(result))
    (folder.path / "loss_weights.csv").write_text(HEADER)
    report()
    folder.result_path.unlink()
    folder.error_path.write_bytes(b"exit status 1\n\xff")
    report()
