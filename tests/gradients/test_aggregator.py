"""The aggregation of gradients on real networks."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest
from paddleseg.models.losses import MixedLoss
from support.assertions import close
from support.calls import methods_of
from support.networks import (
    IMAGES,
    LABELS,
    aggregate,
    flat_gradient,
    gradients_by_backward,
    head_losses,
    network,
    update_of,
)
from support.training import ce_and_dice

from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.integration.joint import JointAggregation
from paddleseg_autoloss.integration.terms import terms_of
from paddleseg_autoloss.weighting import (
    METHODS,
    CAGradWeighting,
    GramianWeighting,
    PCGradWeighting,
    RelobraloWeighting,
)

GRADIENT_METHODS = methods_of(GramianWeighting)


@pytest.mark.parametrize("name", GRADIENT_METHODS)
@pytest.mark.parametrize("heads", [1, 2])
class TestEveryGradientMethod:
    @pytest.fixture
    def weighting(self, name, heads):
        method = METHODS[name]
        if not method.least_losses <= 2 * heads <= method.most_losses:
            pytest.skip(f"{name} is not for {2 * heads} losses")
        return method(2 * heads)

    def test_gradient_is_the_weighted_sum_of_the_gradients(self, weighting, heads):
        """p.grad = J^T w to float rounding, J by plain backward passes."""
        model = network(heads)
        rows = gradients_by_backward(head_losses, model)
        losses = head_losses(model)
        aggregator = aggregate(model, losses, weighting)
        total = aggregator(losses)
        weights = aggregator.last_weights.numpy().astype("float64")
        assert float(total) == pytest.approx(weights @ [float(v) for v in losses.values()], 1e-5)
        total.backward()
        close(flat_gradient(model), update_of(weights, rows))

    def test_earlier_gradients_are_added_to(self, weighting, heads):
        model = network(heads)
        losses = head_losses(model)
        aggregate(model, losses, copy.deepcopy(weighting))(losses).backward()
        once = flat_gradient(model)
        losses = head_losses(model)
        aggregate(model, losses, copy.deepcopy(weighting))(losses).backward()
        close(flat_gradient(model), 2 * once)

    def test_frozen_parameters_stay_without_gradient(self, weighting, heads):
        model = network(heads)
        frozen = model.body[0].weight
        frozen.stop_gradient = True
        rows = gradients_by_backward(head_losses, model)
        losses = head_losses(model)
        aggregator = aggregate(model, losses, weighting)
        aggregator(losses).backward()
        assert frozen.grad is None
        close(flat_gradient(model), update_of(aggregator.last_weights.numpy(), rows))

    def test_a_loss_of_the_labels_alone_has_no_gradient(self, weighting, heads):
        model = network(heads)
        losses = head_losses(model)
        *names, last = losses
        losses[last] = paddle.to_tensor(0.7)
        aggregator = aggregate(model, losses, weighting)
        total = aggregator(losses)
        total.backward()
        weights = aggregator.last_weights.numpy()
        assert np.isfinite(weights).all()
        model_rows = gradients_by_backward(
            lambda m: {n: head_losses(m)[n] for n in names}, network(heads)
        )
        close(flat_gradient(model), update_of(weights[:-1], model_rows))

    def test_a_gradient_of_exactly_zero(self, weighting, heads):
        model = network(heads)
        losses = head_losses(model)
        last = list(losses)[-1]
        losses[last] = losses[last] * 0
        aggregator = aggregate(model, losses, weighting)
        aggregator(losses).backward()
        assert np.isfinite(aggregator.last_weights.numpy()).all()
        assert np.isfinite(flat_gradient(model)).all()

    def test_batch_norm_is_updated_once_a_step(self, weighting, heads):
        model, plain = network(heads), network(heads)
        losses = head_losses(model)
        aggregate(model, losses, weighting)(losses).backward()
        sum(head_losses(plain).values()).backward()
        for name, buffer in model.named_buffers():
            expected = dict(plain.named_buffers())[name].numpy()
            np.testing.assert_array_equal(buffer.numpy(), expected)

    def test_logits_level_is_the_weighted_sum_with_one_backward_pass(self, weighting, heads):
        if weighting.may_be_negative and heads > 1:
            pytest.skip("refused, see TestNegativeWeights")
        model = network(heads)
        rows = gradients_by_backward(head_losses, model)
        outputs = model(IMAGES)
        losses = {
            f"head{index}/{type(loss).__name__}": loss(logits, LABELS.clone())
            for index, logits in enumerate(outputs)
            for loss in ce_and_dice()
        }
        of_logits = np.stack(
            [
                np.concatenate(
                    [
                        np.zeros(x.size) if g is None else g.numpy().ravel()
                        for x, g in zip(
                            outputs,
                            paddle.grad(loss, outputs, retain_graph=True, allow_unused=True),
                        )
                    ]
                )
                for loss in losses.values()
            ]
        ).astype("float64")
        aggregator = aggregate(model, losses, copy.deepcopy(weighting), level="logits")
        aggregator(losses, outputs).backward()
        weights = aggregator.last_weights.numpy()
        gramian = paddle.to_tensor(of_logits @ of_logits.T, dtype="float32")
        values = paddle.to_tensor([float(v) for v in losses.values()])
        close(weights, weighting(values, gramian).numpy(), 1e-4)
        close(flat_gradient(model), weights @ rows)


def test_an_auxiliary_head_follows_its_own_losses_times_their_weights():
    model = network()
    losses = head_losses(model)
    aggregator = aggregate(model, losses, CAGradWeighting(4))
    aggregator(losses).backward()
    weights = aggregator.last_weights.numpy()
    head = model.heads[1].weight
    found = head.grad.numpy()
    losses = list(head_losses(network()).values())
    own = network()
    own_losses = list(head_losses(own).values())
    (weights[2] * own_losses[2] + weights[3] * own_losses[3]).backward()
    close(found, own.heads[1].weight.grad.numpy())
    assert (weights >= 0).all()


def test_a_later_call_does_not_change_an_earlier_total():
    w = paddle.to_tensor([1.0, 1.0], stop_gradient=False)
    aggregator = LossAggregator(["a", "b"], CAGradWeighting(2), level="logits")
    totals, weights = [], []
    for factor in (1.0, 50.0):
        output = w * 1
        losses = {"a": output[0] * factor - output[1], "b": output[1]}
        totals.append(aggregator(losses, [output, output]))
        weights.append(aggregator.last_weights)
    assert weights[0].tolist() != weights[1].tolist()
    totals[0].backward()
    (first, second) = weights[0].tolist()
    np.testing.assert_allclose(w.grad.numpy(), [first, second - first], rtol=1e-5)


class TestUpdateInterval:
    def test_weights_are_found_every_n_steps_and_stay_in_between(self):
        model = network(1)
        aggregator = aggregate(model, head_losses(model), CAGradWeighting(2), update_interval=3)
        optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
        seen, found = [], []
        for _ in range(7):
            rows = gradients_by_backward(head_losses, model)
            losses = head_losses(model)
            aggregator(losses).backward()
            found.append(aggregator.last_gramian is not None)
            seen.append(aggregator.last_weights.numpy().copy())
            close(flat_gradient(model), seen[-1] @ rows)
            optimizer.step()
            optimizer.clear_grad()
        assert found == [True, False, False, True, False, False, True]
        np.testing.assert_array_equal(seen[1], seen[0])
        np.testing.assert_array_equal(seen[2], seen[0])
        assert (seen[3] != seen[0]).any()

    def test_evaluation_changes_nothing(self):
        model = network(1)
        losses = head_losses(model)
        aggregator = aggregate(model, losses, PCGradWeighting(2))
        before = {k: v.numpy() for k, v in aggregator.state_dict().items()}
        with paddle.no_grad():
            aggregator({k: v.detach() for k, v in losses.items()})
        aggregator.eval()
        aggregator(losses)
        for key, value in aggregator.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), before[key])


class TestBadCalls:
    def test_unbound(self):
        model = network()
        losses = head_losses(model)
        with pytest.raises(ConfigError, match=r"level parameters needs the network's parameters"):
            LossAggregator(list(losses), PCGradWeighting(4))(losses)

    def test_logits_level_without_outputs(self):
        model = network()
        losses = head_losses(model)
        with pytest.raises(ConfigError, match=r"level logits needs the network's logits"):
            aggregate(model, losses, PCGradWeighting(4), level="logits")(losses)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"level": "encoder"}, "level: expected one of parameters, features, logits, found "),
            ({"update_interval": 0}, "update_interval: expected a positive integer, found 0"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ConfigError, match=message):
            LossAggregator(["a", "b"], PCGradWeighting(2), **options)

    def test_nan_loss_is_named(self):
        model = network(1)
        losses = head_losses(model)
        losses["head0/DiceLoss"] = losses["head0/DiceLoss"] * float("nan")
        aggregator = aggregate(model, losses, PCGradWeighting(2))
        with pytest.raises(TrainingDiverged, match="head0/DiceLoss is nan"):
            aggregator(losses)


def test_double_precision_by_default():
    paddle.set_default_dtype("float64")
    try:
        x = paddle.to_tensor([1.0, 2.0], dtype="float64", stop_gradient=False)
        aggregator = LossAggregator(["a", "b"], PCGradWeighting(2))
        aggregator.bind([x])
        aggregator({"a": x[0] - x[1], "b": x[1] * 2}).backward()
    finally:
        paddle.set_default_dtype("float32")
    assert x.grad.tolist() == [2.0, 1.0]


def test_relobralo_needs_no_gradients():
    model = network(1)
    losses = head_losses(model)
    aggregator = LossAggregator(list(losses), RelobraloWeighting(2))
    aggregator(losses).backward()
    plain = network(1)
    sum(head_losses(plain).values()).backward()
    close(flat_gradient(model), flat_gradient(plain))


class TestNegativeWeights:
    """They would make a head climb that some of the losses do not train."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"level": "logits"}, "level: expected parameters with AlignedMTL, whose weights can"),
            ({"update_interval": 2}, "update_interval: expected 1 with AlignedMTL, whose weights"),
        ],
    )
    def test_refused_where_they_cannot_be_kept_away(self, options, message):
        model = network(2)
        outputs = model(IMAGES)
        losses = {
            f"head{index}/{type(loss).__name__}": loss(logits, LABELS.clone())
            for index, logits in enumerate(outputs)
            for loss in ce_and_dice()
        }
        aggregator = aggregate(model, losses, METHODS["AlignedMTL"](4), **options)
        with pytest.raises(ConfigError, match=message):
            aggregator(losses, outputs)

    @pytest.mark.parametrize("options", [{"level": "logits"}, {"update_interval": 2}])
    def test_allowed_where_all_losses_share_all_parameters(self, options):
        model = network(1)
        outputs = model(IMAGES)
        losses = {type(x).__name__: x(outputs[0], LABELS.clone()) for x in ce_and_dice()}
        aggregator = aggregate(model, losses, METHODS["AlignedMTL"](2), **options)
        aggregator(losses, outputs).backward()
        assert np.isfinite(flat_gradient(model)).all()

    def test_methods_of_losses_are_refused_over_several_heads(self, tmp_path):
        terms = terms_of({"types": [MixedLoss(ce_and_dice(), [1, 1])] * 2, "coef": [1, 0.4]})
        with pytest.raises(ConfigError, match=r"PBI can give negative .* one of the 2 heads"):
            JointAggregation({"type": "PBI"}, terms)
        single = terms_of({"types": [MixedLoss(ce_and_dice(), [1, 1])], "coef": [1]})
        assert JointAggregation({"type": "PBI"}, single).aggregator.names
