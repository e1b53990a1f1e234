"""The report checks its own runs: each check against runs that are made for it."""

from __future__ import annotations

import html
import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from support.comparison import comparison_file, pretend
from visualdl import LogWriter

from paddleseg_autoloss.comparison import report
from paddleseg_autoloss.comparison.results import Results
from paddleseg_autoloss.comparison.run_checks import end_of_validation
from paddleseg_autoloss.documents import Document
from paddleseg_autoloss.files import write_json
from paddleseg_autoloss.weighting import METHODS

ITERS = 90
VARIANTS = [{"coef": [0.8, 0.2]}, {"method": "AutoWeightedLoss"}, {"method": "IMTLL"}]
FIXED, AUTO, IMTLL = "fixed 0.8:0.2", "AutoWeightedLoss", "IMTLL"
#: Noise of one point of a curve, in the order of the iterations 9, 18, ..., 90.
NOISE = 0.002 * np.array([1, -1, 0.5, 1, -0.5, -1, 0.7, -0.7, 0.4, -0.4])


class Made:
    """Runs of three variants and three seeds, without a fault at first."""

    def __init__(self, plan, root):
        self.plan, self.root = plan, root
        self.folders = pretend(plan, root, lambda run: (0.5, 0.5 + 0.001 * run.seed))
        for folder in self.folders:
            self.set_curve(folder, np.full(10, 0.5))
            self.set_losses(folder)

    def of(self, name):
        return [folder for folder in self.folders if folder.run.variant.name == name]

    def change(self, folder, **keys):
        write_json(folder.result_path, {**folder.result(), **keys})

    def set_curve(self, folder, values):
        noise = np.roll(NOISE, folder.run.seed)
        points = [[9 * (i + 1), v] for i, v in enumerate((values + noise).tolist())]
        self.change(folder, validation_curve=points)

    def set_losses(self, folder, ce=(1.0, 1.0), dice=(0.5, 0.5), weights=(0.8, 0.2)):
        """Losses that change along a line over the last third; weights that change before."""
        rows = []
        for step in range(1, 31):
            share = np.clip((3 * step - 60) / 30, 0, 1)
            noise = 1 + 0.01 * (-1) ** step
            for name, (first, last), w in zip(("ce", "dice"), (ce, dice), weights):
                raw, weight = noise * (first + share * (last - first)), w if step > 3 else 1.0
                rows.append((3 * step, name, raw, weight, raw * weight))
        frame = pd.DataFrame(rows, columns=["iteration", "term", "raw", "weight", "weighted"])
        frame.to_csv(folder.path / "loss_weights.csv", index=False)

    def report(self) -> str:
        """The section with the checks, without the charts, which take their time."""
        results, document = Results(self.plan, self.folders), Document("checks")
        report._add_checks(document, results, report._differences(results)["mIoU"])
        return document.markdown().split("\n## Checks of the runs\n")[1]


@pytest.fixture
def made(parse, tmp_path, base):
    path = comparison_file(tmp_path, base=str(base), variants=VARIANTS, seeds=3)
    return Made(parse(path, "--iters", ITERS), tmp_path / "out")


def items(section: str) -> list[str]:
    return [line[2:] for line in section.splitlines() if line.startswith("- ")]


def seeds(section: str) -> list[str]:
    return [item for item in items(section) if ": seeds: " in item]


def others(section: str) -> list[str]:
    """All but what the equal figures of the variants bring: their seeds differ by more."""
    return [item for item in items(section) if ": seeds: " not in item]


def test_runs_without_a_fault(made):
    for index, folder in enumerate(made.folders):
        mean = 0.5 + 0.05 * [FIXED, AUTO, IMTLL].index(folder.run.variant.name)
        result = folder.result()
        result["test"]["mIoU"] = mean + 0.001 * (index % 2)
        write_json(folder.result_path, result)
    section = made.report()
    assert items(section) == []
    assert "Nothing speaks against these runs." in section
    assert "Too few points" not in section


