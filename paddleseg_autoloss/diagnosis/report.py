"""The report of a diagnosis: JSON for programs, a picture, and a page for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from paddleseg_autoloss.diagnosis.advice import (
    coefficient_advice,
    explain_columns,
    loss_rows,
    loss_snippet,
    pair_rows,
    surgery_advice,
    to_dict,
)
from paddleseg_autoloss.diagnosis.level_advice import (
    LEVEL_LEGEND,
    level_advice,
    level_rows,
    levels_to_dict,
)
from paddleseg_autoloss.diagnosis.levels import Levels
from paddleseg_autoloss.diagnosis.numbers import Diagnosis
from paddleseg_autoloss.diagnosis.pictures import diagnosis_panels
from paddleseg_autoloss.documents import (
    Chart,
    Code,
    Document,
    Heading,
    Items,
    Paragraph,
    Table,
)
from paddleseg_autoloss.files import write_file, write_json

__all__ = ["write_report"]


def write_report(
    diagnosis: Diagnosis, folder: Path, head: dict[str, Any], levels: Levels | None = None
) -> list[Path]:
    """Write ``diagnosis.json``, ``diagnosis.png`` and ``diagnosis.html``.

    Args:
        diagnosis: the figures.
        folder: the folder, which exists.
        head: what was measured: ``config``, ``iterations``, ``seed`` and ``notes``.
        levels: cost and fidelity of each level, if they were measured.

    Returns:
        The files.
    """
    chart = Chart(
        "diagnosis",
        "Gradients of the losses over the iterations, and their shares of the update",
        diagnosis_panels(diagnosis),
    )
    paths = [folder / f"diagnosis.{ending}" for ending in ("json", "png", "html")]
    of_levels = {} if levels is None else {"levels": levels_to_dict(levels)}
    write_json(paths[0], head | to_dict(diagnosis) | of_levels)
    write_file(paths[1], chart.png())
    write_file(paths[2], _document(diagnosis, chart, head, levels).html())
    return paths


def _document(
    diagnosis: Diagnosis, chart: Chart, head: dict[str, Any], levels: Levels | None
) -> Document:
    document = Document(f"Diagnosis: {head['config']}")
    seed = "none" if head["seed"] is None else head["seed"]
    document.add(Paragraph(f"{head['iterations']} iterations, seed {seed}."))
    document.add(*map(Paragraph, head["notes"]))
    document.add(Heading("Recommendation"), *map(Paragraph, coefficient_advice(diagnosis)))
    document.add(Code(loss_snippet(diagnosis)), Paragraph(surgery_advice(diagnosis)))
    spread, columns = explain_columns(diagnosis)
    document.add(Heading("Losses"), Paragraph(spread), _table(loss_rows(diagnosis)))
    document.add(Heading("Pairs of losses"), _table(pair_rows(diagnosis)))
    if levels is not None:
        document.add(Heading("Levels of gradient methods"), _table(level_rows(levels)))
        document.add(Paragraph(LEVEL_LEGEND), Items(level_advice(levels)))
    document.add(Heading("Over the iterations"), chart)
    document.add(Heading("What the columns mean"), Items(columns))
    return document


def _table(rows: Sequence[Sequence[str]]) -> Table:
    return Table(pd.DataFrame(rows[1:], columns=rows[0]))
