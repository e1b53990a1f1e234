"""The files of a run keep the names of losses, and its picture stays readable."""

from __future__ import annotations

import csv
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure

from paddleseg_autoloss.integration.gradient_statistics import PairRow
from paddleseg_autoloss.integration.history import Row, WeightHistory

NAMES = ["=1+1", "'a", r"$\undefined{$", "a,\nb"]


def rows(iteration: int) -> list[Row]:
    return [Row(iteration, name, 1.0, 0.5, 0.5) for name in NAMES]


def test_names_in_the_table_and_the_picture(tmp_path):
    history = WeightHistory(tmp_path)
    history.append(rows(1))
    resumed = WeightHistory(tmp_path, start_iter=1)
    resumed.append(rows(2))
    assert resumed._weights.rows == rows(1) + rows(2)
    assert resumed.plot()
    with open(tmp_path / "loss_weights.csv", newline="", encoding="utf-8") as file:
        cells = [row[1] for row in csv.reader(file)][1:]
    assert cells == ["'=1+1", "''a", r"$\undefined{$", "a,\nb"] * 2


@pytest.mark.parametrize("end", ["\n", "", "\0\0\0"])
@pytest.mark.parametrize(
    "last",
    [
        "1", "1,=1+1,0.5", "", "x,y", "x,a,1,1,1", "1,a,0.5,1.0,", "1,a,0.5,1.0,-",
        "1,a,0.5,1.0,1e", "1,a,0.5,1.0,n", "²,a,1,1,1", "1,\udce8\udca3",
    ],
)  # fmt: skip
def test_a_line_that_was_cut_is_left_out(last, end, tmp_path):
    """A full disk may cut a line anywhere; "1" is the beginning of "12,..."."""
    WeightHistory(tmp_path).append(rows(1))
    path = tmp_path / "loss_weights.csv"
    with open(path, "ab") as file:
        file.write((last + end).encode("utf-8", "surrogateescape"))
    resumed = WeightHistory(tmp_path, start_iter=1)
    resumed.append(rows(2))
    assert resumed._weights.rows == rows(1) + rows(2)


@pytest.fixture(scope="module")
def figure(tmp_path_factory):
    """The picture of ten terms and all their pairs, whose weights span four decades."""
    saved, stock = [], Figure.savefig

    def save(self, *args, **kwargs):
        saved.append(self)
        stock(self, *args, **kwargs)

    tmp_path = tmp_path_factory.mktemp("history")
    names = [f"head{i // 5}/a loss with a long name {i}" for i in range(10)]
    history = WeightHistory(tmp_path)
    for step in (10, 20, 30):
        weights = [10 ** (i / 2) for i in range(10)]
        history.append([Row(step, n, 1.0 + step, w, w) for n, w in zip(names, weights)])
        history.append_gradients(
            [
                PairRow(step, a, b, 1.0, 0.0, float(np.cos(i)), 0.5)
                for i, (a, b) in enumerate(combinations(names, 2))
            ]
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        assert history.plot()
    (figure,) = saved
    return names, figure


def curves(axes) -> list:
    return [line for line in axes.lines if len(line.get_xdata()) == 3]


def test_one_legend_for_all_panels(figure):
    names, picture = figure
    (legend,) = picture.legends
    assert not any(axes.get_legend() for axes in picture.axes)
    labels = [" ".join(text.get_text().split()) for text in legend.get_texts()]
    assert labels[:11] == [*names, "cosine of"]
    assert len(labels) == 10 + 1 + 8 + 1
    assert labels[-1] == "other pairs"
    box = legend.get_window_extent()
    for axes in picture.axes:
        assert axes.get_tightbbox().x1 <= box.x0
        assert axes.get_window_extent().width > 200
    assert box.y0 >= 0
    assert box.x1 <= picture.bbox.x1


def test_ten_terms_can_be_told_apart(figure):
    """By more than their colours, and each has the same style in all panels."""
    _, picture = figure
    styles = [
        [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in curves(axes)]
        for axes in picture.axes[:4]
    ]
    assert styles[0] == styles[1] == styles[2] == styles[3]
    assert len(set(styles[0])) == 10
    assert len({style[1:] for style in styles[0]}) == 10


def test_axes_are_logarithmic_where_values_span_more_than_a_decade(figure):
    _, picture = figure
    scales = [axes.get_yscale() for axes in picture.axes]
    assert scales == ["linear", "log", "log", "linear", "linear", "linear"]
    low, high = picture.axes[1].get_ylim()
    shown = [t for t in picture.axes[1].get_yticks() if low <= t <= high]
    labels = [text.get_text() for text in picture.axes[1].get_yticklabels()]
    assert len(shown) >= 4
    assert {"1", "10", "100", "1000"} <= set(labels)
