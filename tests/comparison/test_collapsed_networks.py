"""Networks that predict one class only: a warning, and no test of their figures."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import paddle
import pandas as pd
import pytest
from paddleseg.cvlibs import SegBuilder
from support.comparison import comparison_file, pretend

from paddleseg_autoloss.comparison.evaluation import evaluate_run
from paddleseg_autoloss.comparison.folders import prepare
from paddleseg_autoloss.comparison.report import write_report
from paddleseg_autoloss.comparison.results import Results
from paddleseg_autoloss.comparison.statistics import compare, smallest_gap
from paddleseg_autoloss.files import write_json
from paddleseg_autoloss.integration.config import load_config

VARIANTS = [{"coef": [0.8, 0.2]}, {"method": "AutoWeightedLoss"}, {"method": "PCGrad"}]
BASELINE = "fixed 0.8:0.2"


def set_test_figures(folder, **figures):
    result = json.loads(folder.result_path.read_text())
    result["test"].update(figures)
    write_json(folder.result_path, result)


@pytest.fixture
def report_of(parse, tmp_path, base):
    """Write the report of made-up runs; ``ious`` are those of the classes of some of them."""

    def report(ious, seeds=3, **figures):
        path = comparison_file(tmp_path, base=str(base), variants=VARIANTS, seeds=seeds)
        plan = parse(path)
        draws = np.random.default_rng(0)
        folders = pretend(plan, tmp_path / "out", lambda run: (0.5, 0.5 + 0.1 * draws.random()))
        for folder in folders:
            key = folder.run.variant.name, folder.run.seed
            set_test_figures(folder, class_IoU=ious.get(key, [0.9, 0.4, 0.1]), **figures)
        results = Results(plan, folders)
        write_report(results, tmp_path / "out")
        texts = [(tmp_path / "out" / f"report.{kind}").read_text() for kind in ("md", "html")]
        return results, *texts

    return report


def difference_rows(report: str) -> dict[str, list[str]]:
    """The first table of paired differences: variant, then mean, interval, p values, gap."""
    lines = report.split("\nmIoU:\n", 1)[1].split("\nDice:\n")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]
    return {row[0]: row[3:] for row in rows}


def test_a_collapsed_baseline(report_of):
    """The warning stands before everything else, and nothing is tested."""
    results, report, page = report_of({(BASELINE, 1): [0.98, 0.0, 0.0]})
    assert results.collapsed(BASELINE) == [1]
    warning = report.split("\n\n")[1]
    assert warning.startswith("> **Warning:** 1 of 9 networks predict at most one class")
    assert f"{BASELINE} (seed 1)" in warning
    assert page.index('<p class="warning"') < page.index("runs are done")
    for words in ("better by", "worse by", "no difference seen", "The smallest gap is"):
        assert words not in report
    assert report.count("not compared: in 1 of 3 pairs of runs a network predicts at most") == 2
    for mean, *tests in difference_rows(report).values():
        assert re.fullmatch(r"[+-]\d\.\d\d", mean)
        assert set(tests) == {"-"}


def test_a_collapsed_variant(report_of):
    """The others are tested, and Holm's correction counts only them."""
    results, report, _ = report_of({("PCGrad", 0): [0, 0.02, 0], ("PCGrad", 2): [0, 0, 0]})
    assert results.collapsed("PCGrad") == [0, 2]
    assert "2 of 9 networks" in report
    assert "PCGrad (seed 0, 2)" in report
    assert "- PCGrad: not compared: in 2 of 3 pairs" in report
    rows = difference_rows(report)
    assert set(rows["PCGrad"][1:]) == {"-"}
    figures = {name: results.by_seed(name, "test_mIoU") for name in (BASELINE, "AutoWeightedLoss")}
    alone = compare(figures, BASELINE)["AutoWeightedLoss"]
    assert float(rows["AutoWeightedLoss"][2]) == pytest.approx(alone.p_t, rel=6e-3)
    assert rows["AutoWeightedLoss"][2] == rows["AutoWeightedLoss"][3]
    assert float(rows["AutoWeightedLoss"][-1]) == pytest.approx(
        100 * smallest_gap(alone.sd, 3, 0.05), abs=6e-3
    )


def test_a_single_collapsed_seed_elsewhere_does_not_count():
    """The baseline collapsed at a seed that the variant has no run of."""
    figures = {"a": {0: 0.5, 1: 0.6, 2: 0.1}, "b": {0: 0.55, 1: 0.66}}
    found = compare(figures, "a", {"a": [2]})["b"]
    assert found == compare(figures, "a")["b"]
    assert not math.isnan(found.p_t)


def test_networks_that_learned_have_no_warning(report_of):
    results, report, page = report_of({(BASELINE, 0): [0.9, 0.001, 0.0]})
    assert not results.table.collapsed.any()
    assert "Warning" not in report
    assert '<p class="warning"' not in page


@pytest.mark.parametrize("value", [math.nan, None], ids=["NaN of an earlier version", "null"])
def test_undefined_figures_are_shown_as_such(value, report_of):
    results, report, _ = report_of({}, Kappa=value)
    assert results.table.test_Kappa.isna().all()
    results_table = report.split("\n## Results\n\n")[1].split("\n\n")[0]
    assert results_table.count("| undefined |") == 3
    kappa = report.split("\nKappa:\n\n")[1].split("\n\n")[0]
    assert kappa.count("| undefined | - |") == 2
    assert "nan" not in report.lower()


def test_undefined_main_figure(report_of):
    _, report, _ = report_of({}, mIoU=None)
    assert report.count("not compared: the figure is undefined in at least one run") == 2
    assert "nan" not in report.lower()


def test_no_validation_figure_to_choose_a_rate_by(parse, tmp_path, base):
    plan = parse(comparison_file(tmp_path, base=str(base), lr_grid=[0.1, 0.2], seeds=2))
    folders = pretend(plan, tmp_path / "out", lambda run: (math.nan, 0.5))
    results = Results(plan, folders)
    assert set(results.rates.values()) == {0.1}
    write_report(results, tmp_path / "out")


def test_a_real_network_that_predicts_background_alone(parse, tmp_path, base):
    """Its evaluation is strict JSON, and the table of results knows it."""
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=1))
    folder = prepare(plan, tmp_path / "out")[0]
    model = SegBuilder(load_config(str(folder.path / "config_test.yml"))).model
    last = [p for p in model.parameters() if p.shape == [2]][-1]
    last.set_value(paddle.to_tensor([1e4, -1e4]))
    paddle.save(model.state_dict(), str(folder.model_path))
    evaluate_run(folder.path, "cpu", num_workers=0, samples=0)
    text = folder.evaluation_path.read_text()
    figures = json.loads(text, parse_constant=pytest.fail)
    assert figures["test"]["class_IoU"][1] == 0
    assert figures["test"]["class_Recall"] == [1, 0]
    folder.log_path.write_text("iter: 1/4, loss: 1, batch_cost: 1, x\n")
    folder.write_attempts([{"from": 0, "seconds": 1}])
    folder.write_result({"paddle": "3"}, "cpu")
    results = Results(plan, [folder])
    assert results.collapsed(BASELINE) == [0]
    write_report(results, tmp_path / "out")
    assert "1 of 1 networks" in (tmp_path / "out/report.md").read_text()
    assert pd.read_csv(tmp_path / "out/results.csv").collapsed.tolist() == [True]
