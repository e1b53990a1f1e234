"""What diagnose --levels says: figures of a network, and which level to take."""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import replace

import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.models.losses import MixedLoss
from support import ce_and_dice

from paddleseg_autoloss import CAGrad
from paddleseg_autoloss.cli import diagnose
from paddleseg_autoloss.cli.main import parse_args
from paddleseg_autoloss.diagnosis.level_advice import describe_levels, level_advice, level_rows
from paddleseg_autoloss.diagnosis.levels import (
    ANOTHER_BATCH,
    EQUAL,
    Fidelity,
    Levels,
    _Steps,
    measure_levels,
    methods_of,
)
from paddleseg_autoloss.diagnosis.measurement import fixed_mix
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.integration.config import load_config
from paddleseg_autoloss.integration.parts import build_parts

COSTS = {"parameters": 1.9, "features": 1.4, "logits": 1.02}


def levels(equal: float, logits: float, features: float, **options) -> Levels:
    medians = {EQUAL: equal, "features": features, "logits": logits, ANOTHER_BATCH: 0.9}
    found = {name: Fidelity(v, v - 0.1, math.isnan(v)) for name, v in medians.items()}
    return Levels(options.get("costs", COSTS), {"CAGrad": found}, "backbone", 8)


@pytest.mark.parametrize(
    ("figures", "words", "bad"),
    [
        ((0.9, 0.99, 1.0), "take level: logits, with a fidelity of 0.990 at 1.02 times", ""),
        ((0.9, 0.95, 0.99), "take level: features, with a fidelity of 0.990 at 1.40 times", ""),
        ((0.9, 0.7, 0.95), "take level: parameters", "logits (0.700) is worse than equal weights"),
        ((0.99, 0.7, 1.0), "equal weights have nearly", "logits (0.700) is worse than equal"),
        ((0.996, 0.995, 1.0), "equal weights have nearly", ""),
        (
            (0.9, math.nan, 0.97),
            "take level: parameters, as no",
            "; training refuses level: logits,",
        ),
        (
            (0.9, math.nan, math.nan),
            "take level: parameters; training refuses level: logits and",
            "",
        ),
        ((0.9, math.nan, 1.0), "take level: features", "; training refuses level: logits,"),
    ],
)
def test_advice(figures, words, bad):
    (text,) = level_advice(levels(*figures))
    assert text.startswith(f"CAGrad: {words}")
    assert bad in text
    assert ("worse" in text) is ("worse" in bad)


def test_a_cheap_level_that_costs_more_is_not_advised():
    costs = {"parameters": 1.9, "features": 2.4, "logits": 1.02}
    (text,) = level_advice(levels(0.9, 0.8, 1.0, costs=costs))
    assert text.startswith("CAGrad: take level: parameters")


def test_table_shows_what_is_refused():
    rows = level_rows(levels(0.9, math.nan, 0.97))
    assert rows[2] == ["logits", "1.02", "-"]
    assert "nan" not in describe_levels(levels(0.9, math.nan, 0.97))


@pytest.fixture
def run(config, tmp_path, capsys):
    """Run the command on a config after a change; return its figures, its page and its output."""

    def call(change=lambda dic: None) -> tuple[dict, str, str]:
        words = ["diagnose", "--config", config(change), "--iters", "2", "--seed", "1"]
        words += ["--device", "cpu", "--levels", "--save_dir", str(tmp_path / "out")]
        diagnose.run(parse_args(words))
        figures = json.loads((tmp_path / "out/diagnosis.json").read_text())["levels"]
        page = html.unescape((tmp_path / "out/diagnosis.html").read_text())
        output = " ".join(capsys.readouterr().out.split())
        for text in figures["advice"]:
            assert text in page
            assert text in output
        return figures, page, output

    return call


INNER = [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}]


def one_head(method: str, **options):
    """A change of the config: a method over both losses."""

    def change(dic: dict) -> None:
        dic["loss"]["types"] = [{"type": method, "losses": INNER, **options}]

    return change


def two_heads(first: dict, second: dict, **keys):
    """A change of the config: an auxiliary head."""

    def change(dic: dict) -> None:
        dic["model"]["enable_auxiliary_loss"] = True
        dic["loss"] = {"types": [first, second], "coef": [1, 0.4]}
        dic.update(keys)

    return change


