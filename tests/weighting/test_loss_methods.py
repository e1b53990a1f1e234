"""The methods that weigh by loss values alone, against plain numpy and their closed forms."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import (
    COSMOSWeighting,
    DWAWeighting,
    FAMOWeighting,
    GLSWeighting,
    IMTLLWeighting,
    PBIWeighting,
    RLWWeighting,
    ScaleInvariantWeighting,
    ScheduledWeighting,
    SoftAdaptWeighting,
    STCHWeighting,
    UWOWeighting,
    UWSOWeighting,
    Weighting,
)

NAN, INF = float("nan"), float("inf")


def tensor(losses) -> paddle.Tensor:
    return paddle.to_tensor(np.asarray(losses, "float32"))


def weights_of(method: Weighting, losses) -> np.ndarray:
    return method(tensor(losses)).numpy().astype("float64")


def value_and_gradient(method: Weighting, losses, weights=None) -> tuple[float, np.ndarray]:
    """The total and its derivatives by autograd."""
    values = tensor(losses)
    values.stop_gradient = False
    total = method.total(values, method(values.detach()) if weights is None else tensor(weights))
    assert total.shape == []
    total.backward()
    return float(total), values.grad.numpy().astype("float64")


def finite_differences(formula, losses) -> np.ndarray:
    slopes = []
    for index, loss in enumerate(losses):
        step = 1e-6 * max(abs(loss), 1e-3)
        up, down = np.array(losses, float), np.array(losses, float)
        up[index] += step
        down[index] -= step
        slopes.append((formula(up) - formula(down)) / (2 * step))
    return np.array(slopes)


def softmax(logits) -> np.ndarray:
    exponentials = np.exp(logits - np.max(logits))
    return exponentials / exponentials.sum()


def walk(count: int, steps: int, seed: int = 0) -> np.ndarray:
    """Losses that fall at different rates, with noise, shape [steps, count]."""
    random = np.random.default_rng(seed)
    rates = np.linspace(0.02, 0.1, count)
    noise = 0.2 * random.standard_normal((steps, count))
    losses = np.exp(noise - rates * np.arange(steps)[:, None]) * np.linspace(0.3, 3, count)
    return losses.astype("float32").astype("float64")


positive_losses = st.lists(st.floats(2**-6, 128, width=32), min_size=1, max_size=5)

ALL = {
    "COSMOS": COSMOSWeighting,
    "DWA": lambda k: DWAWeighting(k, window=2),
    "FAMO": FAMOWeighting,
    "FAMO exact": lambda k: FAMOWeighting(k, exact=True),
    "GLS": GLSWeighting,
    "IMTLL": IMTLLWeighting,
    "PBI": PBIWeighting,
    "RLW": RLWWeighting,
    "STCH": lambda k: STCHWeighting(k, warmup=3),
    "ScaleInvariant": ScaleInvariantWeighting,
    "ScheduledLoss": lambda k: ScheduledWeighting(
        k, final_coef=[0.5] * k, schedule="cosine", end_iter=9
    ),
    "SoftAdapt": SoftAdaptWeighting,
    "UWO": UWOWeighting,
    "UWSO": UWSOWeighting,
}


@pytest.mark.parametrize("name", ALL)
class TestAll:
    def test_the_derivative_of_the_total_is_the_weights(self, name):
        method = ALL[name](3)
        for losses in walk(3, 6):
            weights = weights_of(method, losses)
            value, gradient = value_and_gradient(method, losses, weights)
            assert math.isfinite(value)
            np.testing.assert_allclose(gradient, weights, rtol=1e-6)
        # Across ranks the weights are those of the mean losses, not of these.
        losses, weights = [0.5, 2.0, 1.0], [0.3, 4.0, 0.7]
        _, gradient = value_and_gradient(method, losses, weights)
        np.testing.assert_allclose(gradient, weights, rtol=1e-6)

    @pytest.mark.parametrize("bad", [0.0, -1.0, 1e-9, 1e8, NAN, INF, -INF])
    def test_one_odd_loss_leaves_all_weights_finite(self, name, bad):
        method = ALL[name](3)
        for losses in walk(3, 4):
            method(tensor(losses))
            method(tensor([bad, *losses[1:]]))
            assert np.isfinite(weights_of(method, [bad, *losses[1:]])).all()
            if method.needs_losses_after_step:
                method.observe_after_step(tensor([bad, *losses[1:]]))
        assert np.isfinite(weights_of(method, [0.5, 0.6, 0.7])).all()

    @pytest.mark.parametrize("scale", [0, 1e-30, 1e-8, 1e8, 1e30])
    def test_odd_losses_throughout_leave_all_weights_finite(self, name, scale):
        method = ALL[name](3)
        for losses in walk(3, 4):
            assert np.isfinite(weights_of(method, scale * losses)).all()
        assert np.isfinite(weights_of(method, [0.5, 0.6, 0.7])).all()

    def test_a_resumed_run_goes_on_as_the_uninterrupted_one(self, name):
        method, resumed = ALL[name](3), ALL[name](3)
        rows = walk(3, 14)
        for row in rows[:7]:
            weights_of(method, row)
            if method.needs_losses_after_step:
                method.observe_after_step(tensor(0.9 * row))
        paddle.seed(7)
        resumed.set_state_dict({k: v.clone() for k, v in method.state_dict().items()})
        for row in rows[7:]:
            np.testing.assert_array_equal(weights_of(resumed, row), weights_of(method, row))
            if method.needs_losses_after_step:
                method.observe_after_step(tensor(0.9 * row))
                resumed.observe_after_step(tensor(0.9 * row))


@pytest.mark.parametrize("name", [name for name in ALL if name != "RLW"])
def test_nothing_waits_for_the_device(name, monkeypatch):
    method = ALL[name](3)
    losses = [tensor(row) for row in walk(3, 6)]

    def refuse(*_):
        raise AssertionError("the host reads a tensor")

    def assign(self, value):
        paddle.assign(value, output=self)

    # In Paddle 2 set_value itself reads, whoever calls it.
    monkeypatch.setattr(paddle.Tensor, "set_value", assign)
    for reading in ["numpy", "item", "tolist", "__array__", "__float__", "__int__", "__bool__"]:
        monkeypatch.setattr(paddle.Tensor, reading, refuse)
    for row in losses:
        method.total(row, method(row))
        if method.needs_losses_after_step:
            method.observe_after_step(row)


def warm_stch(count: int, mu: float) -> STCHWeighting:
    """Past its warm-up, with nadir 1, 2, 3, ..."""
    method = STCHWeighting(count, mu=mu, warmup=2)
    for factor in (0.5, 1.5):
        method(tensor(factor * np.arange(1, count + 1)))
    return method


def smooth_maximum(losses, mu) -> float:
    ratios = np.asarray(losses) / np.arange(1, len(losses) + 1)
    return len(losses) * mu * math.log(np.sum(ratios ** (1 / mu)))


def cosine(first, second) -> float:
    return first @ second / (np.linalg.norm(first) * np.linalg.norm(second))


def pbi(losses, theta) -> float:
    """As in MOEA/D, step by step."""
    direction = np.ones(len(losses)) / np.linalg.norm(np.ones(len(losses)))
    d1 = losses @ direction
    return d1 + theta * np.linalg.norm(losses - d1 * direction)


OBJECTIVES = {
    "GLS": (GLSWeighting, lambda losses: np.prod(losses) ** (1 / len(losses))),
    "ScaleInvariant": (ScaleInvariantWeighting, lambda losses: np.sum(np.log(losses))),
    "STCH, warming up": (STCHWeighting, lambda losses: np.sum(np.log(losses))),
    "STCH": (lambda k: warm_stch(k, 1.0), lambda losses: smooth_maximum(losses, 1.0)),
    "STCH 0.3": (lambda k: warm_stch(k, 0.3), lambda losses: smooth_maximum(losses, 0.3)),
    "PBI": (PBIWeighting, lambda losses: pbi(losses, 5)),
    "PBI 0.2": (lambda k: PBIWeighting(k, theta=0.2), lambda losses: pbi(losses, 0.2)),
    "COSMOS": (
        COSMOSWeighting,
        lambda losses: np.mean(losses) - 2 * cosine(losses, np.ones(len(losses))),
    ),
    "COSMOS 0": (lambda k: COSMOSWeighting(k, lamda=0), np.mean),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(max_examples=40, deadline=None)
@given(losses=positive_losses)
def test_weights_are_the_derivatives_of_the_objective(name, losses):
    make, formula = OBJECTIVES[name]
    losses = np.array(losses)
    if name.startswith("PBI") and np.ptp(losses) < 1e-3 * losses.max():
        return  # It has no derivative where all losses are equal.
    method = make(len(losses))
    value, gradient = value_and_gradient(method, losses)
    size = np.abs(gradient).max()
    assert value == pytest.approx(formula(losses), rel=1e-4, abs=1e-4)
    expected = finite_differences(formula, losses)
    np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=1e-4 * size)


#: Methods of which a loss without logarithm is left out, and by which factor K enters.
LEAVING_OUT = {
    "FAMO": (FAMOWeighting, 1.0),
    "GLS": (GLSWeighting, 1.0),
    "STCH": (lambda k: STCHWeighting(k, warmup=1), 1.5),
    "STCH, warming up": (STCHWeighting, 1.0),
    "ScaleInvariant": (ScaleInvariantWeighting, 1.0),
    "UWO": (UWOWeighting, 1.0),
    "UWSO": (UWSOWeighting, 1.0),
}


@pytest.mark.parametrize("name", LEAVING_OUT)
class TestLossesWithoutLogarithm:
    @pytest.mark.parametrize("bad", [0.0, -1.0, 1e-9, 1e-8, NAN, INF])
    def test_they_get_0_and_the_others_are_weighed_without_them(self, name, bad):
        make, factor = LEAVING_OUT[name]
        method, without = make(3), make(2)
        if name == "STCH":
            method(tensor([1.0, 1.0, 4.0]))
            without(tensor([1.0, 4.0]))
        first, left_out, last = weights_of(method, [0.5, bad, 2.0])
        expected = factor * weights_of(without, [0.5, 2.0])
        assert left_out == 0
        np.testing.assert_allclose([first, last], expected, rtol=1e-6)

    def test_just_above_it_takes_part(self, name):
        make, _ = LEAVING_OUT[name]
        assert weights_of(make(2), [0.5, 2e-8])[1] > 0

    def test_the_total_leaves_it_out_too(self, name):
        make, _ = LEAVING_OUT[name]
        losses = [0.5, 0.0, 2.0]
        value, gradient = value_and_gradient(make(3), losses)
        assert math.isfinite(value)
        assert gradient[1] == 0
        if not name.startswith("STCH"):
            without, _ = value_and_gradient(make(2), [0.5, 2.0])
            assert value == pytest.approx(without, rel=1e-6, abs=1e-6)

    def test_none_has_one(self, name):
        """Then the weights that sum to 1 still do, and the others are 0."""
        make, _ = LEAVING_OUT[name]
        method = make(4)
        weights = weights_of(method, [0.0, -1.0, 0.0, 0.0])
        np.testing.assert_allclose(weights, 0.25 if method.sums_to == "1" else 0)
        assert math.isfinite(value_and_gradient(method, [0.0, -1.0, 0.0, 0.0])[0])


class TestUWSO:
    @settings(max_examples=60, deadline=None)
    @given(losses=positive_losses, tau=st.sampled_from([0.01, 0.5, 1, 20]))
    def test_softmax_of_the_inverse_losses(self, losses, tau):
        expected = softmax(1 / (tau * np.array(losses)))
        actual = weights_of(UWSOWeighting(len(losses), tau=tau), losses)
        np.testing.assert_allclose(actual, expected, rtol=5e-3, atol=1e-6)

    def test_tiny_losses_do_not_overflow(self):
        np.testing.assert_allclose(
            weights_of(UWSOWeighting(2, tau=1e-3), [1e-7, 1.0]), [1, 0], atol=1e-27
        )

    def test_without_temperature_it_is_inverse_loss(self):
        losses = [0.25, 2.0, 1e-3]
        np.testing.assert_allclose(weights_of(UWOWeighting(3), losses), [4, 0.5, 1e3], rtol=1e-6)
        assert value_and_gradient(UWOWeighting(3), losses)[0] == pytest.approx(3)


class TestRLW:
    def test_normal_logarithms_are_normal(self):
        """log w_1 - log w_2 ~ N(0, 2); the mean of 3000 is within 4 of its standard deviations."""
        paddle.seed(1)
        method = RLWWeighting(3)
        draws = np.array([weights_of(method, np.ones(3)) for _ in range(3000)])
        np.testing.assert_allclose(draws.sum(axis=1), 1, rtol=1e-5)
        ratio = np.log(draws[:, 0] / draws[:, 1])
        assert abs(ratio.mean()) < 4 * math.sqrt(2 / 3000)
        assert ratio.var() == pytest.approx(2, rel=0.15)

    def test_dirichlet_moments(self):
        """Uniform on the simplex of 3: mean 1/3, variance 1/18, covariance -1/36."""
        paddle.seed(1)
        method = RLWWeighting(3, distribution="dirichlet")
        draws = np.array([weights_of(method, np.ones(3)) for _ in range(3000)])
        np.testing.assert_allclose(draws.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(draws.mean(axis=0), 1 / 3, atol=4 * math.sqrt(1 / 18 / 3000))
        expected = (np.eye(3) - 1 / 3) / 12
        np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.003)

    def test_the_seed_decides(self):
        paddle.seed(3)
        first, second = RLWWeighting(2), RLWWeighting(2)
        paddle.seed(4)
        other = RLWWeighting(2)
        rows = [[weights_of(m, np.ones(2)) for _ in range(3)] for m in (first, second, other)]
        np.testing.assert_array_equal(rows[0], rows[1])
        assert not np.allclose(rows[0], rows[2])
        assert not np.allclose(rows[0][0], rows[0][1])


class TestDWA:
    @staticmethod
    def expected(rows, window, tau) -> np.ndarray:
        """Window by window, as the paper goes epoch by epoch."""
        count = rows.shape[1]
        means = [rows[i : i + window].mean(axis=0) for i in range(0, len(rows), window)]
        weights = []
        for iteration in range(len(rows)):
            t = iteration // window
            rates = means[t - 1] / means[t - 2] if t >= 2 else None
            weights.append(np.ones(count) if t < 2 else count * softmax(rates / tau))
        return np.array(weights)

    @pytest.mark.parametrize("window", [1, 3, 4])
    @pytest.mark.parametrize("tau", [0.5, 2.0])
    def test_against_the_paper(self, window, tau):
        rows = walk(3, 25)
        method = DWAWeighting(3, window=window, tau=tau)
        actual = np.array([weights_of(method, row) for row in rows])
        np.testing.assert_allclose(actual, self.expected(rows, window, tau), rtol=1e-5)
        assert np.ptp(actual[:, 0]) > 0.01

    def test_a_step_that_is_not_finite_does_not_count(self):
        rows = walk(2, 12)
        plain, disturbed = DWAWeighting(2, window=2), DWAWeighting(2, window=2)
        for index, row in enumerate(rows):
            expected = weights_of(plain, row)
            if index in (0, 3, 6, 7):
                np.testing.assert_array_equal(weights_of(disturbed, [NAN, 1.0]), expected)
            np.testing.assert_array_equal(weights_of(disturbed, row), expected)

    def test_a_loss_that_was_0_has_the_rate_1(self):
        method = DWAWeighting(2, window=1)
        for losses in [0.0, 1.0], [5.0, 0.5]:
            method(tensor(losses))
        np.testing.assert_allclose(
            weights_of(method, [1.0, 1.0]), 2 * softmax(np.array([1, 0.5]) / 2), rtol=1e-6
        )

    @pytest.mark.parametrize(("sign", "expected"), [(1, [2, 0]), (-1, [0, 2])])
    def test_a_rate_beyond_the_range_of_floats(self, sign, expected):
        method = DWAWeighting(2, window=1)
        for losses in [1e-7, 1.0], [sign * 1e35, 1.0]:
            method(tensor(losses))
        np.testing.assert_allclose(weights_of(method, [1.0, 1.0]), expected, atol=1e-20)


class TestSoftAdapt:
    @staticmethod
    def expected(now, before, beta, variant) -> np.ndarray:
        slopes = now - before
        if variant == "normalized":
            slopes = slopes / np.abs(slopes).sum()
        weights = np.exp(beta * slopes) * (now if variant == "loss_weighted" else 1)
        return weights / weights.sum()

    @pytest.mark.parametrize("variant", ["original", "normalized", "loss_weighted"])
    @pytest.mark.parametrize("beta", [0.1, -2, 3])
    def test_against_the_formula(self, variant, beta):
        rows = walk(3, 15)
        method = SoftAdaptWeighting(3, beta=beta, variant=variant)
        np.testing.assert_allclose(weights_of(method, rows[0]), 1 / 3)
        for before, now in zip(rows, rows[1:]):
            expected = self.expected(now, before, beta, variant)
            np.testing.assert_allclose(weights_of(method, [NAN, 1.0, INF]), 1 / 3)
            np.testing.assert_allclose(weights_of(method, now), expected, rtol=1e-5)

    @pytest.mark.parametrize("variant", ["original", "normalized", "loss_weighted"])
    def test_losses_that_stand_still_at_0(self, variant):
        method = SoftAdaptWeighting(2, variant=variant)
        for _ in range(3):
            np.testing.assert_allclose(weights_of(method, [0.0, 0.0]), 0.5)

    def test_slopes_that_cancel(self):
        """Their sum, by which the authors' code divides, is 0."""
        method = SoftAdaptWeighting(2, beta=1, variant="normalized")
        method(tensor([1.0, 1.0]))
        actual = weights_of(method, [1.5, 0.5])
        np.testing.assert_allclose(actual, softmax(np.array([0.5, -0.5])), rtol=1e-6)

    def test_a_negative_loss_has_no_weight_among_loss_weighted(self):
        method = SoftAdaptWeighting(2, variant="loss_weighted")
        method(tensor([1.0, 1.0]))
        np.testing.assert_allclose(weights_of(method, [1.0, -1.0]), [1, 0])


