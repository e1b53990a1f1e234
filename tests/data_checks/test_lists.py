"""Tests of paddleseg_autoloss.data_checks.lists: lists as editors and other systems write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from paddleseg.datasets import SUPERVISELY, MiniDeepGlobeRoadExtraction, OpticDiscSeg
from support.data import build, square, write_data

from paddleseg_autoloss.data_checks import build_dataset
from paddleseg_autoloss.data_checks.files import open_dataset
from paddleseg_autoloss.data_checks.lists import text_lines
from paddleseg_autoloss.errors import DataError


@pytest.fixture
def root(tmp_path) -> Path:
    """Two images and labels, in a folder of their own, without a list."""
    folder = tmp_path / "data"
    write_data(folder / "sub", [square(), square()])
    return folder


def write_list(root: Path, content: str | bytes, name: str = "train.txt") -> None:
    content = content.encode() if isinstance(content, str) else content
    (root / name).write_bytes(content)


TWO_LINES = "sub/0.png sub/0_label.png\nsub/1.png sub/1_label.png\n"


@pytest.mark.parametrize(
    "content",
    [
        TWO_LINES,
        "\ufeff" + TWO_LINES,
        "\n \n" + TWO_LINES.replace("\n", "\n\n") + "\t\n",
        TWO_LINES.replace("\n", "\r\n"),
        TWO_LINES.replace("\n", "\r"),
        TWO_LINES.strip(),
        TWO_LINES.replace("/", "\\"),
        TWO_LINES.replace(" ", "   ").replace("\n", "  \n"),
    ],
    ids=["plain", "mark", "blank", "crlf", "cr", "no end", "windows", "blanks"],
)
def test_it_simply_works(root, content):
    write_list(root, content)
    expected = [[f"{root}/sub/{i}.png", f"{root}/sub/{i}_label.png"] for i in (0, 1)]
    assert build(root).file_list == expected


SEVERAL = "1 images have more than one label in the list, such as {0}/sub/0.png with {0}/sub/0_"
OFTEN = "1 images are in the list more than once with the same label, such as {0}/sub/0.png, and"


@pytest.mark.parametrize(
    ("line", "mode", "expected"),
    [
        ("sub/0.png sub/1_label.png\n", "train", [SEVERAL]),
        ("sub/../sub/0.png ./sub/1_label.png\n", "val", [SEVERAL]),
        ("sub/0.png sub/1_label.png\nsub/0.png sub/0_label.png\n", "val", [SEVERAL, OFTEN]),
        ("sub/0.png sub/0_label.png\n", "val", [OFTEN]),
        ("sub//0.png sub/0_label.png\n" * 3, "val", [OFTEN]),
        ("sub/0.png sub/0_label.png\n" * 3, "train", []),
    ],
)
def test_repeated_images(root, capsys, line, mode, expected):
    write_list(root, TWO_LINES + line)
    build(root, mode)
    said = [text for text in capsys.readouterr().out.splitlines() if "WARNING" in text]
    assert len(said) == len(expected)
    for text, part in zip(said, expected):
        assert f"{mode}_dataset: {part.format(root)}" in text


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_a_file_name_with_blanks(root, separator):
    (root / "sub/0.png").rename(root / "sub/first image.png")
    (root / "sub/0_label.png").rename(root / "sub/first  label, really.png")
    line = separator.join(["sub/first image.png", "sub/first  label, really.png"])
    write_list(root, line + "\n")
    found = build(root, separator=separator).file_list
    assert found == [[f"{root}/sub/first image.png", f"{root}/sub/first  label, really.png"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sub/1.png", "the label is missing"),
        ("sub/1.png,sub/1_label.png", "is ',' the `separator` of this list?"),
        ("sub/1.png\tsub/1_label.png", r"is '\t' the `separator` of this list?"),
        ("sub/1.png sub/1 label.png", "if a file name contains the separator, use another one"),
    ],
)
def test_what_does_not_work_is_named_with_its_line(root, line, message):
    write_list(root, f"sub/0.png sub/0_label.png\n\n{line}\n")
    with pytest.raises(DataError) as caught:
        build(root)
    text = str(caught.value)
    where = f"train_dataset: {root}/train.txt, line 3: "
    assert text.startswith(f"{where}expected an image and a label with separator ' ' between them")
    assert message in text
    assert "\n" not in text


def test_an_empty_list(root):
    write_list(root, "\n\n")
    with pytest.raises(DataError, match=r"train.txt: expected one line per image, found none"):
        build(root)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("machine", ["ascii", "latin-1"])
def test_a_list_that_is_not_text(root, monkeypatch, encoding, machine):
    monkeypatch.setattr("locale.getpreferredencoding", lambda setlocale: machine)
    write_list(root, TWO_LINES.encode(encoding))
    with pytest.raises(DataError, match=r"train.txt: expected text in UTF-8: "):
        build(root)


def test_a_list_in_the_encoding_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("locale.getpreferredencoding", lambda setlocale: "gbk")
    path = tmp_path / "list.txt"
    path.write_bytes("图像.png 标签.png\n".encode("gbk"))
    assert text_lines(path) == [(1, "图像.png 标签.png")]


def test_a_missing_file_is_named_with_its_line(root):
    write_list(root, "sub/0.png sub/0_label.png\nsub/9.png sub/1_label.png\n")
    message = rf"train.txt, line 2: cannot read {root}/sub/9.png: it is missing"
    with pytest.raises(DataError, match=message):
        build(root)


def test_images_without_labels_are_for_tests(root):
    write_list(root, "\ufeffsub/0.png\n\nsub/1.png\n")
    assert build(root, "test").file_list == [[f"{root}/sub/{i}.png", None] for i in (0, 1)]


@pytest.mark.parametrize(
    ("kind", "name", "separator"),
    [
        (OpticDiscSeg, "train_list.txt", "\t"),
        (OpticDiscSeg, "train_list.txt", " "),
        (MiniDeepGlobeRoadExtraction, "train.txt", "|"),
    ],
)
def test_other_classes_of_paddleseg(root, kind, name, separator):
    write_list(root, "\ufeff\n" + TWO_LINES.replace(" ", separator), name)
    arguments = {"dataset_root": str(root), "transforms": []}
    config = {"type": kind.__name__, **arguments}
    dataset = build_dataset("train_dataset", config, lambda: kind(**arguments))
    assert [len(pair) for pair in dataset.file_list] == [2, 2]
    write_list(root, TWO_LINES.replace(" ", separator) + "alone.png\n", name)
    with pytest.raises(DataError, match=rf"{name}, line 3: .*found 'alone.png'"):
        build_dataset("train_dataset", config, lambda: kind(**arguments))


def test_lists_of_another_form_are_left_to_paddleseg(tmp_path):
    lines = "ds/img/1.png\nds/img/2.png\n"
    (tmp_path / "supervisely_face_train_easy.txt").write_text(lines)
    config = {"type": "SUPERVISELY", "dataset_root": str(tmp_path)}
    arguments = {"dataset_root": str(tmp_path), "common_transforms": [], "transforms1": []}
    dataset, lists = open_dataset(
        "train_dataset", config, lambda: SUPERVISELY(**arguments, transforms2=[])
    )
    assert [pair[0] for pair in dataset.file_list] == [f"{tmp_path}/img/{i}.png" for i in (1, 2)]
    assert lists == []
