"""Gramians of all levels in one go against one backward pass for each, and replayed methods."""

import numpy as np
import paddle
import pytest
from support.networks import gradients_by_backward, head_losses, network

from paddleseg_autoloss.gradients.levels import fidelities, gramians_of_levels, replay
from paddleseg_autoloss.weighting import CAGradWeighting, GradNormWeighting


def test_gramians_are_those_of_each_level_alone():
    paddle.seed(0)
    below, above = paddle.nn.Linear(3, 4), paddle.nn.Linear(4, 2)
    features = paddle.tanh(below(paddle.rand([5, 3])))
    logits = above(features)
    losses = [(logits**2).mean(), logits[:, 0].sum(), (logits[:, 1] - 1).abs().mean()]
    targets = {
        "parameters": [*below.parameters(), *above.parameters()],
        "features": [features],
        "logits": [logits],
    }
    found = gramians_of_levels(losses, **targets)
    assert list(found) == list(targets)
    for level, tensors in targets.items():
        rows = [paddle.grad(loss, tensors, retain_graph=True) for loss in losses]
        jacobian = np.stack([np.concatenate([g.numpy().ravel() for g in row]) for row in rows])
        expected = jacobian.astype("float64") @ jacobian.T.astype("float64")
        np.testing.assert_allclose(found[level].gramian, expected, rtol=1e-5)
        assert found[level].is_shared


def test_heads_of_their_own_share_no_logits():
    model = network()
    losses = list(head_losses(model).values())
    found = gramians_of_levels(losses, parameters=model.parameters(), features=[])
    jacobian = gradients_by_backward(head_losses, model)
    np.testing.assert_allclose(found["parameters"].gramian, jacobian @ jacobian.T, rtol=1e-3)
    assert list(found) == ["parameters"]
    assert not found["parameters"].is_shared


def _recorded(steps: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    rows = random.normal(size=(steps, count, 6))
    return random.uniform(0.5, 1, (steps, count)), rows @ rows.transpose(0, 2, 1)


def test_a_replayed_method_keeps_its_state():
    losses, gramians = _recorded(steps=5, count=3)
    method = GradNormWeighting(3)
    expected = [method.solve(*step) for step in zip(losses, gramians)]
    np.testing.assert_array_equal(replay(GradNormWeighting(3), losses, gramians), expected)


def test_weights_stay_between_looks():
    losses, gramians = _recorded(steps=4, count=3)
    looks = np.array([True, False, True, False])
    found = replay(CAGradWeighting(3), losses, gramians, looks)
    for step, seen in enumerate([0, 0, 2, 2]):
        expected = CAGradWeighting(3).solve(losses[seen], gramians[seen])
        np.testing.assert_array_equal(found[step], expected)


def test_each_step_has_its_fidelity():
    _, gramians = _recorded(steps=2, count=2)
    gramians[1] = np.diag([1.0, 1.0])
    weights, exact = np.ones([2, 2]), np.array([[1.0, 1.0], [1.0, 0.0]])
    assert fidelities(gramians, weights, exact) == pytest.approx([1.0, 0.5**0.5])