class TestIMTLL:
    @staticmethod
    def at(s) -> IMTLLWeighting:
        method = IMTLLWeighting(len(s))
        method.s.set_value(np.asarray(s, "float32"))
        return method

    @classmethod
    def total(cls, s, losses) -> paddle.Tensor:
        method = cls.at(s)
        return method, method.total(tensor(losses), method(tensor(losses)))

    @classmethod
    def slope(cls, s, loss) -> float:
        method, total = cls.total([s], [loss])
        total.backward()
        return float(method.s.grad[0])

    @pytest.mark.parametrize("s", [[0, 0, 0], [-1.5, 2, 0.3], [-6.9, 6.9, 1]])
    def test_value_and_gradients_are_those_of_the_paper(self, s):
        losses = np.array([0.3, 1.0, 2.5])

        def formula(s):
            return np.sum(np.exp(s) * losses - s)

        method, total = self.total(s, losses)
        assert float(total) == pytest.approx(formula(np.array(s)), rel=1e-5)
        total.backward()
        expected = finite_differences(formula, s)
        np.testing.assert_allclose(method.s.grad.numpy(), expected, rtol=1e-4, atol=1e-5)
        _, gradient = value_and_gradient(method, losses)
        np.testing.assert_allclose(gradient, np.exp(s), rtol=1e-5)

    @pytest.mark.parametrize("loss", [0.01, 1.0, 300.0])
    def test_descent_reaches_the_stationary_point(self, loss):
        method = IMTLLWeighting(1)
        optimizer = paddle.optimizer.Adam(0.1, beta2=0.9, parameters=method.parameters())
        for _ in range(500):
            method.total(tensor([loss]), method(tensor([loss]))).backward()
            optimizer.step()
            optimizer.clear_grad()
        assert weights_of(method, [loss])[0] == pytest.approx(1 / loss, rel=1e-2)

    @settings(max_examples=60, deadline=None)
    @given(s=st.floats(-100, 100, width=32), loss=st.sampled_from([-100.0, 0.0, 1e-5, 1e3, 1e6]))
    def test_the_weight_can_neither_explode_nor_vanish(self, s, loss):
        weight = weights_of(self.at([s]), [loss])[0]
        assert math.exp(-7) * 0.999 <= weight <= 1.5 * math.exp(7) * 1.001
        slope = self.slope(s, loss)
        if s > 7.51:
            assert slope > 0
        if s < -7:
            assert slope < 0

    @pytest.mark.parametrize("bound", [-7, 7])
    def test_continuous_at_the_bounds(self, bound):
        for loss in (0.0, 1e-3, 1.0):
            inside, outside = (self.total([bound * f], [loss])[1] for f in (0.99999, 1.00001))
            assert float(inside) == pytest.approx(float(outside), rel=2e-3)

    def test_slope_is_continuous_above(self):
        below, above = self.slope(7 - 1e-5, 1.0), self.slope(7 + 1e-5, 1.0)
        assert above == pytest.approx(below, rel=1e-3)


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


