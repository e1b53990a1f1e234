"""Per-loss gradients, their aggregation and their way into ``p.grad``, on real networks."""

from __future__ import annotations

import copy
from unittest import mock

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.autograd import PyLayer
from paddleseg.models.losses import MixedLoss
from support import TinyNet, ce_and_dice

from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.gradients import Jacobian, inject
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.integration.joint import JointAggregation
from paddleseg_autoloss.integration.terms import terms_of
from paddleseg_autoloss.weighting import (
    METHODS,
    CAGradWeighting,
    PCGradWeighting,
    RelobraloWeighting,
    SeparateBackwardWeighting,
)

LABELS = paddle.to_tensor(np.random.default_rng(0).integers(0, 2, (2, 16, 16)))
IMAGES = paddle.to_tensor(np.random.default_rng(1).standard_normal((2, 3, 16, 16)), "float32")
GRADIENT_METHODS = [name for name, method in METHODS.items() if method.needs == "gramian"]


def network(outputs: int = 2, seed: int = 3) -> TinyNet:
    paddle.seed(seed)
    model = TinyNet(outputs)
    model.dropout = nn.Dropout(0.0)
    return model


def head_losses(model: nn.Layer) -> dict[str, paddle.Tensor]:
    """Cross-entropy and Dice of every head."""
    losses = {}
    for index, logits in enumerate(model(IMAGES)):
        for loss in ce_and_dice():
            losses[f"head{index}/{type(loss).__name__}"] = loss(logits, LABELS.clone())
    return losses


def gradients_by_backward(make_losses, model: nn.Layer) -> np.ndarray:
    """J by one plain forward and backward pass for each loss, shape [K, n]."""
    rows = []
    for index in range(len(make_losses(model))):
        model.clear_gradients()
        loss = list(make_losses(model).values())[index]
        if not loss.stop_gradient:
            loss.backward()
        rows.append(flat_gradient(model))
    model.clear_gradients()
    return np.stack(rows)


def flat_gradient(model: nn.Layer) -> np.ndarray:
    return np.concatenate(
        [np.zeros(p.size) if p.grad is None else p.grad.numpy().ravel() for p in model.parameters()]
    ).astype("float64")


