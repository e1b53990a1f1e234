"""The report of a comparison."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_autoloss.comparison import sentences, tables
from paddleseg_autoloss.comparison.data import HeldOutImages, read_split
from paddleseg_autoloss.comparison.pictures import (
    class_key,
    curve_panels,
    difference_panels,
    run_panels,
    sample_rows,
    weight_panels,
)
from paddleseg_autoloss.comparison.records import read_samples, read_setup
from paddleseg_autoloss.comparison.results import METRICS, Results
from paddleseg_autoloss.comparison.run_checks import check_runs
from paddleseg_autoloss.comparison.statistics import Difference, compare
from paddleseg_autoloss.documents import (
    Banner,
    Chart,
    Code,
    Document,
    Gallery,
    Heading,
    Items,
    Paragraph,
    Table,
)
from paddleseg_autoloss.files import write_json
from paddleseg_autoloss.installation import processor

__all__ = ["say_result", "write_report", "write_setup"]


def write_setup(save_dir: Path, command: str, jobs: str) -> None:
    """Write the command line, the machine and the number of jobs, for the report.

    Args:
        save_dir: folder of the comparison.
        command: the command line.
        jobs: how many runs there were at the same time, in words.
    """
    machine = f"{processor()}, {os.cpu_count()} cores"
    setup = {"command": command, "machine": machine, "jobs": jobs}
    write_json(save_dir / "setup.json", setup)


def write_report(results: Results, save_dir: Path, samples: bool = True) -> None:
    """Write ``results.csv``, ``report.md`` with its pictures, and ``report.html``.

    Args:
        results: results of the comparison.
        save_dir: folder of the comparison.
        samples: whether the page shows test images with their predictions.
    """
    results.write_csv(save_dir / "results.csv")
    document = Document(f"Comparison: {results.plan.name}")
    _add_warning(document, results)
    _add_state(document, results)
    if results.rates:
        differences = _differences(results)
        _add_findings(document, results, differences[METRICS[0]])
        _add_checks(document, results, differences[METRICS[0]])
        _add_results(document, results)
        _add_differences(document, results, differences)
        _add_classes(document, results)
        _add_rates(document, results)
        _add_costs(document, results)
        _add_curves(document, results)
    if samples:
        _add_samples(document, results)
    _add_failures(document, results)
    _add_setup(document, results, save_dir)
    document.write(save_dir)


def _add_warning(document: Document, results: Results) -> None:
    document.add(*map(Banner, _collapse(results)))
    others, known = results.tested_on_others()
    if others:
        document.add(Banner(sentences.describe_other_images(others, known)))


def _collapse(results: Results) -> list[str]:
    """Return the warning of networks that have learned nothing, if there are some."""
    collapsed = {name: results.collapsed(name) for name in results.rates}
    runs = sum(len(results.done(name)) for name in results.rates)
    return [sentences.describe_collapse(collapsed, runs)] if any(collapsed.values()) else []


def _add_state(document: Document, results: Results) -> None:
    plan, counts = results.plan, results.table.status.value_counts()
    waiting = plan.waiting(results.rates)
    text = (
        f"{counts.get('done', 0)} of {len(results.table) + waiting} runs are done, "
        f"{counts.get('failed', 0)} failed, {counts.get('missing', 0) + waiting} are missing"
        f"{sentences.describe_waiting(waiting)}. Variants: {len(plan.variants)}; seeds: "
        f"{len(plan.seeds)}. Figures are those of the network after its last iteration, on the "
        "test images; no choice was made on these images"
    )
    if plan.validation == 0:
        text += " (no images were held out: the validation curves show the test images)"
    document.add(Paragraph(text + "."))
    if plan.other_differences:
        document.add(Paragraph(sentences.describe_other_differences(plan.other_differences)))


def _differences(results: Results) -> dict[str, dict[str, Difference]]:
    """Return the differences of the variants to the baseline, for each metric."""
    return {metric: _differences_in(results, f"test_{metric}") for metric in METRICS}


def _differences_in(results: Results, column: str) -> dict[str, Difference]:
    """Return the differences of the variants to the baseline in a column of the results."""
    baseline, names = results.plan.baseline, list(results.rates)
    if baseline not in names or len(names) < 2:
        return {}
    collapsed = {name: results.collapsed(name) for name in names}
    return compare({name: results.by_seed(name, column) for name in names}, baseline, collapsed)


def _add_findings(
    document: Document, results: Results, differences: Mapping[str, Difference]
) -> None:
    baseline = results.plan.baseline
    document.add(Heading(f"What it says: {METRICS[0]} against {baseline}"))
    if not differences:
        document.add(Paragraph(f"There is nothing to compare with {baseline} yet."))
        return
    texts = _describe_differences(differences)
    document.add(Items(texts), Paragraph(sentences.explain_test(differences)))


def _describe_differences(differences: Mapping[str, Difference]) -> list[str]:
    tests = sum(not np.isnan(difference.p_t) for difference in differences.values())
    return [
        f"{name}: {sentences.describe_difference(difference, tests)}"
        for name, difference in differences.items()
    ]


def say_result(results: Results) -> list[str]:
    """Return what the report begins with, for a terminal: a warning, and one line per variant.

    Args:
        results: results of the comparison.
    """
    warning = _collapse(results)
    differences = _differences_in(results, f"test_{METRICS[0]}")
    if not differences:
        return warning
    heading = f"{METRICS[0]} against {results.plan.baseline}:"
    return [*warning, heading, *_describe_differences(differences)]


def _add_checks(
    document: Document, results: Results, differences: Mapping[str, Difference]
) -> None:
    found, unchecked = check_runs(results, differences)
    texts = [f"{name}: {text}" for name, own in found.items() for text in own]
    document.add(Heading("Checks of the runs"))
    document.add(Items(texts) if texts else Paragraph("Nothing speaks against these runs."))
    document.add(Paragraph(sentences.CHECKS))
    if unchecked:
        document.add(Paragraph(sentences.describe_unchecked(unchecked)))


def _add_results(document: Document, results: Results) -> None:
    text = "Every run as a dot; diamond: mean and standard deviation"
    document.add(Heading("Results"), Table(tables.result_table(results)))
    document.add(Chart("runs", text, run_panels(results)))
    document.add(Table(tables.run_table(results), folded="Every run as a table"))


def _add_differences(
    document: Document, results: Results, differences: Mapping[str, Mapping[str, Difference]]
) -> None:
    main, baseline = differences[METRICS[0]], results.plan.baseline
    if not main:
        return
    text = (
        "Differences with their 95 % intervals. Triangles: seen after Holm's correction, to the "
        "right better, to the left worse; empty diamonds: not seen; dots: single pairs of runs"
    )
    document.add(Heading(f"Paired differences to {baseline}"))
    panels = difference_panels(main, baseline, METRICS[0])
    document.add(Chart("differences", text, panels))
    document.add(Paragraph(f"{METRICS[0]}:"), Table(tables.difference_table(main)))
    document.add(Paragraph(sentences.OTHER_METRICS))
    for metric in METRICS[1:]:
        document.add(Paragraph(f"{metric}:"), Table(tables.interval_table(differences[metric])))


def _add_classes(document: Document, results: Results) -> None:
    table = tables.class_table(results)
    if table.empty:
        return
    document.add(Heading("Classes"), Paragraph(sentences.CLASSES), Table(table))
    rare = _differences_in(results, "test_rare_mIoU")
    if any(d.seeds and not np.isnan(d.mean) for d in rare.values()):
        text = sentences.describe_rare(results.plan.baseline)
        document.add(Paragraph(text), Table(tables.interval_table(rare)))


def _add_rates(document: Document, results: Results) -> None:
    if results.plan.lr_grid:
        document.add(Heading("Learning rates"), Paragraph(sentences.RATES))
        document.add(Table(tables.rate_table(results)))


def _add_costs(document: Document, results: Results) -> None:
    document.add(Heading("What each approach costs"), Paragraph(sentences.COSTS))
    document.add(Table(tables.cost_table(results)))
    mixes = [v.name for v in tables.fixed_mixes(results.plan) if v.name in results.rates]
    # Without validation images the choice would be made on the test images.
    if len(mixes) < 2 or results.plan.validation == 0:
        return
    best = results.best_on_validation(mixes)
    test = tables.show_spread(results.by_seed(best, "test_mIoU").values(), 4)
    document.add(
        Paragraph(
            f"By mean validation mIoU the grid search chooses {best}, with a test mIoU of {test}."
        )
    )


def _add_curves(document: Document, results: Results) -> None:
    for heading, name, text, panels in (
        (
            "Validation mIoU while training",
            "curves",
            "Validation mIoU over iterations",
            curve_panels(results),
        ),
        ("Weights while training", "weights", "Weights over iterations", weight_panels(results)),
    ):
        if panels:
            document.add(Heading(heading), Paragraph(sentences.CURVES), Chart(name, text, panels))


def _add_samples(document: Document, results: Results) -> None:
    samples: dict[str, dict[str, np.ndarray]] = {}
    for name in results.rates:
        paths = [folder.path / "samples.npz" for folder in results.folders_of(name)]
        for path in [path for path in paths if path.is_file()][:1]:
            samples[name] = read_samples(path)
    rows = sample_rows(samples)
    if rows:
        document.add(Heading("Test images, truth and predictions"), Paragraph(sentences.SAMPLES))
        document.add(Gallery(rows, class_key(samples)))


def _add_failures(document: Document, results: Results) -> None:
    failed = [folder for folder in results.folders.values() if folder.error() is not None]
    if not failed:
        return
    document.add(Heading("Failed runs"))
    document.add(Paragraph(sentences.FAILURES))
    for folder in failed:
        document.add(Paragraph(f"{folder.run}:"), Code((folder.error() or "").strip()))


def _add_setup(document: Document, results: Results, save_dir: Path) -> None:
    path = save_dir / "setup.json"
    setup = read_setup(path) if path.is_file() else {}
    document.add(Heading("How it was made"))
    if "command" in setup:
        document.add(Code(str(setup["command"])))
    has_split = (save_dir / "split").is_dir()
    held_out = read_split(results.plan, save_dir / "split") if has_split else None
    document.add(Items(_setup_texts(results, setup, held_out)))


def _setup_texts(
    results: Results, setup: Mapping[str, Any], held_out: HeldOutImages | None
) -> list[str]:
    plan = results.plan
    found = [result for folder in results.folders.values() if (result := folder.result())]
    versions = sorted({_show_versions(result["versions"]) for result in found})
    devices = sorted({result["device"] for result in found})
    texts = [
        f"Machine: {setup.get('machine', 'unknown')}; device: {' and '.join(devices) or 'none'}; "
        f"{setup.get('jobs', 1)} run(s) at a time.",
        f"Versions: {'; '.join(versions) or 'none'}.",
        f"Seeds: {', '.join(map(str, plan.seeds))}. A seed fixes initial weights and augmentation "
        "in the same way for all variants. PaddleSeg shuffles by the number of the epoch, so the "
        "order of the images is the same for all variants and all seeds.",
        sentences.describe_split(plan, held_out),
    ]
    resumed = int((results.table.resumed_from != "").sum())
    if resumed:
        texts.append(
            f"{resumed} run(s) were interrupted and resumed; from there on their augmentation is "
            "drawn anew (column resumed_from of results.csv)."
        )
    return texts


def _show_versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
