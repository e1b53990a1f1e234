"""PaddleScience's aggregators against the numbers by hand."""

from __future__ import annotations

import itertools

import numpy as np
import paddle
import pytest
from paddle import nn
from support.mtl import MAKERS, Plane, Regression, every_method

from paddleseg_autoloss import mtl


def test_sum_is_the_sum():
    task = Regression()
    losses, values, rows = task.new_batch()
    total = mtl.Sum()(losses)
    total.backward()
    assert float(total) == pytest.approx(values.sum(), rel=1e-6)
    np.testing.assert_allclose(task.gradient(), rows.sum(axis=0), rtol=1e-5, atol=1e-5)


def pcgrad_by_hand(g1, g2) -> np.ndarray:
    inner = min(g1 @ g2, 0)
    return (g1 - inner / (g2 @ g2) * g2) + (g2 - inner / (g1 @ g1) * g1)


def test_pcgrad_projects_conflicting_gradients():
    task = Regression()
    aggregator = mtl.PCGrad(task.model)
    conflicts = set()
    for _ in range(8):
        losses, _, (g1, g2) = task.new_batch()
        aggregator(losses).backward()
        np.testing.assert_allclose(task.gradient(), pcgrad_by_hand(g1, g2), rtol=1e-4, atol=1e-4)
        conflicts.add(bool(g1 @ g2 < 0))
    assert conflicts == {True, False}


def test_pcgrad_of_three_losses_draws_an_order_for_each():
    g = np.array([[1.0, 0.2, 0.0], [-1.0, 0.5, 0.3], [-0.5, -1.0, 0.4]])
    choices = []
    for i in range(3):
        results = []
        for order in itertools.permutations(set(range(3)) - {i}):
            projected = g[i].copy()
            for j in order:
                projected -= min(projected @ g[j], 0) / (g[j] @ g[j]) * g[j]
            results.append(projected)
        choices.append(results)
    possible = [sum(rows) for rows in itertools.product(*choices)]
    plane = Plane(0, 0, 0)
    aggregator = mtl.PCGrad(plane)
    drawn = set()
    for _ in range(40):
        found = plane.step(aggregator, g)
        distances = [np.abs(found - p).max() for p in possible]
        assert min(distances) < 1e-5
        drawn.add(tuple(found.round(4)))
    # One common order for all three would allow six at most.
    assert len(drawn) == len({tuple(p.round(4)) for p in possible}) == 8


def agda_by_hand(values, rows, steps, M, gamma):
    """Return the expected gradient of every step."""
    smooth, reference, expected = values[0], values[0], []
    for value, (gf, gu), step in zip(values, rows, steps):
        smooth = gamma * smooth + (1 - gamma) * value
        if step % M == 0:
            reference = smooth
        rates = smooth / reference
        rates = rates / rates.sum()
        nf, nu = np.linalg.norm(gf), np.linalg.norm(gu)
        mean = (nf + nu) / 2
        gf = (rates[0] * (mean - nf) + nf) / nf * gf
        gu = (rates[1] * (mean - nu) + nu) / nu * gu
        if gf @ gu < 0:
            gu = gu - (gf @ gu) / (gf @ gf) * gf
        expected.append(gf + gu)
    return expected


