"""Choice, costs and the report, from results that are made up."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from support.comparison import CONFIGS, comparison_file, pretend, write_results

from paddleseg_autoloss.cli.main import parse_args
from paddleseg_autoloss.comparison.command import compare_from
from paddleseg_autoloss.comparison.folders import RunFolder
from paddleseg_autoloss.comparison.pictures import difference_panels, run_panels, weight_panels
from paddleseg_autoloss.comparison.report import say_result, write_report
from paddleseg_autoloss.comparison.results import Results, rare_classes
from paddleseg_autoloss.comparison.statistics import compare
from paddleseg_autoloss.comparison.tables import class_table, difference_table, runs_worth
from paddleseg_autoloss.documents import Document, Gallery, Notes, Table
from paddleseg_autoloss.documents.panels import draw_svg
from paddleseg_autoloss.files import write_json


def test_learning_rates_are_chosen_on_validation_images(parse, tmp_path, base):
    path = comparison_file(tmp_path, base=str(base), lr_grid=[0.1, 0.2, 0.3], seeds=2)
    plan = parse(path)

    def figure(run):
        test = 0.9 - run.learning_rate + 0.01 * run.seed
        # At 0.3, the best on validation images, a run of AutoWeightedLoss fails.
        fails = run.variant.name == "AutoWeightedLoss" and (run.learning_rate, run.seed) == (0.3, 1)
        return run.learning_rate, math.nan if fails else test

    folders = pretend(plan, tmp_path / "out", figure)
    results = Results(plan, folders)
    assert results.rates == {"fixed 0.8:0.2": 0.3, "AutoWeightedLoss": 0.2}
    assert results.by_seed("AutoWeightedLoss", "test_mIoU") == pytest.approx({0: 0.7, 1: 0.71})
    assert results.by_seed("AutoWeightedLoss", "step_seconds") == {0: 2, 1: 2}
    write_report(results, tmp_path / "out")
    report = (tmp_path / "out/report.md").read_text()
    heading, finding = say_result(results)
    assert heading == "mIoU against fixed 0.8:0.2:"
    assert finding.startswith("AutoWeightedLoss: ")
    assert f"## What it says: {heading[:-1]}\n\n- {finding}\n" in report
    assert "## Learning rates" in report
    assert "AutoWeightedLoss, lr 0.3, seed 1:" in report
    assert "exit status 1" in report
    table = pd.read_csv(tmp_path / "out/results.csv")
    assert len(table) == 12
    assert (table.status == "failed").sum() == 1
    assert runs_worth(plan, plan.variants[0]) == 3


#: For each rate and seed the validation mIoU; None for a run that failed; and the rate to choose.
HALF_DONE = {
    "a harder seed for one rate only": ({(0.1, 0): 0.8, (0.2, 0): 0.82, (0.2, 1): 0.7}, 0.2),
    "an easier seed for one rate only": ({(0.1, 0): 0.8, (0.2, 0): 0.7, (0.2, 1): 0.95}, 0.1),
    "a rate without any run": ({(0.1, 0): 0.8, (0.2, 0): 0.82}, 0.2),
    "no seed that both have": ({(0.1, 0): 0.9, (0.2, 1): 0.5, (0.2, 2): 0.5}, 0.2),
    "an undefined figure": (
        {(0.1, 0): 0.8, (0.1, 1): math.nan, (0.2, 0): 0.7, (0.2, 1): 0.99},
        0.1,
    ),
    "a failed rate": ({(0.1, 0): 0.9, (0.1, 1): None, (0.2, 0): 0.5, (0.2, 1): 0.5}, 0.2),
    "failures at every rate": (
        {
            (0.1, 0): 0.5, (0.1, 1): None, (0.1, 2): 0.9,
            (0.2, 0): 0.6, (0.2, 1): 0.6, (0.2, 2): None,
        },
        0.2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HALF_DONE)
def test_rates_are_compared_on_the_same_seeds(case, parse, tmp_path, base):
    """As in a report on a comparison that goes on."""
    figures, chosen = HALF_DONE[case]
    plan = parse(comparison_file(tmp_path, base=str(base), lr_grid=[0.1, 0.2, 0.3], seeds=3))
    folders = [RunFolder(tmp_path / "out", run) for run in plan.runs()]
    started = [f for f in folders if (f.run.learning_rate, f.run.seed) in figures]

    def figure(run):
        found = figures[run.learning_rate, run.seed]
        return found, math.nan if found is None else 0.5

    write_results(started, figure)
    assert set(Results(plan, folders).rates.values()) == {chosen}


def test_runs_that_no_rate_is_chosen_for_are_missing(parse, tmp_path, base):
    """All runs of one variant fail: its two other seeds have no learning rate."""
    keys = {"lr_grid": [0.1, 0.2], "seeds": 3, "lr_seeds": 1}
    plan = parse(comparison_file(tmp_path, base=str(base), **keys))
    fails = lambda run: math.nan if run.variant.name == "AutoWeightedLoss" else 0.5  # noqa: E731
    folders = pretend(plan, tmp_path / "out", lambda run: (0.5, fails(run)))
    others = [
        RunFolder(tmp_path / "out", run) for run in plan.runs_at(Results(plan, folders).rates)
    ]
    write_results(others, lambda run: (0.5, 0.5))
    write_report(Results(plan, [*folders, *others]), tmp_path / "out")
    report = (tmp_path / "out/report.md").read_text()
    assert "4 of 8 runs are done, 2 failed, 2 are missing (2 of them at a learning rate" in report
    write_report(Results(plan, pretend(plan, tmp_path / "all", lambda run: (0.5, 0.5))), tmp_path)
    assert "4 of 4 runs are done, 0 failed, 0 are missing. " in (tmp_path / "report.md").read_text()


def test_rare_classes_have_a_table(parse, tmp_path, base):
    """Of three classes the third has 5 % of the pixels, less than a fifth of a third."""
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=3))
    folders = pretend(plan, tmp_path / "out", lambda run: (0.5, 0.5))
    for folder in folders:
        rare = 0.2 + 0.1 * (folder.run.variant.name == "AutoWeightedLoss") + 0.001 * folder.run.seed
        rare += 0.001 * (folder.run.variant.name == "AutoWeightedLoss" and folder.run.seed == 2)
        test = {"class_IoU": [0.9, 0.6, rare], "class_share": [0.7, 0.25, 0.05]}
        result = folder.result()
        write_json(folder.result_path, result | {"test": result["test"] | test})
    results = Results(plan, folders)
    assert results.by_seed("AutoWeightedLoss", "test_rare_mIoU") == pytest.approx(
        {0: 0.3, 1: 0.301, 2: 0.303}
    )
    table = class_table(results)
    assert list(table) == ["variant", "2 (5.0%)", "1 (25.0%)", "0 (70.0%)"]
    assert table.values.tolist() == [
        ["fixed 0.8:0.2", "0.201", "0.600", "0.900"],
        ["AutoWeightedLoss", "0.301", "0.600", "0.900"],
    ]
    write_report(results, tmp_path / "out")
    report = (tmp_path / "out/report.md").read_text().split("## Classes")[1]
    assert "below 0.2 times that of classes of equal size" in report
    assert "| AutoWeightedLoss | 3 | +10.03 | [9.89, 10.18] |" in report


@pytest.mark.parametrize("metric", ["mIoU", "Dice", "Kappa", "rare_mIoU"])
def test_only_the_metric_of_the_comparison_has_findings(metric, parse, tmp_path, base):
    """Holm's correction counts its tests alone; here one metric is better, and the others equal."""
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=3))
    folders = pretend(plan, tmp_path / "out", lambda run: (0.5, 0.5 + 0.01 * run.seed))
    for folder in folders:
        is_auto, seed = folder.run.variant.name == "AutoWeightedLoss", folder.run.seed
        better = 0.5 + 0.01 * seed + is_auto * (0.1 + 0.001 * (seed == 2))
        test = {"class_share": [0.7, 0.25, 0.05], "class_IoU": [0.9, 0.6, 0.2]}
        test |= {"class_IoU": [0.9, 0.6, better]} if metric == "rare_mIoU" else {metric: better}
        result = folder.result()
        write_json(folder.result_path, result | {"test": result["test"] | test})
    write_report(Results(plan, folders), tmp_path / "out")
    report = (tmp_path / "out/report.md").read_text()
    assert report.count("| ▲ better |") == (metric == "mIoU")
    assert report.count("| p (t) |") == 1
    assert report.count("Only mIoU is tested") == 1


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.985, 0.015], []),  # of two classes mIoU says enough
        ([0.9, 0.06, 0.04], [2, 1]),
        ([0.95, 0.05, 0], [1]),  # the third does not occur
        ([0.4, 0.3, 0.3], []),
        ([], []),  # results of earlier versions
    ],
)
def test_rare_classes(shares, expected):
    assert rare_classes({"class_share": shares}) == expected


