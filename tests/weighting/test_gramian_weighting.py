"""The methods that look at gradients, against golden values, brute force, and their papers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import (
    METHODS,
    AGDAWeighting,
    CAGradWeighting,
    GradNormWeighting,
    GramianWeighting,
    NormBalanceWeighting,
    NTKWeighting,
    PCGradWeighting,
    RelobraloWeighting,
    SeparateBackwardWeighting,
)

#: J = [[-4, 1, 1], [6, 1, 1]], the example whose weights TorchJD publishes.
J = np.array([[-4.0, 1, 1], [6, 1, 1]])
GOLDEN = {
    "PCGrad": (PCGradWeighting(2), [2.2222, 1.5789]),
    "CAGrad": (CAGradWeighting(2, calpha=0.5, rescale=0), [0.7041, 0.5]),
}
#: Methods that a Gramian of any K can be given to.
ANY_K = [CAGradWeighting, NTKWeighting, NormBalanceWeighting, PCGradWeighting]
ANY_K += [SeparateBackwardWeighting]

KINDS = ["random", "rank one", "duplicate rows", "zero row", "badly scaled", "tiny", "huge"]


@st.composite
def jacobians(draw, least=1, most=5):
    """Matrices of K gradients, the awkward kinds included."""
    count, columns = draw(st.integers(least, most)), draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(KINDS))
    matrix = random.standard_normal((count, columns))
    if kind == "rank one":
        matrix = np.outer(random.standard_normal(count), matrix[0])
    elif kind == "duplicate rows":
        matrix[-1] = matrix[0]
    elif kind == "zero row":
        matrix[random.integers(count)] = 0
    elif kind == "badly scaled":
        matrix *= 10.0 ** random.uniform(-4, 4, (count, 1))
    elif kind == "tiny":
        matrix *= 1e-8
    elif kind == "huge":
        matrix *= 1e8
    return matrix


def solve(method: GramianWeighting, jacobian: np.ndarray, losses=None) -> np.ndarray:
    losses = np.ones(len(jacobian)) if losses is None else np.asarray(losses, float)
    return method.solve(losses, jacobian @ jacobian.T)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_weights(name):
    method, expected = GOLDEN[name]
    np.testing.assert_allclose(solve(method, J), expected, atol=1e-4)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.needs == "gramian"])
def test_called_as_a_layer_it_returns_a_tensor_of_weights(name):
    count = max(2, METHODS[name].least_losses)
    method = METHODS[name](count)
    gramian = paddle.to_tensor(np.diag(np.arange(1.0, count + 1)), dtype="float32")
    weights = method(paddle.ones([count]), gramian)
    assert weights.shape == [count]
    assert weights.dtype == paddle.float32
    assert weights.stop_gradient
    with pytest.raises(ConfigError, match="expected the Gramian"):
        method(paddle.ones([count]))


@pytest.mark.parametrize("method", ANY_K)
class TestAnyGramian:
    @settings(max_examples=60, deadline=None)
    @given(jacobian=jacobians())
    def test_weights_are_finite_and_not_negative(self, method, jacobian):
        """No auxiliary head can be made to ascend: that takes a negative weight."""
        weights = solve(method(len(jacobian)), jacobian)
        assert weights.shape == (len(jacobian),)
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()

    @settings(max_examples=40, deadline=None)
    @given(jacobian=jacobians(least=2), scale=st.sampled_from([1e-6, 1e6]))
    def test_the_scale_of_the_gradients_does_not_matter(self, method, jacobian, scale):
        expected = jacobian.T @ solve(method(len(jacobian)), jacobian)
        scaled = (scale * jacobian).T @ solve(method(len(jacobian)), scale * jacobian)
        size = np.abs(jacobian).max()
        np.testing.assert_allclose(scaled / scale, expected, rtol=1e-6, atol=1e-6 * size)

    @settings(max_examples=40, deadline=None)
    @given(jacobian=jacobians(least=2, most=2))
    def test_permuting_the_losses_permutes_the_weights(self, method, jacobian):
        """For two losses; PCGrad's random order makes it a matter of chance for more."""
        straight = jacobian.T @ solve(method(2), jacobian)
        swapped = jacobian[::-1].T @ solve(method(2), jacobian[::-1])
        np.testing.assert_allclose(swapped, straight, atol=1e-5 * np.abs(jacobian).max())