class TestSTCH:
    @pytest.mark.parametrize("mu", [0.2, 1.0])
    def test_against_plain_numpy_over_the_warm_up_and_beyond(self, mu):
        rows, warmup = walk(3, 15), 6
        nadir = rows[:warmup].mean(axis=0)
        method = STCHWeighting(3, mu=mu, warmup=warmup)
        for index, row in enumerate(rows):
            ratios = row / nadir
            maximum = 3 * mu * math.log(np.sum(ratios ** (1 / mu)))
            weights = 3 * ratios ** (1 / mu) / np.sum(ratios ** (1 / mu)) / row
            if index < warmup:
                maximum, weights = np.log(row).sum(), 1 / row
            if index in (0, 2, 6, 9):
                method(tensor([NAN, 1.0, 1.0]))
            value, gradient = value_and_gradient(method, row)
            np.testing.assert_allclose(gradient, weights, rtol=1e-4)
            assert value == pytest.approx(maximum, rel=1e-4, abs=1e-5)

    def test_a_small_mu_leaves_the_worst_loss(self):
        method = STCHWeighting(3, mu=1e-3, warmup=1)
        method(tensor([1.0, 2.0, 1.0]))
        np.testing.assert_allclose(weights_of(method, [0.5, 1.5, 0.6]), [0, 2, 0], atol=1e-6)

    def test_a_loss_that_was_0_all_through_the_warm_up(self):
        method = STCHWeighting(2, warmup=1)
        method(tensor([0.0, 2.0]))
        weights = weights_of(method, [0.5, 1.0])  # L / z is 0.5 for both
        np.testing.assert_allclose(weights, [2, 1], rtol=1e-5)


