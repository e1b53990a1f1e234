"""The components in PaddleSeg's place for losses."""

from __future__ import annotations

import copy
import math

import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.builder import SegBuilder
from paddleseg.models.losses import BCELoss, CrossEntropyLoss, DiceLoss, MixedLoss
from support import TinyNet, ce_and_dice

from paddleseg_autoloss import AutoWeightedLoss, Sum, UncertaintyWeightedLoss
from paddleseg_autoloss.errors import ConfigError, UnheldParameterError
from paddleseg_autoloss.gradients.aggregator import LossAggregator, unique_names
from paddleseg_autoloss.weighting import AutoWeighting, SumWeighting

COMPONENTS = [AutoWeightedLoss, UncertaintyWeightedLoss, Sum]


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    logits = paddle.to_tensor(random.standard_normal((2, 2, 8, 8)).astype("float32"))
    labels = random.integers(0, 2, (2, 8, 8))
    labels[:, :2] = 255
    return logits, paddle.to_tensor(labels)


class Scribbler(nn.Layer):
    """A loss that overwrites its labels."""

    def forward(self, logits, labels):
        labels[:] = 0
        return logits.mean()


class Spy(nn.Layer):
    """A loss that keeps the labels it was given."""

    def forward(self, logits, labels):
        self.labels = labels.numpy()
        return (logits**2).mean()


@pytest.mark.parametrize("component", COMPONENTS)
class TestEveryComponent:
    def test_registered(self, component):
        assert manager.LOSSES[component.__name__] is component

    def test_total_is_weighted_sum_of_paddlesegs_losses(self, component, batch):
        loss = component(ce_and_dice())
        raw = [float(inner(*batch)) for inner in ce_and_dice()]
        total = float(loss(*batch))
        method = loss.aggregator.weighting
        penalty = method.penalty()
        expected = float(np.dot(loss.aggregator.last_weights.numpy(), raw)) + float(
            0 if penalty is None else penalty
        )
        assert total == pytest.approx(expected, rel=1e-6)

    def test_labels_reach_each_loss_untouched(self, component, batch):
        logits, labels = batch
        before = labels.numpy().copy()
        spy = Spy()
        component([Scribbler(), spy, DiceLoss()])(logits, labels)
        np.testing.assert_array_equal(spy.labels, before)
        np.testing.assert_array_equal(labels.numpy(), before)

    def test_order_of_the_losses_does_not_change_them(self, component, batch):
        forward, backward = component(ce_and_dice()), component(ce_and_dice()[::-1])
        assert float(forward(*batch)) == pytest.approx(float(backward(*batch)), rel=1e-6)

    def test_builder_hands_ignore_index_to_the_inner_losses(self, component):
        config = {
            "type": component.__name__,
            "losses": [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}],
            "ignore_index": 200,
        }
        loss = SegBuilder(config=None).build_component(config)
        assert [inner.ignore_index for inner in loss.losses] == [200, 200]

    def test_ignore_index_reaches_losses_inside_of_mixed_loss(self, component):
        mixed = MixedLoss(ce_and_dice(), [0.5, 0.5])
        component([mixed, CrossEntropyLoss()], ignore_index=7)
        assert [inner.ignore_index for inner in mixed.losses] == [7, 7]

    def test_mixed_loss_inside_counts_as_its_sum(self, component, batch):
        mixed = MixedLoss(ce_and_dice(), [0.5, 2.0])
        loss = component([mixed, CrossEntropyLoss()], names=["mix", "ce"])
        loss(*batch)
        ce, dice = (float(inner(*batch)) for inner in ce_and_dice())
        again = loss.aggregator(
            {"mix": paddle.to_tensor(0.5 * ce + 2 * dice), "ce": paddle.to_tensor(ce)}
        )
        assert float(loss(*batch)) == pytest.approx(float(again), rel=1e-6)

    def test_names(self, component):
        assert component(ce_and_dice()).names == ["CrossEntropyLoss", "DiceLoss"]
        twice = component([CrossEntropyLoss(), DiceLoss(), CrossEntropyLoss()])
        assert twice.names == ["CrossEntropyLoss_1", "DiceLoss", "CrossEntropyLoss_2"]
        assert component(ce_and_dice(), names=["ce", "dice"]).names == ["ce", "dice"]

    def test_deepcopy_is_independent(self, component, batch):
        loss = component(ce_and_dice())
        loss(*batch)
        copied = copy.deepcopy(loss)
        assert float(copied(*batch)) == float(loss(*batch))
        for own, other in zip(loss.parameters(), copied.parameters()):
            assert own is not other

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"losses": [CrossEntropyLoss()]}, "expects a list of two or more, found 1"),
            ({"losses": []}, "expects a list of two or more, found 0"),
            ({"losses": "DiceLoss"}, "expects a list of two or more, found 'DiceLoss'"),
            ({"losses": [CrossEntropyLoss(), "DiceLoss"]}, "found 'DiceLoss'"),
            ({"losses": [BCELoss(edge_label=True), DiceLoss()]}, "cannot weigh BCELoss"),
            ({"losses": ce_and_dice(), "names": ["a", None]}, "names: expected a list of 2"),
            ({"losses": ce_and_dice(), "names": ["a"]}, "names: expected a list of 2"),
            ({"losses": ce_and_dice(), "names": "ab"}, "names: expected a list of 2"),
            ({"losses": ce_and_dice(), "names": ["a\x1b[31m", "b"]}, "names: expected a list of 2"),
            ({"losses": ce_and_dice(), "names": ["a\nb", "b"]}, "names: expected a list of 2"),
            ({"losses": ce_and_dice(), "names": ["\ud800", "b"]}, "names: expected a list of 2"),
            ({"losses": ce_and_dice(), "names": ["a", "a"]}, "found 'a' more than once"),
        ],
    )
    def test_bad_arguments(self, component, arguments, message):
        with pytest.raises(ConfigError, match=message):
            component(**arguments)

    def test_loss_that_is_not_a_number(self, component, batch):
        class Map(nn.Layer):
            def forward(self, logits, labels):
                return logits

        with pytest.raises(ConfigError, match=r"Map returned shape \[2, 2, 8, 8\]"):
            component([Map(), DiceLoss()])(*batch)

    def test_total_is_single_precision_under_mixed_precision(self, component, batch):
        logits, labels = batch
        with paddle.amp.auto_cast(level="O1"):
            assert component(ce_and_dice())(logits, labels).dtype == paddle.float32


