"""What diagnose --levels says: figures of a network, and which level to take."""

from __future__ import annotations

import json
import math

import pytest

from paddleseg_autoloss.cli import diagnose
from paddleseg_autoloss.cli.main import parse_args
from paddleseg_autoloss.diagnosis.level_advice import describe_levels, level_advice, level_rows
from paddleseg_autoloss.diagnosis.levels import ANOTHER_BATCH, EQUAL, Fidelity, Levels

COSTS = {"parameters": 1.9, "features": 1.4, "logits": 1.02}


def levels(equal: float, logits: float, features: float, **options) -> Levels:
    medians = {EQUAL: equal, "features": features, "logits": logits, ANOTHER_BATCH: 0.9}
    found = {name: Fidelity(value, value - 0.1) for name, value in medians.items()}
    return Levels(options.get("costs", COSTS), {"CAGrad": found}, "backbone", 8)


@pytest.mark.parametrize(
    ("figures", "words", "bad"),
    [
        ((0.9, 0.99, 1.0), "take level: logits, with a fidelity of 0.990 at 1.02 times", ""),
        ((0.9, 0.95, 0.99), "take level: features, with a fidelity of 0.990 at 1.40 times", ""),
        ((0.9, 0.7, 0.95), "take level: parameters", "logits (0.700) is worse than equal weights"),
        ((0.99, 0.7, 1.0), "equal weights have nearly", "logits (0.700) is worse than equal"),
        ((0.996, 0.995, 1.0), "equal weights have nearly", ""),
        ((0.9, math.nan, 0.97), "take level: parameters", ""),
    ],
)
def test_advice(figures, words, bad):
    (text,) = level_advice(levels(*figures))
    assert text.startswith(f"CAGrad: {words}")
    assert bad in text
    assert ("worse" in text) is bool(bad)


def test_a_cheap_level_that_costs_more_is_not_advised():
    costs = {"parameters": 1.9, "features": 2.4, "logits": 1.02}
    (text,) = level_advice(levels(0.9, 0.8, 1.0, costs=costs))
    assert text.startswith("CAGrad: take level: parameters")


def test_table_shows_what_is_refused():
    rows = level_rows(levels(0.9, math.nan, 0.97))
    assert rows[2] == ["logits", "1.02", "-"]
    assert "nan" not in describe_levels(levels(0.9, math.nan, 0.97))


def test_a_real_network(config, tmp_path, capsys):
    """Fast-SCNN has no backbone, so two levels; the component is no gradient method."""
    path = config()
    words = ["diagnose", "--config", path, "--iters", "2", "--seed", "1", "--device", "cpu"]
    diagnose.run(parse_args([*words, "--levels", "--save_dir", str(tmp_path / "out")]))
    figures = json.loads((tmp_path / "out/diagnosis.json").read_text())["levels"]
    assert set(figures["fidelities"]) == {"CAGrad", "UPGrad", "NashMTL", "MGDA"}
    assert set(figures["costs"]) == {"parameters", "logits"}
    assert figures["layer"] is None
    for own in figures["fidelities"].values():
        assert set(own) == {EQUAL, "logits", ANOTHER_BATCH}
        assert all(-1 <= one["worst"] <= one["median"] <= 1 + 1e-6 for one in own.values())
    page = (tmp_path / "out/diagnosis.html").read_text()
    assert "Levels of gradient methods" in page
    output = capsys.readouterr().out
    for text in figures["advice"]:
        assert text.split(":")[0] in output