@pytest.mark.parametrize("steps", [None, range(7), range(50, 57), [9, 9, 9, 0, 0, 1, 2]])
def test_agda_balances_and_projects(steps):
    task = Regression()
    aggregator = mtl.AGDA(task.model, M=3, gamma=0.5)
    found, values, rows = [], [], []
    for i in range(7):
        losses, value, row = task.new_batch()
        aggregator(losses, *([] if steps is None else [steps[i]])).backward()
        found.append(task.gradient())
        values.append(value)
        rows.append(row)
    assert {bool(gf @ gu < 0) for gf, gu in rows} == {True, False}
    expected = agda_by_hand(values, rows, steps or range(7), M=3, gamma=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def balanced_by_hand(rows, steps, update_freq, renew):
    """Return the expected gradient of every step: the weights are renewed for later ones."""
    weights, expected = np.ones(2), []
    for row, step in zip(rows, steps):
        expected.append(weights @ row)
        if step % update_freq == 0:
            weights = renew(weights, np.linalg.norm(row, axis=1))
    return expected


@pytest.mark.parametrize("steps", [None, range(7), [5, 6, 6, 8, 9, 10, 11]])
@pytest.mark.parametrize(
    ("name", "renew"),
    [
        ("GradNorm", lambda weights, norms: 0.5 * weights + 0.5 * norms.mean() / norms),
        ("NTK", lambda weights, norms: norms.sum() / norms),
    ],
)
def test_weights_by_the_lengths_of_the_gradients(name, renew, steps):
    task = Regression()
    aggregator = MAKERS[name](task.model)
    found, rows = [], []
    for i in range(7):
        losses, _, row = task.new_batch()
        aggregator(losses, *([] if steps is None else [steps[i]])).backward()
        found.append(task.gradient())
        rows.append(row)
    expected = balanced_by_hand(rows, steps or range(7), 3, renew)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_gradnorm_starts_with_init_weights():
    plane = Plane(0, 0)
    aggregator = mtl.GradNorm(plane, 2, update_freq=1, momentum=0.75, init_weights=[4, 2])
    assert plane.step(aggregator, [[3, 0], [0, 1]]).tolist() == [12, 2]
    # 0.75 * 4 + 0.25 * 2/3 and 0.75 * 2 + 0.25 * 2/1
    np.testing.assert_allclose(plane.step(aggregator, [[3, 0], [0, 1]]), [9.5, 2.0], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_and_gradient_of_a_total_have_the_same_weights(dtype):
    plane = Plane(0, 0)
    aggregator = mtl.GradNorm(plane, 2, update_freq=1, momentum=0.0)
    losses = plane.losses([[3, 0], [0, 1]], [5.0, 7.0])
    total = aggregator({name: loss.astype(dtype) for name, loss in losses.items()})
    total.backward()
    assert float(total) == 12
    assert plane.p.grad.tolist() == [3, 1]


def relobralo_by_hand(values, alpha, looks_back):
    def balance(value, reference):
        powers = np.exp(value / (reference + 1e-8))
        return len(value) * powers / powers.sum()

    weights, result = np.ones_like(values[0]), [np.ones_like(values[0])]
    for before, value in zip(values, values[1:]):
        hist = balance(value, values[0]) if looks_back else weights
        weights = alpha * hist + (1 - alpha) * balance(value, before)
        result.append(weights)
    return np.array(result)


@pytest.mark.parametrize("looks_back", [False, True])
@pytest.mark.parametrize("steps", [None, [0, 1, 2, 3]])
def test_relobralo(looks_back, steps):
    values = np.array([[1.0, 4.0], [0.5, 3.0], [0.6, 1.0], [0.1, 0.9]])
    expected = relobralo_by_hand(values, 0.5, looks_back)
    plane = Plane(0, 0)
    aggregator = mtl.Relobralo(2, alpha=0.5, beta=0.0 if looks_back else 1.0)
    for i in range(4):
        options = {} if steps is None else {"step": steps[i]}
        found = plane.step(aggregator, [[1, 0], [0, 1]], list(values[i]), **options)
        np.testing.assert_allclose(found, expected[i], rtol=1e-5)


@every_method
@pytest.mark.parametrize("boundary", [-1.0, 1.0])
def test_losses_that_contain_derivatives(name, boundary):
    """The residual of an equation, as PaddleScience has it."""
    paddle.seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    x = paddle.linspace(-1, 1, 8).reshape([8, 1])
    x.stop_gradient = False

    def losses():
        u = model(x)
        slope = paddle.grad(u, x, create_graph=True)[0]
        return {"pde": ((slope - u - 1) ** 2).mean(), "bc": ((u[0] - boundary) ** 2).sum()}

    def gradient_of(loss):
        loss.backward()
        parts = [
            np.zeros(p.shape) if p.grad is None else p.grad.numpy() for p in model.parameters()
        ]
        model.clear_gradients()
        return np.concatenate([part.ravel() for part in parts]).astype("float64")

    rows = [gradient_of(losses()[key]) for key in ("pde", "bc")]
    assert (rows[0] @ rows[1] < 0) == (boundary > 0)
    expected = sum(rows)
    if name == "PCGrad":
        expected = pcgrad_by_hand(*rows)
    elif name == "AGDA":
        (expected,) = agda_by_hand([np.ones(2)], [rows], [0], 3, 0.5)
    found = gradient_of(MAKERS[name](model)(losses()))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
