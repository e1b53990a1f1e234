"""The methods that need the whole Jacobian, inside PaddleSeg's own loop."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss, LovaszSoftmaxLoss
from support.assertions import state_of
from support.training import (
    TinyNet,
    ce_and_dice,
    enabled_scaler,
    parameters,
    resumed,
    run_training,
    train_jointly,
)

import paddleseg_autoloss
from paddleseg_autoloss.errors import CheckpointError
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import MoCoWeighting


def test_resume_as_a_component(tmp_path):
    """Of three losses; the other methods take two, with which every component is resumed."""

    def train(folder, iters, **options):
        component = paddleseg_autoloss.TrimmedMean
        losses = lambda: [component([*ce_and_dice(), LovaszSoftmaxLoss()])]  # noqa: E731
        return run_training(folder, iters, losses, **options)

    whole, parts = resumed(train, tmp_path)
    for one, other in zip(parameters(whole), parameters(parts)):
        np.testing.assert_array_equal(one, other)


def test_resume_with_a_parameter_frozen_is_refused(tmp_path):
    def train(iters, frozen, **options):
        def model():
            model = TinyNet(1)
            model.body[0].weight.stop_gradient = frozen
            return model

        return train_jointly(tmp_path, iters, {"type": "DBMTL"}, model=model, **options)

    train(4, False)
    with pytest.raises(
        CheckpointError, match=r"loss_aggregator.weighting.average has the shape \[2, 258\] in"
    ):
        train(8, True, resume_model=str(tmp_path / "iter_4"))


def test_the_next_run_of_the_same_loss_goes_on(tmp_path):
    """Binding it anew must not throw away what it has learned."""
    loss = paddleseg_autoloss.DBMTL([CrossEntropyLoss(), DiceLoss()])
    run_training(tmp_path / "a", 2, lambda: [loss])
    before = state_of(loss)
    run_training(tmp_path / "b", 1, lambda: [loss])
    assert before["aggregator.weighting.step"] == 2
    assert int(loss.aggregator.weighting.step) == 3


def test_a_skipped_step_of_the_loop_leaves_no_trace(tmp_path):
    """The gradients of the third step overflow; the method sees the four others."""
    scaler, states = enabled_scaler(1024.0), []

    class Spoiled(TinyNet):
        calls = 0

        def forward(self, x):
            Spoiled.calls += 1
            outputs = super().forward(x)
            if Spoiled.calls == 3:
                outputs[0].register_hook(lambda g: g * float("inf"))
            return outputs

    method = MoCoWeighting(2)
    stock = MoCoWeighting.update

    def watched(self, losses, jacobian):
        states.append(state_of(self))
        return stock(self, losses, jacobian)

    names = ["CrossEntropyLoss", "DiceLoss"]
    aggregator = LossAggregator(names, method)
    with (
        mock.patch("paddle.amp.GradScaler", return_value=scaler),
        mock.patch.object(MoCoWeighting, "update", watched),
    ):
        train_jointly(tmp_path, 5, aggregator, precision="fp16", model=Spoiled)
    assert [int(state["step"]) for state in states] == [0, 1, 2, 3]
