"""Methods that learn from held-out data, against closed forms and formulas in NumPy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from scipy.optimize import minimize

from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.weighting import (
    AlignmentWeighting,
    AutoLambdaWeighting,
    CoBaWeighting,
    L2RWWeighting,
    OLAUXWeighting,
)
from paddleseg_autoloss.weighting.base import with_floor
from paddleseg_autoloss.weighting.simplex import onto_simplex

ALIGNED = [AutoLambdaWeighting, OLAUXWeighting, L2RWWeighting]


def gramian(target, gradients) -> np.ndarray:
    rows = np.vstack([target, gradients]).astype(float)
    return rows @ rows.T


def random_rows(seed: int, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal(6), random.standard_normal([count, 6])


def with_shares(method: AlignmentWeighting, shares) -> AlignmentWeighting:
    method.shares.set_value(np.asarray(shares, float))
    return method


def test_ratings_are_those_of_the_formulas():
    g_v, g = random_rows(0)
    products = g @ g_v
    found = {
        rating: AutoLambdaWeighting(3, rating=rating, lr=1).ratings(gramian(g_v, g))
        for rating in ("product", "cosine")
    }
    np.testing.assert_allclose(found["product"], products, rtol=1e-12)
    cosines = products / np.linalg.norm(g_v) / np.linalg.norm(g, axis=1)
    np.testing.assert_allclose(found["cosine"], cosines, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_rating_of_the_direction_is_the_derivative_of_a_cosine(seed):
    g_v, g = random_rows(seed)
    shares = np.random.default_rng(seed).dirichlet([1, 1, 1])

    def cosine(logits):
        d = np.exp(logits) @ g
        return d @ g_v / np.linalg.norm(d) / np.linalg.norm(g_v)

    method = with_shares(AutoLambdaWeighting(3, rating="direction"), shares)
    steps = 1e-6 * np.eye(3)
    logits = np.log(shares)
    slopes = [(cosine(logits + step) - cosine(logits - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(method.ratings(gramian(g_v, g)), slopes, atol=1e-8)


def test_auto_lambda_multiplies_the_shares():
    g_v, g = random_rows(1)
    method = with_shares(AutoLambdaWeighting(3, lr=0.2, rating="product", floor=0), [0.5, 0.3, 0.2])
    expected = np.array([0.5, 0.3, 0.2]) * np.exp(0.2 * g @ g_v)
    found = method.solve(gramian(g_v, g))
    np.testing.assert_allclose(found, 3 * expected / expected.sum(), rtol=1e-12)


@pytest.mark.parametrize(
    ("init", "shares"),
    [([1, 4], [0.2, 0.8]), ([0.2, 0.8], [0.2, 0.8]), ([0, 1], [0.05, 0.95]), (None, [0.5, 0.5])],
)
def test_auto_lambda_begins_with_given_weights(init, shares):
    method = AutoLambdaWeighting(2, lr=0.3, rating="product", floor=0.05, init=init)
    np.testing.assert_allclose(method.shares.numpy(), shares, rtol=1e-12)
    g_v, g = random_rows(1, count=2)
    expected = np.array(shares) * np.exp(0.3 * g @ g_v)
    expected = with_floor(expected / expected.sum(), 0.05)
    np.testing.assert_allclose(method.solve(gramian(g_v, g)), 2 * expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ([1, 2, 3], "init: expected one for each of 2 losses, found 3"),
        ([-1, 2], "init: expected a number of at least 0, found -1"),
        ([0, 0], "init: expected a number above 0, found none"),
        (0.2, "init: expected"),
    ],
)
def test_bad_weights_to_begin_with(init, message):
    with pytest.raises(ConfigError, match=message):
        AutoLambdaWeighting(2, init=init)


def test_ol_aux_adds_the_sum_of_several_looks():
    method = OLAUXWeighting(3, looks=3, lr=0.01, rating="product", floor=0)
    summed = np.zeros(3)
    for seed in range(3):
        g_v, g = random_rows(seed)
        summed += g @ g_v
        weights = method.solve(gramian(g_v, g))
        if seed < 2:
            np.testing.assert_array_equal(weights, 1)
    moved = 1 / 3 + 0.01 * summed
    np.testing.assert_allclose(weights, 3 * (moved - (moved.sum() - 1) / 3), rtol=1e-12)
    assert not method.summed.numpy().any()


@pytest.mark.parametrize("seed", range(5))
def test_the_projection_of_ol_aux_is_the_nearest_point(seed):
    point = np.random.default_rng(seed).normal(0.3, 0.7, 4)
    best = minimize(
        lambda x: ((x - point) ** 2).sum(),
        np.full(4, 0.25),
        bounds=[(0, None)] * 4,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        tol=1e-12,
    )
    np.testing.assert_allclose(onto_simplex(point), best.x, atol=1e-6)


def test_l2rw_is_proportional_to_the_positive_ratings():
    g_v, g = np.array([1.0, 0]), np.array([[3.0, 1], [1, -2], [-5, 0]])
    method = L2RWWeighting(3, rating="product", floor=0)
    np.testing.assert_allclose(method.solve(gramian(g_v, g)), [2.25, 0.75, 0], rtol=1e-12)
    # If no loss serves the target, the weights stay.
    np.testing.assert_allclose(method.solve(gramian(-g_v, g[:2][[0, 1, 1]])), [2.25, 0.75, 0])


@pytest.mark.parametrize("kind", ALIGNED)
def test_no_share_falls_below_the_floor(kind):
    options = {} if kind is L2RWWeighting else {"lr": 10}
    method = kind(2, floor=0.05, **options)
    for _ in range(10):
        weights = method.solve(gramian([1, 0], [[1, 0], [-1, 0]]))
    np.testing.assert_allclose(weights, [1.9, 0.1], rtol=1e-12)


def test_the_floor_keeps_the_proportions_of_the_others():
    random = np.random.default_rng(0)
    for _ in range(20):
        shares = random.dirichlet([0.3] * 5)
        found = with_floor(shares, 0.1)
        assert found.sum() == pytest.approx(1)
        assert found.min() >= 0.1 - 1e-12
        above = found > 0.1 + 1e-12
        ratios = found[above] / shares[above]
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)


@pytest.mark.parametrize("rating", ["product", "cosine"])
@pytest.mark.parametrize("kind", [AutoLambdaWeighting, OLAUXWeighting])
def test_the_weights_converge_to_the_best_ones_of_quadratic_losses(kind, rating):
    """L_i = |x - c_i|^2 / 2 with the weights w ends in the mean of the c_i; the target is at t.

    Of all proportions 0.3 : 0.7 is the best: it ends in t.  A cosine does not fade near t, so the
    weights go to and fro around the best ones.
    """
    centers, t = np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([0.7, 1.4])
    method = kind(2, lr=0.02, rating=rating, scaling="none")
    x, w, means = np.array([0.5, 0.3]), np.ones(2), []
    for step in range(6000):
        g = x - centers
        w = method.solve(gramian(x - t, g))
        x = x - 0.1 * (w / 2) @ g
        if step >= 4000:
            means.append([*w / 2, *x])
    np.testing.assert_allclose(np.mean(means, axis=0), [0.3, 0.7, *t], atol=0.01)


def expected_coba(losses: np.ndarray, window: int, tau: float) -> np.ndarray:
    """The weights after the last of some looks, from the formulas; the floor is not reached."""
    count = losses.shape[1]
    ratios = losses / losses[0]
    slopes = []
    for last in range(2, len(losses) + 1):
        part = ratios[max(0, last - window) : last]
        series = [*part.T, part.max(axis=1)]
        slopes.append([np.polyfit(np.arange(len(part)), one, 1)[0] for one in series])
    slopes = np.array(slopes)[-window:]
    alpha, largest = slopes[:, :count], slopes[:, count]
    number = len(slopes)

    def softmax(x):
        return np.exp(x) / np.exp(x).sum()

    rcs = softmax(count * alpha[-1] / np.abs(alpha[-1]).sum())
    acs = softmax(-number * alpha[-1] / np.abs(alpha).sum(axis=0))
    df = min(1, number * softmax(-tau * number * largest / np.abs(largest).sum())[-1])
    return count * (df * rcs + (1 - df) * acs)


@pytest.mark.parametrize("looks", [3, 4, 7])
def test_coba_against_the_formulas(looks):
    random = np.random.default_rng(2)
    falling = np.linspace(1, [0.4, 0.7, 0.9], looks)
    losses = falling * (1 + 0.1 * random.standard_normal([looks, 3])) * [5, 1, 0.2]
    method = CoBaWeighting(3, window=4, warmup=3, tau=2.0, floor=0)
    for row in losses:
        weights = method(paddle.to_tensor(row.astype("float32")))
    np.testing.assert_allclose(weights.numpy(), expected_coba(losses, 4, 2.0), rtol=1e-5)


def test_coba_waits_for_its_first_looks_and_leaves_out_what_is_not_finite():
    method = CoBaWeighting(2, window=4, warmup=3)
    for row in ([1, 1], [0.5, 1], [np.nan, 1]):
        assert method(paddle.to_tensor(np.array(row, "float32"))).tolist() == [1, 1]
    assert int(method.num_looks) == 2
    weights = method(paddle.to_tensor([0.3, 0.9]))
    # The first falls faster.
    assert float(weights[0]) < float(weights[1])


def test_coba_divides_by_no_loss_of_zero():
    """A first batch whose pixels are all ignored is no look."""
    first = [[0, 0], [0, 0.9]]
    looks = [[0.6, 0.9], [0.5, 0.8], [0.4, 0.8]]
    late, early = (CoBaWeighting(2, window=4, warmup=2) for _ in range(2))
    for row in first + looks:
        weights = late(paddle.to_tensor(np.array(row, "float32")))
    for row in looks:
        expected = early(paddle.to_tensor(np.array(row, "float32")))
    np.testing.assert_array_equal(weights.numpy(), expected.numpy())
    np.testing.assert_allclose(late.first.numpy(), [0.6, 0.9], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e16, 1e200, 1e308])
def test_the_projection_of_large_numbers(scale):
    np.testing.assert_allclose(onto_simplex(np.array([-scale, scale, 0.0])), [0, 1, 0])
    np.testing.assert_allclose(onto_simplex(np.array([scale, scale])), [0.5, 0.5])


@pytest.mark.parametrize(
    "method",
    [
        OLAUXWeighting(2, looks=1, lr=1e308, rating="product"),
        AutoLambdaWeighting(2, lr=1e308, rating="product"),
    ],
)
def test_weights_that_overflow(method):
    g = gramian([1, 0], [[4, 0], [3, 0]])
    with pytest.raises(TrainingDiverged, match=r"expected finite weights, found .* smaller lr"):
        method.solve(g)
    assert method.shares.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("kind", ALIGNED)
def test_gradients_of_zero_change_nothing(kind):
    method = kind(2)
    np.testing.assert_allclose(method.solve(np.zeros([3, 3])), [1, 1], rtol=1e-12)


@pytest.mark.parametrize("kind", ALIGNED)
def test_a_number_that_is_not_finite_changes_nothing(kind):
    method = kind(2)
    before = {key: value.numpy().tolist() for key, value in method.state_dict().items()}
    broken = paddle.to_tensor([[1.0, 2, 3], [2, np.nan, 0], [3, 0, 1]])
    with pytest.raises(TrainingDiverged, match="a gradient is not finite"):
        method(paddle.ones([2]), broken)
    assert before == {key: value.numpy().tolist() for key, value in method.state_dict().items()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoLambdaWeighting(2, lr=-1), "lr: expected a number of at least 0, found -1"),
        (
            lambda: AutoLambdaWeighting(2, rating="product"),
            "lr: expected a number with rating: pro",
        ),
        (lambda: OLAUXWeighting(2, rating="product"), "lr: expected a number with rating: product"),
        (lambda: AutoLambdaWeighting(2, floor=0.6), "floor: expected a number from 0 to 0.5"),
        (lambda: AutoLambdaWeighting(2, scaling="adam"), "scaling: expected one of optimizer, no"),
        (lambda: AutoLambdaWeighting(2, rating="sum"), "rating: expected one of direction, cosine"),
        (lambda: OLAUXWeighting(2, looks=0), "looks: expected a positive integer, found 0"),
        (lambda: L2RWWeighting(1), "losses: L2RW expects 2 or more, found 1"),
        (lambda: AutoLambdaWeighting(2)(paddle.ones([2])), "expected the Gramian of the gradients"),
        (lambda: CoBaWeighting(2, warmup=30), "window: expected at least the 30 looks of warmup"),
        (lambda: CoBaWeighting(2, window=3), "window: expected at least the 5 looks of warmup, f"),
        (lambda: L2RWWeighting(2, rating="direction"), "rating: expected one of cosine, product"),
        (lambda: CoBaWeighting(2, tau=-1), "tau: expected a number of at least 0, found -1"),
        (lambda: CoBaWeighting(2, floor=1), "floor: expected a number from 0 to 0.5, found 1"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