class Pretending:
    """Writes made-up results in the place of the runner: of two rates, seed 1 would choose 0.1."""

    started: ClassVar[list] = []

    def __init__(self, folders, engine):
        self.folders = folders

    def run(self):
        self.started.append([(f.run.learning_rate, f.run.seed) for f in self.folders])
        write_results(self.folders, lambda run: (run.learning_rate * (1 - 3 * run.seed), 0.5))
        return []


def test_other_seeds_train_at_the_chosen_rate_only(tmp_path, base, monkeypatch):
    monkeypatch.setattr("paddleseg_autoloss.comparison.command.Runner", Pretending)
    variants = [{"method": "Sum"}, {"coef": [1, 1]}]
    keys = {"lr_grid": [0.1, 0.2], "seeds": 3, "lr_seeds": 1, "variants": variants}
    path = comparison_file(tmp_path, base=str(base), **keys)
    words = ["compare", str(path), "--save_dir", str(tmp_path / "out"), "--samples", "0"]
    compare_from(parse_args(words), CONFIGS, "")
    first, others = Pretending.started
    assert sorted(first) == [(0.1, 0), (0.1, 0), (0.2, 0), (0.2, 0)]
    assert sorted(others) == [(0.2, 1), (0.2, 1), (0.2, 2), (0.2, 2)]
    report = (tmp_path / "out/report.md").read_bytes()
    table = pd.read_csv(tmp_path / "out/results.csv")
    assert table.groupby(["variant", "learning_rate"]).size().to_list() == [1, 3, 1, 3]
    compare_from(parse_args([*words, "--report_only"]), CONFIGS, "")
    assert (tmp_path / "out/report.md").read_bytes() == report


