"""Images that a path stands for, as ``predict`` looks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddleseg_autoloss.data_checks.image_files import IMAGE_ENDINGS, find_images
from paddleseg_autoloss.errors import DataError


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with images of all formats, which need not be images here."""
    monkeypatch.chdir(tmp_path)
    for ending in IMAGE_ENDINGS:
        touch(tmp_path / f"图 像/第 1 批/眼底 1{ending}")
    touch(tmp_path / "图 像/眼底 2.PNG")
    for name in ("notes.txt", ".hidden.png", ".ipynb_checkpoints/a.png", "clip.mp4"):
        touch(tmp_path / "图 像" / name)
    return tmp_path


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def write_list(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path.name


def found(path: str, list_root: str | None = None) -> list[str]:
    images, folder = find_images("--image_path", path, list_root)
    assert all(Path(image).is_absolute() for image in images)
    return [str(Path(image).relative_to(folder)) for image in images]


def test_folder(here):
    names = found("图 像")
    assert len(names) == len(IMAGE_ENDINGS) + 1
    assert "第 1 批/眼底 1.tif" in names
    assert "眼底 2.PNG" in names


def test_folder_whose_name_occurs_in_names_below(here):
    """PaddleSeg takes the folder's name out of a path wherever it occurs."""
    touch(here / "a/data.png")
    assert found("a") == ["data.png"]
    assert "a/data.png" in found(".")


def test_single_image(here):
    image = "图 像/第 1 批/眼底 1.webp"
    assert find_images("--image_path", image, None) == ([str(here / image)], None)


def test_list_with_blanks_labels_and_blank_lines(here):
    lines = ["图 像/眼底 2.PNG 图 像/眼底 2 掩码.png", "", "图 像/第 1 批/眼底 1.tif\tmask.png"]
    assert found(write_list(here / "list.txt", *lines)) == [
        "图 像/眼底 2.PNG",
        "图 像/第 1 批/眼底 1.tif",
    ]


def test_list_that_was_made_with_windows(here):
    lines = ["图 像\\第 1 批\\眼底 1.tif 图 像\\掩码.png", "图 像\\眼底 2.PNG"]
    assert found(write_list(here / "list.txt", *lines)) == [
        "图 像/第 1 批/眼底 1.tif",
        "图 像/眼底 2.PNG",
    ]


def test_list_below_the_root_of_the_data_set(here):
    (here / "my_data").mkdir()
    write_list(here / "my_data/val.txt", "第 1 批/眼底 1.bmp,x.png", "眼底 2.PNG,y.png")
    assert found("my_data/val.txt", "图 像") == ["第 1 批/眼底 1.bmp", "眼底 2.PNG"]


def test_first_word_of_a_line_whose_image_is_missing(here):
    images, _ = find_images("--image_path", write_list(here / "list.txt", "a.png b c.png"), None)
    assert images == [str(here / "a.png")]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no/such", "expected an image, a list or a folder, found nothing at no/such"),
        ("empty", "expected images in empty, found none; images are .bmp, "),
        ("empty.txt", "empty.txt: expected one line per image, found none"),
        ("film.mp4", "expected an image, or a list in UTF-8, found .*film.mp4; images are"),
    ],
)
def test_nothing_to_predict(here, path, message):
    (here / "empty").mkdir()
    (here / "empty.txt").touch()
    (here / "film.mp4").write_bytes(b"\xff\xfe\xb1\x81")
    with pytest.raises(DataError, match=f"^--image_path: .*{message}"):
        find_images("--image_path", path, None)
