"""The methods that need the whole Jacobian: each against its paper, and all of them end to end."""

from __future__ import annotations

import copy
import itertools
from unittest import mock

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss, LovaszSoftmaxLoss
from scipy.optimize import minimize
from scipy.stats import trim_mean
from support import TinyNet, ce_and_dice, run_training
from test_distributed import launched
from test_gradients import (
    aggregate,
    close,
    enabled_scaler,
    flat_gradient,
    gradients_by_backward,
    head_losses,
    network,
)
from test_gramian_weighting import J, jacobians
from test_loss_aggregator import mixed, parameters, resumed, train_jointly

import paddleseg_autoloss
from paddleseg_autoloss.errors import CheckpointError, ConfigError
from paddleseg_autoloss.gradients import Jacobian
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import (
    METHODS,
    DBMTLWeighting,
    ExcessMTLWeighting,
    GradDropWeighting,
    JacobianWeighting,
    MConFIGWeighting,
    MoCoWeighting,
    TrimmedMeanWeighting,
)
from paddleseg_autoloss.weighting.base import inner_products, nearest_weights
from paddleseg_autoloss.weighting.mconfig import _conflict_free
from paddleseg_autoloss.weighting.moco import _onto_simplex

NAMES = [name for name, method in METHODS.items() if method.needs == "jacobian"]
REMEMBERING = [name for name in NAMES if METHODS[name].matrices or METHODS[name].vectors]
every_method = pytest.mark.parametrize("name", NAMES)


def update(method: JacobianWeighting, jacobian, losses=None) -> tuple[np.ndarray, np.ndarray]:
    """Call a method with arrays; return d and the weights."""
    losses = np.ones(len(jacobian)) if losses is None else np.asarray(losses)
    found = method.update(
        paddle.to_tensor(losses, dtype="float32"), paddle.to_tensor(jacobian, dtype="float32")
    )
    return tuple(tensor.numpy().astype("float64") for tensor in found)


def state_of(layer: nn.Layer) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in layer.state_dict().items()}