def component(method: str, **options) -> dict:
    return {"type": method, "losses": INNER, **options}


def test_a_real_network(run):
    """Fast-SCNN has no backbone, so two levels; the component is no gradient method."""
    figures, page, _ = run()
    assert set(figures["fidelities"]) == {"CAGrad", "UPGrad", "NashMTL", "MGDA"}
    assert set(figures["costs"]) == {"parameters", "logits"}
    assert figures["layer"] is None
    for own in figures["fidelities"].values():
        assert set(own) == {EQUAL, "logits", ANOTHER_BATCH}
        assert all(-1 <= one["worst"] <= one["median"] <= 1 + 1e-6 for one in own.values())
    assert "Levels of gradient methods" in page
    assert figures["left_out"] == ["AutoWeightedLoss"]
    (text,) = [text for text in figures["advice"] if text.startswith("AutoWeightedLoss: ")]
    assert "not in the table" in text
    assert text.endswith("the table has CAGrad, UPGrad, NashMTL, MGDA.")


@pytest.mark.parametrize(
    ("method", "options", "keys"),
    [
        ("IMTL", {}, {}),
        ("AutoLambda", {}, {"held_out": 0.25}),
        ("SeparateBackward", {"step": "each"}, {}),
    ],
)
def test_a_method_of_another_kind_is_named(method, options, keys, run):
    def change(dic: dict) -> None:
        one_head(method, **options)(dic)
        dic.update(keys)

    figures, _, _ = run(change)
    assert figures["left_out"] == [method]
    assert figures["advice"][0].startswith(f"{method}: it is a method of this config, but not in")


CE = {"type": "CrossEntropyLoss"}


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (component("AGDA"), CE, ["head0/AGDA"]),
        (component("AlignedMTL", pref_vector=[0.3, 0.7]), CE, ["head0/AlignedMTL"]),
        (component("IMTLG"), component("CAGrad"), ["head0/IMTLG", "head1/CAGrad"]),
        (component("MGDA"), component("MGDA"), ["head0/MGDA", "head1/MGDA"]),
        (component("AutoWeightedLoss"), component("PCD", primary="DiceLoss"), ["head1/PCD"]),
    ],
    ids=["pairs only", "a vector", "two methods", "one method twice", "a loss by its name"],
)
def test_a_component_is_judged_on_the_losses_of_its_head(first, second, names, run):
    figures, _, _ = run(two_heads(first, second))
    assert list(figures["fidelities"]) == names
    assert set(figures["costs"]) == {"parameters", "logits"}
    # The losses of one head have all their parameters in common.
    for own in figures["fidelities"].values():
        assert not any(one["is_refused"] for one in own.values())
        assert all(one["median"] is not None for one in own.values())


@pytest.mark.parametrize("method", ["IMTLG", "ConFIG", "AlignedMTL"])
def test_negative_weights_over_two_heads(method, run):
    """Training refuses them at the cheap level; the costs are known all the same."""
    figures, _, _ = run(
        two_heads(component("MixedLoss", coef=[1, 1]), CE, loss_aggregator={"type": method})
    )
    assert set(figures["costs"]) == {"parameters", "logits"}
    (own,) = figures["fidelities"].values()
    assert own["logits"]["is_refused"]
    assert own[ANOTHER_BATCH]["is_refused"]
    assert not own[EQUAL]["is_refused"]
    words = "; training refuses level: logits and update_interval above 1, because its weights can"
    assert words in figures["advice"][0]
    assert "as no cheaper one" not in figures["advice"][0]


def test_loss_aggregator_is_judged_on_all_losses(run):
    figures, _, _ = run(
        two_heads(component("MixedLoss", coef=[1, 1]), CE, loss_aggregator={"type": "UPGrad"})
    )
    assert list(figures["fidelities"]) == ["UPGrad"]
    assert not figures["left_out"]


