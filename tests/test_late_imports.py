"""A module of others is imported at its first use."""

from __future__ import annotations

import sys

import pytest
from support import run_tool
from test_missing_packages import without

from paddleseg_autoloss.errors import MissingPackageError
from paddleseg_autoloss.late_imports import imported_at_first_use

pytestmark = pytest.mark.once


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with two modules, which is forgotten after the test."""
    folder = tmp_path / "slow_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("value = 1\n")
    (folder / "metrics.py").write_text("def double(x):\n    return 2 * x\n")
    (folder / "cluster.py").write_text(
        "from slow_package.metrics import double\nfour = double(2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "slow_package"
    for name in [name for name in sys.modules if name.startswith("slow_package")]:
        del sys.modules[name]


def test_used_after_the_context(package):
    with imported_at_first_use("slow_package.metrics", "a test"):
        import slow_package.metrics as metrics
    assert package not in sys.modules
    assert metrics.double(3) == 6
    assert sys.modules[package].value == 1


def test_used_within_the_context(package):
    with imported_at_first_use("slow_package.metrics", "a test"):
        import slow_package.metrics as metrics

        assert metrics.double(3) == 6
        assert sys.modules["slow_package.metrics"].double(3) == 6
    assert sys.modules[package].value == 1


def test_another_module_of_the_package(package):
    with imported_at_first_use("slow_package.metrics", "a test"):
        import slow_package.metrics as metrics
        from slow_package.cluster import four
    assert four == 4
    assert sys.modules[package].cluster.four == 4
    assert metrics.double is sys.modules["slow_package.metrics"].double


def test_a_package_that_was_imported_before_stays(package):
    import slow_package

    with imported_at_first_use("slow_package.metrics", "a test"):
        from slow_package import metrics
    assert sys.modules[package] is slow_package
    assert sys.modules["slow_package.metrics"] is metrics


def test_missing():
    with imported_at_first_use("no_such_package.metrics", "a test"):
        import no_such_package.metrics as metrics
    need = "a test needs the package no_such_package, which is missing: pip install no_such_package"
    with pytest.raises(MissingPackageError, match=f"^{need}$"):
        metrics.double(3)


def test_a_command_starts_without_what_it_does_not_need():
    code = "import sys, paddleseg_autoloss; print('sklearn' in sys.modules)"
    assert run_tool("-c", code).stdout.splitlines()[-1] == "False"


def test_missing_where_a_command_needs_it(tmp_path, fundus):
    val = ["-m", "paddleseg_autoloss", "val", "--config", "auto_ce_dice_demo.yml", "--auc_roc"]
    done = run_tool(*val, "--device", "cpu", PYTHONPATH=without(tmp_path, "sklearn"), cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: the area under the ROC curve needs the package scikit-learn, which is missing: "
        "pip install scikit-learn"
    )
