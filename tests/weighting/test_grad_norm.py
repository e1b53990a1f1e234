"""GradNorm against its objective, equation 2 of the paper."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_autoloss.weighting import GradNormWeighting


class TestGradNorm:
    @staticmethod
    def call(method, losses, norms):
        losses = paddle.to_tensor(losses, dtype="float32")
        return method(losses, paddle.diag(paddle.to_tensor(norms, dtype="float32") ** 2))

    def test_gradient_of_w_is_that_of_the_papers_objective(self):
        """By finite differences of equation 2, the target held constant."""
        norms, initial, losses = [3.0, 0.5, 1.0], [2.0, 1.0, 4.0], [1.0, 0.9, 1.0]
        method = GradNormWeighting(3, alpha=1.5)
        self.call(method, initial, norms)
        method.w.set_value(np.array([0.5, 1.5, 1.0], "float32"))
        weights = self.call(method, losses, norms)
        np.testing.assert_allclose(weights.numpy(), [0.5, 1.5, 1.0])
        penalty = method.penalty()
        assert float(penalty) == 0
        penalty.backward()

        ratios = np.array(losses) / initial
        target = (np.array([0.5, 1.5, 1.0]) * norms).mean() * (ratios / ratios.mean()) ** 1.5

        def objective(w):
            return np.abs(w * norms - target).sum()

        slopes = []
        for i in range(3):
            step = np.eye(3)[i] * 1e-6
            w = np.array([0.5, 1.5, 1.0])
            slopes.append((objective(w + step) - objective(w - step)) / 2e-6)
        np.testing.assert_allclose(method.w.grad.numpy(), slopes, rtol=1e-5)

    def test_constant_gradients_get_one_length(self):
        """With alpha = 0 the lengths w_i |g_i| become equal: w_i = K / |g_i| / sum 1 / |g_j|."""
        norms = np.array([4.0, 1.0, 0.5])
        method = GradNormWeighting(3, alpha=0)
        optimizer = paddle.optimizer.SGD(1e-3, parameters=method.parameters())
        for _ in range(4000):
            self.call(method, [1.0, 1.0, 1.0], norms)
            method.penalty().backward()
            optimizer.step()
            optimizer.clear_grad()
        np.testing.assert_allclose(method.w.numpy(), 3 / norms / (1 / norms).sum(), atol=0.01)

    def test_weights_sum_to_k_and_stay_positive_after_a_wild_step(self):
        method = GradNormWeighting(3)
        method.w.set_value(np.array([-5.0, 1.0, 8.0], "float32"))
        weights = self.call(method, [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]).numpy()
        assert weights.sum() == pytest.approx(3)
        assert (weights > 0).all()

    def test_remembers_the_first_losses_only(self):
        method = GradNormWeighting(2)
        for losses in ([2.0, 4.0], [1.0, 1.0], [0.5, 3.0]):
            self.call(method, losses, [1.0, 1.0])
        assert method.initial_losses.tolist() == [2.0, 4.0]

    @pytest.mark.parametrize("initial", [[0.0, 1.0], [-1.0, 1.0], [0.0, 0.0]])
    @pytest.mark.parametrize("later", [[0.0, 0.0], [1.0, 0.0], [1e9, 1e-9], [-1.0, 2.0]])
    def test_losses_that_have_no_rate_give_no_nan(self, initial, later):
        method = GradNormWeighting(2)
        self.call(method, initial, [1.0, 0.0])
        weights = self.call(method, later, [1.0, 0.0])
        method.penalty().backward()
        assert np.isfinite(weights.numpy()).all()
        assert np.isfinite(method.w.grad.numpy()).all()
