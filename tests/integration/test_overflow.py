"""Steps that a gradient scaler skips."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from paddleseg.models.losses import MixedLoss
from support.calls import OF_TRAINING
from support.training import TinyNet, enabled_scaler, enough_losses, train_jointly

from paddleseg_autoloss.errors import TrainingDiverged
from paddleseg_autoloss.integration.session import TrainingSession


class TestOverflow:
    """A GradScaler of a GPU on a CPU: only its check of the device is replaced."""

    @pytest.mark.parametrize("name", OF_TRAINING)
    def test_a_skipped_step_changes_no_state(self, name, tmp_path):
        scaler = enabled_scaler(1024.0)
        with mock.patch("paddle.amp.GradScaler", return_value=scaler):
            states = []

            class Spoiled(TinyNet):
                calls = 0

                def forward(self, x):
                    Spoiled.calls += 1
                    outputs = super().forward(x)
                    if Spoiled.calls == 3:
                        outputs[0].register_hook(lambda g: g * float("inf"))
                    return outputs

            original = TrainingSession._begin_step

            def watched(session):
                original(session)
                states.append(
                    {
                        f"{path}.{key}": value.numpy().copy()
                        for path, layer in session.state.layers.items()
                        for key, value in layer.state_dict().items()
                    }
                )

            with mock.patch.object(TrainingSession, "_begin_step", watched):
                inner = enough_losses(name)
                train_jointly(
                    tmp_path, 5, {"type": name}, lambda: [MixedLoss(inner, [1] * len(inner))],
                    precision="fp16", model=Spoiled,
                )  # fmt: skip
        assert len(states) == 5
        # What step 4 begins with is what step 3, whose gradients found_overflow, began with.
        for key, value in states[3].items():
            np.testing.assert_array_equal(value, states[2][key], err_msg=key)

    def test_without_a_scaler_the_run_stops_and_names_the_loss(self, tmp_path):
        class Spoiled(TinyNet):
            def forward(self, x):
                outputs = super().forward(x)
                outputs[0].register_hook(lambda g: g * float("nan"))
                return outputs

        with pytest.raises(
            TrainingDiverged, match="iteration 1: the gradient of CrossEntropyLoss is NaN"
        ):
            train_jointly(tmp_path, 5, {"type": "PCGrad"}, model=Spoiled)
