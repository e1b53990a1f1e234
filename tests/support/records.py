"""What a run wrote: its tables and curves."""

from __future__ import annotations

import csv

from visualdl import LogReader


def table(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def history(folder) -> list[dict[str, str]]:
    with open(folder / "loss_weights.csv", newline="") as file:
        return list(csv.DictReader(file))


def scalars(folder) -> dict[str, list]:
    logs = sorted(folder.glob("vdlrecords.*"))
    reader = LogReader(file_path=str(logs[-1]))
    return {tag: reader.get_data("scalar", tag) for tag in reader.get_tags()["scalar"]}