def test_costs_in_runs(parse, tmp_path, base):
    mixes = [{"coef": [w, 10 - w]} for w in range(1, 10)]
    variants = [*mixes, {"method": "Sum"}, {"retrain_of": "Sum"}]
    plan = parse(comparison_file(tmp_path, base=str(base), variants=variants, seeds=1))
    assert runs_worth(plan, plan.variant("Sum, retrained")) == 2
    best = {"fixed 3:7": 0.9}
    folders = pretend(plan, tmp_path / "out", lambda run: (best.get(run.variant.name, 0.5), 0.6))
    write_report(Results(plan, folders), tmp_path / "out")
    report = (tmp_path / "out/report.md").read_text()
    assert "| grid search over 9 fixed mixes | 9 | 9.0 |" in report
    assert "| Sum, retrained | 2 | 2.0 |" in report
    assert "the grid search chooses fixed 3:7, with a test mIoU of 0.6000" in report


def test_no_mix_is_chosen_on_test_images(parse, tmp_path, base):
    variants = [{"coef": [1, 1]}, {"coef": [1, 2]}]
    plan = parse(comparison_file(tmp_path, base=str(base), variants=variants, validation=0))
    folders = pretend(plan, tmp_path / "out", lambda run: (0.5, 0.5))
    write_report(Results(plan, folders), tmp_path / "out")
    report = (tmp_path / "out/report.md").read_text()
    assert "| grid search over 2 fixed mixes | 2 |" in report
    assert "chooses" not in report