def assert_same_state(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def steps(count=3, columns=40, number=8, seed=0):
    """Losses and Jacobians of some steps."""
    random = np.random.default_rng(seed)
    scales = 10.0 ** random.uniform(-1, 1, (count, 1))
    return [
        (random.uniform(0.1, 3, count), random.standard_normal((count, columns)) * scales)
        for _ in range(number)
    ]


def test_all_of_the_issue_are_there():
    expected = {"GradDrop", "TrimmedMean", "DBMTL", "ExcessMTL", "MConFIG", "MoCo"}
    assert expected <= set(NAMES)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_inner_products_are_exact_for_long_rows(count):
    random = np.random.default_rng(0)
    rows = np.exp(2 * random.standard_normal((count, 2**20))).astype("float32")
    exact = rows.astype("float64") @ rows.astype("float64").T
    np.testing.assert_allclose(inner_products(paddle.to_tensor(rows)), exact, rtol=1e-5)


def test_nearest_weights_find_a_combination_and_least_squares():
    random = np.random.default_rng(1)
    jacobian = random.standard_normal((3, 50))
    for target in (np.array([2.0, -1.0, 0.5]) @ jacobian, random.standard_normal(50)):
        expected = np.linalg.lstsq(jacobian.T, target, rcond=None)[0]
        found = nearest_weights(
            paddle.to_tensor(jacobian, dtype="float32"), paddle.to_tensor(target, dtype="float32")
        )
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


@every_method
class TestAnyJacobian:
    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def test_everything_stays_finite(self, name, data):
        least = METHODS[name].least_losses
        count = data.draw(st.integers(least, 5))
        method = METHODS[name](count)
        for _ in range(3):
            jacobian = data.draw(jacobians(least=count, most=count))
            jacobian = np.tile(jacobian, 6)[:, :6]
            losses = data.draw(st.sampled_from([1.0, 1e-8, 1e8, 0.0]))
            found, weights = update(method, jacobian, np.full(len(jacobian), losses))
            assert found.shape == (jacobian.shape[1],)
            assert weights.shape == (len(jacobian),)
            assert np.isfinite(found).all()
            assert np.isfinite(weights).all()
            for value in state_of(method).values():
                assert np.isfinite(value).all()

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_the_scale_of_the_gradients_does_not_matter(self, name, scale):
        paddle.seed(1)
        method, scaled = METHODS[name](3), METHODS[name](3)
        for losses, jacobian in steps():
            (d, weights), (e, others) = (
                update(method, jacobian, losses),
                update(scaled, scale * jacobian, losses),
            )
            np.testing.assert_allclose(others, weights, rtol=2e-3, atol=1e-5)
            factor = 1 if name == "MConFIG" else scale
            np.testing.assert_allclose(e / factor, d, rtol=2e-3, atol=1e-4 * np.abs(d).max())

    def test_state_restores_it_in_mid_course(self, name):
        paddle.seed(1)
        original = METHODS[name](3)
        for losses, jacobian in steps():
            update(original, jacobian, losses)
        paddle.seed(2)
        restored = METHODS[name](3)
        restored.prepare(40)
        restored.set_state_dict({k: v.clone() for k, v in original.state_dict().items()})
        for losses, jacobian in steps(seed=5):
            for one, other in zip(
                update(original, jacobian, losses), update(restored, jacobian, losses)
            ):
                np.testing.assert_array_equal(one, other)

    def test_the_jacobian_is_left_as_it_was(self, name):
        jacobian = paddle.to_tensor(steps()[0][1], dtype="float32")
        before = jacobian.numpy().copy()
        METHODS[name](3).update(paddle.ones([3]), jacobian)
        np.testing.assert_array_equal(jacobian.numpy(), before)


@pytest.mark.parametrize("name", REMEMBERING)
class TestRoom:
    def test_binding_again_keeps_what_was_learned(self, name):
        method = METHODS[name](3)
        for losses, jacobian in steps(number=3):
            update(method, jacobian, losses)
        before = state_of(method)
        buffers = {key: id(value) for key, value in method.named_buffers()}
        method.prepare(40)
        assert_same_state(state_of(method), before)
        assert {key: id(value) for key, value in method.named_buffers()} == buffers

    def test_another_size_is_fine_before_the_first_update_only(self, name):
        method = METHODS[name](3)
        method.prepare(7)
        method.prepare(40)
        ((losses, jacobian),) = steps(number=1)
        update(method, jacobian, losses)
        message = (
            f"{name}: expected gradients of 40 numbers, as when it began, found 41: it goes on only"
            " with the same network, trainable parameters neither more nor fewer"
        )
        with pytest.raises(ConfigError) as raised:
            method.prepare(41)
        assert str(raised.value) == message

    def test_a_refused_update_changes_nothing(self, name):
        method = METHODS[name](3)
        for losses, jacobian in steps(number=2):
            update(method, jacobian, losses)
        before = state_of(method)
        with pytest.raises(ConfigError, match="found 39"):
            update(method, jacobian[:, 1:], losses)
        assert_same_state(state_of(method), before)

    def test_state_that_came_before_the_room(self, name):
        """Paddle drops the tensors that have no place; going on without them would be wrong."""
        original, restored = METHODS[name](3), METHODS[name](3)
        update(original, steps()[0][1])
        restored.set_state_dict(original.state_dict())
        with pytest.raises(ConfigError, match="expected gradients that bind foresaw"):
            restored.prepare(40)


class TestGradDrop:
    @staticmethod
    def by_hand(jacobian, uniform, leaks):
        found = np.zeros(jacobian.shape[1])
        for k, column in enumerate(jacobian.T):
            total = np.abs(column).sum()
            purity = 0.5 * (1 + column.sum() / total) if total else 0.5
            for g, leak in zip(column, leaks):
                kept = (purity > uniform[k] and g > 0) or (purity < uniform[k] and g < 0)
                found[k] += (leak + (1 - leak) * kept) * g
        return found

    @pytest.mark.parametrize("leak", [0.0, 0.3, [0.0, 0.5, 1.0]])
    def test_update_is_that_of_the_algorithm(self, leak):
        method = GradDropWeighting(3, leak=leak)
        method.draws.seed.set_value(np.asarray(7))
        leaks = leak if isinstance(leak, list) else [leak] * 3
        for step, (_, jacobian) in enumerate(steps(columns=300)):
            seed = int(np.random.default_rng([7, step]).integers(1, 2**31 - 1))
            uniform = paddle.uniform([300], min=0, max=1, seed=seed).numpy()
            expected = self.by_hand(jacobian, uniform, leaks)
            np.testing.assert_allclose(update(method, jacobian)[0], expected, rtol=1e-4, atol=1e-5)

    def test_signs_are_picked_as_often_as_they_should_be(self):
        """3 and -1: P = 3/4, so 3 in three of four cases, -1 otherwise."""
        count = 200_000
        found, _ = update(GradDropWeighting(2), np.tile([[3.0], [-1.0]], count))
        assert set(found) == {3.0, -1.0}
        assert (found == 3).mean() == pytest.approx(0.75, abs=4 * np.sqrt(3 / 16 / count))

    def test_coordinates_are_drawn_by_themselves(self):
        found, _ = update(GradDropWeighting(2), np.tile([[1.0], [-1.0]], 100_000))
        assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 4 / np.sqrt(100_000)

    def test_nothing_is_dropped_where_all_agree(self):
        random = np.random.default_rng(0)
        jacobian = np.abs(random.standard_normal((7, 100_000))) * random.choice([-1, 1], 100_000)
        found, weights = update(GradDropWeighting(7), jacobian)
        np.testing.assert_allclose(found, jacobian.sum(axis=0), rtol=1e-5)
        np.testing.assert_allclose(weights, np.ones(7), rtol=1e-4)

    def test_zeros_stay_zero(self):
        found, weights = update(GradDropWeighting(2), np.zeros((2, 5)))
        assert not found.any()
        assert not weights.any()

    def test_draws_neither_disturb_nor_follow_paddles_generator(self):
        jacobian = steps(columns=1000)[0][1]
        paddle.seed(3)
        method = GradDropWeighting(3)
        same = copy.deepcopy(method)
        first = paddle.rand([4]).numpy()
        one = update(method, jacobian)[0]
        second = paddle.rand([4]).numpy()
        paddle.seed(3)
        np.testing.assert_array_equal(paddle.rand([4]).numpy(), first)
        np.testing.assert_array_equal(paddle.rand([4]).numpy(), second)
        paddle.seed(99)
        np.testing.assert_array_equal(update(same, jacobian)[0], one)
        assert (update(same, jacobian)[0] != one).any()

    @pytest.mark.parametrize(
        ("leak", "message"),
        [
            (1.5, "leak: expected a number from 0 to 1, found 1.5"),
            ("high", "leak: expected a number, found 'high'"),
            ([0.5], "leak: expected one for each of 2 losses, found 1"),
        ],
    )
    def test_bad_arguments(self, leak, message):
        with pytest.raises(ConfigError, match=message):
            GradDropWeighting(2, leak=leak)


class TestTrimmedMean:
    @pytest.mark.parametrize(("count", "trim"), [(3, 1), (4, 1), (5, 2), (8, 3), (3, 0)])
    def test_is_scipys(self, count, trim):
        for _, jacobian in steps(count):
            expected = trim_mean(jacobian, trim / count + 1e-9, axis=0)
            found, _ = update(TrimmedMeanWeighting(count, trim=trim), jacobian)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    def test_one_loss_cannot_drag_it_anywhere(self):
        jacobian = steps(5)[0][1]
        honest, rank = np.sort(jacobian[:4], axis=0), np.ones(40)
        for sign in (1, -1):
            jacobian[4] = sign * 1e30
            found, _ = update(TrimmedMeanWeighting(5), jacobian)
            assert (found >= honest[0] - 1e-4 * rank).all()
            assert (found <= honest[-1] + 1e-4 * rank).all()

    @pytest.mark.parametrize(
        ("column", "trim", "expected"),
        [
            ([4, 0, 0, 0, 0], 1, 4 / 5),
            ([4, 0, -2, 0, 0], 1, (4 - 2) / 5),
            ([4, 0, -2, 1, 0], 1, 1 * 3 / 5),
            ([-1, 0, -2, -9, -3], 1, -2.5 * 4 / 5),
            ([1, 0, 2, 9, 3], 2, 2.5 * 4 / 5),
            ([1, -5, 2, 9, 3], 2, 2),
            ([0, 0, 0, 0, 0], 1, 0),
        ],
    )
    def test_losses_without_a_gradient_have_no_say(self, column, trim, expected):
        for order in itertools.islice(itertools.permutations(column), 0, 120, 17):
            found, _ = update(TrimmedMeanWeighting(5, trim=trim), np.array([order], float).T)
            assert found[0] == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("count", "trim", "message"),
        [
            (2, 1, "losses: TrimmedMean expects 3 or more, found 2"),
            (4, 2, "trim: expected at most 1 with 4 losses, found 2"),
            (4, -1, "trim: expected an integer of at least 0, found -1"),
            (4, 0.5, "trim: expected an integer of at least 0, found 0.5"),
        ],
    )
    def test_bad_arguments(self, count, trim, message):
        with pytest.raises(ConfigError, match=message):
            TrimmedMeanWeighting(count, trim=trim)