def test_parameters_are_trainable_and_saved(batch):
    loss = AutoWeightedLoss(ce_and_dice())
    assert list(loss.state_dict()) == ["aggregator.weighting.c"]
    loss(*batch)
    assert list(loss.state_dict()) == ["aggregator.weighting.c"]


def test_arguments_reach_the_method():
    loss = UncertaintyWeightedLoss(
        ce_and_dice(), form=["regression", "classification"], init=1.0, lr_mult=5
    )
    weights = loss.aggregator.weighting(paddle.ones([2])).numpy()
    np.testing.assert_allclose(weights, [0.5 / math.e, 1 / math.e], rtol=1e-6)
    assert AutoWeightedLoss(ce_and_dice(), init=2.0).aggregator.weighting.c.numpy().tolist() == [
        2,
        2,
    ]


class TestAggregator:
    def test_any_order_of_the_names(self):
        aggregator = LossAggregator(["a", "b"], AutoWeighting(2))
        aggregator.weighting.c.set_value(np.array([1, 2], "float32"))
        a, b = paddle.to_tensor([1.0]), paddle.to_tensor(3.0)
        assert float(aggregator({"a": a, "b": b})) == float(aggregator({"b": b, "a": a}))

    def test_wrong_names(self):
        aggregator = LossAggregator(["a", "b"], SumWeighting(2))
        with pytest.raises(ConfigError, match="losses: expected"):
            aggregator({"a": paddle.ones([1]), "c": paddle.ones([1])})

    def test_wrong_number_of_names(self):
        with pytest.raises(ConfigError, match="names: expected 3 names, one per loss, found 2"):
            LossAggregator(["a", "b"], SumWeighting(3))

    def test_unique_names(self):
        assert unique_names(["x", "y", "x"]) == ["x_1", "y", "x_2"]


class TestUnheldParameters:
    """A training loop that forgets the loss's parameters is told so."""

    def steps(self, loss, optimizer, model, count=4):
        labels = paddle.ones([1, 4, 4], dtype="int64")
        for _ in range(count):
            loss(model(paddle.rand([1, 3, 4, 4]))[0], labels).backward()
            if optimizer is not None:
                optimizer.step()
                optimizer.clear_grad()

    @pytest.mark.parametrize("component", [AutoWeightedLoss, UncertaintyWeightedLoss])
    def test_optimizer_of_the_model_alone_is_an_error(self, component):
        model, loss = TinyNet(), component(ce_and_dice())
        optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
        with pytest.raises(UnheldParameterError, match="no optimizer holds its learned parameter"):
            self.steps(loss, optimizer, model)

    def test_optimizer_of_both_is_fine(self):
        model, loss = TinyNet(), AutoWeightedLoss(ce_and_dice())
        optimizer = paddle.optimizer.Adam(
            0.1, parameters=[{"params": model.parameters()}, {"params": loss.parameters()}]
        )
        self.steps(loss, optimizer, model)
        assert loss.aggregator.held_by_optimizer
        assert loss.aggregator.weighting.c.numpy().tolist() != [1, 1]

    def test_looking_at_gradients_is_fine(self):
        model, loss = TinyNet(), AutoWeightedLoss(ce_and_dice())
        bystanders = [TinyNet(), TinyNet()]
        bystanders[1].heads[0].bias.set_value(np.full(2, np.nan, "float32"))
        optimizers = [paddle.optimizer.SGD(0.1, parameters=b.parameters()) for b in bystanders]
        self.steps(loss, None, model)
        assert len(optimizers) == 2

    def test_evaluation_is_fine(self):
        model, loss = TinyNet(), AutoWeightedLoss(ce_and_dice())
        optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
        loss.eval()
        self.steps(loss, optimizer, model)