class TestPBI:
    @settings(max_examples=60, deadline=None)
    @given(losses=positive_losses, theta=st.sampled_from([0, 0.3, 5]))
    def test_mean_plus_standard_deviation(self, losses, theta):
        method, losses = PBIWeighting(len(losses), theta=theta), np.array(losses)
        expected = math.sqrt(len(losses)) * (losses.mean() + theta * losses.std())
        value, gradient = value_and_gradient(method, losses)
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert gradient.sum() == pytest.approx(math.sqrt(len(losses)), abs=1e-4)

    @pytest.mark.parametrize("value", [0.0, 0.1, 1e-7, 3e5])
    @pytest.mark.parametrize("count", [1, 3, 7])
    def test_equal_losses_have_equal_weights(self, value, count):
        """Rounding of their mean would give them any sign."""
        weights = weights_of(PBIWeighting(count), [value] * count)
        np.testing.assert_allclose(weights, 1 / math.sqrt(count), rtol=1e-6)

    @pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e25])
    def test_the_scale_of_the_losses_does_not_matter(self, scale):
        losses = np.array([0.5, 2.0, 0.7])
        expected = weights_of(PBIWeighting(3), losses)
        np.testing.assert_allclose(weights_of(PBIWeighting(3), scale * losses), expected, rtol=1e-5)

    def test_from_which_theta_on_weights_can_be_negative(self):
        losses = [0.0, 1.0, 1.0, 1.0]
        assert weights_of(PBIWeighting(4, theta=0.99 / math.sqrt(3)), losses).min() > 0
        assert weights_of(PBIWeighting(4, theta=1.01 / math.sqrt(3)), losses).min() < 0