def test_a_figure_that_still_rises(made):
    """Along a line by 3 points over the last third: the points 63, 72, 81 and 90."""
    for folder in made.of(AUTO):
        made.set_curve(folder, 0.01 * np.arange(10))
    (item,) = others(made.report())
    assert item.startswith(f"{AUTO}: not converged: over the last third the validation mIoU rose")
    low, high = json.loads(item[item.index("[") : item.index("]") + 1])
    assert low < 3 < high
    assert 0 < high - low < 2


def test_markdown_and_page_have_the_checks(made):
    for folder in made.of(AUTO):
        made.set_curve(folder, 0.01 * np.arange(10))
    report.write_report(Results(made.plan, made.folders), made.root)
    page = html.unescape((made.root / "report.html").read_text())
    written = (made.root / "report.md").read_text()
    lines = made.report().strip().split("\n")
    assert any("not converged" in line for line in lines)
    for line in lines:
        assert line in written
        assert line.removeprefix("- ") in page


def test_a_figure_that_falls(made):
    for folder in made.of(FIXED):
        made.set_curve(folder, -0.01 * np.arange(10))
    (item,) = others(made.report())
    assert item.startswith(f"{FIXED}: past its best: over the last third the validation mIoU fell")


@pytest.mark.parametrize("slope", [0.001, 0.0])
def test_a_figure_that_rises_too_little_to_matter(made, slope):
    for folder in made.of(AUTO):
        made.set_curve(folder, slope * np.arange(10))
    assert others(made.report()) == []


def test_a_rise_within_the_noise(made):
    for folder in made.of(AUTO):
        made.set_curve(folder, 0.003 * np.arange(10) + 20 * np.roll(NOISE, folder.run.seed))
    assert others(made.report()) == []


@pytest.mark.parametrize(
    ("runs", "points", "shared"), [(5, 4, 1.0), (3, 7, 1.0), (10, 4, 2.0), (5, 4, 0.0)]
)
def test_false_alarms_of_curves_that_share_their_noise(runs, points, shared):
    """All runs see the same validation images, so a point is high or low for all of them."""
    draws, curves = np.random.default_rng(0), [{}] * runs
    folders = [SimpleNamespace(validation_curve=lambda i=i: curves[i]) for i in range(runs)]
    variant = SimpleNamespace(config={"iters": points})
    plan = SimpleNamespace(variant=lambda name: variant)
    results = SimpleNamespace(folders_of=lambda name: folders, plan=plan)
    alarms, tries = 0, 2000
    for _ in range(tries):
        noise = draws.normal(size=(runs, points)) + shared * draws.normal(size=points)
        curves = [dict(enumerate(row, start=points)) for row in noise.tolist()]
        alarms += end_of_validation(results, "any").is_significant
    assert alarms / tries == pytest.approx(0.01, abs=3 * math.sqrt(0.01 * 0.99 / tries))


def test_losses_that_still_change(made):
    """By 0.4 of 0.8 and by 0.1 of 0.55, and the first window is a tenth of the way on."""
    for folder in made.of(IMTLL):
        made.set_losses(folder, ce=(1.0, 0.6), dice=(0.5, 0.6))
    falls, rises = others(made.report())
    begin = f"{IMTLL}: not converged: over the last third training losses fell, ce by "
    assert falls.startswith(begin)
    assert int(falls.removeprefix(begin).split("%")[0]) == pytest.approx(45, abs=1)
    assert "dice" not in falls
    begin = f"{IMTLL}: diverging: over the last third training losses rose, dice by "
    assert rises.startswith(begin)
    assert int(rises.removeprefix(begin).split("%")[0]) == pytest.approx(16.4, abs=1)


def test_a_loss_that_is_practically_off(made):
    """0.004 x 0.5 of 1.2 + 0.002, in two of three runs; the fixed mix has the same weights."""
    for folder in [*made.of(AUTO)[:2], *made.of(FIXED)]:
        made.set_losses(folder, weights=(1.2, 0.004))
    history = pd.read_csv(made.of(FIXED)[0].path / "loss_weights.csv")
    history.weight = history.term.map({"ce": 1.2, "dice": 0.004})
    for folder in made.of(FIXED):
        history.to_csv(folder.path / "loss_weights.csv", index=False)
    (item,) = others(made.report())
    assert item == (
        f"{AUTO}: practically off: in 2 of 3 runs dice ends with 0.0066 times the mean weight or "
        "less, and 0.17% of the total"
    )


