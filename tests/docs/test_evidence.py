"""What the pages of docs/evidence/ state is what their results.csv hold."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support import ROOT

EVIDENCE = ROOT / "docs" / "evidence"
COMPARISONS = sorted(path.parent for path in EVIDENCE.glob("*/results.csv"))
PAIRED = [f for f in COMPARISONS if pd.read_csv(f / "results.csv").seed.nunique() > 1]
IMAGES = {".jpg", ".jpeg", ".npz", ".html", ".pdparams"}


def table_under(heading: str, page: str) -> pd.DataFrame:
    """Return the first table behind a heading, as strings."""
    lines = page.split(heading, 1)[1].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    end = next((i for i, row in enumerate(rows) if i and row[0] == rows[0][0]), len(rows))
    return pd.DataFrame(rows[2:end], columns=rows[0])


def chosen(results: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    """The finished runs that a line of the table of results is about."""
    rate = float(row["learning rate"])
    own = results[(results.variant == row.variant) & (results.learning_rate == rate)]
    return own[own.status == "done"].set_index("seed")


@pytest.mark.parametrize("folder", COMPARISONS, ids=lambda folder: folder.name)
def test_report_states_what_the_runs_found(folder: Path):
    results = pd.read_csv(folder / "results.csv")
    page = (folder / "report.md").read_text(encoding="utf-8")
    table = table_under("\n## Results\n", page)
    assert set(table.variant) <= set(results.variant)
    for _, row in table.iterrows():
        runs = chosen(results, row)
        assert len(runs) == int(row.runs)
        for metric in ("mIoU", "Dice", "Kappa"):
            mean, *sd = (float(part) for part in row[metric].split(" ± "))
            assert mean == pytest.approx(runs[f"test_{metric}"].mean(), abs=6e-5)
            if sd:
                assert sd[0] == pytest.approx(runs[f"test_{metric}"].std(), abs=6e-5)


@pytest.mark.parametrize("folder", PAIRED, ids=lambda folder: folder.name)
def test_differences_by_scipy(folder: Path):
    results = pd.read_csv(folder / "results.csv")
    page = (folder / "report.md").read_text(encoding="utf-8")
    baseline = re.search(r"\n## Paired differences to (.+)\n", page)[1]
    table = table_under("\n## Results\n", page).set_index("variant", drop=False)
    reference = chosen(results, table.loc[baseline]).test_mIoU
    for _, row in table_under("\nmIoU:\n", page).iterrows():
        runs = chosen(results, table.loc[row.variant])
        if "collapsed" in runs and runs.collapsed.any():
            # A network that learned nothing says nothing about its losses.
            assert (row["95 % interval"], row["p (t)"]) == ("-", "-")
            continue
        runs = runs.test_mIoU
        pairs = runs.index.intersection(reference.index)
        found = stats.ttest_rel(runs[pairs], reference[pairs])
        assert float(row["mean, points"]) == pytest.approx(
            100 * (runs[pairs] - reference[pairs]).mean(), abs=6e-3
        )
        low, high = found.confidence_interval(0.95)
        assert row["95 % interval"] == f"[{100 * low:.2f}, {100 * high:.2f}]"
        assert float(row["p (t)"]) == pytest.approx(found.pvalue, rel=6e-3)


def test_the_whole_grid_is_that_of_the_runs():
    page = (EVIDENCE / "README.md").read_text(encoding="utf-8")
    section = page.split("\n## The mixes between\n", 1)[1].split("\n## ", 1)[0]
    table = table_under("```", section)
    names = {"cracks": "crackforest", "membranes": "membrane", "optic discs": "optic_disc"}
    for column in table.columns[1:]:
        kind, rate = column.split(", ")
        name = names.get(kind, "camvid")
        runs = {
            kind: pd.read_csv(EVIDENCE / f"{kind}_{name}" / "results.csv")
            for kind in ("tuned", "grid")
        }
        for mix, cell in zip(table.mix, table[column]):
            results = runs["grid" if "**" in mix or "again" in mix else "tuned"]
            own = results[
                (results.variant == "fixed " + mix.strip("*").removesuffix(", again"))
                & (results.learning_rate == float(rate))
                & (results.seed == 0)
            ]
            stated = [float(part) for part in cell.split(" / ")]
            found = own[["validation_mIoU", "test_mIoU"]].iloc[0].tolist()
            assert stated == pytest.approx(found, abs=5.1e-4), (mix, column)


def test_five_seeds_on_streets_by_scipy():
    page = (EVIDENCE / "README.md").read_text(encoding="utf-8")
    section = page.split("\n### Streets: new seeds\n", 1)[1].split("\n## ", 1)[0]
    names = ("tuned_camvid", "camvid_seeds")
    results = pd.concat([pd.read_csv(EVIDENCE / name / "results.csv") for name in names])
    runs = results[results.learning_rate == 0.008].pivot(
        index="seed", columns="variant", values="test_mIoU"
    )
    baseline = runs["fixed 0.2:0.8"]
    p_values, findings = [], []
    for _, row in table_under("```\n\nWith", section).iterrows():
        own = runs[row.variant.strip("`")].dropna()
        mean, sd = (float(part.strip("*")) for part in row.iloc[1].split(" ± "))
        assert (mean, sd) == pytest.approx((own.mean(), own.std()), abs=6e-5)
        assert len(own) == 5
        if row.variant == "fixed 0.2:0.8":
            continue
        test = stats.ttest_rel(own, baseline)
        low, high = 100 * np.array(test.confidence_interval(0.95))
        stated = [float(part) for part in re.findall(r"[-+]?\d+\.\d", row.iloc[2])]
        assert stated == pytest.approx([100 * (own - baseline).mean(), low, high], abs=0.051)
        p_values.append(test.pvalue)
        findings.append(row.iloc[3])
    count = len(p_values)
    worst = 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        worst = max(worst, p_values[index] * (count - rank))
        assert findings[index] == ("worse" if worst < 0.05 else "not seen")


def test_no_image_is_published():
    files = [path for path in EVIDENCE.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in IMAGES or "sample" in path.name]
