"""CONTRIBUTING.md's method is added to a copy of the repository, and works there without more."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from support.processes import ROOT, SCRIPT_HEAD, run_tool

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
INIT = "paddleseg_autoloss/weighting/__init__.py"
IGNORED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "data", "output")


def blocks() -> dict[str, str]:
    """The files that the page names, with the text that it gives for each."""
    found = re.findall(r"`([\w/.]+)`:\n\n```(?:python|markdown)\n(.*?)```", PAGE, flags=re.DOTALL)
    return dict(found)


def insert_registration(text: str, line: str) -> str:
    """Put an import to the others, in the order of the alphabet."""
    head, imports, rest = re.split(r"((?:^from \..*\n)+)", text, maxsplit=1, flags=re.MULTILINE)
    lines = sorted([*imports.splitlines(), line.strip()], key=lambda text: text.split()[1])
    return head + "\n".join(lines) + "\n" + rest


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the repository with all that the page says."""
    copy = tmp_path_factory.mktemp("contributing") / "checkout"
    shutil.copytree(ROOT, copy, ignore=IGNORED)
    for name, text in blocks().items():
        path = copy / name
        if name == INIT:
            text = insert_registration(path.read_text(), text)
        elif name == "CHANGELOG.md":
            text = path.read_text().replace("### Added\n\n", "### Added\n\n" + text, 1)
        else:
            assert not path.exists()
        path.write_text(text)
    return copy


@pytest.fixture(scope="module")
def outputs(checkout) -> list[str]:
    """What the last commands of the page print, in their order."""
    *_, block = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    return [run(checkout, *shlex.split(line)).stdout for line in block.splitlines()]


def run(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess:
    words = arguments if program == "python" else ["-m", program, *arguments]
    done = run_tool(*words, cwd=folder, PYTHONPATH=str(folder), PYTEST_ADDOPTS="-rpfE")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_these_files_change_and_no_others(checkout, outputs):
    def contents(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        names = {str(path.relative_to(folder)): path for path in files}
        return {
            name: path.read_bytes()
            for name, path in names.items()
            if not re.search(r"(^|/)(\.|__pycache__|\w+\.egg-info|build/|data/|output/)", name)
        }

    before, after = contents(ROOT), contents(checkout)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    pages = {"docs/methods.md", "docs/methods/InverseMean.md", "docs/config_reference.md"}
    written = {"docs/which_method.md", "mkdocs.yml", *pages, "paddleseg_autoloss/__init__.pyi"}
    assert changed == {*blocks(), *written}
    assert "`InverseMean`" in (checkout / "docs/which_method.md").read_text()


@pytest.mark.parametrize(
    "command", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join
)
def test_it_is_clean(checkout, command):
    files = [name for name in blocks() if name.endswith(".py")]
    if command == ["mypy"]:
        files = [name for name in files if not name.startswith("tests/")]
    run(checkout, *command, *files)


def test_what_must_hold_for_every_method_is_asked_of_it(outputs):
    passed = Counter(re.findall(r"^PASSED (\S+?\.py)::", outputs[-1], flags=re.MULTILINE))
    assert passed["tests/weighting/test_inverse_mean.py"] == 2
    assert passed["tests/weighting/test_method_properties.py"] >= 20
    assert passed["tests/weighting/test_registry.py"] == 2
    assert passed["tests/docs/test_docs.py"] >= 3


TRAIN = """
import json
sys.path.insert(0, "tools/benchmarks")
import soak

folder = Path(sys.argv[1])
_, (loss,), _ = run_training(
    folder / "component", 2, lambda: [paddleseg_autoloss.InverseMean(ce_and_dice(), beta=0.5)]
)
print(json.dumps([loss.aggregator.last_weights.tolist(), loss.aggregator.weighting.m.tolist()]))
train_jointly(folder / "joint", 2, {"type": "InverseMean", "reduction": "mean"})
print(soak.CASES["InverseMean"])
"""


def test_it_trains(checkout, tmp_path):
    done = run(checkout, "python", "-c", SCRIPT_HEAD + TRAIN, str(tmp_path))
    found, case = (line for line in done.stdout.splitlines() if line.startswith(("[[", "{")))
    weights, m = json.loads(found)
    assert sum(weights) == pytest.approx(2)
    assert weights[0] / weights[1] == pytest.approx(m[1] / m[0], rel=1e-5)
    assert (tmp_path / "joint" / "loss_weights.csv").is_file()
    assert case == "{'type': 'InverseMean'}"