def update_of(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """J^T w, where parameters that not all losses reach never see a negative weight."""
    shared = (rows != 0).all(axis=0)
    return np.where(shared, weights @ rows, weights.clip(min=0) @ rows)


def aggregate(model, losses, weighting, **options) -> LossAggregator:
    aggregator = LossAggregator(list(losses), weighting, **options)
    aggregator.bind(model.parameters())
    return aggregator


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(actual, expected, atol=tolerance * np.abs(expected).max(), rtol=1e-5)


class TestJacobian:
    def test_gramian_and_combination_are_those_of_plain_backward(self):
        model = network()
        rows = gradients_by_backward(head_losses, model)
        jacobian = Jacobian(list(head_losses(model).values()), model.parameters())
        close(jacobian.gramian().numpy(), rows @ rows.T)
        weights = np.array([1.0, 0.5, 2.0, 3.0], "float32")
        for index in range(4):
            row = np.concatenate(
                [
                    np.zeros(p.size) if g is None else g.numpy().ravel()
                    for p, g in zip(model.parameters(), jacobian.row(index))
                ]
            )
            close(row, rows[index])
        combined = jacobian.combine(paddle.to_tensor(weights))
        parts = [
            np.zeros(p.size) if g is None else g.numpy().ravel()
            for p, g in zip(model.parameters(), combined)
        ]
        close(np.concatenate(parts), weights @ rows)

    def test_negative_weights_count_where_all_losses_meet_and_nowhere_else(self):
        """A head that two of the losses do not reach would climb."""
        model = network()
        rows = gradients_by_backward(head_losses, model)
        weights = np.array([1.0, 0.5, -2.0, 3.0], "float32")
        jacobian = Jacobian(list(head_losses(model).values()), model.parameters())
        shared = np.all(rows != 0, axis=0) | np.all(rows == 0, axis=0)
        assert 0 < shared.mean() < 1
        expected = np.where(shared, weights @ rows, weights.clip(min=0) @ rows)
        combined = jacobian.combine(paddle.to_tensor(weights))
        found = [
            np.zeros(p.size) if g is None else g.numpy().ravel()
            for p, g in zip(model.parameters(), combined)
        ]
        close(np.concatenate(found), expected)

    def test_matrix_and_split_are_those_of_plain_backward(self):
        model = network()
        rows = gradients_by_backward(head_losses, model)
        jacobian = Jacobian(list(head_losses(model).values()), model.parameters())
        close(jacobian.matrix().numpy(), rows)
        update = np.arange(rows.shape[1], dtype="float32")
        parts = jacobian.split(paddle.to_tensor(update))
        offset = 0
        for part, parameter in zip(parts, model.parameters()):
            own = update[offset : offset + parameter.size]
            offset += parameter.size
            # Batch norm's statistics are parameters that no loss reaches.
            assert (part is None) == parameter.stop_gradient
            if part is not None:
                np.testing.assert_array_equal(part.numpy(), own.reshape(parameter.shape))

    def test_blocks_do_not_change_the_result(self):
        model = network()
        losses = list(head_losses(model).values())
        with mock.patch("paddleseg_autoloss.gradients.jacobian._LARGE", 20):
            small = Jacobian(losses, model.parameters())
        whole = Jacobian(losses, model.parameters())
        assert len(small._blocks) > len(whole._blocks)
        close(small.gramian().numpy(), whole.gramian().numpy())
        ones = paddle.ones([4])
        for one, other in zip(small.combine(ones), whole.combine(ones)):
            assert (one is None) == (other is None)
            if one is not None:
                close(one.numpy(), other.numpy())

    def test_long_gradients_are_summed_up_carefully(self):
        """A plain dot product in single precision is off by 1e-3 here."""
        random = np.random.default_rng(0)
        g = random.standard_normal((2, 2**21)) * np.exp(2 * random.standard_normal((2, 2**21)))
        g = g.astype("float32")
        x = paddle.zeros([2**21])
        x.stop_gradient = False
        jacobian = Jacobian([(x * paddle.to_tensor(row)).sum() for row in g], [x])
        exact = g.astype("float64") @ g.astype("float64").T
        close(jacobian.gramian().numpy(), exact, 1e-5)

    def test_nothing_lands_in_the_parameters(self):
        model = network()
        Jacobian(list(head_losses(model).values()), model.parameters()).gramian()
        assert all(p.grad is None for p in model.parameters())

    def test_a_target_that_nothing_reaches_is_none(self):
        x, y = (paddle.to_tensor([1.0], stop_gradient=False) for _ in range(2))
        combined = Jacobian([x * 2, x * 3], [x, y]).combine(paddle.ones([2]))
        assert combined[0].tolist() == [5.0]
        assert combined[1] is None

    def test_no_loss_reaches_anything(self):
        x = paddle.to_tensor([1.0], stop_gradient=False)
        jacobian = Jacobian([paddle.to_tensor(1.0), paddle.to_tensor(2.0)], [x])
        assert jacobian.gramian().tolist() == [[0, 0], [0, 0]]
        assert jacobian.combine(paddle.ones([2])) == [None]


class TestInjection:
    def test_adds_to_earlier_gradients_and_follows_the_incoming_one(self):
        x = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
        (x * x).sum().backward()
        value = inject(paddle.to_tensor(0.25), [x], [paddle.to_tensor([1.0, -1.0])])
        assert float(value) == 0.25
        (value * 3 + x.sum()).backward()
        assert x.grad.tolist() == [2 + 3 + 1, 4 - 3 + 1]

    def test_frozen_and_unreached_parameters_are_left_out(self):
        x, y, z = (paddle.to_tensor([1.0], stop_gradient=False) for _ in range(3))
        y.stop_gradient = True
        inject(
            paddle.to_tensor(0.0), [x, y, z], [paddle.ones([1]), paddle.ones([1]), None]
        ).backward()
        assert x.grad.tolist() == [1]
        assert y.grad is None
        assert z.grad is None


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


def test_separate_backward_is_plain_backward_of_the_sum():
    """ "Add the losses up, or call backward on each?"  It is the same."""
    model, plain = network(), network()
    losses = head_losses(model)
    aggregate(model, losses, SeparateBackwardWeighting(4))(losses).backward()
    sum(head_losses(plain).values()).backward()
    close(flat_gradient(model), flat_gradient(plain))


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
            aggregator.last_gramian = None
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


class TestStepEach:
    """SeparateBackward with an optimizer step for each loss, against steps taken by hand."""

    @staticmethod
    def network():
        model = network()
        # Batch norm leaves its gradient to rounding, which Adam blows up.
        model.body[0].bias.stop_gradient = True
        return model

    @staticmethod
    def by_hand(make_optimizer, rates, steps):
        model = TestStepEach.network()
        optimizer = make_optimizer(model.parameters())
        for _ in range(steps):
            for row, rate in zip(TestStepEach.rows(model), rates):
                for parameter, gradient in zip(model.parameters(), row):
                    if parameter.stop_gradient:
                        continue
                    parameter.clear_gradient(False)
                    if gradient is not None:
                        parameter.grad = gradient
                optimizer.set_lr(0.1 * rate)
                optimizer.step()
            optimizer.clear_grad()
        return model

    @staticmethod
    def rows(model):
        losses = head_losses(model).values()
        trainable = [p for p in model.parameters() if not p.stop_gradient]
        rows = [paddle.grad(x, trainable, retain_graph=True, allow_unused=True) for x in losses]
        everywhere = []
        for row in rows:
            gradients = iter(row)
            everywhere.append(
                [None if p.stop_gradient else next(gradients) for p in model.parameters()]
            )
        return everywhere

    @pytest.mark.parametrize("grouped", [False, True])
    @pytest.mark.parametrize("kind", ["SGD", "Momentum", "Adam", "AdamW"])
    def test_each_loss_steps_in_turn_with_its_own_rate(self, kind, grouped):
        rates = [1.0, 0.1, 2.0, 0.5]

        def make_optimizer(parameters):
            clip = nn.ClipGradByGlobalNorm(0.5)
            trainable = [p for p in parameters if not p.stop_gradient]
            groups = [{"params": trainable[:3]}, {"params": trainable[3:]}]
            return getattr(paddle.optimizer, kind)(
                0.1, parameters=groups if grouped else trainable, grad_clip=clip
            )

        model = self.network()
        names = list(head_losses(network()))
        aggregator = LossAggregator(names, SeparateBackwardWeighting(4, lr_mult=rates, step="each"))
        optimizer = make_optimizer(model.parameters())
        aggregator.bind(model.parameters(), optimizer)
        for _ in range(3):
            aggregator(head_losses(model)).backward()
            optimizer.step()
            optimizer.clear_grad()
        expected = self.by_hand(make_optimizer, rates, 3)
        for one, other in zip(model.parameters(), expected.parameters()):
            if not one.stop_gradient:
                np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-6)
        aggregator.unbind()
        assert optimizer.step == type(optimizer).step.__get__(optimizer)

    def test_needs_an_optimizer(self):
        model = network()
        losses = head_losses(model)
        with pytest.raises(ConfigError, match="step: each needs the optimizer"):
            aggregate(model, losses, SeparateBackwardWeighting(4, step="each"))

    def test_needs_every_gradient_at_every_step(self):
        for options in ({"level": "logits"}, {"update_interval": 2}):
            with pytest.raises(ConfigError, match="step: each needs level parameters"):
                LossAggregator(["a", "b"], SeparateBackwardWeighting(2, step="each"), **options)


