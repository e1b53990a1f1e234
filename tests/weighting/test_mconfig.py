"""M-ConFIG against Algorithm 1 of the paper."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from support.calls import update
from support.samplers import J, steps

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import MConFIGWeighting
from paddleseg_autoloss.weighting.mconfig import _conflict_free


def config(rows: np.ndarray) -> np.ndarray:
    """ConFIG on vectors: the pseudo-inverse of the matrix of unit vectors."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    direction = np.linalg.pinv(units) @ np.ones(len(rows))
    direction /= np.linalg.norm(direction)
    return (rows @ direction).sum() * direction


class TestMConFIG:
    def test_golden_value_of_config(self):
        weights = _conflict_free(J @ J.T)
        np.testing.assert_allclose(weights @ J, [0.1588, 2.0706, 2.0706], atol=1e-4)

    @pytest.mark.parametrize("count", [1, 2, 3, 6])
    @pytest.mark.parametrize("scale", [1e-8, 1, 1e8])
    def test_config_from_inner_products_is_that_of_vectors(self, count, scale):
        for _, jacobian in steps(count):
            found = _conflict_free(scale**2 * jacobian @ jacobian.T) @ jacobian
            np.testing.assert_allclose(found, config(jacobian), rtol=1e-6, atol=1e-8)

    def test_two_losses_in_closed_form(self):
        """The bisector of the unit vectors, as long as both projections on it."""
        for _, (first, second) in steps(2):
            bisector = first / np.linalg.norm(first) + second / np.linalg.norm(second)
            bisector /= np.linalg.norm(bisector)
            rows = np.stack([first, second])
            expected = (rows @ bisector).sum() * bisector
            found = _conflict_free(rows @ rows.T) @ rows
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)

    @staticmethod
    def by_hand(run, beta_1, beta_2):
        means, mean, magnitude, updates = 0, 0, 0, []
        for t, (_, jacobian) in enumerate(run, start=1):
            means = beta_1 * means + (1 - beta_1) * jacobian
            direction = config(means / (1 - beta_1**t))
            next_mean = direction * (1 - beta_1**t)
            gradient = (next_mean - beta_1 * mean) / (1 - beta_1)
            mean = next_mean
            magnitude = beta_2 * magnitude + (1 - beta_2) * gradient**2
            updates.append(direction / np.sqrt(magnitude / (1 - beta_2**t)))
        return updates

    @pytest.mark.parametrize(("beta_1", "beta_2"), [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)])
    def test_update_is_that_of_the_algorithm(self, beta_1, beta_2):
        method, run = MConFIGWeighting(3, beta_1=beta_1, beta_2=beta_2), steps()
        for (losses, jacobian), expected in zip(run, self.by_hand(run, beta_1, beta_2)):
            found, _ = update(method, jacobian, losses)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)

    def test_with_one_loss_it_is_adam(self):
        x = nn.Linear(1, 40).bias
        adam = paddle.optimizer.Adam(0.1, epsilon=1e-30, parameters=[x])
        method, y = MConFIGWeighting(1), np.zeros(40)
        for losses, jacobian in steps(1, number=20):
            x.grad = paddle.to_tensor(jacobian[0], dtype="float32")
            adam.step()
            y -= 0.1 * update(method, jacobian, losses)[0]
        np.testing.assert_allclose(x.numpy(), y, rtol=1e-3, atol=1e-4)

    def test_no_means_get_worse(self):
        method = MConFIGWeighting(3)
        for losses, jacobian in steps():
            _, weights = update(method, jacobian, losses)
            means = method.means.numpy()
            projections = means @ (weights @ means) / np.linalg.norm(means, axis=1)
            np.testing.assert_allclose(projections, projections[0], rtol=1e-3)
            assert (projections > 0).all()

    def test_opposed_and_parallel_gradients(self):
        opposed = np.array([[1.0, 2.0], [-2.0, -4.0]])
        assert not update(MConFIGWeighting(2), opposed)[0].any()
        parallel = np.array([[1.0, 2.0], [2.0, 4.0]])
        found, weights = update(MConFIGWeighting(2), parallel)
        np.testing.assert_allclose(found, [1, 1], rtol=1e-5)
        np.testing.assert_allclose(weights @ parallel, [3, 6], rtol=1e-5)

    @pytest.mark.parametrize("scale", [1, 1e-10])
    def test_a_head_is_never_made_to_ascend(self, scale):
        """Of three losses with a negative weight, only the first reaches the last coordinate."""
        for seed in range(100):
            jacobian = np.random.default_rng(seed).standard_normal((3, 4))
            jacobian[1:, 3] = 0
            found, weights = update(MConFIGWeighting(3), scale * jacobian)
            if weights[0] < 0:
                break
        assert found[3] == 0
        assert (found[:3] != 0).all()
        expected = np.sign(weights @ jacobian[:, :3])
        np.testing.assert_array_equal(np.sign(found[:3]), expected)

    def test_a_loss_without_gradient_does_not_stop_the_others(self):
        jacobian = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [-3.0, 1.0, 1.0]])
        found, weights = update(MConFIGWeighting(3), jacobian)
        expected, others = update(MConFIGWeighting(2), jacobian[[0, 2]])
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(weights, [others[0], 0, others[1]])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"beta_1": 1}, "beta_1: expected a number below 1, found 1"),
            ({"beta_2": 1.0}, "beta_2: expected a number below 1, found 1"),
            ({"beta_2": -0.1}, "beta_2: expected a number from 0 to 1, found -0.1"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            MConFIGWeighting(2, **arguments)