def test_level_features_of_a_config(run):
    """The layer is that of the config: Fast-SCNN has no backbone."""
    layer = "learning_to_downsample"
    figures, _, _ = run(one_head("UPGrad", level="features", layer=layer))
    assert figures["layer"] == layer
    assert set(figures["costs"]) == {"parameters", "features", "logits"}
    assert set(figures["fidelities"]["UPGrad"]) == {EQUAL, "features", "logits", ANOTHER_BATCH}
    assert not any("not measured" in text for text in figures["advice"])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("no_such", "layer: FastSCNN has no layer 'no_such'; it has"),
        ("*conv*", "layer: expected one layer of FastSCNN, found"),
    ],
)
def test_a_layer_that_the_network_does_not_have(layer, message, run, monkeypatch):
    """Training refuses it too; nothing is measured before."""
    monkeypatch.setattr("paddleseg_autoloss.diagnosis.command.measure", None)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        run(one_head("UPGrad", level="features", layer=layer))
    assert "\n" not in str(caught.value)


def test_several_layers(run):
    def at(layer: str | None) -> dict:
        named = {} if layer is None else {"layer": layer}
        return component("UPGrad", level="features", **named)

    for first, second in (("learning_to_downsample", "classifier"), ("classifier", None)):
        with pytest.raises(ConfigError, match="expected one layer in all methods for --levels"):
            run(two_heads(at(first), at(second)))


class FrozenBackbone(nn.Layer):
    """A backbone that is not trained: its outputs have no gradient."""

    trains = False

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2D(3, 4, 3, padding=1)
        self.head = nn.Conv2D(4, 2, 1)
        for parameter in self.backbone.parameters():
            parameter.stop_gradient = not self.trains

    def forward(self, images):
        return [self.head(self.backbone(images))]


class CalledTwice(FrozenBackbone):
    """A backbone that sees two scales."""

    trains = True

    def forward(self, images):
        return [self.head(self.backbone(images) + self.backbone(0.5 * images))]


class GoneRound(FrozenBackbone):
    """A backbone whose weights are used behind it too."""

    trains = True

    def forward(self, images):
        return [self.head(self.backbone(images) * self.backbone.bias.mean())]


@pytest.mark.parametrize("network", [FrozenBackbone, CalledTwice, GoneRound])
def test_a_backbone_that_level_features_cannot_use(network, config):
    path = config(one_head("UPGrad"))
    args = parse_args(["diagnose", "--config", path, "--iters", "1", "--device", "cpu"])
    parts = replace(build_parts(load_config(path), args), model=network())
    losses, methods = fixed_mix(parts.losses), methods_of(parts.losses)
    found = measure_levels(parts, losses, methods, 2)
    assert found.layer is None
    assert set(found.costs) == {"parameters", "logits"}
    assert "the network has no backbone that fits" in level_advice(found)[-1]
    with pytest.raises(ConfigError, match="layer: expected a layer"):
        measure_levels(parts, losses, replace(methods, layer="backbone"), 2)


def test_rows_of_nested_losses():
    """A loss of a method can be a sum of terms."""
    mixed = MixedLoss(ce_and_dice(), [0.3, 0.7])
    losses = {"types": [nn.CrossEntropyLoss(), CAGrad([mixed, *ce_and_dice()])], "coef": [1, 1]}
    (own,) = methods_of(losses).judged.values()
    assert own.rows == ((1, 2), (3,), (4,))
    assert own.make().num_losses == len(own.names) == 3


def test_gramian_of_a_component(config):
    """It is that of plain gradients of its own losses, which `paddle.grad` computes one by one."""
    path = config(two_heads(CE, component("MGDA")))
    args = parse_args(["diagnose", "--config", path, "--iters", "1", "--device", "cpu"])
    parts = build_parts(load_config(path), args)
    for layer in parts.model.sublayers():
        if isinstance(layer, nn.Dropout):
            # It would draw anew in the second forward pass.
            layer.p = 0.0
    methods, losses = methods_of(parts.losses), fixed_mix(parts.losses)
    steps = _Steps(parts, losses, 2)
    (rows,) = {one.rows for one in methods.judged.values()}
    seen = steps.record(None, [rows])[rows].gramians["parameters"]
    each, _ = steps._forward(steps._batches[-1])
    flat = []
    for loss in each[1:]:
        parameters = [p for p in parts.model.parameters() if not p.stop_gradient]
        found = paddle.grad(loss, parameters, retain_graph=True, allow_unused=True)
        flat.append(np.concatenate([g.numpy().ravel() for g in found if g is not None]))
    np.testing.assert_allclose(seen[-1].gramian, np.array(flat) @ np.array(flat).T, rtol=1e-3)