class _Half(PyLayer):
    """The identity, whose gradient goes through half precision as in a network under AMP."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return dy.astype("float16").astype("float32")


def enabled_scaler(scale: float) -> paddle.amp.GradScaler:
    """A GradScaler as on a GPU: only its check of the device is replaced."""
    with mock.patch("paddle.amp.grad_scaler._dygraph_tracer") as tracer:
        tracer()._expected_place.is_gpu_place.return_value = True
        scaler = paddle.amp.GradScaler(init_loss_scaling=scale)
    assert scaler.is_enable()
    # Without autocast on a CPU, scale() would take the missing half precision for bfloat16.
    scaler._use_dynamic_loss_scaling = False
    return scaler


class TestLossScale:
    """There is no half precision on a CPU: gradients pass through it in one place instead."""

    @staticmethod
    def step(scaler, factor, weighting=None):
        x = paddle.to_tensor([1.0, 1.0], stop_gradient=False)
        half = _Half.apply(x)
        losses = {"a": half[0] * factor, "b": (half[1] - half[0]) * factor}
        aggregator = LossAggregator(["a", "b"], weighting or PCGradWeighting(2))
        aggregator.bind([x])
        aggregator.loss_scale = lambda: scaler._scale if scaler else None
        optimizer = paddle.optimizer.SGD(1.0, parameters=[x])
        state = {k: v.numpy().copy() for k, v in aggregator.state_dict().items() if k != "calls"}
        total = aggregator(losses)
        if scaler:
            scaled = scaler.scale(total)
            scaled.backward()
            scaler.minimize(optimizer, scaled)
        else:
            total.backward()
            optimizer.step()
        return x, aggregator, state

    def test_small_gradients_do_not_vanish(self):
        """1e-8 is 0 in half precision; times 65536 it is not."""
        x, aggregator, _ = self.step(enabled_scaler(65536.0), 1e-8)
        assert aggregator.last_gramian[0, 0] == pytest.approx(1e-16, rel=1e-2)
        # g = (1, 0) and (-1, 1) conflict: weights 1 + 1, 1 + 1/2, update (1/2, 3/2).
        np.testing.assert_allclose(aggregator.last_weights.numpy(), [2, 1.5], rtol=1e-2)
        np.testing.assert_allclose(x.numpy() - 1, [-0.5e-8, -1.5e-8], atol=1e-7)
        np.testing.assert_allclose(x.grad.numpy(), [0.5e-8, 1.5e-8], rtol=1e-2)

    def test_without_the_scale_they_would(self):
        _, aggregator, _ = self.step(None, 1e-8)
        assert aggregator.last_gramian[0, 0] == 0

    @pytest.mark.parametrize("method", [PCGradWeighting, CAGradWeighting])
    def test_an_overflow_skips_the_step_and_leaves_the_state(self, method):
        scaler = enabled_scaler(65536.0)
        x, aggregator, state = self.step(scaler, 10.0, method(2))
        assert scaler._found_inf
        np.testing.assert_array_equal(x.numpy(), [1, 1])
        for key, value in state.items():
            np.testing.assert_array_equal(aggregator.state_dict()[key].numpy(), value)

    def test_a_step_for_each_loss(self):
        """SGD adds up what the losses take by themselves: (-1, -0.5) and (0.1, -0.1), halved."""
        x = nn.Linear(1, 2).bias
        x.set_value(np.ones(2, "float32"))
        scaler, optimizer = enabled_scaler(1024.0), paddle.optimizer.SGD(0.5, parameters=[x])
        aggregator = LossAggregator(
            ["a", "b"], SeparateBackwardWeighting(2, lr_mult=[1, 0.1], step="each")
        )
        aggregator.bind([x], optimizer)
        aggregator.loss_scale = lambda: scaler._scale
        losses = {"a": x[0] + x[1] / 2, "b": x[1] - x[0]}
        scaled = scaler.scale(aggregator(losses))
        scaled.backward()
        scaler.minimize(optimizer, scaled)
        np.testing.assert_allclose(x.numpy(), [1 - 0.5 + 0.05, 1 - 0.25 - 0.05], rtol=1e-5)

    @pytest.mark.parametrize("spoiled", ["a", "b"])
    def test_an_overflow_of_either_loss_skips_the_steps_of_both(self, spoiled):
        x = nn.Linear(1, 2).bias
        x.set_value(np.ones(2, "float32"))
        scaler, optimizer = enabled_scaler(1024.0), paddle.optimizer.SGD(0.5, parameters=[x])
        aggregator = LossAggregator(["a", "b"], SeparateBackwardWeighting(2, step="each"))
        aggregator.bind([x], optimizer)
        aggregator.loss_scale = lambda: scaler._scale
        losses = {"a": x[0] * 1.0, "b": x[1] * 1.0}
        losses[spoiled] = _Half.apply(x)[0] * 1e6
        scaled = scaler.scale(aggregator(losses))
        scaled.backward()
        scaler.minimize(optimizer, scaled)
        assert scaler._found_inf
        np.testing.assert_array_equal(x.numpy(), [1, 1])

    def test_without_a_scaler_an_infinite_gradient_stops_training(self):
        with pytest.raises(TrainingDiverged, match="the gradient of a is NaN or infinite"):
            self.step(None, 1e6)


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
            ({"level": "encoder"}, "level: expected one of parameters, logits, found 'encoder'"),
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


@pytest.mark.skipif(
    not hasattr(paddle.base.core, "host_memory_stat_reset_peak_value"),
    reason="this Paddle cannot reset its peak of memory",
)
def test_no_more_memory_than_the_gradients_themselves():
    """Peak of the host memory of an aggregation, in sizes of the model: K, and scratch space."""
    core = paddle.base.core
    paddle.seed(0)
    model = nn.Sequential(*[nn.Linear(500, 500, bias_attr=False) for _ in range(40)])
    size = sum(p.size for p in model.parameters()) * 4
    x = paddle.rand([1, 500])
    output = model(x)
    losses = {"a": output.mean(), "b": (output**2).mean(), "c": output.abs().mean()}
    aggregator = aggregate(model, losses, CAGradWeighting(3))
    before = core.host_memory_stat_current_value("Allocated", 0)
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    total = aggregator(losses)
    peak = core.host_memory_stat_peak_value("Allocated", 0) - before
    held = core.host_memory_stat_current_value("Allocated", 0) - before
    assert peak < 3.6 * size
    assert held < 1.1 * size
    total.backward()


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
        with pytest.raises(ConfigError, match=r"PBI can give negative .* one of the 2 heads get"):
            JointAggregation({"type": "PBI"}, terms)
        single = terms_of({"types": [MixedLoss(ce_and_dice(), [1, 1])], "coef": [1]})
        assert JointAggregation({"type": "PBI"}, single).aggregator.names
