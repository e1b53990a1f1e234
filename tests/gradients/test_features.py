"""level: features: K backward passes end at a layer's outputs, and one goes on from there."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from support.training import run_training

from paddleseg_autoloss import MGDA, CAGrad
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.gradients.features import Features
from paddleseg_autoloss.weighting import CAGradWeighting, GramianWeighting


class Backbone(nn.Layer):
    """Two stages, the second of which is fed by the first; both are handed on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2D(3, 4, 3, padding=1), nn.Conv2D(4, 5, 3, padding=1)

    def forward(self, x):
        low = paddle.tanh(self.first(x))
        return [low, {"high": paddle.tanh(self.second(low))}]


class TwoHeads(nn.Layer):
    """A main head on both stages, an auxiliary one on the first stage only."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.main, self.auxiliary = nn.Conv2D(9, 2, 1), nn.Conv2D(4, 2, 1)

    def forward(self, x):
        low, rest = self.backbone(x)
        return [self.main(paddle.concat([low, rest["high"]], axis=1)), self.auxiliary(low)]


class SameFeatures(TwoHeads):
    """Both heads on the first stage."""

    def forward(self, x):
        low, _ = self.backbone(x)
        return [self.main(paddle.concat([low, low, low[:, :1]], axis=1)), self.auxiliary(low)]


class Fixed(GramianWeighting):
    """Weights that are known before."""

    scale = "sum"

    def solve(self, losses, gramian):
        return np.array([1.0, 0.5, 0.25])


class Negative(Fixed):
    """Weights that are known before, one of them negative."""

    may_be_negative = True

    def solve(self, losses, gramian):
        return np.array([1.0, -0.5, 0.25])


def losses_of(outputs) -> dict:
    main, auxiliary = outputs
    return {"a": (main**2).mean(), "b": main.exp().mean(), "c": (auxiliary - 1).abs().mean()}


def networks(kind=TwoHeads):
    """The same network twice, with the same weights, and a batch."""
    paddle.seed(0)
    model, other = kind(), kind()
    other.set_state_dict(model.state_dict())
    return model, other, paddle.randn([2, 3, 6, 6])


def gradients(model) -> list[np.ndarray]:
    return [p.grad.numpy() for p in model.parameters() if p.grad is not None]


def step(model, images, level: str, weighting, **options) -> LossAggregator:
    aggregator = LossAggregator(["a", "b", "c"], weighting, level=level, **options)
    aggregator.bind(model.parameters(), model=model)
    aggregator(losses_of(model(images))).backward()
    return aggregator


def assert_same(found, expected) -> None:
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_update_is_the_weighted_sum_of_the_exact_gradients():
    model, other, images = networks()
    weights = step(model, images, "features", CAGradWeighting(3)).last_weights
    assert weights.numpy().std() > 0.01
    total = sum(w * loss for w, loss in zip(weights, losses_of(other(images)).values()))
    total.backward()
    assert_same(gradients(model), gradients(other))


def test_the_gramian_is_that_of_gradients_with_respect_to_what_the_heads_are_given():
    model, other, images = networks()
    gramian = step(model, images, "features", Fixed(3)).last_gramian
    low, rest = other.backbone(images)
    leaves = [low.detach(), rest["high"].detach()]
    for leaf in leaves:
        leaf.stop_gradient = False
    outputs = [other.main(paddle.concat(leaves, axis=1)), other.auxiliary(leaves[0])]
    rows = []
    for loss in losses_of(outputs).values():
        parts = paddle.grad(loss, leaves, retain_graph=True, allow_unused=True)
        flat = [np.zeros(t.size) if g is None else g.numpy().ravel() for t, g in zip(leaves, parts)]
        rows.append(np.concatenate(flat))
    np.testing.assert_allclose(gramian, np.array(rows) @ np.array(rows).T, rtol=1e-4, atol=1e-9)


def test_negative_weights_count_where_they_do_for_exact_gradients():
    """That is in the backbone, and not in the heads."""
    model, other, images = networks(SameFeatures)
    step(model, images, "features", Negative(3))
    step(other, images, "parameters", Negative(3))
    assert_same(gradients(model), gradients(other))


@pytest.mark.parametrize(
    ("kind", "interval", "message"),
    [
        (TwoHeads, 1, "^level: expected parameters with Negative, whose weights can be negative"),
        (SameFeatures, 2, "^level: expected parameters with Negative, whose weights can be negat"),
    ],
)
def test_negative_weights_that_would_reach_a_head(kind, interval, message):
    model, _, images = networks(kind)
    with pytest.raises(ConfigError, match=message):
        step(model, images, "features", Negative(3), update_interval=interval)


def test_between_two_updates_the_weights_stay():
    model, other, images = networks()
    aggregator = step(model, images, "features", CAGradWeighting(3), update_interval=2)
    weights = aggregator.last_weights
    model.clear_gradients()
    aggregator(losses_of(model(images))).backward()
    np.testing.assert_array_equal(aggregator.last_weights, weights)
    sum(w * loss for w, loss in zip(weights, losses_of(other(images)).values())).backward()
    assert_same(gradients(model), gradients(other))


def test_a_loss_scale_is_taken_out_again():
    model, other, images = networks()
    aggregator = LossAggregator(["a", "b", "c"], Fixed(3), level="features")
    aggregator.bind(model.parameters(), model=model)
    scale = paddle.to_tensor([1024.0])
    aggregator.loss_scale = lambda: scale
    (aggregator(losses_of(model(images))) * scale).backward()
    reference = step(other, images, "features", Fixed(3))
    assert_same([g / 1024 for g in gradients(model)], gradients(other))
    np.testing.assert_allclose(aggregator.last_gramian, reference.last_gramian, rtol=1e-4)


def test_the_first_update_says_if_a_path_goes_past_the_layer():
    class Bypass(TwoHeads):
        def forward(self, x):
            outputs = super().forward(x)
            return [outputs[0] + self.backbone.first.bias.sum(), outputs[1]]

    model = Bypass()
    with pytest.raises(
        ConfigError, match=r"^layer: expected a layer that everything below it is .* goes past"
    ):
        step(model, paddle.randn([2, 3, 6, 6]), "features", Fixed(3))


def test_a_layer_that_is_called_twice():
    class Twice(TwoHeads):
        def forward(self, x):
            self.backbone(x)
            return super().forward(x)

    with pytest.raises(ConfigError, match=r"calls once, found backbone, which it calls 2"):
        step(Twice(), paddle.randn([2, 3, 6, 6]), "features", Fixed(3))


def test_a_frozen_backbone_has_no_features():
    model, _, images = networks()
    for parameter in model.backbone.parameters():
        parameter.stop_gradient = True
    with pytest.raises(ConfigError, match=r"outputs that depend on trained parameters, found back"):
        step(model, images, "features", Fixed(3))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("head", r"^layer: TwoHeads has no layer 'head'; it has backbone, main, auxiliary, and"),
        ("backbone*", "expected one layer of TwoHeads, found backbone, backbone.first, backbone.s"),
    ],
)
def test_layers_that_are_not_there_or_not_clear(pattern, message):
    with pytest.raises(ConfigError, match=message):
        Features(TwoHeads(), pattern)


def test_a_head_that_another_one_goes_past():
    model, _, images = networks()
    for name in ("main", "*.second"):
        with pytest.raises(ConfigError, match=r"a path from backbone\.first\.weight goes past it"):
            step(model, images, "features", Fixed(3), layer=name)


def test_a_layer_inside_of_another_one():
    model, other, images = networks(SameFeatures)
    step(model, images, "features", Fixed(3), layer="*.first")
    step(other, images, "parameters", Fixed(3))
    assert_same(gradients(model), gradients(other))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "main"}, "^layer: expected level: features with it, found level: parameters"),
        ({"level": "features", "layer": 3}, "^layer: expected the name of a layer, found 3"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        LossAggregator(["a", "b", "c"], Fixed(3), **options)


def test_the_network_is_needed():
    aggregator = LossAggregator(["a", "b", "c"], Fixed(3), level="features")
    with pytest.raises(ConfigError, match=r"^level: features needs the network, found none"):
        aggregator.bind(TwoHeads().parameters())


def test_nothing_is_left_behind():
    model, other, images = networks()
    aggregator = step(model, images, "features", Fixed(3))
    assert aggregator.features._calls == []
    aggregator.unbind()
    assert not model._forward_pre_hooks
    assert not model.backbone._forward_post_hooks
    model.eval()
    other.eval()
    with paddle.no_grad():
        for one, two in zip(model(images), other(images)):
            np.testing.assert_array_equal(one, two)


class Network(nn.Layer):
    """One output, for PaddleSeg's loop."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Conv2D(3, 4, 3, padding=1), nn.Conv2D(4, 2, 1)

    def forward(self, x):
        return [self.head(paddle.tanh(self.backbone(x)))]


@pytest.mark.parametrize("method", [CAGrad, MGDA])
def test_in_paddlesegs_loop(method, tmp_path):
    """A single layer of features is a representation that all losses share: it trains as well."""
    from paddleseg.models.losses import CrossEntropyLoss, DiceLoss

    def losses():
        return [method([CrossEntropyLoss(), DiceLoss()], level="features")]

    model, (loss,), _ = run_training(tmp_path, 4, losses, Network)
    assert loss.aggregator.features is None
    assert all(np.isfinite(p.numpy()).all() for p in model.parameters())
