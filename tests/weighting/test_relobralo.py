"""Relobralo against the formulas of the paper."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import RelobraloWeighting


class TestRelobralo:
    @staticmethod
    def by_hand(losses_of_steps, alpha, beta, tau, seed):
        def balance(now, then):
            exponents = np.exp(now / (tau * then + 1e-8) - np.max(now / (tau * then + 1e-8)))
            return len(now) * exponents / exponents.sum()

        first, previous = losses_of_steps[0], losses_of_steps[0]
        lmbda = np.ones(len(first))
        history = [lmbda]
        for step, losses in enumerate(losses_of_steps[1:], start=1):
            rho = float(np.random.default_rng([seed, step]).random() < beta)
            hist = rho * lmbda + (1 - rho) * balance(losses, first)
            lmbda = alpha * hist + (1 - alpha) * balance(losses, previous)
            previous = losses
            history.append(lmbda)
        return history

    @pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
    def test_weights_are_those_of_the_paper(self, beta):
        losses = np.random.default_rng(0).uniform(0.1, 2, (12, 3))
        method = RelobraloWeighting(3, alpha=0.8, beta=beta, tau=0.7)
        method.draws.seed.set_value(np.asarray(9))
        expected = self.by_hand(losses, 0.8, beta, 0.7, seed=9)
        for values, weights in zip(losses, expected):
            found = method(paddle.to_tensor(values, dtype="float32")).numpy()
            np.testing.assert_allclose(found, weights, rtol=1e-5)
            assert found.sum() == pytest.approx(3, rel=1e-5)

    @pytest.mark.parametrize("broken", [[float("nan"), 1.0], [1.0, float("inf")]])
    @pytest.mark.parametrize("at", [0, 3])
    def test_a_loss_that_is_not_finite_leaves_no_trace(self, broken, at):
        method = RelobraloWeighting(2)
        for step in range(6):
            losses = broken if step == at else [1.0 + step, 2.0]
            before = {k: v.numpy() for k, v in method.state_dict().items() if "step" not in k}
            weights = method(paddle.to_tensor(losses)).numpy()
            assert np.isfinite(weights).all()
            if step == at:
                for key, value in before.items():
                    np.testing.assert_array_equal(method.state_dict()[key].numpy(), value)

    def test_temperature_of_0_takes_the_largest_loss(self):
        method = RelobraloWeighting(2, alpha=0, tau=0)
        method(paddle.to_tensor([1.0, 1.0]))
        assert method(paddle.to_tensor([0.5, 0.6])).tolist() == pytest.approx([0, 2])

    def test_losses_of_zero_give_no_nan(self):
        method = RelobraloWeighting(2, beta=0.5)
        for losses in ([0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]):
            assert np.isfinite(method(paddle.to_tensor(losses)).numpy()).all()

    def test_bad_arguments(self):
        with pytest.raises(ConfigError, match="tau: expected a number above 0 where eps is 0"):
            RelobraloWeighting(2, tau=0, eps=0)
        with pytest.raises(ConfigError, match="alpha: expected a number from 0 to 1, found 2"):
            RelobraloWeighting(2, alpha=2)
