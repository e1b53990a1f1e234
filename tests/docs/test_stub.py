"""What editors and type checkers know of the components."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
from support.processes import ROOT

from paddleseg_autoloss.losses import COMPONENTS

USE = """
import paddleseg_autoloss
from paddle import nn

losses: list[nn.Layer] = []
reveal_type(paddleseg_autoloss.CAGrad.__init__)
paddleseg_autoloss.CAGrad(losses, calpha=0.3).bind(losses[0])
paddleseg_autoloss.CAGrad(losses, calpha="much")
paddleseg_autoloss.CAGrad(losses, alpha=0.3)
paddleseg_autoloss.CAGard
"""


@pytest.fixture(scope="module")
def text() -> str:
    spec = importlib.util.spec_from_file_location("write_stub", ROOT / "docs/write_stub.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.stub()


def test_stub_is_up_to_date(text):
    """If it is not: python docs/write_stub.py."""
    stub = ROOT / "paddleseg_autoloss" / "__init__.pyi"
    assert stub.read_text(encoding="utf-8") == text


def test_every_component_is_in_it(text):
    for name in COMPONENTS:
        assert f"\nclass {name}(WeightedLoss):\n" in text


def test_type_checker_sees_the_signature(tmp_path):
    """Mypy shows the signature and finds the three mistakes in `USE`."""
    script = tmp_path / "use.py"
    script.write_text(USE, encoding="utf-8")
    settings = ROOT / "pyproject.toml"
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", settings, "--cache-dir", tmp_path, script],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    lines = [line.split(":", 1)[1] for line in result.stdout.splitlines()[:-1]]
    found = [line for line in lines if "error:" in line or "Revealed" in line]
    assert len(found) == 4, result.stdout + result.stderr
    assert found[0].startswith("6: note: Revealed type is")
    assert "calpha: float =, rescale: int =, reduction: str | None =" in found[0]
    assert found[1].startswith(
        '8: error: Argument "calpha" to "CAGrad" has incompatible type "str"'
    )
    assert found[2].startswith('9: error: Unexpected keyword argument "alpha" for "CAGrad"')
    assert found[3].startswith('10: error: Module has no attribute "CAGard"; maybe "CAGrad"')
