"""Files that are whole or not there, and JSON that strict parsers read."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading

import pytest

from paddleseg_autoloss.errors import ConfigError, DataError
from paddleseg_autoloss.files import (
    check_save_dir,
    json_number,
    json_text,
    read_json,
    replace_file,
    write_file,
    write_json,
)

pytestmark = pytest.mark.once


def strict(text: str):
    """Parse JSON as the standard has it."""

    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def test_json_is_strict(tmp_path):
    value = {"a": math.nan, "b": [math.inf, -math.inf, 0.5], "c": {"d": (1, math.nan)}, "e": "NaN"}
    expected = {"a": None, "b": [None, None, 0.5], "c": {"d": [1, None]}, "e": "NaN"}
    assert strict(json_text(value)) == expected
    write_json(tmp_path / "a.json", value)
    assert strict((tmp_path / "a.json").read_text()) == expected
    assert read_json(tmp_path / "a.json") == expected


def test_numbers_of_old_and_new_files(tmp_path):
    """Files of earlier versions have NaN, those of this one null."""
    (tmp_path / "old.json").write_text('{"Kappa": NaN, "mIoU": 0.5}')
    write_json(tmp_path / "new.json", {"Kappa": math.nan, "mIoU": 0.5})
    for name in ("old.json", "new.json"):
        found = read_json(tmp_path / name)
        assert math.isnan(json_number(found["Kappa"]))
        assert json_number(found["mIoU"]) == 0.5


def test_figures_that_are_undefined_are_null():
    """Labels and predictions of a single class: kappa is 0 / 0."""
    import paddle

    from paddleseg_autoloss.integration.evaluation import Figures

    areas = paddle.to_tensor([100, 0])
    figures = Figures.from_areas(areas, areas, areas)
    assert math.isnan(figures.Kappa)
    assert strict(json_text(figures.to_dict()))["Kappa"] is None


@pytest.mark.parametrize("content", ["{", "", "[1,", '{"a": }'])
def test_broken_json_is_named(content, tmp_path):
    path = tmp_path / "setup.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"setup.json: expected a JSON file: \w"):
        read_json(path)


def test_deep_and_missing_json_are_named(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name in ("deep.json", "none.json"):
        with pytest.raises(DataError, match=f"{name}: expected a JSON file"):
            read_json(tmp_path / name)


def test_an_error_leaves_the_previous_file(tmp_path):
    path = tmp_path / "figures.txt"
    write_file(path, "before")

    def write_half():
        with replace_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["figures.txt"]


def test_a_kill_leaves_the_previous_file(tmp_path):
    path = tmp_path / "figures.txt"
    write_file(path, b"before")
    code = (
        "import os, signal, sys\n"
        "from paddleseg_autoloss.files import replace_file\n"
        "with replace_file(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run([sys.executable, "-c", code, str(path)], timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == "before"


def test_a_pipe_is_written_to(tmp_path):
    """As with --json /dev/stdout."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_json(pipe, {"mIoU": 0.5})
    reader.join(timeout=20)
    assert strict(found[0]) == {"mIoU": 0.5}
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("inside", ["", "runs", "runs/1"])
def test_a_file_is_no_folder(tmp_path, inside):
    check_save_dir(tmp_path / inside)
    file = tmp_path / "notes"
    file.write_text("a")
    with pytest.raises(ConfigError, match=f"--save_dir: expected a folder, found the file {file}"):
        check_save_dir(file / inside)


@pytest.mark.parametrize("inside", ["", "runs"])
def test_what_is_neither_file_nor_folder(tmp_path, inside):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "link"):
        with pytest.raises(ConfigError, match=f"found something else, {tmp_path / name}"):
            check_save_dir(tmp_path / name / inside)
