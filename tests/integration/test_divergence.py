"""Runs that diverge stop before anything saved is touched."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.models.losses import DiceLoss, MixedLoss
from support.records import history
from support.training import Squares, TinyNet, run_training

from paddleseg_autoloss import AutoWeightedLoss
from paddleseg_autoloss.errors import TrainingDiverged


class Poisoned(nn.Layer):
    """A loss that is NaN or infinite from a given call on."""

    def __init__(self, value: float, call: int) -> None:
        super().__init__()
        self.value, self.call, self.calls = value, call, 0

    def forward(self, logits, labels):
        self.calls += 1
        return logits.mean() * (self.value if self.calls >= self.call else 1.0)


class TestDivergence:
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("call", [5, 6, 8])
    def test_stops_before_anything_saved_is_touched(self, value, call, tmp_path):
        """Iteration 8 is one that saves."""

        def losses():
            return [AutoWeightedLoss([DiceLoss(), Poisoned(value, call)])]

        message = rf"iteration {call}: Poisoned is .*last good checkpoint is .*iter_4$"
        with pytest.raises(TrainingDiverged, match=message):
            run_training(tmp_path, 12, losses, val_dataset=Squares("val", 2))
        assert sorted(p.name for p in tmp_path.glob("iter_*/model.pd*")) == [
            "model.pdopt",
            "model.pdparams",
        ]
        for folder in ("iter_4", "best_model"):
            for saved in paddle.load(str(tmp_path / folder / "model.pdparams")).values():
                assert not hasattr(saved, "numpy") or np.isfinite(saved.numpy()).all()

    @pytest.mark.parametrize("evaluates", [True, False])
    def test_gradient_that_is_not_finite(self, evaluates, tmp_path):
        """The loss is fine, its gradient is not."""

        class Root(Poisoned):
            def forward(self, logits, labels):
                self.calls += 1
                scale = 0.0 if self.calls >= self.call else 1.0
                return (logits.square().mean() * scale).sqrt()

        def losses():
            return [AutoWeightedLoss([DiceLoss(), Root(0, 8)])]

        validation = Squares("val", 2) if evaluates else None
        message = r"iteration 8: the gradient of Root is NaN; .* is .*iter_4$"
        with pytest.raises(TrainingDiverged, match=message):
            run_training(tmp_path, 12, losses, val_dataset=validation)
        assert not list((tmp_path / "iter_8").glob("*.pd*"))

    @pytest.mark.parametrize("evaluates", [True, False])
    def test_network_that_the_optimizer_breaks(self, evaluates, tmp_path):
        """Losses and gradients are fine, the step is not: the broken network is not saved."""

        def optimizer(model):
            rate = paddle.optimizer.lr.LambdaDecay(0.1, lambda step: 1e45 if step == 7 else 1.0)
            return paddle.optimizer.SGD(rate, parameters=model.parameters())

        validation = Squares("val", 2) if evaluates else None
        message = r"iteration 8: .* has become NaN or infinite; .* is .*iter_4$"
        with pytest.raises(TrainingDiverged, match=message):
            run_training(tmp_path, 12, optimizer=optimizer, val_dataset=validation)
        assert not list((tmp_path / "iter_8").glob("*.pd*"))

    def test_loss_that_is_no_term(self, tmp_path):
        """A model with a loss_computation of its own adds one that nobody watches."""

        class Own(TinyNet):
            calls = 0

            def loss_computation(self, logits_list, losses, data):
                self.calls += 1
                extra = logits_list[0].mean() * (math.nan if self.calls >= 6 else 1.0)
                return [losses["types"][0](logits_list[0], data["label"]), extra]

        with pytest.raises(TrainingDiverged, match="iteration 6: the total loss is nan"):
            run_training(tmp_path, 12, model=Own)

    def test_other_ranks_leave_the_curves_of_the_first_alone(self, tmp_path, monkeypatch):
        run_training(tmp_path, 4)
        before = history(tmp_path)

        def losses():
            return [AutoWeightedLoss([DiceLoss(), Poisoned(math.nan, 2)])]

        for variable in ("PADDLE_RANK_IN_NODE", "PADDLE_TRAINER_ID"):
            monkeypatch.setenv(variable, "1")
        with pytest.raises(TrainingDiverged):
            run_training(tmp_path, 4, losses)
        assert history(tmp_path) == before

    def test_before_the_first_checkpoint(self, tmp_path):
        def losses():
            return [MixedLoss([DiceLoss(), Poisoned(math.nan, 2)], [1.0, 1.0])]

        with pytest.raises(
            TrainingDiverged, match=r"Poisoned is nan .*no good checkpoint was saved"
        ):
            run_training(tmp_path, 12, losses)
