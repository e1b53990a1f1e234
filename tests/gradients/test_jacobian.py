"""The gradients of several losses against plain backward passes."""

from __future__ import annotations

from unittest import mock

import numpy as np
import paddle
import pytest
from paddle import nn
from support.assertions import close
from support.networks import aggregate, gradients_by_backward, head_losses, network

from paddleseg_autoloss.gradients import Jacobian
from paddleseg_autoloss.weighting import CAGradWeighting


def test_split_leaves_out_what_no_loss_reaches():
    x, y = (paddle.to_tensor([1.0, 2.0], stop_gradient=False) for _ in range(2))
    jacobian = Jacobian([x.sum(), (x * x).sum()], [x, y], scale=paddle.to_tensor([8.0]))
    assert jacobian.matrix().tolist() == [[1, 1, 0, 0], [2, 4, 0, 0]]
    first, second = jacobian.split(paddle.to_tensor([5.0, 6.0, 0.0, 0.0]))
    assert first.tolist() == [5, 6]
    assert second is None


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
