"""FAMO against Algorithm 1 of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from support.calls import softmax, tensor, value_and_gradient, weights_of
from support.samplers import NAN, walk

from paddleseg_autoloss.weighting import FAMOWeighting


class Algorithm1:
    """FAMO in float64 by the paper's algorithm, with Adam by its own paper (L2 decay)."""

    def __init__(self, count, gamma, rate):
        self.gamma, self.rate, self.time = gamma, rate, 0
        self.xi, self.m, self.v = np.zeros((3, count))

    def weights(self, losses):
        z = softmax(self.xi)
        return z / losses / np.sum(z / losses)

    def total(self, losses):
        z = softmax(self.xi)
        return np.sum(z * np.log(losses)) / np.sum(z / losses)

    def update(self, before, after):
        z = softmax(self.xi)
        derivatives = np.diag(z) - np.outer(z, z)
        delta = np.log(before) - np.log(after)
        gradient = derivatives.T @ delta + self.gamma * self.xi
        self.time += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        m_hat = self.m / (1 - 0.9**self.time)
        v_hat = self.v / (1 - 0.999**self.time)
        self.xi = self.xi - self.rate * m_hat / (np.sqrt(v_hat) + 1e-8)


class TestFAMO:
    @pytest.mark.parametrize(("gamma", "rate"), [(1e-3, 0.025), (0.5, 0.3)])
    def test_next_batch_form(self, gamma, rate):
        rows = walk(3, 20)
        method, reference = FAMOWeighting(3, gamma=gamma, w_lr=rate), Algorithm1(3, gamma, rate)
        assert not method.needs_losses_after_step
        for index, row in enumerate(rows):
            if index > 0:
                reference.update(rows[index - 1], row)
            value, gradient = value_and_gradient(method, row)
            np.testing.assert_allclose(gradient, reference.weights(row), rtol=1e-4)
            assert value == pytest.approx(reference.total(row), rel=1e-4, abs=1e-5)
            np.testing.assert_allclose(method.xi.numpy(), reference.xi, rtol=1e-3, atol=1e-5)
        assert np.ptp(reference.xi) > 0.05

    @pytest.mark.parametrize(("gamma", "rate"), [(1e-3, 0.025), (0.5, 0.3)])
    def test_exact_form(self, gamma, rate):
        rows = walk(3, 20)
        method = FAMOWeighting(3, gamma=gamma, w_lr=rate, exact=True)
        reference = Algorithm1(3, gamma, rate)
        assert method.needs_losses_after_step
        for row, after in zip(rows, rows * walk(3, 20, seed=1) ** 0.1):
            after = after.astype("float32").astype("float64")
            np.testing.assert_allclose(weights_of(method, row), reference.weights(row), rtol=1e-4)
            method.observe_after_step(tensor(after))
            reference.update(row, after)
            np.testing.assert_allclose(method.xi.numpy(), reference.xi, rtol=1e-3, atol=1e-5)
        assert np.ptp(reference.xi) > 0.05

    def test_exact_form_without_a_second_evaluation_learns_nothing(self):
        """A step that the gradient scaler skips is not looked at again."""
        skipped, plain = FAMOWeighting(2, exact=True), FAMOWeighting(2, exact=True)
        skipped(tensor([3.0, 1.0]))
        for method in (skipped, plain):
            method(tensor([2.0, 1.0]))
            method.observe_after_step(tensor([1.0, 1.0]))
        np.testing.assert_array_equal(skipped.xi.numpy(), plain.xi.numpy())
        assert int(skipped.step) == 1
        skipped.observe_after_step(tensor([0.5, 1.0]))
        assert int(skipped.step) == 1

    def test_a_step_that_is_not_finite_is_not_learned_from(self):
        plain, disturbed = FAMOWeighting(2), FAMOWeighting(2)
        for row in walk(2, 8):
            expected = weights_of(plain, row)
            np.testing.assert_array_equal(weights_of(disturbed, row), expected)
            weights_of(disturbed, [1.0, NAN])
            np.testing.assert_array_equal(disturbed.xi.numpy(), plain.xi.numpy())
            np.testing.assert_array_equal(disturbed.losses_prev.numpy(), plain.losses_prev.numpy())

    def test_lower_bounds(self):
        """With b the losses count from there; below b they are left out."""
        method, plain = FAMOWeighting(3), FAMOWeighting(3)
        method.min_losses.set_value(tensor([0.5, 0.5, 0.5]))
        for row in walk(3, 6):
            np.testing.assert_allclose(
                weights_of(method, row + 0.5), weights_of(plain, row), rtol=1e-4
            )
        assert weights_of(method, [1.0, 0.4, 1.0])[1] == 0

    def test_a_loss_that_vanishes_moves_no_share_of_its_own_accord(self):
        """With delta 0 for it, only the other's fall counts."""
        method = FAMOWeighting(2, gamma=0)
        method(tensor([1.0, 1.0]))
        method(tensor([1.0, 0.0]))
        np.testing.assert_array_equal(method.xi.numpy(), 0)

    def test_losses_of_different_speed_come_to_fall_at_the_same_rate(self):
        """Paper: the rates become equal.  d log L_i = -lr k_i^2 z_i / c, so z goes as 1 / k^2."""
        speeds = np.array([1.0, 3.0])
        method = FAMOWeighting(2, gamma=0, exact=True)
        logarithms = np.zeros(2)
        for _ in range(400):
            losses = np.exp(logarithms)
            fall = 1e-3 * weights_of(method, losses) * losses * speeds**2
            logarithms = logarithms - fall
            method.observe_after_step(tensor(np.exp(logarithms)))
        z = softmax(method.xi.numpy())
        assert z[0] / z[1] == pytest.approx(9, rel=0.1)
        assert fall[0] == pytest.approx(fall[1], rel=0.1)