class TestCOSMOS:
    @pytest.mark.parametrize("value", [0.0, 0.1, 1e-7, 3e5])
    @pytest.mark.parametrize("count", [1, 3, 7])
    def test_equal_losses_have_equal_weights(self, value, count):
        weights = weights_of(COSMOSWeighting(count), [value] * count)
        np.testing.assert_allclose(weights, 1 / count, rtol=1e-6)

    def test_the_cosine_counts_less_for_large_losses(self):
        losses = np.array([0.5, 2.0, 0.7])
        excess = weights_of(COSMOSWeighting(3), losses) - 1 / 3
        smaller = weights_of(COSMOSWeighting(3), losses / 10) - 1 / 3
        np.testing.assert_allclose(smaller, 10 * excess, rtol=1e-4)

    def test_a_descent_brings_the_losses_together(self):
        losses = np.array([2.0, 0.5])
        for _ in range(200):
            losses = losses - 0.005 * weights_of(COSMOSWeighting(2, lamda=8), losses)
        assert cosine(losses, np.ones(2)) > 0.99


class TestScheduledLoss:
    @staticmethod
    def second(steps, **arguments) -> list[float]:
        """What the second coefficient is over the iterations; the first is to stay 1."""
        method = ScheduledWeighting(2, **arguments)
        rows = [weights_of(method, [5.0, 7.0]) for _ in range(steps)]
        assert all(row[0] == 1 for row in rows)
        return [row[1] for row in rows]

    def test_constant(self):
        assert self.second(3) == [1, 1, 1]
        assert self.second(3, coef=[1, 0.5]) == [0.5, 0.5, 0.5]

    def test_linear(self):
        actual = self.second(
            8, coef=[1, 4], final_coef=[1, 0], schedule="linear", start_iter=2, end_iter=6
        )
        assert actual == [4, 4, 4, 3, 2, 1, 0, 0]

    def test_cosine(self):
        actual = self.second(
            7, coef=[1, 4], final_coef=[1, 0], schedule="cosine", start_iter=1, end_iter=5
        )
        half = 1 / math.sqrt(2)
        np.testing.assert_allclose(actual, [4, 4, 2 + 2 * half, 2, 2 - 2 * half, 0, 0], atol=1e-6)
        assert actual[-1] == 0

    def test_step(self):
        actual = self.second(4, coef=[1, 0], final_coef=[1, 3], schedule="step", start_iter=2)
        assert actual == [0, 0, 3, 3]

    def test_a_step_that_is_not_finite_does_not_count(self):
        method = ScheduledWeighting(2, final_coef=[1, 3], schedule="step", start_iter=1)
        assert weights_of(method, [NAN, 1.0]).tolist() == [1, 1]
        assert weights_of(method, [1.0, 1.0]).tolist() == [1, 1]
        assert weights_of(method, [1.0, 1.0]).tolist() == [1, 3]

    def test_total_is_the_weighted_sum(self):
        value, gradient = value_and_gradient(ScheduledWeighting(2, coef=[1, 0.4]), [5.0, 10.0])
        assert value == pytest.approx(9)
        np.testing.assert_allclose(gradient, [1, 0.4])

    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"coef": [1, 0.4]},
            {"final_coef": (2, 0.5), "schedule": "cosine", "start_iter": 3, "end_iter": 9},
            {"final_coef": [2, 0], "schedule": "step", "start_iter": 3},
        ],
    )
    def test_repr_rebuilds_it(self, arguments):
        method = ScheduledWeighting(2, **arguments)
        assert repr(eval(repr(method))) == repr(method)


