"""Whether an optimizer holds what a method learns."""

from __future__ import annotations

import paddle
import pytest

from paddleseg_autoloss.errors import UnheldParameterError
from paddleseg_autoloss.gradients.held_parameters import HeldParameter
from paddleseg_autoloss.weighting import AutoWeighting, GradNormWeighting, RLWWeighting


def step_of_another_network() -> paddle.optimizer.Optimizer:
    layer = paddle.nn.Linear(2, 1)
    optimizer = paddle.optimizer.SGD(0.1, parameters=layer.parameters())

    def step():
        layer(paddle.ones([1, 2])).sum().backward()
        optimizer.step()
        optimizer.clear_grad()

    optimizer.own_step = step
    return optimizer


def backward(weighting):
    weighting.learned().sum().backward()


@pytest.fixture
def weighting():
    return AutoWeighting(2)


def test_there_is_no_look_before_the_first_gradient(weighting):
    held = HeldParameter(weighting)
    optimizer = paddle.optimizer.SGD(parameters=weighting.parameters())
    assert not held.is_held()
    backward(weighting)
    assert held.is_held()
    del optimizer


def test_a_gradient_that_was_cleared_counts(weighting):
    held = HeldParameter(weighting)
    assert not held.is_held()
    backward(weighting)
    weighting.learned().clear_gradient(False)
    optimizer = paddle.optimizer.SGD(parameters=weighting.parameters())
    assert held.is_held()
    del optimizer


def test_a_parameter_group_holds_too(weighting):
    groups = [
        {"params": [paddle.create_parameter([1], "float32")]},
        {"params": [weighting.learned()]},
    ]
    optimizer = paddle.optimizer.Adam(parameters=groups)
    backward(weighting)
    assert HeldParameter(weighting).is_held()
    del optimizer


@pytest.mark.parametrize("method", [AutoWeighting, GradNormWeighting])
def test_a_step_without_the_parameter_is_an_error(method):
    weighting, optimizer = method(2), step_of_another_network()
    held = HeldParameter(weighting)
    for _ in range(2):
        backward(weighting)
        assert not held.is_held()
    optimizer.own_step()
    message = rf"^{method.__name__}: no optimizer holds its learned parameter '\w+', so the weights"
    with pytest.raises(UnheldParameterError, match=message):
        held.is_held()


def test_a_step_before_the_first_look_is_none_of_its_business(weighting):
    optimizer = step_of_another_network()
    optimizer.own_step()
    backward(weighting)
    assert not HeldParameter(weighting).is_held()


def test_a_frozen_parameter_is_not_looked_for(weighting):
    optimizer = step_of_another_network()
    weighting.learned().stop_gradient = True
    held = HeldParameter(weighting)
    for _ in range(3):
        optimizer.own_step()
        assert not held.is_held()


def test_a_method_that_learns_nothing():
    assert not HeldParameter(RLWWeighting(2)).is_held()


def test_nothing_is_left_on_a_parameter_that_is_held(weighting, monkeypatch):
    seen = []
    monkeypatch.setattr(HeldParameter, "_note_gradient", lambda self, g: seen.append(g.tolist()))
    held = HeldParameter(weighting)
    assert not held.is_held()
    optimizer = paddle.optimizer.SGD(parameters=weighting.parameters())
    backward(weighting)
    assert seen == [[1.0, 1.0]]
    assert held.is_held()
    backward(weighting)
    assert seen == [[1.0, 1.0]]
    del optimizer