class TestCAGrad:
    @staticmethod
    def objective(jacobian, w, c):
        """F(w) of the paper's dual."""
        mean = jacobian.mean(axis=0)
        mixed = w @ jacobian
        return mixed @ mean + c * np.linalg.norm(mean) * np.linalg.norm(mixed, axis=-1)

    @pytest.mark.parametrize("count", [2, 3])
    @pytest.mark.parametrize("c", [0.2, 0.5, 1.5])
    @pytest.mark.parametrize("scale", [1e-8, 1, 1e8])
    def test_no_point_of_a_fine_grid_is_better(self, count, c, scale):
        ticks = np.linspace(0, 1, 201)
        grid = np.stack(np.meshgrid(*[ticks] * (count - 1)), -1).reshape(-1, count - 1)
        grid = grid[grid.sum(axis=1) <= 1]
        grid = np.concatenate([grid, 1 - grid.sum(axis=1, keepdims=True)], axis=1)
        for seed in range(10):
            jacobian = scale * np.random.default_rng(seed).standard_normal((count, 4))
            correction = solve(CAGradWeighting(count, calpha=c, rescale=0), jacobian) - 1 / count
            own = self.objective(jacobian, correction / correction.sum(), c)
            best = min(self.objective(jacobian, w, c) for w in grid)
            assert own <= best + 1e-9 * scale**2

    @settings(max_examples=150, deadline=None)
    @given(jacobian=jacobians(), c=st.sampled_from([0.1, 0.5, 1.0, 2.0]))
    def test_update_solves_the_primal_problem(self, jacobian, c):
        """d is in the ball around the mean, and no w of the dual promises more than it gives."""
        weights = solve(CAGradWeighting(len(jacobian), calpha=c, rescale=0), jacobian)
        mean, update = jacobian.mean(axis=0), weights @ jacobian
        size = np.abs(jacobian).max() + 1e-300
        radius = c * np.linalg.norm(mean)
        assert np.linalg.norm(update - mean) <= radius * (1 + 1e-3) + 1e-7 * size
        correction = weights - 1 / len(jacobian)
        bounds = []
        if (np.abs(jacobian).sum(axis=1) == 0).any():
            # Nothing can be done for a loss without gradient: F is 0 at its corner.
            bounds.append(0.0)
        if correction.sum() > 1e-9:
            bounds.append(self.objective(jacobian, correction / correction.sum(), c))
        bound = min(bounds, default=0.0)
        # Weak duality: bound >= worst.  Near Pareto stationarity the added 1e-8 shows.
        worst = (jacobian @ update).min()
        assert bound - worst <= 2e-4 * size**2

    @settings(max_examples=60, deadline=None)
    @given(jacobian=jacobians(least=2))
    def test_no_loss_gets_worse_from_c_1_on(self, jacobian):
        """Liu et al.: for c >= 1 the update conflicts with no loss."""
        update = solve(CAGradWeighting(len(jacobian), calpha=1.0), jacobian) @ jacobian
        size = np.abs(jacobian).max() + 1e-300
        assert (jacobian @ update >= -1e-3 * size**2).all()

    @pytest.mark.parametrize("seed", range(20))
    def test_parallel_gradients_whose_gramian_is_rounded(self, seed):
        """Single precision may leave such a Gramian with negative eigenvalues."""
        random = np.random.default_rng(seed)
        rows = np.outer(random.uniform(0.1, 2, 3), random.standard_normal(3000)).astype("float32")
        gramian = (rows @ rows.T).astype("float64")
        weights = CAGradWeighting(3).solve(np.ones(3), gramian)
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()

    def test_c_of_0_is_the_mean(self):
        np.testing.assert_allclose(solve(CAGradWeighting(2, calpha=0), J), [0.5, 0.5])

    @pytest.mark.parametrize(("rescale", "divisor"), [(0, 1), (1, 1.25), (2, 1.5)])
    def test_rescale(self, rescale, divisor):
        weights = solve(CAGradWeighting(2, calpha=0.5, rescale=rescale), J)
        expected = solve(CAGradWeighting(2, calpha=0.5, rescale=0), J) / divisor
        np.testing.assert_allclose(weights, expected)

    def test_a_loss_without_gradient_does_not_keep_the_others_from_their_update(self):
        jacobian = np.array([[1.0, 0], [0, 0], [0.5, 1]])
        update = solve(CAGradWeighting(3, rescale=0), jacobian) @ jacobian
        np.testing.assert_allclose(update, jacobian.mean(axis=0))

    def test_opposed_losses_keep_the_mean(self):
        """Pareto stationary: g_w = 0 for w = (1/3, 2/3)."""
        jacobian = np.array([[2.0, 0], [-1.0, 0]])
        update = solve(CAGradWeighting(2, rescale=0), jacobian) @ jacobian
        assert np.linalg.norm(update - [0.5, 0]) <= 0.5 * 0.5 * (1 + 1e-3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"calpha": -1}, "calpha: expected a number of at least 0, found -1"),
            ({"rescale": 3}, "rescale: expected 0, 1 or 2, found 3"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            CAGradWeighting(2, **arguments)


class TestPCGrad:
    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians())
    def test_same_as_projecting_the_gradients_themselves(self, jacobian):
        """Algorithm 1 of the paper on vectors, in the same random order."""
        method = PCGradWeighting(len(jacobian))
        method.draws.seed.set_value(np.asarray(7))
        random = np.random.default_rng([7, 0])
        projected = jacobian.copy()
        for i in range(len(jacobian)):
            for j in random.permutation(len(jacobian)):
                inner = projected[i] @ jacobian[j]
                # Rounding decides about gradients that are orthogonal by now.
                lengths = np.linalg.norm(projected[i]) * np.linalg.norm(jacobian[j])
                if j != i and inner < -1e-9 * lengths:
                    projected[i] -= inner / (jacobian[j] @ jacobian[j]) * jacobian[j]
        update = solve(method, jacobian) @ jacobian
        size = np.abs(jacobian).max() + 1e-300
        np.testing.assert_allclose(update, projected.sum(axis=0), atol=1e-5 * size, rtol=1e-5)

    def test_a_gradient_too_small_to_square(self):
        gramian = np.array([[1, -1e-25], [-1e-25, 0]])
        assert PCGradWeighting(2).solve(np.ones(2), gramian)[0] == 1
        assert np.isfinite(PCGradWeighting(2).solve(np.ones(2), gramian)).all()

    def test_without_conflict_it_is_the_sum(self):
        jacobian = np.array([[1.0, 0], [1, 1], [0, 1]])
        np.testing.assert_array_equal(solve(PCGradWeighting(3), jacobian), [1, 1, 1])

    def test_two_conflicting_losses_in_closed_form(self):
        """Each g_i - <g_i, g_j> / |g_j|^2 g_j: weights 1 + |<g_1, g_2>| / |g_i|^2."""
        random = np.random.default_rng(0)
        for _ in range(50):
            first, second = random.standard_normal((2, 5))
            second = second if first @ second < 0 else -second
            inner = -(first @ second)
            expected = [1 + inner / (first @ first), 1 + inner / (second @ second)]
            weights = solve(PCGradWeighting(2), np.stack([first, second]))
            np.testing.assert_allclose(weights, expected, rtol=1e-12)

    def test_order_is_drawn_anew_at_every_step_and_set_by_the_seed(self):
        jacobian = np.random.default_rng(3).standard_normal((4, 3))
        paddle.seed(5)
        method, same = PCGradWeighting(4), PCGradWeighting(4)
        drawn = [tuple(solve(method, jacobian)) for _ in range(12)]
        assert len(set(drawn)) > 1
        assert drawn == [tuple(solve(same, jacobian)) for _ in range(12)]