def test_a_small_weight_of_a_large_loss_is_not_off(made):
    for folder in made.of(AUTO):
        made.set_losses(folder, dice=(100, 100), weights=(1.2, 0.004))
    assert others(made.report()) == []


def test_weights_at_a_bound(made):
    """c of AutoWeightedLoss is bounded by 0.1 whatever its sign, s of IMTLL by -7 and 7."""
    for folder, c in zip(made.of(AUTO), (-0.05, -1.0, 0.09)):
        made.change(folder, learned_parameters={"c/ce": c, "c/dice": 1.0})
    for folder in made.of(IMTLL):
        made.change(folder, learned_parameters={"s/ce": 6.9, "s/dice": 7.2})
    first, second = others(made.report())
    text = "the method's bound, and not the loss, sets"
    assert first == f"{AUTO}: at a bound: in 2 of 3 runs {text} c of ce = -0.05, 0.09"
    assert second == f"{IMTLL}: at a bound: in 3 of 3 runs {text} s of dice = 7.2, 7.2, 7.2"


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("UncertaintyWeightedLoss", (-7, 7)),
        ("IMTLL", (-7, 7)),
        ("IMTL", (-7, 7)),
        ("LDCMTL", (-3, 3)),
        ("AutoWeightedLoss", (0.1,)),
        ("GradNorm", (0.01,)),
    ],
)
def test_bounds_of_the_methods(name, ends):
    """Those that the docstrings give; no other method learns."""
    method = METHODS[name]
    assert all(method.is_at_bound(end) for end in ends)
    assert not method.is_at_bound(1.0)


def test_every_method_that_learns_has_bounds_or_needs_none():
    learning = {name for name, method in METHODS.items() if method.parameter_name}
    bounded = {name for name in learning if np.isfinite(METHODS[name].parameter_range).any()}
    assert bounded == learning


def test_seeds_that_differ_by_more_than_the_effect(made):
    """By hand: differences of 1, -0.5 and 1 points; deviations of 1 and of 1.75 points."""
    figures = {FIXED: (0.50, 0.51, 0.52), AUTO: (0.51, 0.505, 0.53), IMTLL: (0.70, 0.71, 0.72)}
    for name, values in figures.items():
        for folder, value in zip(made.of(name), values):
            folder_result = folder.result()
            folder_result["test"]["mIoU"] = value
            write_json(folder.result_path, folder_result)
    (item,) = seeds(made.report())
    sd = 100 * np.std(figures[AUTO], ddof=1)
    assert item == (
        f"{AUTO}: seeds: runs of {AUTO} differ by {sd:.1f} points (standard deviation), more than "
        "the difference of +0.5; it has the other sign in 1 of 3 pairs of runs"
    )


def test_one_class(made):
    folder = made.of(IMTLL)[1]
    made.change(folder, test={**folder.result()["test"], "class_IoU": [0.9, 0.0]})
    (item,) = others(made.report())
    assert item == (
        f"{IMTLL}: one class: in 1 of 3 runs (seed 1) the network predicts at most one class "
        "correctly"
    )


def test_run_folders_of_an_earlier_version(made):
    """Their results have no curve and no parameters, but VisualDL's records have both."""
    for folder in made.of(AUTO):
        result = folder.result()
        curve = result.pop("validation_curve")
        del result["learned_parameters"]
        write_json(folder.result_path, result)
        with LogWriter(str(folder.path)) as writer:
            for iteration, value in curve:
                writer.add_scalar("Evaluate/mIoU", value + iteration / 900, iteration)
                writer.add_scalar("Loss_parameter/c/head0/ce", 1 / iteration**2, iteration)
    rise, bound = others(made.report())
    assert rise.startswith(f"{AUTO}: not converged: over the last third the validation mIoU rose")
    assert bound.endswith("sets c of head0/ce = 0.000123, 0.000123, 0.000123")


def test_runs_without_curves(made):
    """A script of the user may record nothing."""
    for folder in made.of(FIXED):
        made.change(folder, validation_curve=[])
        (folder.path / "loss_weights.csv").unlink()
    section = made.report()
    assert others(section) == []
    assert f"Too few points in the last third to check the validation mIoU of {FIXED};" in section