FADE = {"final_coef": [1, 0], "schedule": "linear", "end_iter": 5}
STEP = {"final_coef": [1, 0], "schedule": "step", "start_iter": 5}


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        (COSMOSWeighting, {"lamda": -1}, "lamda: expected a number of at least 0, found -1"),
        (DWAWeighting, {"window": 0}, "window: expected a positive integer, found 0"),
        (DWAWeighting, {"tau": 0}, "tau: expected a number of at least 0.001, found 0"),
        (FAMOWeighting, {"gamma": -1}, "gamma: expected a number of at least 0, found -1"),
        (FAMOWeighting, {"w_lr": "a"}, "w_lr: expected a number, found 'a'"),
        (FAMOWeighting, {"exact": "yes"}, "exact: expected true or false, found 'yes'"),
        (IMTLLWeighting, {"lr_mult": 0}, "lr_mult: expected a positive number, found 0"),
        (PBIWeighting, {"theta": NAN}, "theta: expected a number of at least 0, found nan"),
        (
            RLWWeighting,
            {"distribution": "uniform"},
            "distribution: expected one of normal, dirichlet, found 'uniform'",
        ),
        (STCHWeighting, {"mu": 0}, "mu: expected a number of at least 0.001, found 0"),
        (STCHWeighting, {"warmup": 0}, "warmup: expected a positive integer, found 0"),
        (SoftAdaptWeighting, {"beta": INF}, "beta: expected a number, found inf"),
        (
            SoftAdaptWeighting,
            {"variant": "plain"},
            "variant: expected one of original, normalized, loss_weighted, found 'plain'",
        ),
        (UWSOWeighting, {"tau": -1}, "tau: expected a number of at least 0.001, found -1"),
        (UWOWeighting, {"num_losses": 0}, "num_losses: expected a positive integer, found 0"),
        (ScheduledWeighting, {"coef": [1]}, "coef: expected one for each of 2 losses, found 1"),
        (ScheduledWeighting, {"coef": 1}, "coef: expected a list of 2 numbers, found 1"),
        (
            ScheduledWeighting,
            {"coef": [1, -1]},
            "coef: expected a number of at least 0, found -1",
        ),
        (
            ScheduledWeighting,
            {**FADE, "final_coef": [1, 2, 3]},
            "final_coef: expected one for each of 2 losses, found 3",
        ),
        (
            ScheduledWeighting,
            {"schedule": "poly"},
            "schedule: expected one of constant, linear, cosine, step, found 'poly'",
        ),
        (ScheduledWeighting, {"final_coef": [1, 1]}, "final_coef: schedule constant takes none"),
        (ScheduledWeighting, {"end_iter": 5}, "end_iter: schedule constant takes none"),
        (ScheduledWeighting, {"start_iter": 5}, "start_iter: schedule constant takes none"),
        (ScheduledWeighting, {**STEP, "final_coef": None}, "final_coef: schedule step needs one"),
        (ScheduledWeighting, {**STEP, "end_iter": 9}, "end_iter: schedule step takes none"),
        (
            ScheduledWeighting,
            {**STEP, "start_iter": 0},
            "start_iter: expected a positive integer, found 0",
        ),
        (ScheduledWeighting, {**FADE, "end_iter": None}, "end_iter: schedule linear needs one"),
        (
            ScheduledWeighting,
            {**FADE, "start_iter": 5},
            "end_iter: expected an integer of at least 6, found 5",
        ),
        (
            ScheduledWeighting,
            {**FADE, "start_iter": -1},
            "start_iter: expected an integer of at least 0, found -1",
        ),
        (
            ScheduledWeighting,
            {**FADE, "end_iter": 2.5},
            "end_iter: expected a positive integer, found 2.5",
        ),
    ],
)
def test_bad_arguments(method, arguments, message):
    with pytest.raises(ConfigError) as raised:
        method(**{"num_losses": 2, **arguments})
    assert str(raised.value) == message
