"""Resumed runs equal uninterrupted ones with every method, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from paddleseg.cvlibs import manager
from paddleseg.models.losses import MixedLoss
from support.calls import OF_TRAINING
from support.training import (
    TinyNet,
    enough_losses,
    mixed,
    parameters,
    resumed,
    run_training,
    train_jointly,
)

import paddleseg_autoloss


class TestResume:
    @pytest.mark.parametrize("name", OF_TRAINING)
    def test_joint_method_continues_bit_for_bit(self, name, tmp_path):
        def losses():
            inner = enough_losses(name)
            return [MixedLoss(inner, [0.5] * len(inner))]

        def train(folder, iters, **options):
            return train_jointly(folder, iters, {"type": name}, losses, **options)

        whole, parts = resumed(train, tmp_path)
        for one, other in zip(parameters(whole), parameters(parts)):
            np.testing.assert_array_equal(one, other)
        of_whole = (tmp_path / "whole" / "loss_weights.csv").read_text()
        assert of_whole == (tmp_path / "parts" / "loss_weights.csv").read_text()

    @pytest.mark.parametrize("name", OF_TRAINING)
    def test_component_continues_bit_for_bit(self, name, tmp_path):
        def train(folder, iters, **options):
            losses = lambda: [manager.LOSSES[name](enough_losses(name))]  # noqa: E731
            return run_training(folder, iters, losses, **options)

        whole, parts = resumed(train, tmp_path)
        for one, other in zip(parameters(whole), parameters(parts)):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize(
        "options",
        [
            {"type": "CAGrad", "update_interval": 3},
            {"type": "PCGrad", "level": "logits"},
            {"type": "SeparateBackward", "lr_mult": [1, 0.1], "step": "each"},
            {"type": "FAMO", "exact": True},
            {"type": "DWA", "window": 3},
            {"type": "STCH", "warmup": 3},
        ],
    )
    def test_options_continue_bit_for_bit(self, options, tmp_path):
        def train(folder, iters, **more):
            return train_jointly(folder, iters, dict(options), **more)

        whole, parts = resumed(train, tmp_path)
        for one, other in zip(parameters(whole), parameters(parts)):
            np.testing.assert_array_equal(one, other)

    def test_random_order_with_four_losses_continues(self, tmp_path):
        def train(folder, iters, **options):
            two = lambda: TinyNet(2)  # noqa: E731
            losses = lambda: mixed() + mixed()  # noqa: E731
            return train_jointly(
                folder, iters, {"type": "PCGrad"}, losses, (1, 0.4), two, **options
            )

        whole, parts = resumed(train, tmp_path)
        for one, other in zip(parameters(whole), parameters(parts)):
            np.testing.assert_array_equal(one, other)

    def test_checkpoint_of_another_method_is_refused(self, tmp_path):
        train_jointly(tmp_path, 4, {"type": "AGDA"})
        with pytest.raises(paddleseg_autoloss.errors.CheckpointError, match="'AGDA'"):
            train_jointly(tmp_path, 8, {"type": "CAGrad"}, resume_model=str(tmp_path / "iter_4"))
