"""The files of a run keep the names of losses, whatever they are."""

from __future__ import annotations

import csv

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
