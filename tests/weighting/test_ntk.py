"""NTK against the traces."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from support.calls import solve

from paddleseg_autoloss import mtl
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import METHODS, NTKWeighting


class TestNTK:
    def test_all_gradients_get_the_sum_of_the_lengths(self):
        jacobian = np.random.default_rng(0).standard_normal((4, 3)) * [[1], [10], [0.1], [3]]
        weights = solve(NTKWeighting(4), jacobian)
        lengths = np.linalg.norm(jacobian, axis=1)
        np.testing.assert_allclose(weights * lengths, [lengths.sum()] * 4)
        np.testing.assert_allclose((1 / weights).sum(), 1)
        assert weights.sum() >= 16

    def test_equal_lengths_get_k_each_and_1_over_k_with_the_reduction_mean(self):
        np.testing.assert_allclose(solve(NTKWeighting(3), np.eye(3)), [3, 3, 3])
        x = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
        aggregator = LossAggregator(["a", "b"], NTKWeighting(2), reduction="mean")
        aggregator.bind([x])
        aggregator({"a": x[0] * 5, "b": x[1] * 5}).backward()
        assert x.grad.tolist() == [2.5, 2.5]

    def test_a_loss_without_gradient_keeps_its_weight(self):
        method = NTKWeighting(2)
        assert solve(method, np.array([[2.0], [0.0]])).tolist() == [1.0, 1.0]
        assert solve(method, np.array([[1.0], [3.0]])).tolist() == pytest.approx([4, 4 / 3])
        assert solve(method, np.array([[0.0], [3.0]])).tolist() == pytest.approx([4, 1])

    def test_paddlescience_calls_it_as_before(self):
        model = paddle.nn.Linear(2, 1)
        aggregator = mtl.NTK(model, num_losses=2)
        assert isinstance(aggregator.weighting, METHODS["NTK"])
        assert "weighting.weight" in aggregator.state_dict()
