"""``constant_sum`` in PaddleSeg's loop: what the network gets is shown, saved and resumed."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import yaml
from paddleseg.cvlibs.builder import SegBuilder
from support.records import history
from support.training import TinyNet, parameters, resumed, run_training, train_jointly

from paddleseg_autoloss.errors import ConfigError


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """They take longer than the training."""
    monkeypatch.setattr("paddleseg_autoloss.integration.report.RunReport.plot", lambda *_: None)


def built(*configs):
    builder = SegBuilder(config=None)
    return lambda: [builder.build_component(dict(config)) for config in configs]


INNER = [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}]
COMPONENT = {"type": "AutoWeightedLoss", "constant_sum": 0.5, "lr_mult": 10, "losses": INNER}
MIXED = {"type": "MixedLoss", "losses": INNER, "coef": [0.8, 0.2]}


def weights_shown(folder) -> np.ndarray:
    """The weights of ``loss_weights.csv``, a row for each log line."""
    rows = history(folder)
    terms = len({row["term"] for row in rows})
    return np.array([float(row["weight"]) for row in rows]).reshape(-1, terms)


def coefs_of_mix(folder) -> np.ndarray:
    """The coefficients of ``equivalent_mixed_loss.yml``, times those of their heads."""
    config = yaml.safe_load((folder / "equivalent_mixed_loss.yml").read_text())["loss"]
    heads = zip(config["types"], config["coef"])
    return np.concatenate([np.array(entry["coef"]) * coef for entry, coef in heads])


def test_a_component_shows_and_mixes_the_weights_that_the_network_got(tmp_path):
    _, (loss,), _ = run_training(tmp_path, 8, built(COMPONENT))
    shown = weights_shown(tmp_path)
    np.testing.assert_allclose(shown.sum(axis=1), 0.5, rtol=1e-6)
    assert shown[-1, 0] != shown[0, 0]
    last = loss.aggregator.last_weights.numpy()
    np.testing.assert_allclose(coefs_of_mix(tmp_path), last / 0.5, rtol=1e-3)
    learned = 0.5 / loss.aggregator.weighting.learned().numpy() ** 2
    assert abs(learned.sum() - 0.5) > 0.1


def test_over_all_heads_the_sum_counts_the_weights_without_the_coefficients(tmp_path):
    """A loss enters the method with its coefficient, and is shown with it."""
    options = {"type": "IMTLL", "lr_mult": 10, "constant_sum": True}
    train_jointly(
        tmp_path, 4, options, built(MIXED, MIXED), (1, 0.4), lambda: TinyNet(2), log_iters=1
    )
    shown = weights_shown(tmp_path)
    coefs = np.array([0.8, 0.2, 0.32, 0.08])
    np.testing.assert_allclose(shown[0], coefs, rtol=1e-6)
    np.testing.assert_allclose((shown / coefs).sum(axis=1), 4, rtol=1e-5)
    assert (shown[-1] != shown[0]).all()
    mix = coefs_of_mix(tmp_path)
    np.testing.assert_allclose(mix / mix[0], shown[-1] / shown[-1, 0], rtol=1e-3)


def test_the_first_step_is_that_of_the_fixed_mix(tmp_path):
    """AutoWeightedLoss begins with equal weights; the optimizer is plain gradient descent."""

    def sgd(model):
        return paddle.optimizer.SGD(0.1, parameters=model.parameters())

    found, _, _ = run_training(tmp_path / "a", 1, built(COMPONENT), optimizer=sgd)
    mixed = built({**MIXED, "coef": [0.25, 0.25]})
    expected, _, _ = run_training(tmp_path / "b", 1, mixed, optimizer=sgd)
    for one, other in zip(parameters(found), parameters(expected)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {"type": "IMTL", "constant_sum": 1},
        {"type": "CAGrad", "constant_sum": True, "update_interval": 3},
    ],
    ids=["IMTL", "CAGrad"],
)
def test_resumed_run_equals_an_uninterrupted_one(options, tmp_path):
    def train(folder, iters, **more):
        return train_jointly(folder, iters, dict(options), **more)

    whole, parts = resumed(train, tmp_path)
    for one, other in zip(parameters(whole), parameters(parts)):
        np.testing.assert_array_equal(one, other)
    expected, found = (weights_shown(tmp_path / run) for run in ("whole", "parts"))
    np.testing.assert_array_equal(found, expected)


def test_a_value_of_the_key_that_makes_no_sense(tmp_path):
    with pytest.raises(ConfigError, match=r"loss_aggregator.constant_sum: expected true, false or"):
        train_jointly(tmp_path, 1, {"type": "PCGrad", "constant_sum": 0})
    with pytest.raises(ConfigError, match=r"constant_sum: expected a method whose .* GradDrop"):
        train_jointly(tmp_path, 1, {"type": "GradDrop", "constant_sum": True})
