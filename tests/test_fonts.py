"""Texts of pictures in fonts that have their characters."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from paddleseg_autoloss import fonts
from paddleseg_autoloss.integration.history import Row, WeightHistory

pytestmark = pytest.mark.once


def make_font(path: Path, characters: str) -> str:
    """Make a font in which each character is a square of its own size."""
    names = {ord(char): f"glyph{ord(char)}" for char in characters}
    order = [".notdef", *names.values()]
    glyphs = {}
    for number, name in enumerate(order):
        pen = TTGlyphPen(None)
        side = 200 + 100 * number
        pen.moveTo((0, 0))
        for corner in ((0, side), (side, side), (side, 0)):
            pen.lineTo(corner)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(order, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A machine with the fonts of Matplotlib, and those that a test makes, newer than its list."""
    files: list[str] = []
    manager = font_manager.fontManager
    own = str(Path(font_manager.__file__).parent)
    shipped = [entry for entry in manager.ttflist if entry.fname.startswith(own)]
    monkeypatch.setattr(manager, "ttflist", shipped)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)
    fonts._families_with.cache_clear()

    def install(name: str, characters: str) -> None:
        files.append(make_font(tmp_path / f"{name}.ttf", characters))

    yield install
    fonts._families_with.cache_clear()


def figure_with(*texts: str) -> Figure:
    """A figure with texts in its title, its legend and its ticks."""
    figure = Figure(figsize=(3, 2), layout="constrained")
    axes = figure.subplots()
    for text in texts:
        axes.barh(text, 1, label=text)
    axes.set_title(texts[0])
    axes.legend()
    return figure


def saved(figure: Figure, path: Path) -> np.ndarray:
    fonts.choose_fonts(figure)
    figure.savefig(path, format="png")
    import matplotlib.image

    return matplotlib.image.imread(path)


def families(figure: Figure, text: str) -> set[tuple[str, ...]]:
    found = [one for one in fonts._texts(figure) if one.get_text() == text]
    assert len(found) >= 2
    return {tuple(one.get_family()) for one in found}


@pytest.mark.filterwarnings("error")
def test_installed_font_is_used(installed, tmp_path, capsys):
    installed("Han", "交叉熵")
    figure = figure_with("交叉熵", "Dice")
    saved(figure, tmp_path / "picture.png")
    (own,) = families(figure, "交叉熵")
    assert own[-1] == "Han"
    assert families(figure, "Dice") == {("sans-serif",)}
    assert capsys.readouterr().out == ""


def test_pictures_of_two_characters_differ(installed, tmp_path):
    """Each is a square of its own size in the font; boxes for missing ones are all the same."""
    installed("Han", "交叉")
    first, second = (saved(figure_with(char), tmp_path / f"{char}.png") for char in "交叉")
    assert (first != second).any()


def test_several_fonts_together(installed):
    installed("HanSerif", "交叉")
    installed("HanSans", "交叉")
    installed("Thai", "แพ้")
    figure = figure_with("交叉 แพ้")
    fonts.choose_fonts(figure)
    (own,) = families(figure, "交叉 แพ้")
    assert sorted(own[1:]) == ["HanSans", "Thai"]


def test_one_line_says_what_is_missing(installed, tmp_path, capsys):
    installed("Han", "交叉")
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        for number in range(2):
            saved(figure_with("交叉熵", "骰子"), tmp_path / f"{number}.png")
    assert not others
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert (
        "[WARNING]\tNo font on this machine has the characters 子熵骰, which are boxes" in lines[0]
    )
    assert "fonts-noto-cjk (apt)" in lines[0]


def test_a_file_that_is_no_font_is_passed_over(installed, tmp_path, monkeypatch):
    installed("Han", "交")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    files = [str(tmp_path / "broken.ttf"), *font_manager.findSystemFonts()]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)
    assert fonts._families_with("交") == ["Han"]


def test_latin_and_greek_cost_nothing(monkeypatch):
    def search():
        raise AssertionError("fonts are looked through")

    monkeypatch.setattr(font_manager, "findSystemFonts", search)
    figure = figure_with("Dice é", "λ_2")
    fonts.choose_fonts(figure)
    assert families(figure, "λ_2") == {("sans-serif",)}


@pytest.mark.filterwarnings("error:Glyph")
def test_curves_of_a_run(installed, tmp_path):
    installed("Han", "交叉熵骰子")
    history = WeightHistory(tmp_path)
    history.append([Row(1, name, 1.0, 1.0, 1.0) for name in ("交叉熵", "骰子")])
    assert history.plot()
