"""The methods whose weights are a formula of the Gramian, against the gradients themselves."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gramian_weighting import J, jacobians, solve

from paddleseg_autoloss import mtl
from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import (
    METHODS,
    AlignedMTLWeighting,
    ConFIGWeighting,
    CRMOGMWeighting,
    GradVacWeighting,
    IMTLGWeighting,
    IMTLWeighting,
    KrumWeighting,
    NTKWeighting,
    PCGradWeighting,
    RelobraloWeighting,
    Weighting,
)

#: What TorchJD publishes for J; of ConFIG the update, of Aligned-MTL with importances 1 / K.
GOLDEN = {
    "AlignedMTL": [2 * 0.5591, 2 * 0.4083],
    "GradVac": [2.2222, 1.5789],
    "IMTL": [0.5923, 0.4077],
    "IMTLG": [0.5923, 0.4077],
}
ANY_K = [AlignedMTLWeighting, ConFIGWeighting, GradVacWeighting, IMTLGWeighting, IMTLWeighting]
ANY_K += [NTKWeighting]


def units(jacobian: np.ndarray) -> np.ndarray:
    return jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True)


def with_gradient(jacobian: np.ndarray) -> np.ndarray:
    return jacobian[np.abs(jacobian).sum(axis=1) > 0]


def in_single_precision(jacobian: np.ndarray) -> np.ndarray:
    rows = jacobian.astype("float32")
    return (rows @ rows.T).astype("float64")


def rounding(count: int, seed: int) -> np.ndarray:
    """What single precision multiplies a Gramian by."""
    noise = np.random.default_rng(seed).uniform(-1e-7, 1e-7, (count, count))
    return 1 + (noise + noise.T) / 2


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_weights(name):
    np.testing.assert_allclose(solve(METHODS[name](2), J), GOLDEN[name], atol=2e-4)


def test_golden_update():
    update = solve(ConFIGWeighting(2), J) @ J
    np.testing.assert_allclose(update, [0.1588, 2.0706, 2.0706], atol=1e-4)


@pytest.mark.parametrize("method", [*ANY_K, KrumWeighting])
class TestAnyGramian:
    @settings(max_examples=80, deadline=None)
    @given(jacobian=jacobians(least=3))
    def test_weights_are_finite_also_if_rounded(self, method, jacobian):
        for gramian in (jacobian @ jacobian.T, in_single_precision(jacobian)):
            weights = method(len(jacobian)).solve(np.ones(len(jacobian)), gramian)
            assert weights.shape == (len(jacobian),)
            assert np.isfinite(weights).all()
            assert method.may_be_negative or (weights >= 0).all()

    @settings(max_examples=50, deadline=None)
    @given(jacobian=jacobians(least=3), scale=st.sampled_from([1e-6, 1e6]))
    def test_the_scale_of_the_gradients_does_not_matter(self, method, jacobian, scale):
        expected = jacobian.T @ solve(method(len(jacobian)), jacobian)
        scaled = (scale * jacobian).T @ solve(method(len(jacobian)), scale * jacobian)
        size = np.abs(jacobian).max()
        np.testing.assert_allclose(scaled / scale, expected, rtol=1e-6, atol=1e-6 * size)

    def test_no_gradient_at_all(self, method):
        weights = solve(method(3), np.zeros((3, 2)))
        assert np.isfinite(weights).all()
        assert weights.sum() > 0


@pytest.mark.parametrize("method", [m for m in ANY_K if m is not GradVacWeighting])
@settings(max_examples=50, deadline=None)
@given(jacobian=jacobians(), seed=st.integers(0, 99))
def test_permuting_the_losses_permutes_the_weights(method, jacobian, seed):
    order = np.random.default_rng(seed).permutation(len(jacobian))
    straight = solve(method(len(jacobian)), jacobian)
    permuted = solve(method(len(jacobian)), jacobian[order])
    size = np.abs(straight).max()
    np.testing.assert_allclose(permuted, straight[order], rtol=1e-6, atol=1e-6 * size)


@pytest.mark.parametrize("method", ANY_K)
def test_one_loss(method):
    np.testing.assert_allclose(solve(method(1), np.array([[3.0, 4.0]])), [1.0])


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


class TestIMTLG:
    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians())
    def test_projections_are_equal(self, jacobian):
        """And positive, where the unit gradients are independent."""
        update = solve(IMTLGWeighting(len(jacobian)), jacobian) @ jacobian
        others = with_gradient(jacobian)
        if len(others) == 0 or np.linalg.svd(units(others))[1].min() < 0.01:
            return
        if len(others) > others.shape[1]:
            return
        projections = units(others) @ update
        assert (projections > 0).all()
        np.testing.assert_allclose(projections, projections[0], rtol=1e-6)

    @pytest.mark.parametrize("count", [2, 3, 4])
    def test_weights_are_those_of_the_paper(self, count):
        """Its closed form, alpha_2..K = g_1 U^T (D U^T)^-1, wherever the sum is no problem."""
        random = np.random.default_rng(0)
        compared = negative = 0
        for _ in range(200):
            jacobian = random.standard_normal((count, 6))
            u = units(jacobian)
            differences = u[0] - u[1:]
            products = (jacobian[0] - jacobian[1:]) @ differences.T
            rest = jacobian[0] @ differences.T @ np.linalg.inv(products)
            expected = np.array([1 - rest.sum(), *rest])
            # Dividing by a negative sum, the paper's d ascends.
            if np.abs(expected).sum() > 10 or u[0] @ (expected @ jacobian) < 0:
                continue
            compared, negative = compared + 1, negative + (expected < 0).any()
            np.testing.assert_allclose(solve(IMTLGWeighting(count), jacobian), expected, rtol=1e-6)
        assert compared > 150
        assert (negative > 0) == (count > 2)

    def test_a_negative_sum_does_not_turn_the_update_round(self):
        """x = C^-1 1 has a negative entry at a loss whose short gradient makes it weigh most."""
        u = units(np.array([[1.0, 0, 0.1], [0, 1, 0.1], [1, 1, 0.3]]))
        x = np.linalg.solve(u @ u.T, np.ones(3))
        jacobian = u * [[1.0], [1.0], [1e-3]]
        assert x[2] < 0
        weights = solve(IMTLGWeighting(3), jacobian)
        np.testing.assert_allclose(np.abs(weights).sum(), 10)
        assert (jacobian @ (weights @ jacobian) > 0).all()

    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians())
    def test_weights_sum_to_1_and_their_sizes_to_10_at_most(self, jacobian):
        weights = solve(IMTLGWeighting(len(jacobian)), jacobian)
        sizes = np.abs(weights).sum()
        assert sizes <= 10 + 1e-9
        assert sizes == pytest.approx(10) or weights.sum() == pytest.approx(1)

    @pytest.mark.parametrize("angle", [0, 1e-9, 1e-4, 0.3, 3.0, np.pi - 1e-4, np.pi])
    def test_two_losses_get_the_inverse_lengths_at_any_angle(self, angle):
        jacobian = np.array([[3.0, 0], [np.cos(angle), np.sin(angle)]])
        weights = solve(IMTLGWeighting(2), jacobian)
        np.testing.assert_allclose(weights, [0.25, 0.75], rtol=1e-6)

    def test_a_loss_without_gradient_gets_no_weight(self):
        jacobian = np.array([[3.0, 0], [0, 0], [0, 1]])
        np.testing.assert_allclose(solve(IMTLGWeighting(3), jacobian), [0.25, 0, 0.75])
        np.testing.assert_allclose(solve(IMTLGWeighting(2), np.zeros((2, 2))), [0.5, 0.5])

    @pytest.mark.parametrize("seed", range(10))
    def test_parallel_gradients_whose_gramian_is_rounded(self, seed):
        random = np.random.default_rng(seed)
        lengths, row = random.uniform(0.1, 2, 4), random.standard_normal(3000)
        gramian = in_single_precision(np.outer(lengths, row))
        weights = IMTLGWeighting(4).solve(np.ones(4), gramian)
        np.testing.assert_allclose(weights, 1 / lengths / (1 / lengths).sum(), rtol=1e-3)


class TestIMTL:
    @staticmethod
    def call(method, losses, jacobian):
        gramian = paddle.to_tensor(jacobian @ jacobian.T, dtype="float32")
        return method(paddle.to_tensor(losses, dtype="float32"), gramian).numpy()

    def test_weights_are_those_of_the_balanced_scaled_losses(self):
        random = np.random.default_rng(0)
        for _ in range(30):
            jacobian, s = random.standard_normal((3, 8)), random.uniform(-1, 1, 3)
            method = IMTLWeighting(3)
            method.s.set_value(s.astype("float32"))
            scaled = np.exp(s)[:, None] * jacobian
            alpha = np.linalg.pinv(scaled @ scaled.T) @ np.linalg.norm(scaled, axis=1)
            expected = np.exp(s) * alpha / alpha.sum()
            if np.abs(alpha).sum() < 9 * alpha.sum():
                np.testing.assert_allclose(solve(method, jacobian), expected, rtol=1e-5)

    def test_scales_change_the_length_and_not_the_direction(self):
        jacobian = np.random.default_rng(1).standard_normal((3, 8))
        method = IMTLWeighting(3)
        method.s.set_value(np.array([-2.0, 0.5, 3.0], "float32"))
        update, plain = solve(method, jacobian) @ jacobian, solve(IMTLGWeighting(3), jacobian)
        direction = plain @ jacobian
        cosine = update @ direction / np.linalg.norm(update) / np.linalg.norm(direction)
        assert cosine == pytest.approx(1)
        assert np.linalg.norm(update) != pytest.approx(np.linalg.norm(direction), rel=0.01)

    @pytest.mark.parametrize("s", [[-7.6, 0.3, 7.4], [-6.9, 0.0, 6.9], [-12.0, 1.0, 9.0]])
    def test_gradient_of_s_is_that_of_its_objective(self, s):
        """By finite differences, beyond the bounds as in the docstring."""
        losses = np.array([0.7, 2.0, 0.001])

        def objective(s):
            bounded = np.clip(s, -7, 7)
            above = np.maximum(s - 7, 0)
            return (np.exp(bounded) * (1 + above) * losses - s + above**2).sum()

        method = IMTLWeighting(3)
        method.s.set_value(np.array(s, "float32"))
        self.call(method, losses, np.eye(3))
        penalty = method.penalty()
        assert float(penalty) == 0
        penalty.backward()
        at = method.s.numpy().astype("float64")
        steps = 1e-6 * np.eye(3)
        slopes = [(objective(at + e) - objective(at - e)) / 2e-6 for e in steps]
        np.testing.assert_allclose(method.s.grad.numpy(), slopes, rtol=1e-4, atol=1e-6)

    def test_a_constant_loss_is_scaled_to_1(self):
        method, losses = IMTLWeighting(3), np.array([0.05, 1.0, 4.0])
        optimizer = paddle.optimizer.SGD(0.1, parameters=method.parameters())
        for _ in range(300):
            self.call(method, losses, np.eye(3))
            method.penalty().backward()
            optimizer.step()
            optimizer.clear_grad()
        np.testing.assert_allclose(np.exp(method.s.numpy()) * losses, 1, rtol=1e-3)

    @pytest.mark.parametrize("loss", [0.0, -3.0])
    def test_a_loss_that_is_not_positive_stops_at_the_bound(self, loss):
        method = IMTLWeighting(2)
        optimizer = paddle.optimizer.SGD(0.1, parameters=method.parameters())
        for _ in range(400):
            weights = self.call(method, [loss, 1.0], np.eye(2))
            method.penalty().backward()
            optimizer.step()
            optimizer.clear_grad()
        np.testing.assert_allclose(method.s.numpy(), [7.5, 0], atol=1e-3)
        assert np.isfinite(weights).all()

    def test_the_penalty_is_of_one_call_and_s_gets_nothing_else(self):
        method = IMTLWeighting(2)
        assert method.penalty() is None
        x = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
        aggregator = LossAggregator(["a", "b"], method)
        aggregator.bind([x])
        total = aggregator({"a": x[0] * 3, "b": x[1] * 0.25})  # lengths 3 and 1/4
        assert float(total) == pytest.approx((3 / 3 + 0.5 * 4) / (1 / 3 + 4))
        total.backward()
        assert method.s.grad.tolist() == [2.0, -0.5]
        np.testing.assert_allclose(x.grad.numpy(), np.array([1, 1]) / (1 / 3 + 4), rtol=1e-6)
        assert method.penalty() is None

    def test_a_loss_that_is_not_finite(self):
        method = IMTLWeighting(2)
        with pytest.raises(TrainingDiverged, match="not finite"):
            self.call(method, [float("nan"), 1.0], np.eye(2))
        assert method.penalty() is None

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"lr_mult": 0}, "lr_mult: expected a positive number, found 0"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            IMTLWeighting(2, **arguments)


#: The singular value of Aligned-MTL, squared, from those of the gradients.
COMMON = {
    "min": lambda squares: squares.min(),
    "median": lambda squares: sorted(squares)[(len(squares) - 1) // 2],
    "rmse": lambda squares: squares.mean(),
}


class TestAlignedMTL:
    @pytest.mark.parametrize("scale_mode", COMMON)
    @settings(max_examples=60, deadline=None)
    @given(jacobian=jacobians())
    def test_update_is_the_sum_of_the_aligned_gradients(self, scale_mode, jacobian):
        """The singular vectors of J with all singular values the same."""
        method = AlignedMTLWeighting(len(jacobian), scale_mode=scale_mode)
        update = solve(method, jacobian) @ jacobian
        left, singular, right = np.linalg.svd(jacobian, full_matrices=False)
        if singular[0] == 0:
            np.testing.assert_array_equal(update, 0)
            return
        kept = singular**2 > 1e-6 * len(jacobian) * singular[0] ** 2
        common = np.sqrt(COMMON[scale_mode](singular[kept] ** 2))
        aligned = common * left[:, kept] @ right[kept]
        # The Gramian squares the condition number.
        size = np.abs(jacobian).max()
        np.testing.assert_allclose(update, aligned.sum(axis=0), rtol=1e-6, atol=1e-6 * size)

    def test_orthogonal_gradients_get_one_length(self):
        jacobian = np.diag([4.0, 1.0, 0.25, 2.0])
        for scale_mode, length in (("min", 0.25), ("median", 1.0)):
            method = AlignedMTLWeighting(4, scale_mode=scale_mode)
            np.testing.assert_allclose(solve(method, jacobian) @ jacobian, [length] * 4)

    @pytest.mark.parametrize("seed", range(10))
    def test_noise_of_single_precision_is_no_gradient(self, seed):
        """``min`` would set all singular values to that of the noise, and nothing would train."""
        random = np.random.default_rng(seed)
        rows = random.standard_normal((3, 50000))
        rows[2] = rows[0]
        gramian = in_single_precision(rows)
        weights = AlignedMTLWeighting(3).solve(np.ones(3), gramian)
        np.testing.assert_allclose(weights, solve(AlignedMTLWeighting(3), rows), rtol=1e-3)
        assert weights.min() > 0.1

    def test_a_loss_without_gradient_gets_no_weight(self):
        assert solve(AlignedMTLWeighting(2), np.array([[2.0, 0], [0, 0]])).tolist() == [1, 0]
        assert solve(AlignedMTLWeighting(2), np.zeros((2, 2))).tolist() == [1, 1]

    def test_bad_arguments(self):
        message = "scale_mode: expected one of min, median, rmse, found 'max'"
        with pytest.raises(ConfigError, match=message):
            AlignedMTLWeighting(2, scale_mode="max")


class TestConFIG:
    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians())
    def test_update_is_that_of_the_inverse_of_the_unit_gradients(self, jacobian):
        update = solve(ConFIGWeighting(len(jacobian)), jacobian) @ jacobian
        others = with_gradient(jacobian)
        if len(others) == 0:
            np.testing.assert_array_equal(update, 0)
            return
        singular = np.linalg.svd(units(others))[1]
        if ((singular**2 > 1e-9) & (singular**2 < 1e-3)).any():
            return
        v = np.linalg.pinv(units(others), rcond=1e-4) @ np.ones(len(others))
        if np.linalg.norm(v) > 1e-6:
            v /= np.linalg.norm(v)
        size = np.abs(jacobian).max()
        expected = (others @ v).sum() * v
        np.testing.assert_allclose(update, expected, rtol=1e-6, atol=1e-6 * size)

    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_equal_positive_cosines_and_the_length_of_all_projections(self, count):
        """Equations of the paper: no conflict with any loss."""
        random = np.random.default_rng(0)
        for _ in range(50):
            jacobian = random.standard_normal((count, 7)) * 10 ** random.uniform(-2, 2, (count, 1))
            update = solve(ConFIGWeighting(count), jacobian) @ jacobian
            length = np.linalg.norm(update)
            cosines = units(jacobian) @ update / length
            assert cosines[0] > 0
            np.testing.assert_allclose(cosines, cosines[0], rtol=1e-6)
            np.testing.assert_allclose(length, (jacobian @ update).sum() / length)

    def test_two_losses_in_closed_form(self):
        """The direction is that of the sum of both normalised rejections."""
        random = np.random.default_rng(1)
        for _ in range(50):
            first, second = random.standard_normal((2, 5))
            of_first = first - (first @ second) / (second @ second) * second
            of_second = second - (first @ second) / (first @ first) * first
            direction = of_first / np.linalg.norm(of_first) + of_second / np.linalg.norm(of_second)
            direction /= np.linalg.norm(direction)
            expected = (first @ direction + second @ direction) * direction
            jacobian = np.stack([first, second])
            np.testing.assert_allclose(solve(ConFIGWeighting(2), jacobian) @ jacobian, expected)

    @pytest.mark.parametrize("angle", [0, 1e-4, 0.3, 3.0, np.pi - 1e-4, np.pi])
    def test_weights_of_two_losses_at_any_angle(self, angle):
        """mean |g_j| / |g_i|: the projections are equal, so the weights of u_i are."""
        jacobian = np.array([[3.0, 0], [np.cos(angle), np.sin(angle)]])
        weights = solve(ConFIGWeighting(2), jacobian)
        np.testing.assert_allclose(weights, [2 / 3, 2], rtol=1e-6)

    def test_gradients_that_add_up_to_nothing(self):
        angles = np.array([0, 2, 4]) * np.pi / 3
        jacobian = np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[1.0], [2.0], [3.0]]
        weights = solve(ConFIGWeighting(3), jacobian)
        np.testing.assert_allclose(weights, [2, 1, 2 / 3])
        np.testing.assert_allclose(weights @ jacobian, 0, atol=1e-12)

    def test_a_loss_without_gradient_takes_no_part(self):
        jacobian = np.array([[3.0, 0], [0, 0], [0, 1]])
        np.testing.assert_allclose(solve(ConFIGWeighting(3), jacobian), [2 / 3, 0, 2])
        assert solve(ConFIGWeighting(2), np.zeros((2, 2))).tolist() == [1, 1]


class TestKrum:
    @staticmethod
    def scores(jacobian, n_byzantine):
        scores = []
        for i, row in enumerate(jacobian):
            others = np.delete(jacobian, i, axis=0)
            squares = sorted(((row - others) ** 2).sum(axis=1))
            scores.append(sum(squares[: len(jacobian) - n_byzantine - 2]))
        return np.array(scores)

    @pytest.mark.parametrize(("count", "n_byzantine"), [(3, 0), (4, 0), (4, 1), (7, 2), (7, 4)])
    @pytest.mark.parametrize("n_selected", [1, 3])
    def test_the_chosen_have_the_least_scores(self, count, n_byzantine, n_selected):
        """By the distances of the vectors."""
        random = np.random.default_rng(0)
        method = KrumWeighting(count, n_byzantine=n_byzantine, n_selected=n_selected)
        for _ in range(50):
            jacobian = random.standard_normal((count, 4)) * 10 ** random.uniform(-1, 1, (count, 1))
            weights, scores = solve(method, jacobian), self.scores(jacobian, n_byzantine)
            assert sorted(weights)[-n_selected:] == [1 / n_selected] * n_selected
            assert (weights > 0).sum() == n_selected
            least = np.sort(scores)[:n_selected]
            np.testing.assert_allclose(np.sort(scores[weights > 0]), least, rtol=1e-5)

    def test_distances_are_squared(self):
        """Two neighbours at 1.9 count 7.2, less than those at 0 and 3; unsquared it is more."""
        points = np.array([[-1.9], [0.0], [1.9], [4.9], [4.9]])
        assert solve(KrumWeighting(5, n_byzantine=1), points).tolist() == [0, 1, 0, 0, 0]

    @pytest.mark.parametrize("size", [10.0, 1e6])
    def test_gradients_that_are_far_off_are_left_out(self, size):
        random = np.random.default_rng(1)
        jacobian = random.standard_normal((7, 5))
        jacobian[[1, 4]] = size * random.standard_normal((2, 5))
        weights = solve(KrumWeighting(7, n_byzantine=2, n_selected=5), jacobian)
        np.testing.assert_allclose(weights, np.where(np.isin(range(7), [1, 4]), 0, 0.2))

    def test_of_equal_scores_the_first_wins(self):
        assert solve(KrumWeighting(3), np.array([[9.0], [1.0], [1.5]])).tolist() == [0, 1, 0]
        assert solve(KrumWeighting(4, n_selected=2), np.ones((4, 2))).tolist() == [0.5, 0.5, 0, 0]

    @pytest.mark.parametrize("seed", range(10))
    def test_rounding_does_not_decide_between_equal_gradients(self, seed):
        jacobian = np.array([[5.0, 1], [1, 0], [0, 7], [1, 2], [1, 0]])
        noise = rounding(5, seed)
        found = KrumWeighting(5, n_byzantine=1).solve(np.ones(5), jacobian @ jacobian.T * noise)
        assert found.tolist() == [0, 1, 0, 0, 0]
        found = KrumWeighting(5).solve(np.ones(5), noise)
        assert found.tolist() == [1, 0, 0, 0, 0]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((2,), "losses: Krum expects 3 or more, found 2"),
            ((4, 2), "n_byzantine: expected at most 1 of 4 losses, found 2"),
            ((4, -1), "n_byzantine: expected an integer of at least 0, found -1"),
            ((4, 0, 5), "n_selected: expected at most 4, found 5"),
            ((4, 0, 0), "n_selected: expected a positive integer, found 0"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            KrumWeighting(*arguments)


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


class TestCRMOGM:
    @staticmethod
    def gramians(count, steps=6):
        random = np.random.default_rng(0)
        rows = [random.standard_normal((count, 5)) for _ in range(steps)]
        return [paddle.to_tensor(r @ r.T, dtype="float32") for r in rows]

    @pytest.mark.parametrize("name", ["CAGrad", "IMTLG", "GradVac", "Relobralo", "Sum", "NTK"])
    @pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
    def test_weights_are_the_average_of_those_of_the_method(self, name, alpha):
        paddle.seed(3)
        method, alone = CRMOGMWeighting(3, method=name, alpha=alpha), METHODS[name](3)
        average = None
        for step, gramian in enumerate(self.gramians(3)):
            losses = paddle.to_tensor([1.0, 0.5 + step, 2.0])
            found = alone(losses, gramian).numpy().astype("float64")
            average = found if average is None else alpha * average + (1 - alpha) * found
            weights = method(losses, gramian)
            np.testing.assert_allclose(weights.numpy(), average, rtol=1e-5, atol=1e-6)
            assert weights.stop_gradient

    def test_options_are_those_of_the_method(self):
        method = CRMOGMWeighting(2, "CAGrad", {"calpha": 0.0, "rescale": 0})
        gramian = paddle.to_tensor(J @ J.T, dtype="float32")
        assert method(paddle.ones([2]), gramian).tolist() == [0.5, 0.5]
        assert "calpha=0.0" in repr(method.averaged)
        assert repr(method).endswith("options={'calpha': 0.0, 'rescale': 0}, alpha=0.9)")

    @pytest.mark.parametrize("name", ["Relobralo", "GradVac"])
    def test_state_holds_that_of_the_method(self, name):
        steps = [paddle.to_tensor([1.0, 2.0, 0.1 + step]) for step in range(6)]
        paddle.seed(1)
        original = CRMOGMWeighting(3, method=name)
        weights = [original(x, g).tolist() for x, g in zip(steps[:3], self.gramians(3)[:3])]
        paddle.seed(2)
        restored = CRMOGMWeighting(3, method=name)
        restored.set_state_dict({k: v.clone() for k, v in original.state_dict().items()})
        for losses, gramian in zip(steps[3:], self.gramians(3)[3:]):
            weights = original(losses, gramian).tolist()
            assert restored(losses, gramian).tolist() == weights

    @pytest.mark.parametrize("at", [0, 3])
    def test_a_loss_that_is_not_finite_leaves_no_trace(self, at):
        method = CRMOGMWeighting(2, method="Relobralo", options={"beta": 0.0})
        for step in range(6):
            losses = [float("nan"), 1.0] if step == at else [1.0 + step, 2.0]
            before = {k: v.numpy() for k, v in method.state_dict().items() if "step" not in k}
            weights = method(paddle.to_tensor(losses)).numpy()
            assert np.isfinite(weights).all()
            if step == at:
                for key, value in before.items():
                    np.testing.assert_array_equal(method.state_dict()[key].numpy(), value)

    def test_what_is_true_of_the_method_is_true_of_its_average(self):
        smoothed = CRMOGMWeighting(2, method="Relobralo")
        found = smoothed.needs, smoothed.sums_to, smoothed.scale, smoothed.may_be_negative
        assert found == ("losses", "K", "sum", False)
        smoothed = CRMOGMWeighting(2, method="IMTLG")
        found = smoothed.needs, smoothed.sums_to, smoothed.scale, smoothed.may_be_negative
        assert found == ("gramian", "1 or less", "mean", True)

    @pytest.mark.parametrize("name", ["Relobralo", "IMTLG"])
    def test_gradient_is_the_weighted_sum(self, name):
        x = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
        aggregator = LossAggregator(["a", "b"], CRMOGMWeighting(2, method=name, alpha=0.5))
        aggregator.bind([x])
        for step in range(3):
            x.clear_gradient()
            aggregator({"a": x[0] ** 2 * (step + 1), "b": x[1] * 0.5}).backward()
            weights = aggregator.last_weights.numpy()
            np.testing.assert_allclose(x.grad.numpy(), weights * [2 * (step + 1), 0.5], rtol=1e-6)
        assert aggregator.last_weights.tolist() != [1, 1]

    def test_a_second_evaluation_is_the_methods(self, monkeypatch):
        class Watching(Weighting):
            needs_losses_after_step = True

            def observe_after_step(self, losses):
                self.seen = losses.tolist()

        monkeypatch.setitem(METHODS, "Watching", Watching)
        method = CRMOGMWeighting(2, method="Watching")
        assert method.needs_losses_after_step
        method.observe_after_step(paddle.to_tensor([1.0, 2.0]))
        assert method.averaged.seen == [1.0, 2.0]
        assert not CRMOGMWeighting(2).needs_losses_after_step

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"alpha": 1.1}, "alpha: expected a number from 0 to 1, found 1.1"),
            ({"method": "CAgrad"}, "method: there is no 'CAgrad'; did you mean CAGrad?"),
            ({"method": "?"}, "method: there is no '?'"),
            ({"method": 3}, "method: there is no 3"),
            ({"method": "CRMOGM"}, "method: CRMOGM cannot average CRMOGM, which averages already"),
            ({"method": "IMTL"}, "method: CRMOGM cannot average IMTL, which learns its weights"),
            (
                {"method": "SeparateBackward"},
                "method: CRMOGM cannot average SeparateBackward, which has constant weights",
            ),
            (
                {"method": "CAGrad", "options": {"alpha": 1}},
                "options: CAGrad has no 'alpha'; did you mean calpha?",
            ),
            (
                {"method": "CAGrad", "options": {"calpha": -1}},
                "calpha: expected a number of at least 0, found -1",
            ),
            ({"options": [1]}, "options: expected names and values, found [1]"),
            ({"method": "Krum"}, "losses: Krum expects 3 or more, found 2"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError) as error:
            CRMOGMWeighting(2, **arguments)
        assert str(error.value) == message

    def test_a_method_that_needs_the_jacobian_is_refused(self, monkeypatch):
        class OfJacobian(RelobraloWeighting):
            needs = "jacobian"

        monkeypatch.setitem(METHODS, "OfJacobian", OfJacobian)
        with pytest.raises(ConfigError, match="cannot average OfJacobian, which needs the whole"):
            CRMOGMWeighting(2, method="OfJacobian")


def test_crmogm_hands_the_names_on():
    averaged = CRMOGMWeighting(2, method="PCD", options={"primary": "b"})
    aggregator = LossAggregator(["a", "b"], averaged)
    weights = aggregator.weighting(paddle.ones([2]), paddle.eye(2))
    assert weights.tolist()[1] == pytest.approx(1, rel=1e-3)
    assert weights.tolist()[0] < 0.1
