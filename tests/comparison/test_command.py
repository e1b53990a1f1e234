"""The command, from start to report: runs that are stopped and continued."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from support.browser import CHROMIUM, Browser
from support.comparison import comparison_file, write_base
from support.processes import ROOT
from visualdl import LogReader

from paddleseg_autoloss.cli import val
from paddleseg_autoloss.cli.main import parse_args
from paddleseg_autoloss.comparison.folders import RunFolder


class References(HTMLParser):
    """Collects what a page would load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [v for k, v in attributes if k in ("src", "href", "srcset", "action")]


FAILING_SCRIPT = "print('a line of the log')\nraise SystemExit('it cannot work')\n"


def start(path: Path, folder: Path, *flags, **environment) -> subprocess.Popen:
    words = [path, "--save_dir", folder, "--save_interval", 1, "--log_iters", 1, "--samples", 2]
    words += flags
    return subprocess.Popen(
        [sys.executable, "tools/compare.py", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition, process: subprocess.Popen, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_in(folder: Path) -> list[str]:
    """The command lines of the processes that name a folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_text().replace("\0", " "))
    return [line for line in lines if str(folder) in line]


@pytest.fixture(scope="module")
def compared(tmp_path_factory, fundus):
    """Two variants and two seeds, killed after the first run, stopped after the second, continued.

    A third variant fails.
    """
    folder = tmp_path_factory.mktemp("compared")
    (folder / "fails.py").write_text(FAILING_SCRIPT)
    variants = [
        {"name": "broken", "script": "fails.py"},
        {"name": "learned", "method": {"type": "GradNorm", "lr_mult": 50}},
        {"retrain_of": "learned"},
    ]
    path = comparison_file(
        folder, base=str(write_base(folder, fundus)), variants=variants, seeds=2,
        baseline="learned",
        validation=0.25,
    )  # fmt: skip
    out = folder / "out"
    results = lambda: sorted(out.glob("runs/*/*/*/result.json"))  # noqa: E731
    process = start(path, out)
    wait_for(
        lambda: len(results()) == 1 and list(out.glob("runs/learned_retrained/*/*/train.log")),
        process,
    )
    first = results()[0], results()[0].stat().st_mtime_ns
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while processes_in(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_in(out)

    process = start(path, out)
    wait_for(
        lambda: len(results()) == 2 and list(out.glob("runs/learned/*/seed1/train.log")), process
    )
    process.send_signal(signal.SIGINT)
    stopped = process.communicate(timeout=60)[0], process.returncode
    assert not processes_in(out)

    process = start(path, out)
    output, _ = process.communicate(timeout=300)
    return out, first, stopped, (output, process.returncode)


def test_stop_and_continue(compared):
    _, (first, modified), (output, status), (last_output, last_status) = compared
    assert status == 130, output
    assert "2 of 6 runs done; run the same command again" in output
    assert "Traceback" not in output
    assert last_status == 1, last_output
    assert "2 of 6 runs are done already" in last_output
    assert "Traceback" not in last_output
    assert first.stat().st_mtime_ns == modified
    log = (first.parent / "train.log").read_text()
    assert log.count("iter: 1/4") == 1


def figures_of_runs(out: Path) -> dict:
    """The figures of each run that drew the augmentation of an undisturbed one.

    A resumed run draws other augmentation, and a retrained one has the weights of its source.
    """
    results = {
        path.parent.relative_to(out / "runs").parts: json.loads(path.read_text())
        for path in out.glob("runs/*/*/*/result.json")
    }
    resumed = {run for run, result in results.items() if result["resumed_from"]}
    return {
        run: [result[name] for name in ("validation", "test", "weights")]
        for run, result in results.items()
        if not {run, ("learned", *run[1:])} & resumed
    }


@pytest.mark.once
@pytest.mark.skipif(sys.version_info < (3, 10), reason="Ray's newest version for Python 3.9 is old")
def test_a_cluster_whose_node_dies_gives_the_same_figures(compared, tmp_path):
    """Two nodes in this machine, one of them killed while it trains."""
    from ray.cluster_utils import Cluster

    out, folder = compared[0], tmp_path / "out"
    path = out.parent / "mine.yml"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        process = start(path, folder, "--engine", "ray", RAY_ADDRESS=cluster.address)
        logs = lambda: list(folder.glob("runs/learned/*/*/train.log"))  # noqa: E731
        wait_for(
            lambda: len(logs()) == 2 and all("iter: 1/4" in p.read_text() for p in logs()), process
        )
        cluster.remove_node(nodes[0], allow_graceful=False)
        output, _ = process.communicate(timeout=400)
    finally:
        cluster.shutdown()
    assert "Ray: 3 nodes, 2 cores, 0 cards" in output
    assert "error: 2 of 6 runs failed" in output
    assert "Traceback" not in output
    assert len(list(folder.glob("runs/learned*/*/*/result.json"))) == 4
    found, local = figures_of_runs(folder), figures_of_runs(out)
    assert found.keys() & local.keys()
    for run in found.keys() & local.keys():
        assert found[run] == local[run]
    assert not processes_in(folder)


def test_a_failing_variant_does_not_stop_the_others(compared):
    out, _, _, (output, _) = compared
    assert "error: 2 of 6 runs failed" in output
    table = pd.read_csv(out / "results.csv")
    assert table.groupby("variant").status.unique().map(list).to_dict() == {
        "broken": ["failed"],
        "learned": ["done"],
        "learned, retrained": ["done"],
    }
    error = (out / "runs/broken/lr0.002/seed0/error.txt").read_text()
    assert error.startswith("exit status 1\n")
    assert "it cannot work" in error
    assert "it cannot work" in (out / "report.md").read_text()


def test_runs_of_a_seed_begin_alike(compared):
    """Raw losses of the first iteration: weights, images and augmentation are the same."""
    out, *_ = compared
    first = {
        path.parent.relative_to(out / "runs").parts: pd.read_csv(path)
        .query("iteration == 1")
        .raw.tolist()
        for path in out.glob("runs/*/*/*/loss_weights.csv")
    }
    assert len(first) == 4
    by_seed = {seed: [v for k, v in first.items() if k[2] == seed] for seed in ("seed0", "seed1")}
    for one, other in by_seed.values():
        assert one == other
    assert by_seed["seed0"][0] != by_seed["seed1"][0]


def test_retrained_with_the_weights_that_were_learned(compared):
    out, *_ = compared
    learned = out / "runs/learned/lr0.002/seed1"
    retrained = out / "runs/learned_retrained/lr0.002/seed1"
    weights = json.loads((learned / "result.json").read_text())["weights"]
    fixed = json.loads((retrained / "result.json").read_text())["weights"]
    total = sum(weights.values())
    assert fixed == pytest.approx({name: w / total for name, w in weights.items()}, rel=1e-2)
    assert abs(fixed["CrossEntropyLoss"] - fixed["DiceLoss"]) > 0.02


def test_a_run_can_be_evaluated_by_hand(compared):
    out, *_ = compared
    folder = out / "runs/learned/lr0.002/seed0"
    result = json.loads((folder / "result.json").read_text())
    assert result["resumed_from"] == []
    words = ["val", "--config", str(folder / "config_test.yml"), "--device", "cpu"]
    words += ["--model_path", str(folder / "model.pdparams")]
    found = val.run(parse_args(words)).to_dict()
    assert found.keys() == result["test"].keys()
    for name, value in found.items():
        assert value == pytest.approx(result["test"][name]), name


def test_curve_of_a_run(compared, parse):
    """The first run was not interrupted."""
    out, *_ = compared
    plan = parse(out.parent / "mine.yml")
    run = next(run for run in plan.runs() if run.variant.name == "learned")
    folder = RunFolder(out, run)
    curve = folder.validation_curve()
    assert list(curve) == [1, 2, 3, 4]
    result = folder.result()
    assert curve[4] == pytest.approx(result["validation"]["mIoU"])
    assert result["validation"] != result["test"]


def test_result_has_what_the_checks_need(compared):
    """Curve and learned parameters are those of VisualDL's records."""
    out, *_ = compared
    folder = out / "runs/learned/lr0.002/seed0"
    result = json.loads((folder / "result.json").read_text())
    (records,) = folder.glob("vdlrecords.*")
    reader = LogReader(file_path=str(records))
    curve = [[record.id, record.value] for record in reader.get_data("scalar", "Evaluate/mIoU")]
    assert result["validation_curve"] == curve
    learned = {
        f"w/{term}": reader.get_data("scalar", f"Loss_parameter/w/{term}")[-1].value
        for term in ("CrossEntropyLoss", "DiceLoss")
    }
    assert result["learned_parameters"] == learned
    report = (out / "report.md").read_text()
    assert "\n## Checks of the runs\n" in report
    # Four iterations have two points there.
    assert "Too few points in the last third" in report


def test_report_files(compared):
    out, *_ = compared
    page = (out / "report.html").read_text()
    references = References()
    references.feed(page)
    assert references.found
    assert all(reference.startswith(("data:", "#")) for reference in references.found)
    assert "@import" not in page
    assert page.count("url(") == page.count("url(#")
    report = (out / "report.md").read_text()
    for picture in re.findall(r"\]\((figures/\w+\.png)\)", report):
        assert (out / picture).is_file()
    assert "figures/curves.png" in report
    assert "figures/weights.png" in report
    assert not (out / "figures/samples.png").exists()
    assert "Test images, truth and predictions" in page
    table = pd.read_csv(out / "results.csv")
    done = table[table.status == "done"]
    assert done.test_mIoU.between(0, 1).all()
    assert (done.step_seconds > 0).all()
    assert (done.wall_seconds > 0).all()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_page_in_a_browser(compared, tmp_path, width):
    """From disk, with two test images: truth and the predictions of two variants."""
    out, *_ = compared
    page = out / "report.html"
    assert page.stat().st_size < 3_000_000
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(page, width, dark=width == 390)
        assert browser.complaints() == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        shown = browser.evaluate("[...document.images].map(i => i.naturalWidth ? i.alt : '')")
        assert shown == ["image", "truth", "learned", "learned, retrained"] * 2
        titles = browser.evaluate("[...document.querySelectorAll('h2')].map(h => h.textContent)")
        links = browser.evaluate("[...document.querySelectorAll('nav a')].map(a => a.textContent)")
        assert links == titles
        assert {"Results", "Weights while training", "How it was made"} <= set(titles)
    finally:
        browser.close()
