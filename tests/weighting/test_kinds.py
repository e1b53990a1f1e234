"""The three kinds of method: what each must define, and what it says to a wrong call."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import paddle
import pytest
from support.calls import methods_of

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.aggregator import LossAggregator, method_arguments
from paddleseg_autoloss.weighting import (
    METHODS,
    AlignmentWeighting,
    CRMOGMWeighting,
    GramianWeighting,
    HeldOutLossWeighting,
    JacobianWeighting,
    LossWeighting,
    MGDAWeighting,
    MoCoWeighting,
    RLWWeighting,
    SeparateBackwardWeighting,
    Weighting,
)
from paddleseg_autoloss.weighting.objective import ObjectiveWeighting

KINDS = [
    LossWeighting,
    GramianWeighting,
    JacobianWeighting,
    AlignmentWeighting,
    HeldOutLossWeighting,
]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_of_one_kind(name):
    method = METHODS[name](METHODS[name].least_losses)
    assert [isinstance(method, kind) for kind in KINDS].count(True) == 1


@pytest.mark.parametrize("kind", [Weighting, *KINDS, ObjectiveWeighting])
def test_a_kind_is_no_method(kind):
    with pytest.raises(TypeError, match="abstract"):
        kind(2)


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        (LossWeighting, "forward"),
        (GramianWeighting, "solve"),
        (JacobianWeighting, "update"),
        (HeldOutLossWeighting, "forward"),
    ],
)
def test_a_method_that_lacks_its_part_is_not_made(kind, missing):
    unfinished = type("Unfinished", (kind,), {})
    with pytest.raises(TypeError, match=missing):
        unfinished(2)
    finished = type("Finished", (kind,), {missing: lambda self, *inputs: None})
    assert finished(2).num_losses == 2


class TestWrongCalls:
    @pytest.mark.parametrize("name", methods_of(JacobianWeighting))
    def test_a_method_of_the_jacobian_as_a_layer(self, name):
        method = METHODS[name](max(2, METHODS[name].least_losses))
        for inputs in [(paddle.ones([2]),), (paddle.ones([2]), paddle.eye(2)), ()]:
            with pytest.raises(ConfigError) as error:
                method(*inputs)
            assert str(error.value) == (
                f"{type(method).__name__}: expected a call of update(losses, jacobian), found "
                "a call of the method itself, whose weights do not determine the update"
            )

    @pytest.mark.parametrize("name", methods_of(GramianWeighting))
    def test_a_method_of_the_gramian_without_one(self, name):
        method = METHODS[name](max(2, METHODS[name].least_losses))
        with pytest.raises(ConfigError, match=r"^\w+Weighting: expected the Gramian of the gradi"):
            method(paddle.ones([method.num_losses]))

    @pytest.mark.parametrize("method", [RLWWeighting, MGDAWeighting, MoCoWeighting])
    def test_losses_after_the_step_that_nobody_asked_for(self, method):
        message = f"{method.__name__}: it does not use the losses after the step"
        with pytest.raises(ConfigError, match=f"^{message}$"):
            method(2).observe_after_step(paddle.ones([2]))

    def test_an_aggregator_of_no_kind(self):
        class Odd(Weighting):
            def forward(self, losses):
                return losses

        with pytest.raises(ConfigError, match="Odd: expected a LossWeighting, a GramianWeighting"):
            LossAggregator(["a", "b"], Odd(2))


@pytest.mark.parametrize("name", METHODS)
def test_what_a_config_can_give_follows_from_the_kind(name):
    kind = METHODS[name]
    own = list(inspect.signature(kind).parameters)[1:]
    given = [argument.name for argument in method_arguments(kind)]
    # CRMOGM takes the kind of the method that it averages.
    from_gramian = issubclass(kind, GramianWeighting) or kind is CRMOGMWeighting
    of_gramian = ["level", "update_interval", "layer"] if from_gramian else []
    of_held_out = ["update_interval"] if kind.uses_held_out else []
    assert given == [*own, "reduction", "constant_sum", *of_gramian, *of_held_out]


@pytest.mark.parametrize("name", METHODS)
def test_uses_gradients_is_true_of_three_kinds(name):
    count = METHODS[name].least_losses
    aggregator = LossAggregator([f"loss{i}" for i in range(count)], METHODS[name](count))
    of_values = (LossWeighting, HeldOutLossWeighting)
    assert aggregator.uses_gradients is not isinstance(aggregator.weighting, of_values)
    keeps = not isinstance(aggregator.weighting, LossWeighting)
    assert ("weights" in aggregator.state_dict()) is keeps


def test_steps_of_their_own_are_an_attribute_of_the_kind():
    rates = {
        step: SeparateBackwardWeighting(2, lr_mult=[1, 0.5], step=step).substep_rates
        for step in ("joint", "each")
    }
    assert rates == {"joint": None, "each": [1.0, 0.5]}
    assert MGDAWeighting(2).substep_rates is None


class TestKindOfAnAverage:
    @pytest.mark.parametrize(
        ("method", "kind"), [("RLW", LossWeighting), ("MGDA", GramianWeighting)]
    )
    def test_it_is_that_of_the_method(self, method, kind):
        average = CRMOGMWeighting(2, method=method)
        assert isinstance(average, CRMOGMWeighting)
        assert [base for base in KINDS if isinstance(average, base)] == [kind]
        assert repr(
            average
        ) == f"CRMOGMWeighting(method={method!r}, options=None, alpha=0.9)".replace(
            "(", "(num_losses=2, "
        )
        assert average.short_name == "CRMOGM"

    @pytest.mark.parametrize("method", ["RLW", "MGDA"])
    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
    def test_a_copy_is_of_the_same_kind(self, method, duplicate):
        average = CRMOGMWeighting(3, method, None, 0.5)
        other = duplicate(average)
        assert type(other) is type(average)
        assert repr(other) == repr(average)
        assert list(other.state_dict()) == list(average.state_dict())

    def test_it_is_found_in_double_precision_on_the_host(self):
        average = CRMOGMWeighting(2, method="MGDA", alpha=0.5)
        assert average.solve(np.ones(2), np.eye(2)).tolist() == [0.5, 0.5]
        weights = average.solve(np.ones(2), np.diag([1.0, 3.0]))  # MGDA: 3/4, 1/4
        np.testing.assert_allclose(weights, [0.625, 0.375], rtol=1e-6)
        assert weights.dtype == "float64"
