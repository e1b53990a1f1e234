"""A comparison file that was edited after its runs: old runs are not taken for new ones."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from support.comparison import comparison_file, pretend

from paddleseg_autoloss.comparison.folders import RunFolder, check_written, prepare
from paddleseg_autoloss.errors import ConfigError

#: Variants whose configs are the same, but not their runs: the first, the second, what differs.
EDITED = [
    ({"script": "one.py"}, {"script": "other.py"}, "script"),
    ({"config": "base.yml"}, {"script": "one.py"}, "script"),
    ({"script": "one.py"}, {"config": "base.yml"}, "script"),
    ({"retrain_of": "GradNorm"}, {"retrain_of": "DWA"}, "retrain_of"),
    ({"coef": [1, 2]}, {"retrain_of": "DWA"}, "retrain_of"),
]


@pytest.fixture
def plan_with(parse, tmp_path, base):
    """A function that makes a plan with a variant called mine."""
    for name in ("one", "other"):
        (tmp_path / f"{name}.py").write_text(f"print({name!r})")

    def make(**variant):
        variants = [{"method": "GradNorm"}, {"method": "DWA"}, {"name": "mine", **variant}]
        return parse(comparison_file(tmp_path, base=str(base), variants=variants, seeds=1))

    return make


def finished(plan, root) -> list[RunFolder]:
    prepare(plan, root)
    return pretend(plan, root, lambda run: (0.5, 0.5))


@pytest.mark.parametrize(("first", "second", "key"), EDITED)
def test_another_origin_with_the_same_config(first, second, key, plan_with, tmp_path):
    finished(plan_with(**first), tmp_path / "out")
    plan = plan_with(**second)
    message = f"expected the {key} of this config in .*mine.*result.json, found another one, or no"
    with pytest.raises(ConfigError, match=message) as caught:
        prepare(plan, tmp_path / "out")
    assert "\n" not in str(caught.value)
    folders = [RunFolder(tmp_path / "out", run) for run in plan.runs()]
    with pytest.raises(ConfigError, match=message):
        check_written(plan, tmp_path / "out", folders)


@pytest.mark.parametrize("variant", [first for first, _, _ in EDITED])
def test_the_same_origin(variant, plan_with, tmp_path):
    plan = plan_with(**variant)
    folders = finished(plan, tmp_path / "out")
    prepare(plan, tmp_path / "out")
    check_written(plan, tmp_path / "out", folders)


def test_a_folder_that_was_copied_can_only_be_read(plan_with, tmp_path):
    plan = plan_with(coef=[1, 2])
    finished(plan, tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"^--save_dir: .* names other .* with --report_only: "):
        prepare(plan, tmp_path / "copy")
    folders = [RunFolder(tmp_path / "copy", run) for run in plan.runs()]
    check_written(plan, tmp_path / "copy", folders)


def test_a_script_that_was_moved_or_changed_before_its_run_was_done(plan_with, tmp_path):
    *_, mine = finished(plan_with(script="one.py"), tmp_path / "out")
    (tmp_path / "one.py").rename(tmp_path / "moved.py")
    prepare(plan_with(script="moved.py"), tmp_path / "out")
    mine.result_path.unlink()
    prepare(plan_with(script="other.py"), tmp_path / "out")


def test_results_of_earlier_versions_do_not_tell_their_origin(plan_with, tmp_path):
    *_, mine = finished(plan_with(script="one.py"), tmp_path / "out")
    known = mine.result()
    del known["script"], known["retrain_of"]
    mine.result_path.write_text(json.dumps(known))
    prepare(plan_with(script="other.py"), tmp_path / "out")


def mix(*coef: float) -> dict:
    losses = [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}]
    return {"types": [{"type": "MixedLoss", "losses": losses, "coef": list(coef)}], "coef": [1]}


def test_a_source_that_was_trained_anew(plan_with, tmp_path):
    plan = plan_with(retrain_of="DWA")
    _, source, mine = finished(plan, tmp_path / "out")
    source.learned_path.write_text(yaml.safe_dump({"loss": mix(0.3, 0.7)}))
    mine.use_learned_loss(source)
    mine = pretend(plan, tmp_path / "out", lambda run: (0.5, 0.5))[-1]
    prepare(plan, tmp_path / "out")

    source.learned_path.write_text(yaml.safe_dump({"loss": mix(0.4, 0.6)}))
    with pytest.raises(ConfigError, match=r"expected the weights of DWA, lr 0.002, seed 0 in .*mi"):
        prepare(plan, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"found others; delete .*mine.*seed0, or choose another"):
        check_written(plan, tmp_path / "out", [mine, source])


def test_checkpoints_with_other_weights_are_not_continued(plan_with, tmp_path):
    _, source, mine = prepare(plan_with(retrain_of="DWA"), tmp_path / "out")
    source.learned_path.write_text(yaml.safe_dump({"loss": mix(0.3, 0.7)}))
    mine.use_learned_loss(source)
    (mine.path / "iter_2").mkdir()
    mine.use_learned_loss(source)
    assert (mine.path / "iter_2").is_dir()
    source.learned_path.write_text(yaml.safe_dump({"loss": mix(0.4, 0.6)}))
    mine.use_learned_loss(source)
    assert sorted(path.name for path in mine.path.iterdir()) == ["config.yml", "config_test.yml"]
    assert yaml.safe_load((mine.path / "config.yml").read_text())["loss"] == mix(0.4, 0.6)
