"""What the pages of docs/evidence/ state is what their results.csv hold."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support import ROOT

from paddleseg_autoloss.comparison.results import ResultTable, read_results

EVIDENCE = ROOT / "docs" / "evidence"
COMPARISONS = sorted(
    path.parent for path in EVIDENCE.glob("*/results.csv") if (path.parent / "report.md").is_file()
)
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


RATES = ("0.008", "0.016", "0.004")
#: Of the data sets with later seeds: the comparisons, and the variants that are in two of them.
LATER = {
    "camvid": (["tuned_camvid", "camvid_seeds", "camvid_others"], {"fixed 0.2:0.8"}),
    "optic_disc": (
        [
            "tuned_optic_disc",
            *(f"optic_disc_others_{rate}" for rate in RATES),
        ],
        set(),
    ),
}
SECTIONS = {"camvid": "Streets", "optic_disc": "Optic discs"}


def five_seeds_of(data_set: str) -> Path:
    return EVIDENCE / f"{data_set}_five_seeds" / "results.csv"


@pytest.mark.parametrize("data_set", LATER)
def test_five_seeds_are_those_of_several_comparisons(data_set):
    names, in_two = LATER[data_set]
    parts = [pd.read_csv(EVIDENCE / name / "results.csv") for name in names]
    key = ["variant", "learning_rate", "seed"]
    runs = pd.concat(parts)
    twice = runs[runs.duplicated(key, keep=False)]
    assert set(twice.variant) == in_two
    assert (twice.groupby(key).test_mIoU.agg(np.ptp) < 1e-12).all(), "the same run on one machine"
    runs = runs[runs.variant.isin(parts[0].variant)].drop_duplicates(key).set_index(key)
    found = pd.read_csv(five_seeds_of(data_set)).set_index(key)
    assert sorted(found.index) == sorted(runs.index)
    columns = ["validation_mIoU", "test_mIoU", "test_rare_mIoU"]
    np.testing.assert_array_equal(found[columns], runs.loc[found.index, columns])


def test_runs_of_two_sessions_on_optic_discs_are_the_same():
    """The page says so: to the last digit."""
    key = ["variant", "learning_rate", "seed"]
    earlier = pd.read_csv(EVIDENCE / "optic_disc_seeds/results.csv").set_index(key)
    later = pd.read_csv(five_seeds_of("optic_disc")).set_index(key)
    shared = earlier.index.intersection(later.index)
    assert len(shared) == 6
    np.testing.assert_array_equal(earlier.loc[shared].test_mIoU, later.loc[shared].test_mIoU)


def variants_of(names: pd.Series) -> list[str]:
    """The variants that the names in a table of the page stand for."""
    short = {
        "cross-entropy alone": "fixed 1:0",
        "Dice alone": "fixed 0:1",
        "`AutoLambda`, a look every 10 steps, `lr: 2`": "AutoLambda, faster",
    }
    found: list[str] = []
    for name in names:
        same = f"{found[-1]}, constant sum" if found else ""
        found.append(same if name.startswith("the same") else short.get(name, name.strip("`")))
    return found


@pytest.mark.parametrize("data_set", SECTIONS)
def test_table_of_five_seeds_by_scipy(data_set):
    page = (EVIDENCE / "README.md").read_text(encoding="utf-8")
    heading = f"\n## {SECTIONS[data_set]}: the same nineteen ways\n"
    section = page.split(heading, 1)[1].split("\n##", 1)[0]
    table = table_under("\n", section)
    results = ResultTable(read_results(five_seeds_of(data_set)))
    runs = {name: pd.Series(results.by_seed(name, "test_mIoU")) for name in results.rates}
    names = variants_of(table.iloc[:, 0])
    assert sorted(names) == sorted(runs)
    baseline = runs["fixed 0.2:0.8"]
    found = {}
    for name, (_, row) in zip(names, table.iterrows()):
        assert len(runs[name]) == 5
        mean, sd = (float(part.strip("*")) for part in row["mIoU"].split(" ± "))
        assert (mean, sd) == pytest.approx((runs[name].mean(), runs[name].std()), abs=6e-5)
        if name == "fixed 0.2:0.8":
            continue
        test = stats.ttest_rel(runs[name], baseline)
        low, high = 100 * np.array(test.confidence_interval(0.95))
        stated = [float(part) for part in re.findall(r"[-+]?\d+\.\d", row.iloc[2])]
        assert stated == pytest.approx([100 * (runs[name] - baseline).mean(), low, high], abs=0.051)
        found[name] = (test.pvalue, row.iloc[3])
    worst = 0.0
    for rank, name in enumerate(sorted(found, key=lambda name: found[name][0])):
        worst = max(worst, found[name][0] * (len(found) - rank))
        side = "better" if runs[name].mean() > baseline.mean() else "worse"
        assert found[name][1] == (side if worst < 0.05 else "not seen"), name


def test_no_image_is_published():
    files = [path for path in EVIDENCE.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in IMAGES or "sample" in path.name]


def test_methods_on_optic_discs_at_the_same_rate():
    page = " ".join((EVIDENCE / "README.md").read_text(encoding="utf-8").split())
    names = ["optic_disc_five_seeds", "optic_disc_seeds", "optic_disc_same_rate"]
    runs = pd.concat([pd.read_csv(EVIDENCE / name / "results.csv") for name in names])
    runs = runs[(runs.learning_rate == 0.016) & runs.seed.isin(range(5))]
    runs = runs.drop_duplicates(["variant", "seed"]).pivot_table("test_mIoU", "seed", "variant")
    mixes = [
        f"{runs[m].mean():.4f} ± {runs[m].std():.4f}" for m in ("fixed 0.2:0.8", "fixed 0.5:0.5")
    ]
    assert f"0.2:0.8 has {mixes[0]} and 0.5:0.5 has {mixes[1]}" in page
    for name in ("UPGrad", "L2RW", "AutoLambda"):
        points = 100 * (runs[name] - runs["fixed 0.2:0.8"])
        assert len(points.dropna()) == 5
        low, high = stats.ttest_1samp(points, 0).confidence_interval(0.95)
        assert f"by {points.mean():.1f} points [{low:.1f}, {high:.1f}]" in page or (
            f"by {points.mean():.1f} [{low:.1f}, {high:.1f}]" in page
        )
