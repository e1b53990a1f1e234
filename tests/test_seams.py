"""Tests of paddleseg_autoloss.seams."""

from __future__ import annotations

import importlib
import types
from pathlib import Path
from unittest import mock

import paddle
import paddleseg.core
import pytest
from support import ce_and_dice, run_tool, run_training

import paddleseg_autoloss
from paddleseg_autoloss import seams
from paddleseg_autoloss.errors import UnsupportedVersionError
from paddleseg_autoloss.integration import training
from paddleseg_autoloss.integration.loop import LOOP
from paddleseg_autoloss.seams import SEAMS, check_seams, redirect, replace, replaced

IN_LOOP = [seam for seam in SEAMS if seam.uses and seam.user == "paddleseg.core.train:train"]


def changed_loop(folder, old: str, new: str):
    """PaddleSeg's training function with something in its code changed."""
    source = Path(LOOP.__file__).read_text(encoding="utf-8")
    head, function = source.split("\ndef train(")
    changed = head + "\ndef train(" + function.replace(old, new)
    assert changed != source
    path = folder / "loop.py"
    path.write_text(changed, encoding="utf-8")
    namespace: dict = {}
    exec(compile(changed, str(path), "exec"), namespace)
    return mock.patch.object(LOOP, "train", namespace["train"])


def test_the_installed_paddleseg_has_what_the_seams_need():
    check_seams()


@pytest.mark.parametrize("seam", IN_LOOP, ids=lambda seam: seam.name)
def test_a_loop_that_lacks_a_seam_is_refused_by_name(seam, tmp_path):
    used = next(
        use for use in seam.uses if f"{use.split('.')[-1]}" in Path(LOOP.__file__).read_text()
    )
    old = "import LogWriter" if used.startswith("visualdl.") else used
    with (
        changed_loop(tmp_path, old, old + "_of_old"),
        pytest.raises(UnsupportedVersionError, match=rf"paddleseg .*: its train has no .*{used}"),
    ):
        check_seams()


def test_a_loop_that_steps_otherwise_is_refused(tmp_path):
    with (
        changed_loop(tmp_path, "optimizer.step()", "optimizer.apply_gradients([])"),
        pytest.raises(UnsupportedVersionError, match=r"has no optimizer\.step, needed so that"),
    ):
        check_seams()


def test_a_loop_without_an_argument_is_refused(tmp_path):
    with (
        changed_loop(tmp_path, "batch_size=2,", "images_per_card=2,"),
        pytest.raises(UnsupportedVersionError, match=r"its train\(\) has no argument batch_size"),
    ):
        check_seams()


def test_what_the_table_does_not_list_cannot_be_replaced():
    with pytest.raises(LookupError, match=r"SEAMS lists no paddle\.seed"):
        replace(paddle, "seed", None)
    owner = types.SimpleNamespace()
    with pytest.raises(LookupError, match=r"lists no model\.colour"), replaced(owner, "colour", 1):
        pass


def test_a_run_gives_back_all_that_it_replaces(tmp_path):
    seen = {}

    def noted(owner, name, value):
        seen.setdefault((id(owner), name), (owner, vars(owner).get(name, "nothing")))
        return stock(owner, name, value)

    stock = seams.replace
    with mock.patch.object(seams, "replace", noted):
        run_training(
            tmp_path, 2, lambda: [paddleseg_autoloss.AutoWeightedLoss(ce_and_dice())], use_vdl=True
        )
    assert {"loss_computation", "step", "save", "LogWriter"} <= {name for _, name in seen}
    for (_, name), (owner, before) in seen.items():
        assert vars(owner).get(name, "nothing") is before, name


def test_every_permanent_seam_is_in_force():
    assert paddleseg.core.train is LOOP.train
    assert LOOP.train.__globals__["_redirected_train"] is training.train


def test_a_function_that_was_imported_before_calls_ours():
    program = (
        "import zlib\n"
        "from paddleseg.core import train\n"
        "from paddleseg_autoloss.integration import training\n"
        "import inspect, paddleseg.core\n"
        "assert train is paddleseg.core.train\n"
        "assert 'save_interval' in inspect.signature(train).parameters\n"
        "try:\n"
        "    train(None, [], None, save_dir='unused', batch_size=2)\n"
        "except training.ConfigError as error:\n"
        "    print(error)\n"
    )
    done = run_tool("-c", program)
    assert "batch_size: expected at most 0" in done.stdout, done.stderr


def test_only_what_the_table_lists_is_redirected():
    with pytest.raises(LookupError, match=r"lists no paddle"):
        redirect(paddle.seed, print)


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.name)
def test_the_stand_in_is_where_the_table_says(seam):
    path, _, name = seam.stand_in.partition(": ")
    assert (Path(paddleseg_autoloss.__file__).parent / path).is_file()
    module = importlib.import_module(f"paddleseg_autoloss.{path[:-3].replace('/', '.')}")
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert not name or f"def {name}(" in source or f"class {name}" in source