class TestDBMTL:
    @staticmethod
    def by_hand(run, beta, sigma):
        average, updates = None, []
        for t, (losses, jacobian) in enumerate(run, start=1):
            slopes = jacobian / losses[:, None]
            decay = beta / t**sigma
            average = slopes if average is None else decay * average + (1 - decay) * slopes
            lengths = np.linalg.norm(average, axis=1)
            alpha = lengths.max() / lengths
            updates.append((alpha @ average, alpha / losses))
        return updates

    @pytest.mark.parametrize(("beta", "sigma"), [(0.9, 0.0), (0.5, 0.5), (0.0, 0.0), (1.0, 0.0)])
    def test_update_is_that_of_the_paper(self, beta, sigma):
        method, run = DBMTLWeighting(3, beta=beta, sigma=sigma), steps()
        for (losses, jacobian), (expected, shown) in zip(run, self.by_hand(run, beta, sigma)):
            found, weights = update(method, jacobian, losses)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(weights, shown, rtol=1e-4)

    def test_a_loss_may_be_multiplied_by_anything(self):
        method, other, factors = DBMTLWeighting(3), DBMTLWeighting(3), np.array([1e-3, 1, 1e4])
        for losses, jacobian in steps():
            one, _ = update(method, jacobian, losses)
            two, _ = update(other, jacobian * factors[:, None], losses * factors)
            np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)

    def test_gradients_that_stand_still_count_by_the_weights_shown(self):
        method, (losses, jacobian) = DBMTLWeighting(3), steps()[0]
        for _ in range(5):
            found, weights = update(method, jacobian, losses)
        np.testing.assert_allclose(weights @ jacobian, found, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("value", [0.0, -2.0, 1e-38, 1e-45])
    @pytest.mark.parametrize("at", [0, 3])
    def test_a_loss_that_has_no_logarithm_leaves_no_trace(self, value, at):
        method, without, run = DBMTLWeighting(3), DBMTLWeighting(3), steps()
        for step, (losses, jacobian) in enumerate(run):
            if step == at:
                rest = DBMTLWeighting(2)
                if step:
                    rest.prepare(40)
                    rest.set_state_dict(
                        {
                            "average": method.average[:2],
                            "started": method.started[:2],
                            "step": method.step,
                        }
                    )
                losses = [*losses[:2], value]
                before = method.average[2].numpy() if step else np.zeros(40)
                found, weights = update(method, jacobian, losses)
                np.testing.assert_array_equal(method.average[2].numpy(), before)
                expected, shown = update(rest, jacobian[:2], losses[:2])
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(weights, [*shown, 0], rtol=1e-5)
            else:
                found, _ = update(method, jacobian, losses)
                assert np.isfinite(found).all()
        if at == 0:
            for losses, jacobian in run[1:]:
                update(without, jacobian, losses)
            np.testing.assert_allclose(method.average[2], without.average[2], rtol=1e-5, atol=1e-6)

    def test_a_loss_without_gradient_leaves_no_trace(self):
        method = DBMTLWeighting(2)
        update(method, [[3.0, 0.0], [0.0, 1.0]])
        found, weights = update(method, [[3.0, 0.0], [0.0, 0.0]])
        np.testing.assert_allclose(found, [3, 0], rtol=1e-6)
        np.testing.assert_allclose(weights, [1, 0], rtol=1e-6)
        np.testing.assert_array_equal(method.average[1].numpy(), [0, 1])

    def test_no_loss_at_all_moves_nothing(self):
        found, weights = update(DBMTLWeighting(2), J, [0.0, -1.0])
        assert not found.any()
        assert not weights.any()

    def test_bad_arguments(self):
        with pytest.raises(ConfigError, match="beta: expected a number from 0 to 1, found 2"):
            DBMTLWeighting(2, beta=2)
        with pytest.raises(ConfigError, match="sigma: expected a number of at least 0, found -1"):
            DBMTLWeighting(2, sigma=-1)


class TestExcessMTL:
    @staticmethod
    def by_hand(run, eta, warmup=1, epsilon=0.0):
        squares, weights, first, shown = 0, np.ones(3), [], []
        for _, jacobian in run:
            squares = squares + jacobian**2
            excess = (jacobian**2 / np.sqrt(squares + epsilon)).sum(axis=1)
            if len(first) < warmup:
                first.append(excess)
            else:
                weights = weights * np.exp(eta * excess / np.mean(first, axis=0))
                weights = 3 * weights / weights.sum()
            shown.append(weights)
        return shown

    @pytest.mark.parametrize(("eta", "warmup"), [(0.01, 1), (1.0, 1), (0.5, 3)])
    def test_weights_are_those_of_the_paper(self, eta, warmup):
        run = steps(number=12)
        method = ExcessMTLWeighting(3, step_size=eta, n_warmup_steps=warmup)
        for (losses, jacobian), expected in zip(run, self.by_hand(run, eta, warmup)):
            found, weights = update(method, jacobian, losses)
            np.testing.assert_allclose(weights, expected, rtol=1e-4)
            np.testing.assert_allclose(found, expected @ jacobian, rtol=1e-3, atol=1e-4)
            assert weights.sum() == pytest.approx(3, rel=1e-6)

    def test_the_authors_epsilon_does_not_show_in_gradients_of_order_one(self):
        run = [(losses, 3 * jacobian + 1) for losses, jacobian in steps()]
        for one, other in zip(self.by_hand(run, 0.5), self.by_hand(run, 0.5, epsilon=1e-7)):
            np.testing.assert_allclose(one, other, rtol=1e-4)

    def test_a_loss_without_gradient_gives_way(self):
        method = ExcessMTLWeighting(2, step_size=0.1)
        for _ in range(3):
            _, weights = update(method, [[1.0], [0.0]])
        assert weights[0] > 1 > weights[1] > 0
        _, weights = update(method, [[0.0], [2.0]])
        assert method.initial_excess.tolist() == [1, 2]

    def test_a_wild_step_can_be_undone(self):
        """exp(1000) is infinite, and a weight of 0 would stay 0 for ever."""
        method = ExcessMTLWeighting(2, step_size=1.0)
        update(method, [[1e-3], [1.0]])
        _, weights = update(method, [[1.0], [1e-3]])
        np.testing.assert_allclose(weights, [2, 0], atol=1e-6)
        for _ in range(400):
            _, weights = update(method, [[0.0], [100.0]])
        np.testing.assert_allclose(weights, [0, 2], atol=1e-6)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"step_size": -1}, "step_size: expected a number of at least 0, found -1"),
            ({"n_warmup_steps": 0}, "n_warmup_steps: expected a positive integer, found 0"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            ExcessMTLWeighting(2, **arguments)


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


class TestMoCo:
    @settings(max_examples=200, deadline=None)
    @given(
        point=st.lists(
            st.floats(-10, 10, allow_subnormal=False) | st.sampled_from([0.0, 0.5, 1e-9]),
            min_size=1,
            max_size=8,
        )
    )
    def test_projection_onto_the_simplex(self, point):
        """Its optimality condition: no vertex lies beyond the tangent plane at the projection."""
        point = np.array(point)
        projection = _onto_simplex(point)
        assert (projection >= 0).all()
        assert projection.sum() == pytest.approx(1, abs=1e-9)
        towards = point - projection
        assert (towards - projection @ towards <= 1e-9).all()

    @staticmethod
    def shortest(rows):
        """The weights of MGDA, by a solver of its own."""
        gramian = rows @ rows.T
        gramian = gramian / np.trace(gramian)
        found = minimize(
            lambda w: w @ gramian @ w,
            np.full(len(rows), 1 / len(rows)),
            jac=lambda w: 2 * gramian @ w,
            method="SLSQP",
            bounds=[(0, 1)] * len(rows),
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return found.x

    @pytest.mark.parametrize("case", ["golden", 0, 1, 2])
    def test_on_gradients_that_stand_still_it_becomes_mgda(self, case):
        rows = J if case == "golden" else steps(3, columns=4, seed=case)[0][1]
        expected = [0.6, 0.4] if case == "golden" else self.shortest(rows)
        method = MoCoWeighting(len(rows), gamma_sigma=0, gamma=0.5)
        for _ in range(300):
            found, weights = update(method, rows)
        np.testing.assert_allclose(weights, expected, atol=2e-3)
        np.testing.assert_allclose(found, weights @ rows, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        "options",
        [{}, {"beta": 0.2, "beta_sigma": 0, "gamma": 1.0, "gamma_sigma": 0.2, "rho": 0.5}],
    )
    def test_update_is_that_of_the_algorithm(self, options):
        defaults = {"beta": 0.5, "beta_sigma": 0.5, "gamma": 0.1, "gamma_sigma": 0.5, "rho": 0}
        o = {**defaults, **options}
        method, tracked, weights = MoCoWeighting(3, **options), None, np.full(3, 1 / 3)
        for t, (losses, jacobian) in enumerate(steps(), start=1):
            beta, gamma = o["beta"] / t ** o["beta_sigma"], o["gamma"] / t ** o["gamma_sigma"]
            tracked = jacobian if t == 1 else tracked - beta * (tracked - jacobian)
            products = tracked @ tracked.T
            products = products / (np.trace(products) / 3) + o["rho"] * np.eye(3)
            target = weights - gamma * products @ weights
            weights = minimize(
                lambda w, target=target: ((w - target) ** 2).sum(),
                weights,
                method="SLSQP",
                bounds=[(0, 1)] * 3,
                constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
                options={"ftol": 1e-15},
            ).x
            found, shown = update(method, jacobian, losses)
            np.testing.assert_allclose(shown, weights, atol=1e-5)
            np.testing.assert_allclose(found, weights @ tracked, rtol=1e-3, atol=1e-3)

    def test_rho_draws_the_weights_together(self):
        method = MoCoWeighting(2, gamma=0.1, gamma_sigma=0, rho=9.0)
        for _ in range(100):
            _, weights = update(method, [[3.0, 0.0], [0.0, 1.0]])
        # (1.8 + 9) w_1 = (0.2 + 9) w_2
        np.testing.assert_allclose(weights, [0.46, 0.54], atol=1e-6)

    @pytest.mark.parametrize("name", ["beta_sigma", "gamma", "gamma_sigma", "rho"])
    def test_bad_arguments(self, name):
        with pytest.raises(ConfigError, match=f"{name}: expected a number of at least 0, found -1"):
            MoCoWeighting(2, **{name: -1})
        with pytest.raises(ConfigError, match=r"beta: expected a number from 0 to 1, found 1\.5"):
            MoCoWeighting(2, beta=1.5)


def trainable(model: nn.Layer) -> np.ndarray:
    """Which of the numbers that `flat_gradient` gives are those of trainable parameters."""
    return np.concatenate([np.full(p.size, not p.stop_gradient) for p in model.parameters()])


def expected_gradient(method, model, make_losses=head_losses) -> np.ndarray:
    """What the method's update of the plainly computed J leaves in the parameters."""
    where = trainable(model)
    values = [float(loss) for loss in make_losses(model).values()]
    expected = np.zeros(len(where))
    expected[where] = update(method, gradients_by_backward(make_losses, model)[:, where], values)[0]
    return expected


@every_method
class TestEndToEnd:
    """A network with two heads and two losses each."""

    @pytest.fixture
    def weighting(self, name):
        paddle.seed(8)
        return METHODS[name](4)

    @pytest.mark.parametrize("reduction", [None, "sum", "mean"])
    def test_gradient_is_the_methods_update_of_the_jacobian(self, weighting, reduction):
        model = network()
        plain = copy.deepcopy(weighting)
        aggregator = aggregate(model, head_losses(model), weighting, reduction=reduction)
        factor = {"summean": 1 / 4, "its ownmean": 1 / 4, "meansum": 4}.get(
            f"{weighting.scale}{reduction}", 1
        )
        optimizer = paddle.optimizer.SGD(0.01, parameters=model.parameters())
        for _ in range(3):
            expected = factor * expected_gradient(plain, model)
            total = aggregator(head_losses(model))
            total.backward()
            close(flat_gradient(model), expected, 1e-5)
            values = [float(loss) for loss in head_losses(model).values()]
            shown = aggregator.last_weights.numpy()
            assert float(total) == pytest.approx(shown @ values, rel=1e-4, abs=1e-5)
            optimizer.step()
            optimizer.clear_grad()

    def test_earlier_gradients_are_added_to(self, weighting):
        model = network()
        plain = copy.deepcopy(weighting)
        expected = expected_gradient(plain, model) + expected_gradient(plain, model)
        aggregator = aggregate(model, head_losses(model), weighting)
        for _ in range(2):
            aggregator(head_losses(model)).backward()
        close(flat_gradient(model), expected, 1e-5)

    def test_frozen_parameters_stay_without_gradient(self, weighting):
        model = network()
        frozen = model.body[0].weight
        frozen.stop_gradient = True
        expected = expected_gradient(copy.deepcopy(weighting), model)
        aggregate(model, head_losses(model), weighting)(head_losses(model)).backward()
        assert frozen.grad is None
        close(flat_gradient(model), expected, 1e-5)

    def test_parameters_that_no_loss_reaches_stay_without_gradient(self, weighting):
        """With a gradient of zeros, weight decay and momentum would move them."""
        model = network()
        model.unused = nn.Linear(3, 3)
        expected = expected_gradient(copy.deepcopy(weighting), model)
        aggregate(model, head_losses(model), weighting)(head_losses(model)).backward()
        assert model.unused.weight.grad is None
        close(flat_gradient(model), expected, 1e-5)

    def test_a_head_of_one_loss_is_trained_and_never_ascends(self, name):
        """Two losses on the first head, one on the second, as for an auxiliary head."""

        def losses(model):
            return dict(itertools.islice(head_losses(model).items(), 3))

        for seed in range(5):
            model = network(seed=seed)
            rows = gradients_by_backward(losses, model)
            head = rows[2] * (rows[:2] == 0).all(axis=0)
            aggregate(model, losses(model), METHODS[name](3))(losses(model)).backward()
            inner = flat_gradient(model) @ head
            # Only MConFIG may leave it where it is: if its weight is negative.
            assert inner > 0 or (name == "MConFIG" and inner == 0)

    def test_a_loss_of_the_labels_alone(self, weighting):
        def losses(model):
            found = head_losses(model)
            return {**found, list(found)[-1]: paddle.to_tensor(0.7)}

        model = network()
        expected = expected_gradient(copy.deepcopy(weighting), model, losses)
        aggregate(model, losses(model), weighting)(losses(model)).backward()
        close(flat_gradient(model), expected, 1e-5)

    def test_the_factor_of_a_gradient_scaler_does_not_show(self, weighting):
        model = network()
        expected = expected_gradient(copy.deepcopy(weighting), model)
        scaler = enabled_scaler(1024.0)
        aggregator = aggregate(model, head_losses(model), weighting)
        aggregator.loss_scale = lambda: scaler._scale
        scaler.scale(aggregator(head_losses(model))).backward()
        close(flat_gradient(model) / 1024, expected, 1e-5)

    def test_an_overflow_skips_the_step_and_leaves_the_state(self, weighting):
        model = network()
        scaler = enabled_scaler(1024.0)
        aggregator = aggregate(model, head_losses(model), weighting)
        aggregator.loss_scale = lambda: scaler._scale
        optimizer = paddle.optimizer.SGD(0.01, parameters=model.parameters())
        aggregator(head_losses(model))
        before = state_of(aggregator.weighting)
        values = [p.numpy().copy() for p in model.parameters() if not p.stop_gradient]
        losses = head_losses(model)
        last = list(losses)[-1]
        losses[last] = losses[last] * 1e38
        scaled = scaler.scale(aggregator(losses))
        scaled.backward()
        scaler.minimize(optimizer, scaled)
        assert scaler._found_inf
        assert_same_state(state_of(aggregator.weighting), before)
        for value, parameter in zip(values, (p for p in model.parameters() if not p.stop_gradient)):
            np.testing.assert_array_equal(parameter.numpy(), value)

    def test_a_parameter_thawed_after_the_first_step(self, name, weighting):
        model = network()
        model.body[0].weight.stop_gradient = True
        aggregator = aggregate(model, head_losses(model), weighting)
        model.heads[1].bias.stop_gradient = True
        aggregator(head_losses(model)).backward()
        model.body[0].weight.stop_gradient = False
        if name in REMEMBERING:
            with pytest.raises(ConfigError, match=rf"{name}: expected gradients of 5\d numbers"):
                aggregator(head_losses(model))
        else:
            aggregator(head_losses(model)).backward()
            assert model.body[0].weight.grad is not None

    def test_double_precision_by_default(self, weighting):
        expected = expected_gradient(copy.deepcopy(weighting), network())
        model = network()
        model.unused = nn.Linear(3, 3)
        paddle.set_default_dtype("float64")
        try:
            aggregate(model, head_losses(model), weighting)(head_losses(model)).backward()
        finally:
            paddle.set_default_dtype("float32")
        close(flat_gradient(model)[: len(expected)], expected, 1e-5)

    def test_resume_as_the_joint_method(self, name, tmp_path):
        def train(folder, iters, **options):
            two = lambda: TinyNet(2)  # noqa: E731
            losses = lambda: mixed() + mixed()  # noqa: E731
            return train_jointly(folder, iters, {"type": name}, losses, (1, 0.4), two, **options)

        whole, parts = resumed(train, tmp_path)
        for one, other in zip(parameters(whole), parameters(parts)):
            np.testing.assert_array_equal(one, other)
        assert all(np.isfinite(p).all() for p in parameters(whole))
        of_whole = (tmp_path / "whole" / "loss_weights.csv").read_text()
        assert of_whole == (tmp_path / "parts" / "loss_weights.csv").read_text()
        section = paddle.load(str(tmp_path / "parts" / "iter_4" / "model.pdopt"))
        saved = section["paddleseg_autoloss"]["losses"]["loss_aggregator"]
        columns = sum(p.size for p in whole.parameters() if not p.stop_gradient)
        for matrix in METHODS[name].matrices:
            assert list(saved[f"weighting.{matrix}"].shape) == [4, columns]


def test_resume_as_a_component(tmp_path):
    """Of three losses; the other methods take two, with which every component is resumed."""

    def train(folder, iters, **options):
        component = paddleseg_autoloss.TrimmedMean
        losses = lambda: [component([*ce_and_dice(), LovaszSoftmaxLoss()])]  # noqa: E731
        return run_training(folder, iters, losses, **options)

    whole, parts = resumed(train, tmp_path)
    for one, other in zip(parameters(whole), parameters(parts)):
        np.testing.assert_array_equal(one, other)


def test_resume_with_a_parameter_frozen_is_refused(tmp_path):
    def train(iters, frozen, **options):
        def model():
            model = TinyNet(1)
            model.body[0].weight.stop_gradient = frozen
            return model

        return train_jointly(tmp_path, iters, {"type": "DBMTL"}, model=model, **options)

    train(4, False)
    with pytest.raises(
        CheckpointError, match=r"loss_aggregator.weighting.average has the shape \[2, 258\] in"
    ):
        train(8, True, resume_model=str(tmp_path / "iter_4"))


def test_the_next_run_of_the_same_loss_goes_on(tmp_path):
    """Binding it anew must not throw away what it has learned."""
    loss = paddleseg_autoloss.DBMTL([CrossEntropyLoss(), DiceLoss()])
    run_training(tmp_path / "a", 2, lambda: [loss])
    before = state_of(loss)
    run_training(tmp_path / "b", 1, lambda: [loss])
    assert before["aggregator.weighting.step"] == 2
    assert int(loss.aggregator.weighting.step) == 3


@pytest.mark.skipif(
    not hasattr(paddle.base.core, "host_memory_stat_reset_peak_value"),
    reason="this Paddle cannot reset its peak of memory",
)
@every_method
def test_memory_in_sizes_of_the_model(name):
    """Beside K gradients, what is remembered, one matrix of scratch space and a few vectors."""
    core = paddle.base.core
    paddle.seed(0)
    model = nn.Sequential(*[nn.Linear(500, 500, bias_attr=False) for _ in range(20)])
    size = sum(p.size for p in model.parameters()) * 4
    output = model(paddle.rand([1, 500]))
    losses = {"a": output.mean(), "b": (output**2).mean(), "c": output.abs().mean()}
    method = METHODS[name](3)
    aggregator = aggregate(model, losses, method)
    before = core.host_memory_stat_current_value("Allocated", 0)
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    total = aggregator(losses)
    peak = core.host_memory_stat_peak_value("Allocated", 0) - before
    held = core.host_memory_stat_current_value("Allocated", 0) - before
    assert peak < (3 + 3 + 1.5) * size
    assert held < 1.1 * size
    total.backward()


RANKS = """
import sys
sys.path.insert(0, "tests")
from support import *
import copy
import json
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import METHODS

paddle.set_device("cpu")
paddle.distributed.init_parallel_env()
rank = paddle.distributed.get_rank()
random = np.random.default_rng(0)
images = paddle.to_tensor(random.standard_normal((4, 6)), dtype="float32")
wanted = paddle.to_tensor(random.standard_normal((4, 3)), dtype="float32")


def losses(model, x, y):
    outputs = model(x)
    scaled = [((outputs + factor * y) ** 2).mean() for factor in (-1, 2, 0.5)]
    return dict(zip("abc", scaled))


found = {}
for name, method in METHODS.items():
    if method.needs != "jacobian":
        continue
    paddle.seed(3)
    model = paddle.DataParallel(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))
    weighting = method(3)
    plain = copy.deepcopy(weighting)
    aggregator = LossAggregator(list("abc"), weighting)
    aggregator.bind(model.parameters())
    half = slice(2 * rank, 2 * rank + 2)
    aggregator(losses(model, images[half], wanted[half])).backward()
    whole = losses(model._layers, images, wanted)
    rows = [paddle.grad(x, model.parameters(), retain_graph=True) for x in whole.values()]
    jacobian = np.stack([np.concatenate([g.numpy().ravel() for g in row]) for row in rows])
    values = paddle.to_tensor([float(x) for x in whole.values()])
    update, _ = plain.update(values, paddle.to_tensor(jacobian))
    gradient = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
    found[name] = {
        "weights": aggregator.last_weights.tolist(),
        "gradient": gradient.tolist(), "expected": update.tolist(),
    }
Path(sys.argv[1], f"rank{rank}.json").write_text(json.dumps(found))
"""


def test_gradient_is_that_of_one_rank_with_the_whole_batch(tmp_path):
    first, second = launched(tmp_path, RANKS)
    assert first.keys() == set(NAMES)
    for name, found in first.items():
        assert found["weights"] == second[name]["weights"]
        for rank in (found, second[name]):
            np.testing.assert_allclose(
                rank["gradient"], rank["expected"], rtol=1e-3, atol=1e-5, err_msg=name
            )


def test_split_leaves_out_what_no_loss_reaches():
    x, y = (paddle.to_tensor([1.0, 2.0], stop_gradient=False) for _ in range(2))
    jacobian = Jacobian([x.sum(), (x * x).sum()], [x, y], scale=paddle.to_tensor([8.0]))
    assert jacobian.matrix().tolist() == [[1, 1, 0, 0], [2, 4, 0, 0]]
    first, second = jacobian.split(paddle.to_tensor([5.0, 6.0, 0.0, 0.0]))
    assert first.tolist() == [5, 6]
    assert second is None


def test_only_parameters_and_every_step():
    for options in ({"level": "logits"}, {"update_interval": 2}):
        with pytest.raises(ConfigError, match="MoCo needs level parameters and update_interval 1"):
            LossAggregator(["a", "b"], MoCoWeighting(2), **options)


def test_a_skipped_step_of_the_loop_leaves_no_trace(tmp_path):
    """The gradients of the third step overflow; the method sees the four others."""
    scaler, states = enabled_scaler(1024.0), []

    class Spoiled(TinyNet):
        calls = 0

        def forward(self, x):
            Spoiled.calls += 1
            outputs = super().forward(x)
            if Spoiled.calls == 3:
                outputs[0].register_hook(lambda g: g * float("inf"))
            return outputs

    method = MoCoWeighting(2)
    stock = MoCoWeighting.update

    def watched(self, losses, jacobian):
        states.append(state_of(self))
        return stock(self, losses, jacobian)

    names = ["CrossEntropyLoss", "DiceLoss"]
    aggregator = LossAggregator(names, method)
    with (
        mock.patch("paddle.amp.GradScaler", return_value=scaler),
        mock.patch.object(MoCoWeighting, "update", watched),
    ):
        train_jointly(tmp_path, 5, aggregator, precision="fp16", model=Spoiled)
    assert [int(state["step"]) for state in states] == [0, 1, 2, 3]
