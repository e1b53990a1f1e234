"""Tests of the generated optic-disc data set."""

from __future__ import annotations

import paddleseg_autoloss  # noqa: F401  isort: skip

import doctest
import json
import multiprocessing
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.builder import SegBuilder
from paddleseg.datasets import OpticDiscSeg
from PIL import Image

from paddleseg_autoloss.datasets import SyntheticFundus, synthetic_fundus
from paddleseg_autoloss.errors import ConfigError

SMALL = {"num_train": 3, "num_val": 2, "image_size": 64}


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of every file below ``root``, by relative path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def generate_at_barrier(root: str, barrier: multiprocessing.synchronize.Barrier) -> None:
    """Generate as soon as the other process is ready to."""
    barrier.wait(60)
    SyntheticFundus(root, **SMALL)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set that tests only read."""
    folder = tmp_path_factory.mktemp("shared") / "fundus"
    SyntheticFundus(folder, **SMALL)
    return folder


def test_layout(root: Path) -> None:
    names = [f"train_{i:04d}" for i in range(3)] + [f"val_{i:04d}" for i in range(2)]
    expected = {f"JPEGImages/{name}.jpg" for name in names}
    expected |= {f"Annotations/{name}.png" for name in names}
    expected |= {"train_list.txt", "val_list.txt", "labels.txt", "recipe.json"}
    assert set(contents(root)) == expected
    assert (root / "val_list.txt").read_text().splitlines() == [
        f"JPEGImages/val_{i:04d}.jpg Annotations/val_{i:04d}.png" for i in range(2)
    ]
    assert (root / "labels.txt").read_text().split() == ["background", "optic_disc"]
    assert os.listdir(root.parent) == ["fundus"]


def test_recipe(root: Path) -> None:
    assert json.loads((root / "recipe.json").read_text()) == {
        "generator": "SyntheticFundus",
        "version": synthetic_fundus.GENERATOR_VERSION,
        "seed": 0,
        **SMALL,
    }


def test_behaves_like_optic_disc_seg(root: Path) -> None:
    train = SyntheticFundus(root, transforms=[], mode="TRAIN", edge=True, **SMALL)
    val = SyntheticFundus(root, transforms=[], mode="val", **SMALL)
    assert isinstance(train, OpticDiscSeg)
    assert (len(train), len(val)) == (3, 2)
    assert (train.NUM_CLASSES, train.IGNORE_INDEX, train.IMG_CHANNELS) == (2, 255, 3)
    sample = train[0]
    assert sample["img"].shape == (3, 64, 64)
    assert sample["label"].shape == (64, 64)
    assert "edge" in sample
    assert val[0]["label"].shape == (1, 64, 64)


def test_masks_are_palette_images_with_a_visible_disc(root: Path) -> None:
    for path in (root / "Annotations").iterdir():
        picture = Image.open(path)
        assert picture.mode == "P"
        assert set(np.unique(np.asarray(picture))) == {0, 1}
        assert picture.getpalette()[:3] == [0, 0, 0]
        assert max(picture.getpalette()[3:6]) >= 128


@pytest.mark.parametrize(("size", "count"), [(64, 100), (256, 10)])
def test_disc_covers_one_to_three_percent(size: int, count: int) -> None:
    fractions = [
        synthetic_fundus._paint_sample(np.random.default_rng(seed), size)[1].mean()
        for seed in range(count)
    ]
    assert min(fractions) >= 0.01
    assert max(fractions) <= 0.03
    assert np.ptp(fractions) > 0.01


def test_discs_lie_on_both_sides_and_inside_the_field() -> None:
    columns = []
    for seed in range(60):
        image, mask = synthetic_fundus._paint_sample(np.random.default_rng(seed), 64)
        columns.append(np.argwhere(mask)[:, 1].mean() / 64)
        assert image[mask == 1].mean() > 20
        assert image[:4, :4].mean() < 10
    assert min(columns) < 0.3
    assert max(columns) > 0.7
    assert 0.3 < np.mean(np.array(columns) < 0.5) < 0.7


def test_disc_is_brighter_than_the_retina_on_average() -> None:
    contrasts = []
    for seed in range(30):
        image, mask = synthetic_fundus._paint_sample(np.random.default_rng(seed), 64)
        retina = (mask == 0) & (image.max(axis=2) > 20)
        contrasts.append(float(image[mask == 1].mean() - image[retina].mean()))
    assert np.median(contrasts) > 20


def test_same_seed_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    SyntheticFundus(tmp_path / "again", **SMALL)
    assert contents(tmp_path / "again") == contents(root)


def test_other_seed_gives_other_images(root: Path, tmp_path: Path) -> None:
    SyntheticFundus(tmp_path / "other", seed=1, **SMALL)
    ours, theirs = contents(root), contents(tmp_path / "other")
    assert all(ours[name] != theirs[name] for name in ours if name.startswith("JPEGImages/"))


def test_images_do_not_depend_on_the_number_of_images(root: Path, tmp_path: Path) -> None:
    SyntheticFundus(tmp_path / "larger", num_train=5, num_val=3, image_size=64)
    ours, theirs = contents(root), contents(tmp_path / "larger")
    pictures = [name for name in ours if name.startswith(("JPEGImages/", "Annotations/"))]
    assert len(pictures) == 10
    assert all(ours[name] == theirs[name] for name in pictures)


def test_images_all_differ(root: Path) -> None:
    pictures = [path.read_bytes() for path in (root / "JPEGImages").iterdir()]
    assert len(set(pictures)) == len(pictures)


def test_global_random_state_is_left_alone(tmp_path: Path) -> None:
    random.seed(5)
    np.random.seed(5)
    expected = random.getstate(), np.random.get_state()[1].tolist()
    SyntheticFundus(tmp_path / "fundus", **SMALL)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == expected


def test_second_use_reads_what_the_first_one_made(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(synthetic_fundus, "_generate", lambda *_: pytest.fail("generated again"))
    SyntheticFundus(root, mode="val", **SMALL)
    assert capsys.readouterr().out == ""


def test_generating_is_logged_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SyntheticFundus(tmp_path / "fundus", **SMALL)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert "3 + 2 images of 64 px" in lines[0]
    assert str(tmp_path / "fundus") in lines[0]


@pytest.mark.parametrize(
    ("key", "other"), [("seed", 4), ("num_train", 4), ("num_val", 4), ("image_size", 96)]
)
def test_other_recipe_is_refused(root: Path, key: str, other: int) -> None:
    before = contents(root)
    with pytest.raises(ConfigError) as caught:
        SyntheticFundus(root, **{**SMALL, key: other})
    message = str(caught.value)
    found = {"seed": 0, **SMALL}[key]
    assert message.startswith("dataset_root: ")
    assert f"expected a data set with {key}={other}, found" in message
    assert f"with {key}={found}; delete the folder or" in message
    assert "\n" not in message
    assert contents(root) == before


def test_other_generator_version_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_fundus, "GENERATOR_VERSION", 99)
    with pytest.raises(ConfigError, match=r"with version=99, found .* with version=1;"):
        SyntheticFundus(root, **SMALL)


@pytest.mark.parametrize("recipe", [None, "no json", "[1, 2]"])
def test_foreign_folder_is_refused(tmp_path: Path, recipe: str | None) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    if recipe is not None:
        (tmp_path / "recipe.json").write_text(recipe)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"^dataset_root: .*recipe\.json.*choose another"):
        SyntheticFundus(tmp_path, **SMALL)
    assert contents(tmp_path) == before


def test_place_without_room_for_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"^dataset_root: .*cannot be created"):
        SyntheticFundus(tmp_path / "file" / "fundus", **SMALL)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("seed", -1, "an integer from 0 to 4294967295"),
        ("seed", 2**32, "an integer from 0 to 4294967295"),
        ("seed", None, "an integer from 0 to 4294967295"),
        ("num_train", 0, "a positive integer"),
        ("num_train", True, "a positive integer"),
        ("num_val", 2.5, "a positive integer"),
        ("num_val", "3", "a positive integer"),
        ("image_size", 32, "a multiple of 32 of at least 64"),
        ("image_size", 100, "a multiple of 32 of at least 64"),
        ("mode", "test", "'train' or 'val'"),
        ("mode", None, "'train' or 'val'"),
        ("dataset_root", None, "the path of a folder"),
        ("dataset_root", "", "the path of a folder"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    tmp_path: Path, key: str, value: object, expected: str
) -> None:
    arguments = {"dataset_root": tmp_path / "fundus", **SMALL, key: value}
    pattern = f"^{key}: expected {re.escape(expected)}.*, found {re.escape(repr(value))}"
    with pytest.raises(ConfigError, match=pattern):
        SyntheticFundus(**arguments)
    assert os.listdir(tmp_path) == []


def test_two_processes_at_once_leave_one_whole_data_set(root: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    target = tmp_path / "deep" / "fundus"
    child = context.Process(target=generate_at_barrier, args=(str(target), barrier))
    child.start()
    generate_at_barrier(str(target), barrier)
    child.join(60)
    assert child.exitcode == 0
    assert os.listdir(target.parent) == ["fundus"]
    assert contents(target) == contents(root)


def win_the_race(monkeypatch: pytest.MonkeyPatch, root: Path, arguments: dict[str, int]) -> None:
    """Let another process finish its data set while this one is writing."""
    write = synthetic_fundus._write_data_set

    def write_too_late(folder: Path, recipe: dict[str, object]) -> None:
        monkeypatch.setattr(synthetic_fundus, "_write_data_set", write)
        write(folder, recipe)
        SyntheticFundus(root, **arguments)

    monkeypatch.setattr(synthetic_fundus, "_write_data_set", write_too_late)


def test_the_loser_of_a_race_uses_the_data_of_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "fundus"
    win_the_race(monkeypatch, target, SMALL)
    assert len(SyntheticFundus(target, **SMALL)) == 3
    assert os.listdir(tmp_path) == ["fundus"]


def test_the_loser_of_a_race_refuses_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "fundus"
    win_the_race(monkeypatch, target, {**SMALL, "seed": 8})
    with pytest.raises(ConfigError, match=r"with seed=0, found .* with seed=8"):
        SyntheticFundus(target, **SMALL)
    assert os.listdir(tmp_path) == ["fundus"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failure_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write = synthetic_fundus._write_image

    def fail_at_the_third(path: Path, image: np.ndarray, quality: int) -> None:
        if path.name == "train_0002.jpg":
            raise error
        write(path, image, quality)

    with monkeypatch.context() as patch:
        patch.setattr(synthetic_fundus, "_write_image", fail_at_the_third)
        with pytest.raises(type(error)):
            SyntheticFundus(tmp_path / "fundus", **SMALL)
    assert os.listdir(tmp_path) == []
    assert len(SyntheticFundus(tmp_path / "fundus", **SMALL)) == 3


def test_leftovers_of_a_killed_process_are_not_taken_for_a_data_set(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic_fundus, "_write_mask", die)
        patch.setattr(synthetic_fundus.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            SyntheticFundus(tmp_path / "fundus", **SMALL)
    (leftover,) = tmp_path.iterdir()
    with pytest.raises(ConfigError, match=r"recipe\.json"):
        SyntheticFundus(leftover, **SMALL)
    SyntheticFundus(tmp_path / "fundus", **SMALL)
    assert contents(tmp_path / "fundus") == contents(root)


def test_builds_from_a_config(tmp_path: Path) -> None:
    assert manager.DATASETS["SyntheticFundus"] is SyntheticFundus
    config = {
        "type": "SyntheticFundus",
        "dataset_root": str(tmp_path / "fundus"),
        "transforms": [{"type": "Resize", "target_size": [32, 32]}, {"type": "Normalize"}],
        "mode": "train",
        **SMALL,
    }
    data = SegBuilder(None).build_component(config)
    assert isinstance(data, SyntheticFundus)
    assert data[1]["img"].shape == (3, 32, 32)
    assert np.isin(data[1]["label"], (0, 1)).all()
    with pytest.raises(RuntimeError, match="num_val: expected a positive integer, found 0"):
        SegBuilder(None).build_component({**config, "num_val": 0})


def test_docstring_example() -> None:
    results = doctest.testmod(synthetic_fundus)
    assert results.attempted > 0
    assert results.failed == 0
