"""The methods that weigh by loss values alone: what holds for all of them."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from support.calls import tensor, value_and_gradient, weights_of
from support.samplers import INF, NAN, walk

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import (
    AGDAWeighting,
    CoBaWeighting,
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
)

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
        *(
            (
                method,
                {name: value},
                f"{name}: expected an integer from 1 to 9007199254740992, found {value}",
            )
            for method, name in [
                (STCHWeighting, "warmup"),
                (DWAWeighting, "window"),
                (AGDAWeighting, "M"),
            ]
            for value in (2**53 + 1, 10**30)
        ),
        (
            CoBaWeighting,
            {"window": 10**6},
            "window: expected an integer from 2 to 100000, found 1000000",
        ),
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
            {"coef": [0, 0]},
            "coef: expected a number above 0, found [0.0, 0.0]: nothing trains",
        ),
        (
            ScheduledWeighting,
            {**STEP, "coef": [0.0, -0.0], "final_coef": [0, 0]},
            "coef: expected a number above 0, found [0.0, -0.0]: nothing trains",
        ),
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
