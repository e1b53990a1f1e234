"""Tests of what is remembered about labels, within a process and by several."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image
from support.data import build, square, write_data
from support.processes import ROOT, SCRIPT_HEAD, launched

from paddleseg_autoloss.data_checks import cache, images
from paddleseg_autoloss.data_checks.labels import LabelReader
from paddleseg_autoloss.errors import DataError

FILES = "paddleseg_autoloss/labels"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / FILES


@pytest.fixture
def root(tmp_path) -> Path:
    write_data(tmp_path / "data", [square()] * 3)
    return tmp_path / "data"


def looks(root, **options) -> int:
    """Build a data set; return how many samples were looked at."""
    with mock.patch.object(LabelReader, "facts", autospec=True, side_effect=LabelReader.facts) as f:
        build(root, **options)
    return f.call_count


def test_a_label_that_has_not_changed_is_not_looked_at_again(root):
    assert [looks(root), looks(root), looks(root, mode="val")] == [3, 0, 0]


@pytest.mark.parametrize("name", ["1.png", "1_label.png"])
def test_a_file_that_has_changed_is_looked_at_again(root, name):
    looks(root)
    later = time.time() + 2
    os.utime(root / name, (later, later))
    assert [looks(root), looks(root)] == [1, 0]
    os.utime(root / name, ns=(0, (root / name).stat().st_mtime_ns))
    (root / name).write_bytes((root / name).read_bytes() + b"\0")
    os.utime(root / name, (later, later))
    assert [looks(root), looks(root)] == [1, 0]


def test_the_judgement_is_made_anew(root):
    looks(root)
    write_data(root, [square(2)] * 3)
    with pytest.raises(DataError, match="expected the classes 0 to 1"):
        build(root)
    assert looks(root, num_classes=3) == 0


@pytest.mark.parametrize("name", ["1.png", "1_label.png"])
def test_a_file_that_could_not_be_read_is_looked_at_again(root, name, monkeypatch):
    """Its bytes and times are the same, but now there are not too many open files."""
    stock = Image.open

    def too_many(path, *args, **kwargs):
        if Path(path).name == name:
            raise OSError(errno.EMFILE, "Too many open files")
        return stock(path, *args, **kwargs)

    monkeypatch.setattr(Image, "open", too_many)
    with pytest.raises(DataError, match=f"{name}.*Too many open"):
        looks(root)
    monkeypatch.setattr(Image, "open", stock)
    assert looks(root) == 1


def test_the_image_is_named_whose_size_cannot_be_read(root, monkeypatch):
    def fail(image):
        raise OSError("larger than OpenCV permits")

    monkeypatch.setattr(images, "_header", fail)
    with pytest.raises(DataError, match=r"0\.png.*larger than OpenCV permits"):
        looks(root)


def test_what_another_class_reads_is_another_matter(root, folder):
    looks(root)
    assert len(list(folder.glob("*.json"))) == 1
    (root.parent / "moved").symlink_to(root)
    assert looks(root.parent / "moved") == 3
    assert len(list(folder.glob("*.json"))) == 2


DAMAGES = {
    "empty": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "binary": lambda text: "\0\xff",
    "a list": lambda text: "[1, 2]",
    "nested": lambda text: "[" * 100_000,
    "other entries": lambda text: json.dumps(dict.fromkeys(json.loads(text), 5)),
    "no facts": lambda text: json.dumps({k: [v[0], {}, 1] for k, v in json.loads(text).items()}),
    "unknown facts": lambda text: json.dumps(
        {k: [v[0], {"colour": 1}] for k, v in json.loads(text).items()}
    ),
    "wrong types": lambda text: text.replace('"counts":{', '"counts":{"x":"y",'),
    "wrong counts": lambda text: text.replace('"label_shape":[32', '"label_shape":["a"'),
    "no counts": lambda text: text.replace('"counts":{', '"counts":7,"other":{'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_as_good_as_none(root, folder, damage):
    looks(root)
    (path,) = folder.glob("*.json")
    path.write_text(damage(path.read_text()), encoding="latin1")
    assert [looks(root), looks(root)] == [3, 0]


def test_a_folder_that_cannot_be_written(root, monkeypatch):
    (root.parent / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root.parent / "file"))
    assert [looks(root), looks(root)] == [3, 3]


def test_a_full_disk(root, folder):
    def full(path, text):
        raise OSError(28, "No space left on device")

    with mock.patch.object(cache, "write_file", full):
        assert [looks(root), looks(root)] == [3, 3]
    assert [looks(root), looks(root)] == [3, 0]


def test_nothing_half_written_is_left(root, folder):
    looks(root)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".lock"}


def test_where_the_folder_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/folders/do/not/count")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "paddleseg_autoloss"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == tmp_path / ".cache" / "paddleseg_autoloss"
    with mock.patch.object(Path, "home", side_effect=RuntimeError("no home")):
        assert cache.cache_folder() is None
        assert cache.Memory("x").load() == {}
        cache.Memory("x").save({"a": 1})
        with cache.Memory("x").locked():
            pass


class TestLock:
    def test_one_waits_for_the_other(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(cache, "_PATIENCE", 0.1)
        program = (
            "import sys, time; from paddleseg_autoloss.data_checks.cache import Memory\n"
            "with Memory('x').locked():\n"
            "    print('locked', flush=True); time.sleep(2); Memory('x').save({'seen': 1})\n"
        )
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
        ) as other:
            assert "locked" in other.stdout.readline()
            with cache.Memory("x").locked():
                assert cache.Memory("x").load() == {"seen": 1}
            other.wait(60)
        assert "Waiting for another process" in capsys.readouterr().out

    def test_nobody_waits_for_ever(self, monkeypatch):
        monkeypatch.setattr(cache, "_LIMIT", 0.2)
        with cache.Memory("x").locked(), cache.Memory("x").locked():
            pass

    def test_a_file_system_without_locks(self):
        with (
            mock.patch.object(cache.fcntl, "flock", side_effect=OSError(38, "not implemented")),
            cache.Memory("x").locked(),
        ):
            pass


RANKS = """
import json
from support.data import build
from paddleseg_autoloss.data_checks.labels import LabelReader
from paddleseg_autoloss.errors import DataError

folder = Path(sys.argv[1])
looks, facts = [], LabelReader.facts
LabelReader.facts = lambda *args: looks.append(1) or time.sleep(0.01) or facts(*args)
found = {}
for name in ("good", "bad"):
    try:
        build(folder / name)
        found[name] = "fine"
    except DataError as error:
        found[name] = str(error)
rank = paddle.distributed.get_rank()
(folder / f"rank{rank}.json").write_text(json.dumps(found | {"looks": len(looks)}))
"""


def test_of_several_ranks_one_does_the_work_and_all_fail_alike(tmp_path):
    write_data(tmp_path / "good", [square()] * 40)
    write_data(tmp_path / "bad", [square()] * 39 + [square(9)])
    first, second = launched(tmp_path, SCRIPT_HEAD + RANKS)
    assert first.pop("looks") + second.pop("looks") == 80
    assert first == second
    assert first["good"] == "fine"
    assert "line 40" in first["bad"]