class TestSeparateBackward:
    def test_weights_are_the_multipliers(self):
        assert solve(SeparateBackwardWeighting(2, lr_mult=[1, 0.1]), J).tolist() == [1, 0.1]
        assert solve(SeparateBackwardWeighting(2), J).tolist() == [1, 1]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"lr_mult": [1]}, "lr_mult: expected one for each of 2 losses, found 1"),
            ({"lr_mult": [1, -1]}, "lr_mult: expected a positive number, found -1"),
            ({"step": "every"}, "step: expected joint or each, found 'every'"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            SeparateBackwardWeighting(2, **arguments)


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


class TestAGDA:
    @staticmethod
    def by_hand(losses_of_steps, jacobians_of_steps, period, gamma):
        """Equations 16 to 18 and both steps of the algorithm, on the gradients themselves."""
        smooth = reference = None
        updates = []
        for step, (losses, jacobian) in enumerate(zip(losses_of_steps, jacobians_of_steps)):
            losses = np.asarray(losses)
            smooth = losses if smooth is None else gamma * smooth + (1 - gamma) * losses
            if step % period == 0:
                reference = smooth
            tilde = smooth / reference
            rates = tilde / tilde.sum()
            norms = np.linalg.norm(jacobian, axis=1)
            omega = (rates * (norms.mean() - norms) + norms) / norms
            first, second = omega[0] * jacobian[0], omega[1] * jacobian[1]
            if first @ second < 0:
                second = second - (first @ second) / (first @ first) * first
            updates.append(first + second)
        return updates

    @pytest.mark.parametrize("period", [1, 3, 100])
    def test_update_is_that_of_the_algorithm_from_the_first_step_on(self, period):
        random = np.random.default_rng(1)
        losses = random.uniform(0.1, 2, (10, 2))
        jacobians_ = random.standard_normal((10, 2, 5)) * [[1.0], [20.0]]
        method = AGDAWeighting(2, M=period, gamma=0.9)
        expected = self.by_hand(losses, jacobians_, period, 0.9)
        for loss, jacobian, update in zip(losses, jacobians_, expected):
            np.testing.assert_allclose(solve(method, jacobian, loss) @ jacobian, update)

    def test_second_loss_never_works_against_the_first(self):
        random = np.random.default_rng(2)
        for _ in range(50):
            jacobian = random.standard_normal((2, 3))
            weights = solve(AGDAWeighting(2), jacobian)
            balanced_first = jacobian[0]
            assert (weights @ jacobian) @ balanced_first >= -1e-12

    @pytest.mark.parametrize("losses", [[0.0, 1.0], [-1.0, 1.0], [0.0, 0.0]])
    def test_losses_without_a_rate_count_alike(self, losses):
        method = AGDAWeighting(2)
        for _ in range(3):
            weights = solve(method, np.array([[1.0, 0], [0, 4.0]]), losses)
            np.testing.assert_allclose(weights, [1.75, 0.8125])

    def test_a_loss_without_gradient_leaves_the_other_alone(self):
        assert solve(AGDAWeighting(2), np.array([[1.0, 2], [0, 0]])).tolist() == [1, 1]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_losses": 3}, "losses: AGDA expects 2 losses, found 3"),
            ({"M": 0}, "M: expected a positive integer, found 0"),
            ({"gamma": 1.5}, "gamma: expected a number from 0 to 1, found 1.5"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            AGDAWeighting(**arguments)


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


class TestNormBalance:
    def test_moves_to_equal_lengths(self):
        jacobian = np.diag([4.0, 1.0, 0.25])
        method = NormBalanceWeighting(3, momentum=0.5)
        for _ in range(60):
            weights = solve(method, jacobian)
        np.testing.assert_allclose(weights * [4, 1, 0.25], [1.75] * 3, rtol=1e-6)

    def test_a_loss_without_gradient_keeps_its_weight(self):
        method = NormBalanceWeighting(2, momentum=0.5, init_weights=[1.0, 3.0])
        assert solve(method, np.array([[2.0], [0.0]])).tolist() == [1.0, 3.0]

    def test_bad_arguments(self):
        with pytest.raises(ConfigError, match="init_weights: expected one for each of 2 losses"):
            NormBalanceWeighting(2, init_weights=[1.0])
