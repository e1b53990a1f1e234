"""What must hold for every method, whatever its formula: a new one cannot escape."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import paddle
import pytest
from support.calls import weigh

import paddleseg_autoloss.weighting as weighting_module
from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import (
    METHODS,
    AlignmentWeighting,
    CAGradWeighting,
    JacobianWeighting,
    LossWeighting,
)

COLUMNS = 6
#: Exponent of the gradients' scale in the weights of d, where the paper's is not 0.
SCALE_EXPONENT = {"FairGrad": -1, "MConFIG": -1}
#: The first loss is another kind of loss than the rest.
ASYMMETRIC = {"AGDA", "PCD"}
#: Losses are compared with their neighbours, so the order of three or more matters.
NEIGHBOURS = {"LDCMTL"}
#: Weights that are drawn, or found in an order that is drawn, at every step.
RANDOM = {"GradDrop", "GradVac", "PCGrad", "RLW"}
#: Methods whose paper proves that no loss gets worse.
NON_CONFLICTING = {
    "CAGrad": lambda count: CAGradWeighting(count, calpha=1.0),
    "DualProj": None,
    "MGDA": None,
    "UPGrad": None,
}


def counts(name: str) -> list[int]:
    """Numbers of losses to try a method with."""
    method = METHODS[name]
    return [k for k in (1, 2, 3, 5) if method.least_losses <= k <= method.most_losses]


def usual(name: str) -> int:
    # Of three losses two are always nearest to each other alike.
    least = 5 if name == "Krum" else 3
    return max(count for count in counts(name) if count <= least)


def make(name: str, count: int, seed: int = 1):
    paddle.seed(seed)
    method = METHODS[name](count)
    if isinstance(method, JacobianWeighting):
        method.prepare(COLUMNS)
    return method


def call(method, losses, jacobian) -> tuple[np.ndarray, np.ndarray]:
    """The weights and the update of one step, in double precision."""
    losses = paddle.to_tensor(np.asarray(losses), dtype="float32")
    rows = paddle.to_tensor(jacobian, dtype="float32")
    if isinstance(method, JacobianWeighting):
        update, weights = method.update(losses, rows)
        assert update.shape == [jacobian.shape[1]]
        assert update.stop_gradient
        return weights.numpy().astype(float), update.numpy().astype(float)
    gramian = paddle.to_tensor(jacobian @ jacobian.T, dtype="float32")
    weights = weigh(method, losses, gramian)
    method.total(losses, weights)
    assert weights.shape == [len(jacobian)]
    weights = weights.numpy().astype(float)
    return weights, weights @ jacobian


def batches(count: int, steps: int = 8, seed: int = 0):
    """Losses and gradients as training brings them: falling, noisy, now and then in conflict."""
    random = np.random.default_rng(seed)
    for step in range(steps):
        losses = random.uniform(0.5, 1.5, count) / (1 + 0.2 * step)
        yield losses, random.standard_normal((count, COLUMNS)) + 0.3


def awkward(count: int):
    """Gradients that methods fall over: every kind by its name."""
    random = np.random.default_rng(5)
    matrix = random.standard_normal((count, COLUMNS))
    zero, doubled, scaled = matrix.copy(), matrix.copy(), matrix.copy()
    zero[0] = 0
    doubled[-1] = doubled[0]
    scaled *= 10.0 ** np.linspace(-4, 4, count)[:, None]
    return {
        "random": matrix,
        "a loss without gradient": zero,
        "no gradient at all": 0 * matrix,
        "the same twice": doubled,
        "all the same": np.tile(matrix[:1], (count, 1)),
        "parallel": np.outer(random.uniform(0.1, 2, count), matrix[0]),
        "opposed": np.outer((-1.0) ** np.arange(count), matrix[0]),
        "orthogonal": np.eye(count, COLUMNS),
        "badly scaled": scaled,
        "tiny": 1e-8 * matrix,
        "huge": 1e8 * matrix,
    }


LOSSES = {
    "equal": lambda count: np.ones(count),
    "zero": lambda count: np.zeros(count),
    "one is zero": lambda count: np.arange(count) * 1.0,
    "negative": lambda count: -np.arange(count) - 0.5,
    "tiny": lambda count: 1e-12 * np.arange(1, count + 1),
    "huge": lambda count: 1e12 * np.arange(1, count + 1),
    "badly scaled": lambda count: 10.0 ** np.linspace(-6, 6, count),
}


def state(method) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in method.state_dict().items()}


def assert_same_state(found, expected, without=()):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if key not in without:
            np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    def test_weights_are_finite_whatever_the_gradients(self, name):
        for count in counts(name):
            for kind, jacobian in awkward(count).items():
                method = make(name, count)
                for losses in (np.ones(count), np.linspace(0.5, 2, count), np.ones(count)):
                    weights, update = call(method, losses, jacobian)
                    assert np.isfinite(weights).all(), kind
                    assert np.isfinite(update).all(), kind
                    if not method.may_be_negative:
                        assert (weights >= 0).all(), kind

    @pytest.mark.parametrize("kind", LOSSES)
    def test_weights_are_finite_whatever_the_losses(self, name, kind):
        for count in counts(name):
            method = make(name, count)
            fresh = state(method)
            usual_step = next(iter(batches(count)))
            for losses in (LOSSES[kind](count), usual_step[0], LOSSES[kind](count)):
                weights, update = call(method, losses, usual_step[1])
                assert np.isfinite(weights).all()
                assert np.isfinite(update).all()
                for key, value in state(method).items():
                    # NaN stands for what is not known yet.
                    assert np.isfinite(value[~np.isnan(fresh[key])]).all(), key

    def test_derivative_of_the_total_is_the_weights(self, name):
        """Where the weights are applied to losses: d = sum w_i g_i."""
        method = make(name, usual(name))
        if isinstance(method, JacobianWeighting):
            pytest.skip("its update need not be a combination of the gradients")
        for values, jacobian in batches(usual(name)):
            losses = paddle.to_tensor(values, dtype="float32", stop_gradient=False)
            gramian = paddle.to_tensor(jacobian @ jacobian.T, dtype="float32")
            weights = weigh(method, losses.detach(), gramian)
            total = method.total(losses, weights)
            assert total.shape == []
            total.backward()
            np.testing.assert_allclose(losses.grad.numpy(), weights.numpy(), rtol=1e-5, atol=1e-7)

    def test_permuting_the_losses_permutes_the_weights(self, name):
        if name in ASYMMETRIC | {"RLW"}:
            pytest.skip("its losses are told apart or drawn, by design")
        count = 2 if name in RANDOM | NEIGHBOURS else usual(name)
        order = np.roll(np.arange(count), 1)
        straight, permuted = make(name, count), make(name, count)
        for losses, jacobian in batches(count):
            weights, update = call(straight, losses, jacobian)
            weights_, update_ = call(permuted, losses[order], jacobian[order])
            np.testing.assert_allclose(weights_, weights[order], rtol=2e-4, atol=1e-6)
            np.testing.assert_allclose(update_, update, rtol=2e-4, atol=1e-5)

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_scale_of_the_gradients_does_not_matter(self, name, scale):
        if issubclass(METHODS[name], LossWeighting):
            pytest.skip("it sees no gradients")
        usual_, scaled = make(name, usual(name)), make(name, usual(name))
        if name == "NashMTL":
            usual_.max_norm = scaled.max_norm = 0  # a length that nothing scales
        factor = scale ** SCALE_EXPONENT.get(name, 0)
        for losses, jacobian in batches(usual(name)):
            weights, update = call(usual_, losses, jacobian)
            weights_, update_ = call(scaled, losses, scale * jacobian)
            size = np.abs(weights).max()
            if name != "MConFIG":  # shows weights of what comes before the division
                np.testing.assert_allclose(weights_ / factor, weights, rtol=1e-3, atol=1e-4 * size)
            size = np.abs(update).max()
            expected = update * factor
            np.testing.assert_allclose(update_ / scale, expected, rtol=1e-3, atol=1e-4 * size)

    def test_a_single_loss_goes_down(self, name):
        if 1 not in counts(name):
            with pytest.raises(ConfigError, match=r"losses: \w+ expects .* found 1"):
                METHODS[name](1)
            return
        method = make(name, 1)
        gradient = np.random.default_rng(0).standard_normal(COLUMNS)
        for losses, _ in batches(1):
            _, update = call(method, losses, gradient[None])
            assert update @ gradient > 0
            if not isinstance(method, JacobianWeighting):
                cosine = update @ gradient / np.linalg.norm(update) / np.linalg.norm(gradient)
                assert cosine == pytest.approx(1)

    def test_what_the_weights_are_said_to_sum_to(self, name):
        method = make(name, usual(name))
        claim, totals, count = method.sums_to, [], usual(name)
        numbers = {"1": 1, "2": 2, "K": count, "sqrt(K)": count**0.5, "K^2": count**2}
        for losses, jacobian in batches(usual(name)):
            weights, _ = call(method, losses, jacobian)
            total = weights.sum()
            if claim == "no fixed value":
                totals.append(total)
            elif claim.endswith(" or more"):
                assert total >= numbers[claim.removesuffix(" or more")] * (1 - 1e-4)
            elif claim.endswith(" or less"):
                assert total <= numbers[claim.removesuffix(" or less")] * (1 + 1e-4)
            elif claim.startswith("about "):
                assert total == pytest.approx(numbers[claim.removeprefix("about ")], rel=0.5)
            else:
                assert total == pytest.approx(numbers[claim], rel=1e-4)

    def test_negative_weights_occur_where_they_are_said_to(self, name):
        lowest = 0.0
        for seed in range(6):
            method = make(name, usual(name))
            for losses, jacobian in batches(usual(name), seed=seed):
                lowest = min(lowest, call(method, losses, jacobian)[0].min())
        assert (lowest < 0) == method.may_be_negative

    def test_scale_of_the_update_is_what_it_is_said_to_be(self, name):
        """Of K losses that are 1 and have one gradient, up to a factor of 2."""
        count = int(min(METHODS[name].most_losses, 16))
        gradient = np.random.default_rng(0).standard_normal(COLUMNS)
        scales = {"sum": count, "mean": 1, "sqrt(K)": count**0.5, "K^2": count**2}
        ratios = []
        for length in (0.1, 1.0, 10.0):
            method = make(name, count)
            rows = np.tile(length * gradient, (count, 1))
            _, update = call(method, np.ones(count), rows)
            ratios.append(np.linalg.norm(update) / np.linalg.norm(rows[0]))
        if method.scale == "its own":
            assert max(ratios) > 2 * min(ratios)
        else:
            for ratio in ratios:
                assert 0.49 <= ratio / scales[method.scale] <= 2

    def test_equal_losses_of_equal_gradients_get_equal_weights(self, name):
        if name in ASYMMETRIC | {"RLW", "Krum"}:
            pytest.skip("its losses are told apart or drawn, by design")
        method = make(name, usual(name))
        jacobian = np.tile(np.random.default_rng(0).standard_normal(COLUMNS), (usual(name), 1))
        for losses in (np.ones(usual(name)), np.full(usual(name), 0.5)):
            weights, _ = call(method, losses, jacobian)
            np.testing.assert_allclose(weights, weights[0], rtol=1e-4)

    def test_same_seed_same_run_whatever_else_draws(self, name):
        first, second = make(name, usual(name)), make(name, usual(name))
        for losses, jacobian in batches(usual(name)):
            expected = call(first, losses, jacobian)
            np.random.random(3)
            paddle.rand([3])
            found = call(second, losses, jacobian)
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])

    def test_does_not_draw_from_generators_that_are_not_its_own(self, name):
        """Augmentation and dropout must not depend on the method."""
        method = make(name, usual(name))
        paddle.seed(3)
        np.random.seed(3)
        for losses, jacobian in batches(usual(name)):
            call(method, losses, jacobian)
        drawn = float(paddle.rand([1])), np.random.random()
        paddle.seed(3)
        np.random.seed(3)
        assert drawn == (float(paddle.rand([1])), np.random.random())

    def test_state_restores_it_in_mid_course(self, name):
        """Random state, counters and all: the copy goes on as the original does."""
        steps = list(batches(usual(name), steps=10))
        original, restored = make(name, usual(name)), make(name, usual(name), seed=2)
        for losses, jacobian in steps[:5]:
            call(original, losses, jacobian)
        restored.set_state_dict({k: v.clone() for k, v in original.state_dict().items()})
        for losses, jacobian in steps[5:]:
            expected, found = call(original, losses, jacobian), call(restored, losses, jacobian)
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])
        assert_same_state(state(restored), state(original))

    def test_deepcopy_goes_on_by_itself(self, name):
        steps = list(batches(usual(name), steps=10))
        original = make(name, usual(name))
        for losses, jacobian in steps[:5]:
            call(original, losses, jacobian)
        duplicate = copy.deepcopy(original)
        before = state(original)
        found = [call(duplicate, *step) for step in steps[5:]]
        assert_same_state(state(original), before)
        expected = [call(original, *step) for step in steps[5:]]
        for a, b in zip(found, expected):
            np.testing.assert_array_equal(a[0], b[0])
            np.testing.assert_array_equal(a[1], b[1])

    def test_repr_rebuilds_it(self, name):
        count = usual(name)
        method = METHODS[name](count)
        names = vars(weighting_module)
        assert repr(eval(repr(method), dict(names))) == repr(method)
        for key, parameter in inspect.signature(METHODS[name]).parameters.items():
            if isinstance(parameter.default, float) and parameter.default:
                other = METHODS[name](count, **{key: 0.9 * parameter.default})
                assert repr(eval(repr(other), dict(names))) == repr(other) != repr(method)

    def test_a_loss_that_turns_nan_leaves_the_state_of_the_step_before(self, name):
        method = make(name, usual(name))
        steps = list(batches(usual(name), steps=9))
        for step, (losses, jacobian) in enumerate(steps, start=1):
            if step == 7:
                before = state(method)
                for bad in (np.nan, np.inf):
                    broken = losses.copy()
                    broken[-1] = bad
                    self.expect_no_trace(method, broken, jacobian)
                    # Draws count on: to know of the NaN they would have to wait for the device.
                    assert_same_state(state(method), before, without=["draws.step"])
            else:
                assert np.isfinite(call(method, losses, jacobian)[0]).all()

    @staticmethod
    def expect_no_trace(method, losses, jacobian):
        """Give a method losses that are not finite, as the aggregator gives them."""
        aggregator, x = aggregator_of_zero(method)
        values = linear_losses(aggregator.names, x, losses, jacobian)
        if isinstance(method, LossWeighting) or method.uses_held_out:
            aggregator(values)
            assert np.isfinite(aggregator.last_weights.numpy()).all()
        else:
            with pytest.raises(TrainingDiverged, match=rf"loss{len(losses) - 1} is (nan|inf)"):
                aggregator(values)

    @pytest.mark.parametrize("reduction", ["sum", "mean"])
    def test_reduction_multiplies_the_total_and_the_gradient(self, name, reduction):
        count = max(usual(name), 2)
        gradients, totals, weights = [], [], []
        for own in (None, reduction):
            aggregator, x, losses = network_of(name, count, reduction=own)
            total = aggregator(losses)
            total.backward()
            gradients.append(x.grad.numpy())
            totals.append(float(total))
            weights.append(aggregator.last_weights.numpy())
        native = aggregator.weighting.scale
        known = {"mean": 1, "sqrt(K)": count**0.5, "K^2": count**2}
        native = known.get(native, count)
        factor = (count if reduction == "sum" else 1) / native
        np.testing.assert_allclose(gradients[1], factor * gradients[0], rtol=1e-5)
        np.testing.assert_allclose(weights[1], factor * weights[0], rtol=1e-5)
        assert totals[1] == pytest.approx(factor * totals[0], rel=1e-5)

    def test_constant_sum_changes_the_sum_of_the_weights_and_nothing_else(self, name):
        """Given the same losses and gradients, the method is where it is without the option."""
        count = max(usual(name), 2)
        if not METHODS[name].update_is_weighted_sum:
            with pytest.raises(ConfigError, match=f"^constant_sum: .* found {name}; remove the"):
                aggregator_of_zero(make(name, count), constant_sum=True)
            return
        methods = make(name, count), make(name, count)
        aggregators = [
            aggregator_of_zero(method, **options)
            for method, options in zip(methods, ({}, {"constant_sum": 0.7}))
        ]
        for losses, jacobian in batches(count, steps=3):
            gradients = []
            for aggregator, x in aggregators:
                total = aggregator(linear_losses(aggregator.names, x, losses, jacobian))
                total.backward()
                gradients.append(x.grad.numpy())
                x.clear_gradient()
                for parameter in aggregator.weighting.parameters():
                    parameter.set_value(parameter - 0.1 * parameter.grad)
                    parameter.clear_gradient()
            expected, found = (aggregator.last_weights.numpy() for aggregator, _ in aggregators)
            factor = 0.7 / np.abs(expected).sum()
            assert (found if (found >= 0).all() else np.abs(found)).sum() == pytest.approx(0.7)
            np.testing.assert_allclose(found, factor * expected, rtol=1e-6)
            np.testing.assert_allclose(gradients[1], factor * gradients[0], rtol=1e-5, atol=1e-6)
            assert float(total) == pytest.approx(found @ losses, rel=1e-5)
            assert_same_state(state(methods[1]), state(methods[0]))

    def test_gradient_is_what_the_weights_say(self, name):
        """d = J^T w in the parameters, end to end."""
        count = max(usual(name), 2)
        aggregator, x, losses = network_of(name, count)
        rows = np.stack([paddle.grad(v, x, retain_graph=True)[0].numpy() for v in losses.values()])
        aggregator(losses).backward()
        weights = aggregator.last_weights.numpy()
        if isinstance(aggregator.weighting, JacobianWeighting):
            paddle.seed(1)
            values = [float(value) for value in losses.values()]
            expected = call(make(name, count), values, rows)[1]
        else:
            expected = weights @ rows
        np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-4, atol=1e-6)


def aggregator_of_zero(method, **options):
    """An aggregator and its one parameter, which is 0."""
    x = paddle.zeros([COLUMNS])
    x.stop_gradient = False
    names = [f"loss{index}" for index in range(method.num_losses)]
    aggregator = LossAggregator(names, method, **options)
    aggregator.held_by_optimizer = True
    aggregator.bind([x], paddle.optimizer.SGD(parameters=[x]))
    return aggregator, x


def linear_losses(names, x, losses, jacobian) -> dict[str, paddle.Tensor]:
    """Losses of a parameter that is 0, with given values and gradients."""
    return {
        key: paddle.to_tensor(float(value)) + (x * paddle.to_tensor(row, dtype="float32")).sum()
        for key, value, row in zip(names, losses, jacobian)
    }


def network_of(name: str, count: int, **options):
    """An aggregator and losses (x . a_i - b_i)^2 of one parameter x."""
    random = np.random.default_rng(1)
    method = make(name, count)
    x = paddle.to_tensor(random.standard_normal(COLUMNS), dtype="float32", stop_gradient=False)
    aggregator = LossAggregator([f"loss{i}" for i in range(count)], method, **options)
    aggregator.held_by_optimizer = True
    aggregator.bind([x], paddle.optimizer.SGD(parameters=[x]))
    losses = {}
    for key in aggregator.names:
        direction = paddle.to_tensor(random.standard_normal(COLUMNS), dtype="float32")
        losses[key] = ((x * direction).sum() - float(random.standard_normal())) ** 2
    return aggregator, x, losses


@pytest.mark.parametrize("name", [name for name in NON_CONFLICTING if name in METHODS])
def test_no_loss_gets_worse(name):
    """As their papers prove: J d >= 0."""
    for count in (2, 3, 5):
        random = np.random.default_rng(count)
        for _ in range(50):
            jacobian = random.standard_normal((count, COLUMNS))
            method = (NON_CONFLICTING[name] or METHODS[name])(count)
            gramian = jacobian @ jacobian.T
            weights = method.solve(np.ones(count), gramian)
            assert (gramian @ weights >= -1e-3 * np.trace(gramian)).all()


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.parameter_name])
def test_learned_parameters_are_trained_by_an_optimizer(name):
    aggregator, x, losses = network_of(name, 3)
    learned = aggregator.weighting.learned()
    before = learned.numpy()
    sgd = paddle.optimizer.SGD(0.1, parameters=[x, learned])
    aggregator(losses).backward()
    sgd.step()
    assert not np.array_equal(learned.numpy(), before)


class TestEvaluation:
    """A validation loss is computed with the method, and trains nothing."""

    @staticmethod
    def weights_of_training(name: str, evaluate) -> np.ndarray:
        count = usual(name)
        names = [str(i) for i in range(count)]
        aggregator = LossAggregator(names, make(name, count))
        x = paddle.ones([COLUMNS])
        x.stop_gradient = False
        if aggregator.uses_gradients:
            optimizer = paddle.optimizer.Adam(1e-3, parameters=[x])
            aggregator.bind([x], optimizer)
        aggregator.held_by_optimizer = aggregator.in_session = True
        seen = []
        for losses, jacobian in batches(count, steps=5):
            rows = paddle.to_tensor(jacobian, dtype="float32")
            values = paddle.to_tensor(losses, dtype="float32")
            each = dict(zip(names, values + (rows * (x - x.detach())).sum(axis=1)))
            if aggregator.needs_look:
                look = each["0"] if isinstance(aggregator.weighting, AlignmentWeighting) else values
                aggregator.look(look)
            aggregator(each).backward()
            x.clear_gradient()
            seen.append(aggregator.last_weights.numpy())
            evaluate(aggregator, {key: 3 * value.detach() for key, value in each.items()})
        return np.array(seen)

    @pytest.mark.parametrize("name", METHODS)
    def test_it_changes_nothing(self, name):
        def without_gradients(aggregator, losses):
            with paddle.no_grad():
                aggregator(losses)

        def in_evaluation_mode(aggregator, losses):
            aggregator.eval()
            aggregator(losses)
            aggregator.train()

        plain = self.weights_of_training(name, lambda *_: None)
        for evaluate in (without_gradients, in_evaluation_mode):
            np.testing.assert_array_equal(self.weights_of_training(name, evaluate), plain)
