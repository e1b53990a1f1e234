"""Resumed runs equal uninterrupted ones, and checkpoints go to and from stock PaddleSeg."""

from __future__ import annotations

import importlib

import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import manager
from paddleseg.models.losses import CrossEntropyLoss, MixedLoss
from support.processes import SCRIPT_HEAD, run_tool
from support.records import history
from support.training import COMPONENTS, ce_and_dice, learned, run_training, state_arrays

from paddleseg_autoloss import AutoWeightedLoss, UncertaintyWeightedLoss
from paddleseg_autoloss.errors import CheckpointError, ConfigError


class TestResume:
    @pytest.mark.parametrize("component", COMPONENTS)
    @pytest.mark.parametrize("name", ["SGD", "Momentum", "Adam", "AdamW"])
    def test_resumed_equals_uninterrupted_bit_for_bit(self, component, name, tmp_path):
        """Data order and dropout included; 5 lies in the middle of an epoch."""

        def losses():
            return [component(ce_and_dice())]

        def optimizer(model):
            schedule = paddle.optimizer.lr.PolynomialDecay(0.05, 10, 0.0)
            return manager.OPTIMIZERS[name](weight_decay=0.01)(model, schedule)

        options = {"losses": losses, "optimizer": optimizer, "save_interval": 5}
        model, types, _ = run_training(tmp_path / "whole", 10, **options)
        run_training(tmp_path / "parts", 5, **options)
        resumed, resumed_types, _ = run_training(
            tmp_path / "parts", 10, resume_model=str(tmp_path / "parts" / "iter_5"), **options
        )
        np.testing.assert_array_equal(learned(types), learned(resumed_types))
        for own, expected in zip(state_arrays(resumed), state_arrays(model)):
            np.testing.assert_array_equal(own, expected)

    def test_history_continues(self, tmp_path):
        run_training(tmp_path, 6)
        run_training(tmp_path, 8, resume_model=str(tmp_path / "iter_4"))
        rows = history(tmp_path)
        assert [int(row["iteration"]) for row in rows[::2]] == [2, 4, 6, 8]

    def test_history_survives_a_line_cut_short(self, tmp_path):
        run_training(tmp_path, 4)
        with open(tmp_path / "loss_weights.csv", "a") as file:
            file.write("6,DiceLoss,0.5,1.0,")
        run_training(tmp_path, 6, resume_model=str(tmp_path / "iter_4"))
        rows = history(tmp_path)
        assert [int(row["iteration"]) for row in rows[::2]] == [2, 4, 6]

    def test_model_file_is_a_plain_paddleseg_model(self, tmp_path):
        model, _, _ = run_training(tmp_path, 4)
        saved = paddle.load(str(tmp_path / "iter_4" / "model.pdparams"))
        assert set(saved) - {"StructuredToParameterName@@"} == set(model.state_dict())

    def stock_run(self, folder, iters, resume=""):
        """Train in a process that has never heard of us, apart from the cures of compat."""
        code = (
            f"{SCRIPT_HEAD}"
            "from paddleseg.models.losses import MixedLoss\n"
            "from paddleseg_autoloss.integration.training import _stock_train as train\n"
            "paddle.seed(1); model = TinyNet()\n"
            "train(model, Squares(), optimizer=adam(model), iters=int(sys.argv[2]),\n"
            "      save_dir=sys.argv[1], resume_model=sys.argv[3] or None, log_iters=2,\n"
            "      save_interval=4, losses={'types': [MixedLoss(ce_and_dice(), [.8, .2])],\n"
            "      'coef': [1]})\n"
        )
        return run_tool("-c", code, str(folder), str(iters), resume)

    def test_checkpoint_of_stock_paddleseg_resumes_here(self, tmp_path, capfd):
        assert self.stock_run(tmp_path, 4).returncode == 0
        _, types, _ = run_training(tmp_path, 8, resume_model=str(tmp_path / "iter_4"))
        assert "The checkpoint contains no loss weights: they start anew" in capfd.readouterr().out
        assert (learned(types) != 1).all()

    def test_our_checkpoint_resumes_in_stock_paddleseg(self, tmp_path):
        run_training(tmp_path, 4)
        result = self.stock_run(tmp_path, 6, resume=str(tmp_path / "iter_4"))
        assert result.returncode == 0, result.stderr
        assert "iter: 6/6" in result.stdout

    def test_fixed_mix_then_learned_weights(self, tmp_path):
        run_training(tmp_path, 4, lambda: [MixedLoss(ce_and_dice(), [0.8, 0.2])])
        _, types, _ = run_training(tmp_path, 8, resume_model=str(tmp_path / "iter_4"))
        assert (learned(types) != 1).all()

    def test_run_that_is_beyond_its_end(self, tmp_path):
        run_training(tmp_path, 4)
        with pytest.raises(ConfigError, match=r"iters: expected at least 4, the iteration of"):
            run_training(tmp_path, 3, resume_model=str(tmp_path / "iter_4"))

    @pytest.mark.parametrize("name", ["model.pdparams", "model.pdopt"])
    @pytest.mark.parametrize("size", [0, 100])
    def test_file_cut_short(self, name, size, tmp_path):
        run_training(tmp_path, 4)
        path = tmp_path / "iter_4" / name
        path.write_bytes(path.read_bytes()[:size])
        message = rf"--resume_model: cannot read .*iter_4/{name}: "
        with pytest.raises(CheckpointError, match=message) as caught:
            run_training(tmp_path, 8, resume_model=str(tmp_path / "iter_4"))
        assert "\n" not in str(caught.value)

    def test_second_run_into_a_folder_leaves_no_mixed_checkpoint(self, tmp_path, monkeypatch):
        """Killed between the two files of a checkpoint that an older run had written."""
        run_training(tmp_path, 4)
        module = importlib.import_module("paddleseg_autoloss.integration.checkpoint")
        replace = module.os.replace

        def killed(source, target):
            if str(target).endswith("model.pdopt"):
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(module.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run_training(tmp_path, 4, lambda: [UncertaintyWeightedLoss(ce_and_dice())])
        assert module.whole_checkpoints(tmp_path) == []

    @pytest.mark.parametrize(
        "losses",
        [
            lambda: [UncertaintyWeightedLoss(ce_and_dice())],
            lambda: [AutoWeightedLoss([*ce_and_dice(), CrossEntropyLoss()])],
            lambda: [MixedLoss(ce_and_dice(), [0.8, 0.2])],
        ],
        ids=["method", "number", "mix"],
    )
    def test_checkpoint_of_other_losses(self, losses, tmp_path):
        run_training(tmp_path, 4)
        with pytest.raises(CheckpointError, match=r"was trained with \['AutoWeightedLoss'\] of"):
            run_training(tmp_path, 8, losses, resume_model=str(tmp_path / "iter_4"))
