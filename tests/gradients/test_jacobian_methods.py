"""The methods that need the whole Jacobian, end to end on a network."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import paddle
import pytest
from paddle import nn
from support.assertions import assert_same_state, close, state_of
from support.calls import REMEMBERING, every_method
from support.networks import (
    aggregate,
    expected_gradient,
    flat_gradient,
    gradients_by_backward,
    head_losses,
    network,
)
from support.training import TinyNet, enabled_scaler, mixed, parameters, resumed, train_jointly

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import METHODS, MoCoWeighting


@every_method
class TestEndToEnd:
    """A network with two heads and two losses each."""

    @pytest.fixture
    def weighting(self, name):
        paddle.seed(8)
        return METHODS[name](4)

    @pytest.mark.parametrize("reduction", [None, "sum", "mean"])
    def test_gradient_is_the_methods_update_of_the_jacobian(self, weighting, reduction):
        model = network()
        plain = copy.deepcopy(weighting)
        aggregator = aggregate(model, head_losses(model), weighting, reduction=reduction)
        factor = {"summean": 1 / 4, "its ownmean": 1 / 4, "meansum": 4}.get(
            f"{weighting.scale}{reduction}", 1
        )
        optimizer = paddle.optimizer.SGD(0.01, parameters=model.parameters())
        for _ in range(3):
            expected = factor * expected_gradient(plain, model)
            total = aggregator(head_losses(model))
            total.backward()
            close(flat_gradient(model), expected, 1e-5)
            values = [float(loss) for loss in head_losses(model).values()]
            shown = aggregator.last_weights.numpy()
            assert float(total) == pytest.approx(shown @ values, rel=1e-4, abs=1e-5)
            optimizer.step()
            optimizer.clear_grad()

    def test_earlier_gradients_are_added_to(self, weighting):
        model = network()
        plain = copy.deepcopy(weighting)
        expected = expected_gradient(plain, model) + expected_gradient(plain, model)
        aggregator = aggregate(model, head_losses(model), weighting)
        for _ in range(2):
            aggregator(head_losses(model)).backward()
        close(flat_gradient(model), expected, 1e-5)

    def test_frozen_parameters_stay_without_gradient(self, weighting):
        model = network()
        frozen = model.body[0].weight
        frozen.stop_gradient = True
        expected = expected_gradient(copy.deepcopy(weighting), model)
        aggregate(model, head_losses(model), weighting)(head_losses(model)).backward()
        assert frozen.grad is None
        close(flat_gradient(model), expected, 1e-5)

    def test_parameters_that_no_loss_reaches_stay_without_gradient(self, weighting):
        """With a gradient of zeros, weight decay and momentum would move them."""
        model = network()
        model.unused = nn.Linear(3, 3)
        expected = expected_gradient(copy.deepcopy(weighting), model)
        aggregate(model, head_losses(model), weighting)(head_losses(model)).backward()
        assert model.unused.weight.grad is None
        close(flat_gradient(model), expected, 1e-5)

    def test_a_head_of_one_loss_is_trained_and_never_ascends(self, name):
        """Two losses on the first head, one on the second, as for an auxiliary head."""

        def losses(model):
            return dict(itertools.islice(head_losses(model).items(), 3))

        for seed in range(5):
            model = network(seed=seed)
            rows = gradients_by_backward(losses, model)
            head = rows[2] * (rows[:2] == 0).all(axis=0)
            aggregate(model, losses(model), METHODS[name](3))(losses(model)).backward()
            inner = flat_gradient(model) @ head
            # Only MConFIG may leave it where it is: if its weight is negative.
            assert inner > 0 or (name == "MConFIG" and inner == 0)

    def test_a_loss_of_the_labels_alone(self, weighting):
        def losses(model):
            found = head_losses(model)
            return {**found, list(found)[-1]: paddle.to_tensor(0.7)}

        model = network()
        expected = expected_gradient(copy.deepcopy(weighting), model, losses)
        aggregate(model, losses(model), weighting)(losses(model)).backward()
        close(flat_gradient(model), expected, 1e-5)

    def test_the_factor_of_a_gradient_scaler_does_not_show(self, weighting):
        model = network()
        expected = expected_gradient(copy.deepcopy(weighting), model)
        scaler = enabled_scaler(1024.0)
        aggregator = aggregate(model, head_losses(model), weighting)
        aggregator.loss_scale = lambda: scaler._scale
        scaler.scale(aggregator(head_losses(model))).backward()
        close(flat_gradient(model) / 1024, expected, 1e-5)

    def test_an_overflow_skips_the_step_and_leaves_the_state(self, weighting):
        model = network()
        scaler = enabled_scaler(1024.0)
        aggregator = aggregate(model, head_losses(model), weighting)
        aggregator.loss_scale = lambda: scaler._scale
        optimizer = paddle.optimizer.SGD(0.01, parameters=model.parameters())
        aggregator(head_losses(model))
        before = state_of(aggregator.weighting)
        values = [p.numpy().copy() for p in model.parameters() if not p.stop_gradient]
        losses = head_losses(model)
        last = list(losses)[-1]
        losses[last] = losses[last] * 1e38
        scaled = scaler.scale(aggregator(losses))
        scaled.backward()
        scaler.minimize(optimizer, scaled)
        assert scaler._found_inf
        assert_same_state(state_of(aggregator.weighting), before)
        for value, parameter in zip(values, (p for p in model.parameters() if not p.stop_gradient)):
            np.testing.assert_array_equal(parameter.numpy(), value)

    def test_a_parameter_thawed_after_the_first_step(self, name, weighting):
        model = network()
        model.body[0].weight.stop_gradient = True
        aggregator = aggregate(model, head_losses(model), weighting)
        model.heads[1].bias.stop_gradient = True
        aggregator(head_losses(model)).backward()
        model.body[0].weight.stop_gradient = False
        if name in REMEMBERING:
            with pytest.raises(ConfigError, match=rf"{name}: expected gradients of 5\d numbers"):
                aggregator(head_losses(model))
        else:
            aggregator(head_losses(model)).backward()
            assert model.body[0].weight.grad is not None

    def test_double_precision_by_default(self, weighting):
        expected = expected_gradient(copy.deepcopy(weighting), network())
        model = network()
        model.unused = nn.Linear(3, 3)
        paddle.set_default_dtype("float64")
        try:
            aggregate(model, head_losses(model), weighting)(head_losses(model)).backward()
        finally:
            paddle.set_default_dtype("float32")
        close(flat_gradient(model)[: len(expected)], expected, 1e-5)

    def test_resume_as_the_joint_method(self, name, tmp_path):
        def train(folder, iters, **options):
            two = lambda: TinyNet(2)  # noqa: E731
            losses = lambda: mixed() + mixed()  # noqa: E731
            return train_jointly(folder, iters, {"type": name}, losses, (1, 0.4), two, **options)

        whole, parts = resumed(train, tmp_path)
        for one, other in zip(parameters(whole), parameters(parts)):
            np.testing.assert_array_equal(one, other)
        assert all(np.isfinite(p).all() for p in parameters(whole))
        of_whole = (tmp_path / "whole" / "loss_weights.csv").read_text()
        assert of_whole == (tmp_path / "parts" / "loss_weights.csv").read_text()
        section = paddle.load(str(tmp_path / "parts" / "iter_4" / "model.pdopt"))
        saved = section["paddleseg_autoloss"]["losses"]["loss_aggregator"]
        columns = sum(p.size for p in whole.parameters() if not p.stop_gradient)
        for matrix in METHODS[name].matrices:
            assert list(saved[f"weighting.{matrix}"].shape) == [4, columns]


@pytest.mark.skipif(
    not hasattr(paddle.base.core, "host_memory_stat_reset_peak_value"),
    reason="this Paddle cannot reset its peak of memory",
)
@every_method
def test_memory_in_sizes_of_the_model(name):
    """Beside K gradients, what is remembered, one matrix of scratch space and a few vectors."""
    core = paddle.base.core
    paddle.seed(0)
    model = nn.Sequential(*[nn.Linear(500, 500, bias_attr=False) for _ in range(20)])
    size = sum(p.size for p in model.parameters()) * 4
    output = model(paddle.rand([1, 500]))
    losses = {"a": output.mean() + 1, "b": (output**2).mean(), "c": output.abs().mean()}
    method = METHODS[name](3)
    aggregator = aggregate(model, losses, method)
    before = core.host_memory_stat_current_value("Allocated", 0)
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    total = aggregator(losses)
    peak = core.host_memory_stat_peak_value("Allocated", 0) - before
    held = core.host_memory_stat_current_value("Allocated", 0) - before
    assert peak < (3 + 3 + 1.5) * size
    assert held < 1.1 * size
    total.backward()


def test_only_parameters_and_every_step():
    for options in ({"level": "logits"}, {"update_interval": 2}):
        with pytest.raises(ConfigError, match="MoCo needs level parameters and update_interval 1"):
            LossAggregator(["a", "b"], MoCoWeighting(2), **options)
