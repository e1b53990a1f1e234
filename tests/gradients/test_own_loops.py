"""Loops of one's own: learned weights that nobody clears, or that decay."""

from __future__ import annotations

import warnings

import paddle
import pytest
from paddle.regularizer import L2Decay
from support import ce_and_dice

import paddleseg_autoloss
from paddleseg_autoloss.errors import UnclearedGradientError

LEARNED = ["AutoWeightedLoss", "UncertaintyWeightedLoss", "IMTLL"]


def parts(name: str = "AutoWeightedLoss"):
    paddle.seed(0)
    model = paddle.nn.Conv2D(3, 2, 1)
    return model, getattr(paddleseg_autoloss, name)(ce_and_dice())


def forward(model, loss):
    images, labels = paddle.rand([2, 3, 4, 4]), paddle.randint(0, 2, [2, 4, 4])
    return loss(model(images), labels)


def all_parameters(model, loss):
    return [*model.parameters(), *loss.parameters()]


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_gradients_that_nobody_clears_are_named_at_the_second_step(name, kind):
    model, loss = parts(name)
    optimizer = getattr(paddle.optimizer, kind)(0.01, parameters=all_parameters(model, loss))
    for _ in range(2):
        forward(model, loss).backward()
        optimizer.step()
        model.clear_gradients()
    with pytest.raises(UnclearedGradientError, match=r"is not cleared .* call clear_grad\(\)"):
        forward(model, loss)


@pytest.mark.parametrize("set_to_zero", [True, False])
@pytest.mark.parametrize("clears", ["after the step", "before the forward", "before the backward"])
def test_a_gradient_may_be_cleared_anywhere_between(clears, set_to_zero):
    model, loss = parts()
    optimizer = paddle.optimizer.Adam(0.01, parameters=all_parameters(model, loss))
    before = loss.aggregator.weighting.learned().tolist()
    for _ in range(4):
        if clears == "before the forward":
            optimizer.clear_grad(set_to_zero)
        total = forward(model, loss)
        if clears == "before the backward":
            optimizer.clear_grad(set_to_zero)
        total.backward()
        optimizer.step()
        if clears == "after the step":
            optimizer.clear_grad(set_to_zero)
    assert loss.aggregator.weighting.learned().tolist() != before


def test_several_backward_passes_may_add_up_before_a_step():
    model, loss = parts()
    optimizer = paddle.optimizer.SGD(0.01, parameters=all_parameters(model, loss))
    for _ in range(3):
        for _ in range(3):
            forward(model, loss).backward()
        optimizer.step()
        optimizer.clear_grad()
    forward(model, loss)


def test_a_gradient_scaler_changes_nothing():
    model, loss = parts()
    optimizer = paddle.optimizer.SGD(0.01, parameters=all_parameters(model, loss))
    scaler = paddle.amp.GradScaler(init_loss_scaling=1024.0)
    for _ in range(3):
        total = forward(model, loss)
        optimizer.clear_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()


def decaying(kind: str, weight_decay, model, loss):
    return getattr(paddle.optimizer, kind)(
        0.01, parameters=all_parameters(model, loss), weight_decay=weight_decay
    )


def in_groups(kind: str, model, loss):
    groups = [
        {"params": model.parameters()},
        {"params": loss.parameters(), "weight_decay": 0.0},
    ]
    return getattr(paddle.optimizer, kind)(0.01, parameters=groups, weight_decay=10.0)


def two_steps(model, loss, optimizer):
    for _ in range(2):
        forward(model, loss).backward()
        optimizer.step()
        optimizer.clear_grad()


@pytest.mark.parametrize(
    ("kind", "weight_decay"),
    [("AdamW", 10.0), ("SGD", 0.1), ("Adam", L2Decay(0.1)), ("Momentum", 0.1)],
)
def test_weight_decay_on_learned_weights_is_warned_of(kind, weight_decay):
    model, loss = parts()
    with pytest.warns(UserWarning, match=r"weight decay of .* group with weight_decay 0\.0"):
        two_steps(model, loss, decaying(kind, weight_decay, model, loss))


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "Adam", "Momentum"])
@pytest.mark.parametrize("how", ["none", "groups"])
def test_learned_weights_that_do_not_decay_are_not_warned_of(kind, how):
    model, loss = parts()
    none = 0.0 if kind == "AdamW" else None
    made = in_groups(kind, model, loss) if how == "groups" else None
    optimizer = made or decaying(kind, none, model, loss)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        two_steps(model, loss, optimizer)
    assert not [w for w in caught if "weight decay" in str(w.message)]


def test_adamw_that_exempts_the_parameter_is_not_warned_of():
    model, loss = parts()
    own = {p.name for p in loss.parameters()}
    optimizer = paddle.optimizer.AdamW(
        0.01, parameters=all_parameters(model, loss), weight_decay=10.0,
        apply_decay_param_fun=lambda name: name not in own,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        two_steps(model, loss, optimizer)
    assert not [w for w in caught if "weight decay" in str(w.message)]