def test_runs_that_were_tested_on_other_images(parse, tmp_path, base):
    """Somebody added images to the test list, and then raised the number of seeds."""
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=3))
    folders = pretend(plan, tmp_path, lambda run: (0.5, 0.5))

    def report(share):
        for folder in folders:
            result = folder.result()
            result["test"] |= {"class_IoU": [0.5, 0.5], "class_share": share(folder)}
            write_json(folder.result_path, result)
        write_report(Results(plan, folders), tmp_path)
        return (tmp_path / "report.md").read_text()

    assert "other images" not in report(lambda folder: [0.9, 0.1])
    assert "other images" not in report(lambda folder: [0.9, 0.1] if folder.run.seed else [])
    text = report(lambda folder: [0.9, 0.1] if folder.run.seed < 2 else [0.88, 0.12])
    assert "2 of 6 runs were tested on other images or labels than the rest" in text
    assert "They are: fixed 0.8:0.2, lr 0.002, seed 2; AutoWeightedLoss, lr 0.002, seed 2." in text


def test_resumed_runs_are_named(parse, tmp_path, base):
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=2))
    folders = pretend(plan, tmp_path / "out", lambda run: (0.5, 0.5))
    folders[0].write_attempts([{"from": 0, "seconds": 20}, {"from": 2, "seconds": 25}])
    result = folders[0].write_result({"paddle": "3"}, "cpu")
    assert (result["wall_seconds"], result["resumed_from"]) == (45, [2])
    write_report(Results(plan, folders), tmp_path / "out")
    assert "1 run(s) were interrupted and resumed" in (tmp_path / "out/report.md").read_text()


def test_document_escapes_what_people_name():
    document = Document("<b>&")
    document.add(Table(pd.DataFrame({"a|b": ["<script>"]})), Gallery([]))
    assert document.html().count("<script>") == 1
    assert "<td>&lt;script&gt;</td>" in document.html()
    assert "<b>" not in document.html()
    assert "a\\|b" in document.markdown()
    assert "figures/p.png" not in document.markdown()


def test_long_curves_stay_small():
    """Thirty runs of 20,000 log lines: 1.2 million points, of which a page shows few."""
    iterations = np.repeat(np.arange(20_000), 2)
    weights = np.random.default_rng(0).random(40_000)
    history = pd.DataFrame(
        {"iteration": iterations, "term": ["ce", "dice"] * 20_000, "weight": weights}
    )
    folder = SimpleNamespace(weights=lambda: history)
    rates = dict.fromkeys(["a", "b", "c"], 0.1)
    panels = weight_panels(SimpleNamespace(rates=rates, folders_of=lambda name: [folder] * 10))
    assert len(panels) == 3
    elements = [draw_svg(panel, f"c{i}") for i, panel in enumerate(panels)]
    assert sum(map(len, elements)) < 600_000
    assert "ce, iteration 19999: " in elements[0]


def test_better_and_worse_have_signs():
    figures = {"base": [0.8, 0.81, 0.79], "up": [0.9, 0.92, 0.89], "down": [0.7, 0.71, 0.68]}
    figures |= {"same": [0.8, 0.82, 0.78], "once": [0.9]}
    found = compare({name: dict(enumerate(values)) for name, values in figures.items()}, "base")
    findings = difference_table(found).set_index("variant").finding
    assert findings.to_dict() == {
        "up": "▲ better",
        "down": "▼ worse",
        "same": "not seen",
        "once": "-",
    }
    axes = Figure().subplots()
    (panel,) = difference_panels(found, "base", "mIoU")
    panel.draw(axes, Notes())
    assert {">", "<", "D"} <= {line.get_marker() for line in axes.lines}


@pytest.mark.parametrize("values", [[0.5885, 0.6038, 0.6], [0.84456, 0.84701], [0.3, 1.9]])
def test_numbers_below_a_panel_do_not_touch(values):
    results = SimpleNamespace(
        variants=[SimpleNamespace(name="ours")], by_seed=lambda *_: dict(enumerate(values))
    )
    figure = Figure(figsize=(4, 2.6), dpi=100, layout="constrained")
    run_panels(results)[0].draw(figure.subplots(), Notes())
    figure.draw_without_rendering()
    axes = figure.axes[0]
    shown = [label for label in axes.get_xticklabels() if label.get_window_extent().width]
    inside = [label for label in shown if axes.get_xlim()[0] <= label.get_position()[0]]
    inside = [label for label in inside if label.get_position()[0] <= axes.get_xlim()[1]]
    assert len(inside) >= 2
    boxes = [label.get_window_extent() for label in inside]
    assert all(one.x1 + 3 < other.x0 for one, other in zip(boxes, boxes[1:]))
