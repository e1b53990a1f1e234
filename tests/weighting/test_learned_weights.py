"""What holds for every method whose weights are learned."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from support.learned import LOSSES, set_parameter, total, total_loss

from paddleseg_autoloss.weighting import AutoWeighting, SumWeighting, UncertaintyWeighting


@pytest.mark.parametrize("method", [AutoWeighting, UncertaintyWeighting, SumWeighting])
class TestEveryMethod:
    def test_gradient_of_the_losses_is_the_weights(self, method):
        weighting = method(3)
        losses = paddle.to_tensor(LOSSES, stop_gradient=False)
        total_loss(weighting, losses).backward()
        np.testing.assert_allclose(losses.grad.numpy(), weighting(losses).numpy(), rtol=1e-6)

    def test_permutation(self, method):
        order = [2, 0, 1]
        straight, permuted = method(3), method(3)
        if straight.learned() is not None:
            values = np.array([0.4, 0.9, 1.7], "float32")
            set_parameter(straight, values)
            set_parameter(permuted, values[order])
        assert total(straight) == pytest.approx(total(permuted, [LOSSES[i] for i in order]), 1e-6)

    def test_state_dict_restores_it(self, method):
        saved, restored = method(2), method(2)
        if saved.learned() is not None:
            set_parameter(saved, [0.7, 1.3])
        restored.set_state_dict(saved.state_dict())
        assert total(saved, [1, 2]) == total(restored, [1, 2])

    def test_a_weight_for_the_optimizer_to_learn_faster(self, method):
        if method is SumWeighting:
            assert method(2).parameters() == []
        else:
            assert method(2, lr_mult=10).learned().optimize_attr["learning_rate"] == 10
