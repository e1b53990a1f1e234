"""What a comparison found, in words, tables and pictures."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paddleseg_autoloss.comparison.document import (
    Code,
    Document,
    Heading,
    Items,
    Paragraph,
    Picture,
    Table,
)
from paddleseg_autoloss.comparison.figures import (
    plot_curves,
    plot_differences,
    plot_runs,
    plot_samples,
    plot_weights,
)
from paddleseg_autoloss.comparison.plan import Plan, Variant
from paddleseg_autoloss.comparison.results import METRICS, Results
from paddleseg_autoloss.comparison.statistics import LEVEL, POWER, Difference, compare

__all__ = ["describe", "runs_worth", "write_report", "write_setup"]

_POINTS = 100
_DASH = "-"


def write_setup(save_dir: Path, command: str, jobs: int) -> None:
    """Remember how the comparison is made, for its report.

    Args:
        save_dir: folder of the comparison.
        command: that was typed.
        jobs: runs at a time.
    """
    setup = {"command": command, "machine": _machine(), "jobs": jobs}
    (save_dir / "setup.json").write_text(json.dumps(setup, indent=2) + "\n", encoding="utf-8")


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores"


def write_report(results: Results, save_dir: Path, samples: bool = True) -> None:
    """Write ``results.csv``, ``report.md`` with its pictures, and ``report.html``.

    Args:
        results: of the comparison.
        save_dir: its folder.
        samples: whether the page shows images of the test set with the predictions for them.
    """
    results.write_csv(save_dir / "results.csv")
    document = Document(f"Comparison: {results.plan.name}")
    document.add(*_state(results))
    if results.rates:
        _add_findings(document, results)
    if samples:
        _add_samples(document, results)
    _add_failures(document, results)
    _add_setup(document, results, save_dir)
    document.write(save_dir)


def _state(results: Results) -> list[Paragraph]:
    plan, counts = results.plan, results.table.status.value_counts()
    text = (
        f"{counts.get('done', 0)} of {len(results.table)} runs are done, "
        f"{counts.get('failed', 0)} failed, {counts.get('missing', 0)} are missing. "
        f"Variants: {len(plan.variants)}; seeds: {len(plan.seeds)}. Figures are those of the "
        "network after its last iteration, on the test images, which nothing was chosen on"
    )
    if plan.validation == 0:
        text += " (no images were held out: the validation curves show the test images)"
    return [Paragraph(text + ".")]


def _add_findings(document: Document, results: Results) -> None:
    plan = results.plan
    figures = {m: _figures_of(results, f"test_{m}") for m in METRICS}
    can_compare = plan.baseline in results.rates and len(results.rates) > 1
    differences = {m: compare(f, plan.baseline) if can_compare else {} for m, f in figures.items()}
    main = differences[METRICS[0]]
    document.add(Heading(f"What it says: {METRICS[0]} against {plan.baseline}"))
    if main:
        texts = [f"{n}: {describe(d, len(main))}" for n, d in main.items()]
        document.add(Items(texts), Paragraph(_explanation(main)))
    else:
        document.add(Paragraph(f"There is nothing to compare with {plan.baseline} yet."))
    document.add(Heading("Results"), Table(_result_table(results)))
    document.add(
        Picture(
            "runs", "Every run as a dot; diamond: mean and standard deviation", plot_runs(results)
        )
    )
    if main:
        document.add(Heading(f"Paired differences to {plan.baseline}"))
        text = "Differences with their 95 % intervals; red: seen after Holm's correction"
        png = plot_differences(main, plan.baseline, METRICS[0])
        document.add(Picture("differences", text, png))
    for metric, found in differences.items():
        if found:
            document.add(Paragraph(f"{metric}:"), Table(_difference_table(found)))
    if plan.lr_grid:
        _add_rates(document, results)
    document.add(
        Heading("What each approach costs"), Paragraph(_COSTS), Table(_cost_table(results))
    )
    _add_grid_choice(document, results)
    document.add(Heading("Validation mIoU while training"), Paragraph(_CURVES))
    document.add(Picture("curves", "Validation mIoU over iterations", plot_curves(results)))
    weights = plot_weights(results)
    if weights is not None:
        document.add(Heading("Weights while training"), Paragraph(_CURVES))
        document.add(Picture("weights", "Weights over iterations", weights))


def _figures_of(results: Results, column: str) -> dict[str, dict[int, float]]:
    return {name: results.by_seed(name, column) for name in results.rates}


def describe(difference: Difference, tests: int) -> str:
    """Say in a sentence what a paired comparison allows to conclude.

    Args:
        difference: of a variant to the baseline, as a share; the sentence has points.
        tests: how many variants were compared with the baseline.

    Example:
        >>> from paddleseg_autoloss.comparison.statistics import compare
        >>> figures = {"a": {0: 0.80, 1: 0.81, 2: 0.79}, "b": {0: 0.84, 1: 0.86, 2: 0.83}}
        >>> found = compare(figures, "a")
        >>> describe(found["b"], tests=1)
        'better by 4.3 points [2.9, 5.8]'
    """
    if not difference.seeds:
        return "no pair of runs with the same seed yet"
    mean = _POINTS * difference.mean
    if len(difference.seeds) == 1:
        return f"{mean:+.1f} points in a single pair of runs, which shows nothing"
    if not any(difference.values):
        return "the same figure in every pair of runs, which shows nothing"
    low, high = _POINTS * difference.low, _POINTS * difference.high
    if difference.is_significant:
        low, high = (low, high) if mean > 0 else (-high, -low)
        return (
            f"{'better' if mean > 0 else 'worse'} by {abs(mean):.1f} points [{low:.1f}, {high:.1f}]"
        )
    text = (
        f"no difference seen ({mean:+.1f} points [{low:.1f}, {high:.1f}]); smallest gap this "
        f"comparison could have shown: {_POINTS * difference.gap:.1f} points"
    )
    if difference.p_t < LEVEL:
        text += f"; the interval leaves out 0, but with {tests} comparisons that may be chance"
    return text


def _explanation(differences: dict[str, Difference]) -> str:
    pairs = max(len(difference.seeds) for difference in differences.values())
    floor = 2 / 2**pairs
    text = (
        f"Points are hundredths. Runs of the same seed pair up. In brackets the 95 % confidence "
        f"interval of the mean difference (paired t, not corrected); a difference counts as seen "
        f"where p of the paired t-test is below {LEVEL:g} after Holm's correction over the "
        f"{len(differences)} comparisons. The smallest gap is the true difference that this test "
        f"would find with a probability of {POWER:.0%} at the level of Holm's first step "
        f"({LEVEL:g} / {len(differences)}), given how the differences spread. "
    )
    if pairs > 1:
        text += f"With {pairs} pairs Wilcoxon's p cannot go below 2/2^{pairs} = {floor:.3g}"
        never = floor * len(differences) >= LEVEL
        text += ", so after the correction it can never be significant here." if never else "."
    return text


def _result_table(results: Results) -> pd.DataFrame:
    rows = []
    for name, rate in results.rates.items():
        row = {"variant": name, "runs": str(len(results.done(name))), "learning rate": f"{rate:g}"}
        for metric in METRICS:
            row[metric] = _spread(results.by_seed(name, f"test_{metric}").values(), 4)
        row["seconds per step"] = _spread(results.by_seed(name, "step_seconds").values(), 3)
        row["final weights"] = _mean_weights(results, name)
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_weights(results: Results, name: str) -> str:
    found = [(folder.result() or {}).get("weights", {}) for folder in results.folders_of(name)]
    means = pd.DataFrame(found).mean()
    return ", ".join(f"{term} {weight:.3g}" for term, weight in means.items()) or _DASH


def _spread(values: Iterable[float], digits: int) -> str:
    array = np.array(list(values))
    mean = f"{array.mean():.{digits}f}"
    return f"{mean} ± {array.std(ddof=1):.{digits}f}" if len(array) > 1 else mean


def _difference_table(differences: dict[str, Difference]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "variant": name,
            "pairs": str(len(d.seeds)),
            "mean, points": _number(_POINTS * d.mean, "+.2f"),
            "95 % interval": _interval(d),
            "p (t)": _number(d.p_t, ".3g"),
            "p (t, Holm)": _number(d.p_t_holm, ".3g"),
            "p (Wilcoxon)": _number(d.p_wilcoxon, ".3g"),
            "p (Wilcoxon, Holm)": _number(d.p_wilcoxon_holm, ".3g"),
            "smallest gap, points": _number(_POINTS * d.gap, ".2f"),
        }
        for name, d in differences.items()
    )


def _interval(difference: Difference) -> str:
    ends = (_POINTS * difference.low, _POINTS * difference.high)
    if math.isnan(ends[0]):
        return _DASH
    return f"[{', '.join(_number(end, '.2f') for end in ends)}]"


def _number(value: float, form: str) -> str:
    return _DASH if math.isnan(value) else format(value, form)


def _add_rates(document: Document, results: Results) -> None:
    document.add(Heading("Learning rates"), Paragraph(_RATES), Table(_rate_table(results)))


_RATES = (
    "Each variant was trained with every rate. The one with the best mean mIoU on the validation "
    "images is marked, and the result reported above is that of this choice on the test images. A "
    "rate at which a run failed is not chosen, unless one failed at every rate."
)


def _rate_table(results: Results) -> pd.DataFrame:
    rows = []
    for (name, rate), own in results.table.groupby(["variant", "learning_rate"], sort=False):
        done = own[own.status == "done"]
        chosen = results.rates.get(str(name)) == rate
        row = {"variant": str(name), "learning rate": f"{rate:g}", "runs": str(len(done))}
        for part in ("validation", "test"):
            values = done[f"{part}_mIoU"]
            row[f"{part} mIoU"] = _spread(values, 4) if len(values) else _DASH
        rows.append({**row, "chosen": "chosen" if chosen else ""})
    return pd.DataFrame(rows)


_COSTS = (
    "Trainings that an approach takes to give one network: a grid of fixed mixes trains every one, "
    "a grid of learning rates multiplies, and weights that are learned, frozen and retrained with "
    "cost the training that learns them too. Minutes are those measured for one seed, evaluations "
    "while training included; runs that work at the same time slow each other down."
)


def runs_worth(plan: Plan, variant: Variant) -> int:
    """Return how many trainings a variant takes for each seed.

    Args:
        plan: the comparison.
        variant: one of its variants.
    """
    source = runs_worth(plan, plan.variant(variant.source)) if variant.source else 0
    return len(plan.rates(variant)) + source


def _mixes(plan: Plan) -> list[Variant]:
    return [v for v in plan.variants if v.kind == "coef" and v.script is None]


def _cost_table(results: Results) -> pd.DataFrame:
    plan = results.plan
    approaches = [(variant.name, [variant]) for variant in plan.variants]
    mixes = _mixes(plan)
    if len(mixes) > 1:
        approaches.append((f"grid search over {len(mixes)} fixed mixes", mixes))
    return pd.DataFrame(
        {
            "approach": name,
            "runs' worth": str(sum(runs_worth(plan, variant) for variant in variants)),
            "minutes": _number(sum(_minutes(results, variant) for variant in variants), ".1f"),
        }
        for name, variants in approaches
    )


def _minutes(results: Results, variant: Variant) -> float:
    own = results.table[results.table.variant == variant.name]
    own_seconds = own.groupby("learning_rate").wall_seconds.mean().sum(min_count=1)
    source = _minutes(results, results.plan.variant(variant.source)) if variant.source else 0
    return float(own_seconds) / 60 + source


def _add_grid_choice(document: Document, results: Results) -> None:
    mixes = [variant.name for variant in _mixes(results.plan) if variant.name in results.rates]
    if len(mixes) < 2:
        return
    means = {name: np.mean([*results.by_seed(name, "validation_mIoU").values()]) for name in mixes}
    best = max(means, key=lambda name: means[name])
    test = _spread(results.by_seed(best, "test_mIoU").values(), 4)
    document.add(
        Paragraph(
            f"By mean validation mIoU the grid search chooses {best}, with a test mIoU of {test}."
        )
    )


_CURVES = "Thin: single runs. Thick: their mean."


def _add_samples(document: Document, results: Results) -> None:
    samples = {}
    for name in results.rates:
        for folder in results.folders_of(name):
            path = folder.path / "samples.npz"
            if path.is_file() and name not in samples:
                with np.load(path) as arrays:
                    samples[name] = dict(arrays)
    png = plot_samples(samples)
    if png is not None:
        text = "Test images, truth and predictions"
        document.add(Heading(text), Picture("samples", text, png, private=True))


def _add_failures(document: Document, results: Results) -> None:
    failed = [folder for folder in results.folders.values() if folder.error() is not None]
    if not failed:
        return
    document.add(
        Heading("Failed runs"),
        Paragraph("They are trained again when the comparison is continued."),
    )
    for folder in failed:
        document.add(Paragraph(f"{folder.run}:"), Code((folder.error() or "").strip()))


def _add_setup(document: Document, results: Results, save_dir: Path) -> None:
    plan, table = results.plan, results.table
    setup = _read_json(save_dir / "setup.json")
    found = [result for folder in results.folders.values() if (result := folder.result())]
    versions = sorted({_listed(result["versions"]) for result in found})
    devices = sorted({result["device"] for result in found})
    resumed = table[table.resumed_from != ""]
    texts = [
        f"Machine: {setup.get('machine', 'unknown')}; device: {' and '.join(devices) or 'none'}; "
        f"{setup.get('jobs', 1)} run(s) at a time.",
        f"Versions: {'; '.join(versions) or 'none'}.",
        f"Seeds: {', '.join(map(str, plan.seeds))}. A seed fixes initial weights and augmentation "
        "alike for all variants. PaddleSeg shuffles by the number of the epoch, so the order of "
        "the images is the same for all variants and all seeds.",
        _split_text(plan),
    ]
    if len(resumed):
        texts.append(
            f"{len(resumed)} run(s) were interrupted and resumed, with augmentation drawn anew "
            "from there (column resumed_from of results.csv)."
        )
    document.add(Heading("How it was made"))
    if "command" in setup:
        document.add(Code(setup["command"]))
    document.add(Items(texts))


def _split_text(plan: Plan) -> str:
    if plan.validation == 0:
        return "No images were held out of the training list."
    return (
        f"{plan.validation:.0%} of the training list were held out as validation images (split "
        f"seed {plan.split_seed}); the config's val_dataset is the test set."
    )


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
