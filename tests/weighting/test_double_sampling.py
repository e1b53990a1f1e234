"""MoDo and SDMGrad against the formulas of the papers, in mean and step by step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize
from support.calls import update
from support.samplers import J, steps

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import MGDAWeighting, MoDoWeighting, SDMGradWeighting

#: Constructors, with rho and lambda that make the formula of each the most general one.
METHODS = {
    "MoDo": lambda count: MoDoWeighting(count, gamma=0.07, rho=0.4),
    "SDMGrad": lambda count: SDMGradWeighting(count, lamda=0.6, alpha=0.07),
}
every_method = pytest.mark.parametrize("name", METHODS)


def slope(name: str, products: np.ndarray, w: np.ndarray) -> np.ndarray:
    """0.07 times this is what the weights move by, before the projection."""
    return products @ w + 0.4 * w if name == "MoDo" else products @ (w + 0.6 / len(w))


def shown(name: str, w: np.ndarray) -> np.ndarray:
    return w if name == "MoDo" else (w + 0.6 / len(w)) / 1.6


def on_simplex(objective, start: np.ndarray) -> np.ndarray:
    """The minimiser over the simplex, by a solver of its own."""
    return minimize(
        objective,
        start,
        method="SLSQP",
        bounds=[(0, 1)] * len(start),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-15, "maxiter": 500},
    ).x


@every_method
def test_steps_are_those_of_the_algorithm(name):
    method, w, size, first = METHODS[name](3), np.full(3, 1 / 3), None, None
    for t, (losses, jacobian) in enumerate(steps(number=12), start=1):
        found, weights = update(method, jacobian, losses)
        np.testing.assert_allclose(weights, shown(name, w), atol=1e-5)
        np.testing.assert_allclose(found, shown(name, w) @ jacobian, rtol=1e-3, atol=1e-4)
        if t % 2:
            first = jacobian
            continue
        square = (jacobian**2).sum() / 3
        if size is not None:
            target = w - 0.07 * slope(name, first @ jacobian.T / size, w)
            w = on_simplex(lambda x, target=target: ((x - target) ** 2).sum(), w)
            square = 0.9 * size + 0.1 * square
        size = square


#: Two gradients whose noise has the means 0 and these values, each with the same probability.
NOISE = np.array(
    [[[2.0, 0, 1], [0, 0.5, 0]], [[-2, 1, 0], [0.5, 0, 0]], [[0, -1, -1], [-0.5, -0.5, 0]]]
)


@every_method
class TestMeanOverBatches:
    """All pairs of three batches, each pair with the same probability."""

    SIZE, W = 5.0, np.array([0.4, 0.6])

    def mean_move(self, name, pairs) -> np.ndarray:
        moves = []
        for first, second in pairs:
            method = METHODS[name](2)
            method.size.set_value(np.asarray(self.SIZE))
            method.w.set_value(self.W)
            update(method, J + first)
            update(method, J + second)
            assert method.w.numpy().min() > 0
            moves.append(method.w.numpy() - self.W)
        return np.mean(moves, axis=0)

    def expected(self, name, products) -> np.ndarray:
        move = -0.07 * slope(name, products / self.SIZE, self.W)
        return move - move.mean()

    def test_of_two_batches_it_is_that_of_the_mean_gradients(self, name):
        found = self.mean_move(name, itertools.product(NOISE, NOISE))
        np.testing.assert_allclose(found, self.expected(name, J @ J.T), atol=1e-6)

    def test_of_one_batch_twice_it_has_the_covariance_in_it(self, name):
        found = self.mean_move(name, zip(NOISE, NOISE))
        covariance = np.mean([noise @ noise.T for noise in NOISE], axis=0)
        np.testing.assert_allclose(found, self.expected(name, J @ J.T + covariance), atol=1e-6)
        assert abs(found - self.expected(name, J @ J.T)).max() > 0.005


def test_noise_that_blinds_mgda():
    """Without its noise of +2 or -2, the first gradient is the shorter one."""
    rows, noise = np.array([[1.0, 0, 0], [0.3, 1.2, 0]]), np.array([[0.0, 0, 2], [0, 0, 0]])
    batches, modo, found = [rows + noise, rows - noise], MoDoWeighting(2), []
    for _ in range(12):
        for pair in itertools.product(batches, batches):
            found += [update(modo, jacobian)[1][0] for jacobian in pair]
    # (|g_2|^2 - <g_1, g_2>) / |g_1 - g_2|^2
    assert np.mean(found[-8:]) == pytest.approx(1.23 / 1.93, abs=0.06)
    blind = [MGDAWeighting(2).solve(np.ones(2), jacobian @ jacobian.T) for jacobian in batches]
    np.testing.assert_allclose(np.array(blind)[:, 0], 1.23 / (1.93 + 4), rtol=1e-5)


@pytest.mark.parametrize("lamda", [0, 0.5, 4])
def test_sdmgrad_on_gradients_that_stand_still_finds_the_papers_minimum(lamda):
    rows = np.array([[2.0, 0, 1, 0], [-1, 1, 0, 0.5], [0, 1.5, 1, 1]])
    method = SDMGradWeighting(3, lamda=lamda, alpha=1.0)
    for _ in range(60):
        update(method, rows)
    mean = rows.mean(axis=0)
    expected = on_simplex(lambda w: ((w @ rows + lamda * mean) ** 2).sum(), np.full(3, 1 / 3))
    np.testing.assert_allclose(method.w.numpy(), expected, atol=1e-4)


def test_sdmgrad_without_direction_is_modo():
    modo, sdmgrad = MoDoWeighting(3), SDMGradWeighting(3, lamda=0)
    for losses, jacobian in steps(number=8):
        for one, other in zip(update(modo, jacobian, losses), update(sdmgrad, jacobian, losses)):
            np.testing.assert_array_equal(one, other)


@every_method
def test_the_update_knows_earlier_batches_only(name):
    methods = [METHODS[name](2), METHODS[name](2)]
    for _ in range(5):
        for method in methods:
            update(method, J)
    _, weights = update(methods[0], J)
    _, others = update(methods[1], 9 * J[::-1])
    np.testing.assert_array_equal(weights, others)
    assert abs(update(methods[0], J)[1] - update(methods[1], J)[1]).max() > 0.01


@every_method
@pytest.mark.parametrize("scale", [1e-20, 1e22])
def test_scale_beyond_single_precision(name, scale):
    usual, scaled = METHODS[name](2), METHODS[name](2)
    for losses, jacobian in steps(2, number=6):
        _, expected = update(usual, jacobian, losses)
        _, weights = update(scaled, scale * jacobian, losses)
        np.testing.assert_allclose(weights, expected, atol=1e-5)


def test_bad_arguments():
    for make, key in (
        (MoDoWeighting, "gamma"),
        (MoDoWeighting, "rho"),
        (SDMGradWeighting, "alpha"),
    ):
        with pytest.raises(ConfigError, match=f"{key}: expected a number of at least 0, found -1"):
            make(2, **{key: -1})
    with pytest.raises(ConfigError, match="lamda: expected a number of at least 0, found -1"):
        SDMGradWeighting(2, lamda=-1)
