"""GradVac against Algorithm 1 of the paper on the gradients themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calls import solve
from support.samplers import jacobians, rounding

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import GradVacWeighting, PCGradWeighting


class TestGradVac:
    @staticmethod
    def by_hand(jacobians_of_steps, beta, seed):
        """Algorithm 1 of the paper on vectors, in the same random order."""
        count = len(jacobians_of_steps[0])
        targets = np.zeros((count, count))
        updates = []
        for step, jacobian in enumerate(jacobians_of_steps):
            others = [[(i + k) % count for k in range(1, count)] for i in range(count)]
            others = np.reshape(others, (count, count - 1))
            order = np.random.default_rng([seed, step]).permuted(others, axis=1)
            total = np.zeros(jacobian.shape[1])
            for i in range(count):
                g = jacobian[i].copy()
                made_of = g @ g
                for j in order[i]:
                    length, other = np.linalg.norm(g), np.linalg.norm(jacobian[j])
                    if other == 0 or length**2 <= 1e-6 * made_of:
                        continue
                    phi = min(max(g @ jacobian[j] / (length * other), -1), 1)
                    target = min(targets[i, j], 0.99)
                    if phi < target:
                        sines = [np.sqrt(1 - target**2), np.sqrt(1 - phi**2)]
                        share = (target * sines[1] - phi * sines[0]) / sines[0]
                        g += length * share / other * jacobian[j]
                        made_of += (length * share) ** 2
                    targets[i, j] = (1 - beta) * targets[i, j] + beta * phi
                total += g
            updates.append(total)
        return updates, targets

    @settings(max_examples=100, deadline=None)
    @given(first=jacobians(), seed=st.integers(0, 99), beta=st.sampled_from([0.01, 0.5, 1.0]))
    def test_same_as_turning_the_gradients_themselves(self, first, seed, beta):
        random = np.random.default_rng(seed)
        steps = [first + 0.3 * step * random.standard_normal(first.shape) for step in range(4)]
        method = GradVacWeighting(len(first), beta=beta)
        method.draws.seed.set_value(np.asarray(7))
        updates, targets = self.by_hand(steps, beta, seed=7)
        for jacobian, update in zip(steps, updates):
            found = solve(method, jacobian)
            assert (found >= 1 - 1e-12).all()
            size = np.abs(found[:, None] * jacobian).max() + 1e-300
            np.testing.assert_allclose(found @ jacobian, update, atol=2e-5 * size, rtol=2e-5)
        np.testing.assert_allclose(method.targets.numpy(), targets, atol=1e-5)

    def test_with_beta_0_it_is_pcgrad(self):
        random = np.random.default_rng(0)
        method, pcgrad = GradVacWeighting(2, beta=0), PCGradWeighting(2)
        for _ in range(50):
            jacobian = random.standard_normal((2, 3))
            np.testing.assert_allclose(solve(method, jacobian), solve(pcgrad, jacobian))

    def test_a_turned_gradient_agrees_as_much_as_its_target(self):
        """Of two losses: d = g'_1 + g'_2, so turn one at a time by a loss that agrees enough."""
        method = GradVacWeighting(2)
        method.targets.set_value(np.array([[0, 0.6], [-1, 0]]))
        jacobian = np.array([[2.0, 0, 0], [0.5, 3.0, 1.0]])
        turned = solve(method, jacobian) @ jacobian - jacobian[1]
        cosine = turned @ jacobian[1] / np.linalg.norm(turned) / np.linalg.norm(jacobian[1])
        assert cosine == pytest.approx(0.6)

    def test_parallel_gradients_that_part(self):
        """A target of 1 would ask for an infinite weight; 0.99 has the tangent 7.02."""
        method = GradVacWeighting(2, beta=1)
        assert solve(method, np.array([[1.0, 0], [2, 0]])).tolist() == [1, 1]
        weights = solve(method, np.array([[1.0, 0], [0, 2]]))
        tangent = 0.99 / np.sqrt(1 - 0.99**2)
        np.testing.assert_allclose(weights, [1 + 2 * tangent, 1 + tangent / 2])

    @pytest.mark.parametrize("beta", [0.5, 1.0])
    def test_opposite_gradients(self, beta):
        method = GradVacWeighting(2, beta=beta)
        for _ in range(100):
            jacobian = np.array([[1.0, 1], [-3, -3]])
            weights = solve(method, jacobian)
            assert np.isfinite(weights).all()
            assert np.isfinite(method.targets.numpy()).all()

    @pytest.mark.parametrize("seed", range(10))
    def test_what_rounding_leaves_of_a_gradient_has_no_cosine(self, seed):
        """g'_1 turns to 0 at the opposite g_2, if that comes before g_3."""
        jacobian = np.array([[1.0, 1, 0], [-2, -2, 0], [0, 1, 1]])
        exact, rounded = GradVacWeighting(3), GradVacWeighting(3)
        for method in (exact, rounded):
            method.draws.seed.set_value(np.asarray(seed))
        exact.solve(np.ones(3), jacobian @ jacobian.T)
        rounded.solve(np.ones(3), jacobian @ jacobian.T * rounding(3, seed))
        found, expected = rounded.targets.numpy(), exact.targets.numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_a_loss_without_gradient_turns_nothing_and_keeps_its_target(self):
        method = GradVacWeighting(3)
        method.targets.set_value(np.full((3, 3), 0.3))
        jacobian = np.array([[1.0, 1], [0, 0], [1, 2]])
        assert solve(method, jacobian).tolist() == [1, 1, 1]
        targets = method.targets.numpy()
        assert (targets[1] == 0.3).all()
        assert (targets[:, 1] == 0.3).all()
        assert targets[0, 2] > 0.3

    def test_bad_arguments(self):
        with pytest.raises(ConfigError, match="beta: expected a number from 0 to 1, found -1"):
            GradVacWeighting(2, beta=-1)
