"""What a diagnosis writes: strict JSON, and a picture whatever the losses are called."""

from __future__ import annotations

import json

import numpy as np
import pytest
from paddle import nn
from PIL import Image

from paddleseg_autoloss.diagnosis import Diagnosis
from paddleseg_autoloss.diagnosis.advice import describe
from paddleseg_autoloss.diagnosis.report import write_report
from paddleseg_autoloss.integration.terms import Term

HEAD = {"config": "mine.yml", "iterations": 4, "seed": 1, "notes": []}


def diagnosis_of(names, gradients) -> Diagnosis:
    terms = [Term(name, 0, nn.Identity(), 1.0) for name in names]
    values = np.ones(gradients.shape[:2])
    return Diagnosis(terms, values, gradients @ gradients.transpose(0, 2, 1))


@pytest.mark.filterwarnings("error")
def test_no_gradient_at_all(tmp_path):
    """Nothing is defined, nothing to draw: null, a dash, and a picture without a legend."""
    found = diagnosis_of(["a", "b"], np.zeros([3, 2, 2]))
    write_report(found, tmp_path, HEAD)
    read = json.loads((tmp_path / "diagnosis.json").read_text(), parse_constant=pytest.fail)
    assert read["losses"][0]["share"] == {"value": None, "low": None, "high": None}
    assert "nan" not in describe(found)
    assert "nan" not in (tmp_path / "diagnosis.html").read_text()


def test_names_with_dollars(tmp_path):
    """Matplotlib takes what is between two of them for mathematics, and refuses this."""
    gradients = np.random.default_rng(0).standard_normal([4, 2, 3])
    found = diagnosis_of([r"$\undefined{$", "$"], gradients)
    write_report(found, tmp_path, HEAD)
    assert r"$\undefined{$, $" in (tmp_path / "diagnosis.html").read_text()
    with Image.open(tmp_path / "diagnosis.png") as image:
        assert image.width > 1000
