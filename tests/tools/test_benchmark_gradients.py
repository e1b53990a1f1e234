"""The benchmark of the aggregation prints every line, and writes it to a file."""

from __future__ import annotations

import re

import benchmark_gradients
import pandas as pd
import pytest
from _networks import FirstHeads, feature_layer
from support.networks import Branches

VARIANTS = [
    "floor of K backward passes",
    "floor of level: features",
    "level: parameters",
    "level: features",
    "level: logits",
    "update_interval: 10",
]


def test_benchmark(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        benchmark_gradients, "make_network", lambda name, heads: FirstHeads(Branches(), heads)
    )
    monkeypatch.chdir(tmp_path)
    flags = ["--model", "Branches", "--size", "16", "--rounds", "2", "--batch_size", "2"]
    flags += ["--heads", "2", "--losses", "3", "--csv", "costs.csv"]
    for _ in range(2):
        assert benchmark_gradients.main(flags) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv("costs.csv")
    assert table.variant.tolist() == 2 * VARIANTS
    shown = dict(re.findall(r"^(\S.*?) +(\d+\.\d+) of plain", printed, flags=re.MULTILINE))
    for row in table.tail(len(VARIANTS)).itertuples():
        assert float(shown[row.variant]) == pytest.approx(row.ratio, abs=6e-4)
        assert row.ratio > 0
    floors = table.set_index("variant").ratio
    share = table.share_of_backward
    assert floors[VARIANTS[0]].to_numpy() == pytest.approx(1 + 5 * share.unique(), abs=6e-4)
    # Of the backward pass a share from 0 to about 1 lies above the features.
    assert (floors[VARIANTS[1]] > 1).all()


def test_the_layer_of_the_features():
    assert feature_layer("PPLiteSeg") == "network.backbone"
    assert feature_layer("UNet") == "network.encode"


def test_a_network_without_the_layer_has_no_such_variant():
    variants = benchmark_gradients.variants_for(FirstHeads(Branches(), 1), "network.encode")
    assert "level: features" not in variants
