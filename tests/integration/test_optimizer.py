"""Loss parameters in every optimizer that a config can name, against the updates worked by hand."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.cvlibs import manager
from paddleseg.optimizers.custom_optimizers import AdamWDL

from paddleseg_autoloss.integration.optimizer import (
    export_slots,
    hold_parameters,
    import_slots,
    note_fast_weights,
)
from paddleseg_autoloss.weighting import AutoWeighting

RATE, DECAY, MULT = 0.01, 0.1, 10.0
OPTIMIZERS = ["SGD", "Momentum", "Adam", "AdamW"]
#: First step of each optimizer for a gradient g without weight decay, as a multiple of the rate.
FIRST_STEP = {
    "SGD": lambda g: g,
    "Momentum": lambda g: g,
    "Adam": np.sign,
    "AdamW": np.sign,
}


class Net(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.head = nn.Linear(2, 1)
        self.norm = nn.BatchNorm1D(2)

    def forward(self, x):
        return self.head(self.norm(self.backbone(x)))


CUSTOM = [{"name": "backbone", "lr_mult": 0.1}, {"name": "norm", "weight_decay_mult": 0.0}]


def make(name, model, schedule=RATE, **options):
    return manager.OPTIMIZERS[name](weight_decay=DECAY, **options)(model, schedule)


def step(model, weighting, losses=(0.2, 3.0)):
    """Backward through both; the gradient of c at 1 is 1 - L."""
    network = model(paddle.to_tensor([[1.0, 2.0], [-1.0, 0.5]])).square().mean()
    values = paddle.to_tensor(losses, dtype="float32")
    (network + weighting.total(values, weighting(values))).backward()


@pytest.mark.parametrize("custom", [None, CUSTOM], ids=["flat", "groups"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_that_is_given_twice_takes_one_step(name, custom):
    """One loss object for several heads gives its parameters once for each."""
    model, weighting = Net(), AutoWeighting(2, lr_mult=MULT)
    optimizer = make(name, model, custom_cfg=custom)
    hold_parameters(optimizer, weighting.parameters() * 2)
    hold_parameters(optimizer, weighting.parameters())
    step(model, weighting)
    optimizer.step()
    expected = 1 - RATE * MULT * FIRST_STEP[name](np.array([1 - 0.2, 1 - 3.0]))
    np.testing.assert_allclose(weighting.c.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("custom", [None, CUSTOM], ids=["flat", "groups"])
@pytest.mark.parametrize(
    "clip", [None, {"name": "ClipGradByGlobalNorm", "clip_norm": 1e-3}], ids=["unclipped", "clip"]
)
@pytest.mark.parametrize("name", OPTIMIZERS)
class TestEveryOptimizer:
    def test_first_step_by_hand(self, name, custom, clip):
        """No weight decay, no clipping, ten times the learning rate."""
        model, weighting = Net(), AutoWeighting(2, lr_mult=MULT)
        optimizer = make(name, model, custom_cfg=custom, grad_clip_cfg=clip)
        hold_parameters(optimizer, weighting.parameters())
        step(model, weighting)
        optimizer.step()
        gradient = np.array([1 - 0.2, 1 - 3.0])
        expected = 1 - RATE * MULT * FIRST_STEP[name](gradient)
        np.testing.assert_allclose(weighting.c.numpy(), expected, rtol=1e-4)

    def test_model_trains_as_if_the_loss_were_not_there(self, name, custom, clip):
        """Clipping by the global norm, above all, does not see the loss parameters."""
        paddle.seed(0)
        model, alone = Net(), Net()
        alone.set_state_dict(model.state_dict())
        weighting = AutoWeighting(2)
        optimizer = make(name, model, custom_cfg=custom, grad_clip_cfg=clip)
        stock = make(name, alone, custom_cfg=custom, grad_clip_cfg=clip)
        hold_parameters(optimizer, weighting.parameters())
        for _ in range(3):
            step(model, weighting)
            step(alone, AutoWeighting(2))
            for each in (optimizer, stock):
                each.step()
                each.clear_grad()
        for own, other in zip(model.parameters(), alone.parameters()):
            np.testing.assert_array_equal(own.numpy(), other.numpy())

    def test_state_moves_to_other_parameter_names(self, name, custom, clip):
        """Three steps, save, load elsewhere, three steps: the same as six."""
        model, weighting = Net(), AutoWeighting(2)
        optimizer = make(name, model, custom_cfg=custom, grad_clip_cfg=clip)
        hold_parameters(optimizer, weighting.parameters())

        def train(net, method, chosen):
            for _ in range(3):
                step(net, method)
                chosen.step()
                chosen.clear_grad()

        train(model, weighting, optimizer)
        slots = export_slots(optimizer, {"c": weighting.c})
        other_model, other = Net(), AutoWeighting(2)
        other.set_state_dict(weighting.state_dict())
        resumed = make(name, other_model, custom_cfg=custom, grad_clip_cfg=clip)
        hold_parameters(resumed, other.parameters())
        entries = import_slots(resumed, {"c": other.c}, slots)
        for state in resumed._accumulators.values():
            for value in state.values():
                value.set_value(entries[value.name])
        train(model, weighting, optimizer)
        train(other_model, other, resumed)
        np.testing.assert_array_equal(weighting.c.numpy(), other.c.numpy())


@pytest.mark.parametrize(
    ("kind", "lr_mult", "is_said"),
    [("Momentum", 10, True), ("SGD", 2, True), ("SGD", 1, False), ("AdamW", 10, False)],
)
def test_a_rate_of_the_weights_that_suits_adam_only_is_named(kind, lr_mult, is_said, capfd):
    weighting = AutoWeighting(2, lr_mult=lr_mult)
    optimizer = getattr(paddle.optimizer, kind)(0.1, parameters=nn.Linear(2, 2).parameters())
    note_fast_weights(optimizer, weighting.parameters())
    said = f"lr_mult: {lr_mult} suits Adam" in capfd.readouterr().out
    assert said == is_said


def test_warm_up_applies_to_the_loss_parameters_too():
    model, weighting = Net(), AutoWeighting(2, lr_mult=MULT)
    schedule = paddle.optimizer.lr.LinearWarmup(RATE, warmup_steps=4, start_lr=0.0, end_lr=RATE)
    optimizer = make("SGD", model, schedule=schedule)
    hold_parameters(optimizer, weighting.parameters())
    step(model, weighting)
    optimizer.step()
    assert weighting.c.numpy().tolist() == [1, 1]
    schedule.step()
    optimizer.step()
    np.testing.assert_allclose(weighting.c.numpy(), 1 - RATE / 4 * MULT * np.array([0.8, -2]))


def test_parameters_that_are_held_already_are_not_added():
    model, weighting = Net(), AutoWeighting(2)
    optimizer = paddle.optimizer.SGD(
        RATE, parameters=[*model.parameters(), *weighting.parameters()]
    )
    hold_parameters(optimizer, weighting.parameters())
    hold_parameters(optimizer, weighting.parameters())
    assert sum(p is weighting.c for p in optimizer._parameter_list) == 1


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_parameters_that_are_held_already_are_not_decayed(name):
    model, weighting = Net(), AutoWeighting(2)
    together = nn.LayerList([model, weighting])
    optimizer = make(name, together)
    hold_parameters(optimizer, weighting.parameters())
    step(model, weighting)
    optimizer.step()
    expected = 1 - RATE * FIRST_STEP[name](np.array([0.8, -2.0]))
    np.testing.assert_allclose(weighting.c.numpy(), expected, rtol=1e-4)


def test_layerwise_rates_of_the_model_do_not_apply():
    model, weighting = Net(), AutoWeighting(2)
    optimizer = AdamWDL(
        RATE,
        parameters=model.parameters(),
        layerwise_decay=0.5,
        name_dict={p.name: name for name, p in model.named_parameters()},
    )
    hold_parameters(optimizer, weighting.parameters())
    step(model, weighting)
    optimizer.step()
    np.testing.assert_allclose(weighting.c.numpy(), [1 - RATE, 1 + RATE], rtol=1e-4)


def test_own_choice_of_decayed_parameters_is_kept():
    model, weighting = Net(), AutoWeighting(2)
    chosen = model.head.weight.name
    optimizer = paddle.optimizer.AdamW(
        RATE, parameters=model.parameters(), apply_decay_param_fun=lambda name: name == chosen
    )
    hold_parameters(optimizer, weighting.parameters())
    decays = optimizer._apply_decay_param_fun
    assert decays(chosen)
    assert not decays(model.head.bias.name)
    assert not decays(weighting.c.name)
