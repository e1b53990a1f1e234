"""Through PaddleSeg's own loop: the weights are learned."""

from __future__ import annotations

import importlib
import json

import numpy as np
import paddle
import paddleseg.core
import pytest
import visualdl
from paddle import nn
from paddleseg.cvlibs import manager
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss, MixedLoss
from support.processes import SCRIPT_HEAD, run_tool
from support.records import history, scalars
from support.training import (
    COMPONENTS,
    Squares,
    TinyNet,
    adam,
    ce_and_dice,
    learned,
    mixed,
    run_training,
    state_arrays,
)

from paddleseg_autoloss import AutoWeightedLoss, Sum, UncertaintyWeightedLoss
from paddleseg_autoloss.errors import ConfigError, UnheldParameterError
from paddleseg_autoloss.integration.session import TrainingSession


class TestLearning:
    @pytest.mark.parametrize("component", COMPONENTS)
    def test_notebook_form_trains_the_weights(self, component, tmp_path):
        """The optimizer is made from model.parameters() alone."""
        _, types, _ = run_training(tmp_path, 4, lambda: [component(ce_and_dice())])
        start = component(ce_and_dice()).aggregator.weighting.learned().numpy()
        assert (np.abs(learned(types) - start) > 0.01).all()

    def test_weights_find_the_stationary_point_of_constant_losses(self, tmp_path):
        class Constant(nn.Layer):
            def __init__(self, value):
                super().__init__()
                self.value = value

            def forward(self, logits, labels):
                return logits.sum() * 0 + self.value

        def losses():
            return [AutoWeightedLoss([Constant(0.1), Constant(1.0)], names=["a", "b"])]

        _, types, _ = run_training(tmp_path, 150, losses, save_interval=150)
        np.testing.assert_allclose(learned(types) ** 2, [0.25, 1.0], rtol=0.05)

    def test_gradients_are_cleared_every_step(self, tmp_path):
        """Plain SGD on the loss parameters, step by step, from the losses that were logged."""

        def sgd(model):
            return paddle.optimizer.SGD(0.1, parameters=model.parameters())

        def losses():
            return [AutoWeightedLoss(ce_and_dice())]

        _, types, _ = run_training(tmp_path, 6, losses, optimizer=sgd, log_iters=1)
        c = np.ones(2)
        rows = history(tmp_path)
        for iteration in range(1, 7):
            raw = [float(r["raw"]) for r in rows if int(r["iteration"]) == iteration]
            np.testing.assert_allclose(
                [float(r["weight"]) for r in rows if int(r["iteration"]) == iteration],
                1 / (2 * c**2),
                rtol=1e-4,
            )
            c -= 0.1 * (-np.array(raw) / c**3 + 2 * c / (1 + c**2))
        np.testing.assert_allclose(learned(types), c, rtol=1e-4)

    @pytest.mark.parametrize("name", ["SGD", "Momentum", "Adam", "AdamW"])
    @pytest.mark.parametrize("custom", [None, [{"name": "body", "lr_mult": 0.1}]])
    def test_every_optimizer_of_paddleseg(self, name, custom, tmp_path):
        def optimizer(model):
            schedule = paddle.optimizer.lr.LinearWarmup(0.05, 2, 0.01, 0.05)
            clip = {"name": "ClipGradByGlobalNorm", "clip_norm": 1.0}
            component = manager.OPTIMIZERS[name](
                weight_decay=0.01, custom_cfg=custom, grad_clip_cfg=clip
            )
            return component(model, schedule)

        _, types, _ = run_training(tmp_path, 4, optimizer=optimizer)
        assert (learned(types) != 1).all()

    def test_fixed_mix_trains_as_in_stock_paddleseg(self, tmp_path):
        """The baseline is untouched: the same parameters as the same seed gives without us."""
        stock = importlib.import_module("paddleseg_autoloss.integration.training")._stock_train

        def losses():
            return [MixedLoss(ce_and_dice(), [0.8, 0.2])]

        model, _, _ = run_training(tmp_path / "ours", 3, losses)
        paddle.seed(1)
        with paddle.utils.unique_name.guard():
            other = TinyNet()
            stock(
                other, Squares(), optimizer=adam(other), save_dir=str(tmp_path / "stock"),
                iters=3, batch_size=2, losses={"types": losses(), "coef": [1]},
            )  # fmt: skip
        for own, expected in zip(state_arrays(model), state_arrays(other)):
            np.testing.assert_array_equal(own, expected)

    def test_fixed_mix_trains_as_in_stock_across_checkpoints(self, tmp_path):
        """No generator is seeded anew where nothing is learned."""

        def losses():
            return [MixedLoss(ce_and_dice(), [0.8, 0.2])]

        often, _, _ = run_training(tmp_path / "often", 5, losses, save_interval=1)
        once, _, _ = run_training(tmp_path / "once", 5, losses, save_interval=5)
        for own, expected in zip(state_arrays(often), state_arrays(once)):
            np.testing.assert_array_equal(own, expected)

    def test_sum_trains_as_the_mix_of_ones(self, tmp_path):
        one, _, _ = run_training(tmp_path / "sum", 3, lambda: [Sum(ce_and_dice())])
        two, _, _ = run_training(
            tmp_path / "mix", 3, lambda: [MixedLoss(ce_and_dice(), [1.0, 1.0])]
        )
        for own, expected in zip(state_arrays(one), state_arrays(two)):
            np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)

    def test_one_component_per_head(self, tmp_path):
        def losses():
            return [AutoWeightedLoss(ce_and_dice()), UncertaintyWeightedLoss(ce_and_dice())]

        _, types, _ = run_training(
            tmp_path, 4, losses, model=lambda: TinyNet(2), coef=[1, 0.4], log_iters=4
        )
        assert (np.abs(learned(types) - [1, 1, 0, 0]) > 0.01).all()
        terms = [row["term"] for row in history(tmp_path)]
        assert terms == [
            f"head{head}/{name}" for head in (0, 1) for name in ("CrossEntropyLoss", "DiceLoss")
        ]

    def test_one_component_shared_by_the_heads(self, tmp_path):
        def losses():
            return [AutoWeightedLoss(ce_and_dice())] * 2

        run_training(tmp_path, 4, losses, model=lambda: TinyNet(2), log_iters=4)
        rows = history(tmp_path)
        assert len({row["raw"] for row in rows}) == 4

    def test_a_shared_component_takes_one_step_for_each_of_the_run(self, tmp_path):
        """The gradient of c at 1 is 1 - L for each head, and SGD adds them up once."""

        def sgd(model):
            return paddle.optimizer.SGD(0.01, parameters=model.parameters())

        _, types, _ = run_training(
            tmp_path, 1, lambda: [AutoWeightedLoss(ce_and_dice())] * 2,
            model=lambda: TinyNet(2), optimizer=sgd, coef=[1, 1], log_iters=1,
        )  # fmt: skip
        raw = np.array([float(row["raw"]) for row in history(tmp_path)]).reshape(2, 2)
        c = types[0].aggregator.weighting.c.numpy()
        np.testing.assert_allclose(c, 1 - 0.01 * (1 - raw).sum(axis=0), rtol=1e-5)

    def test_component_inside_of_a_mixed_loss(self, tmp_path):
        def losses():
            inner = AutoWeightedLoss(ce_and_dice(), names=["ce", "dice"])
            return [MixedLoss([inner, DiceLoss()], [0.5, 2.0])]

        _, types, _ = run_training(tmp_path, 4, losses, log_iters=4)
        assert (types[0].losses[0].aggregator.weighting.c.numpy() != 1).all()
        rows = history(tmp_path)
        assert [row["term"] for row in rows] == ["ce", "dice", "DiceLoss"]
        assert float(rows[2]["weight"]) == 2

    def test_model_with_a_loss_computation_of_its_own(self, tmp_path):
        class Own(TinyNet):
            def loss_computation(self, logits_list, losses, data):
                return [3 * losses["types"][0](logits_list[0], data["label"])]

        model, types, _ = run_training(tmp_path, 4, model=Own)
        assert (learned(types) != 1).all()
        assert "loss_computation" not in vars(model)

    def test_moving_average_of_the_model(self, tmp_path):
        run_training(tmp_path, 4, use_ema=True, val_dataset=Squares("val", 2), use_vdl=True)
        ema = paddle.load(str(tmp_path / "iter_4" / "ema_model.pdparams"))
        assert set(ema) == set(TinyNet().state_dict())
        assert "Evaluate/Ema_Dice" in scalars(tmp_path)

    @pytest.mark.parametrize("level", ["O1", "O2"])
    def test_mixed_precision_runs(self, level, tmp_path):
        """Paddle switches it off on a CPU; the same loop and scaler are run all the same."""
        _, types, _ = run_training(tmp_path, 4, precision="fp16", amp_level=level)
        assert (learned(types) != 1).all()

    def test_static_graph(self, tmp_path):
        _, types, _ = run_training(tmp_path, 4, to_static_training=True)
        assert (learned(types) != 1).all()

    def test_nothing_is_left_behind(self, tmp_path):
        loop = importlib.import_module("paddleseg.core.train")
        owners = (paddle.save, paddle.io.DistributedBatchSampler, visualdl.LogWriter, loop.logger)
        model, _, optimizer = run_training(tmp_path, 2)
        assert owners == (
            paddle.save, paddle.io.DistributedBatchSampler, visualdl.LogWriter, loop.logger
        )  # fmt: skip
        assert "loss_computation" not in vars(model)
        assert not {"state_dict", "set_state_dict"} & set(vars(optimizer))

    def test_next_optimizer_must_hold_the_weights_again(self, tmp_path):
        model, types, _ = run_training(tmp_path, 2)
        loss = types[0]
        assert not loss.aggregator.held_by_optimizer
        assert loss.aggregator.weighting.c.grad is None
        other = paddle.optimizer.SGD(0.1, parameters=model.parameters())
        image, label = (paddle.to_tensor(Squares()[0][key])[None] for key in ("img", "label"))

        def steps():
            for _ in range(4):
                loss(model(image)[0], label).backward()
                other.step()
                other.clear_grad()
                loss.clear_gradients()

        steps()  # the optimizer of the run is still alive and holds them
        fresh = AutoWeightedLoss(ce_and_dice())
        loss = fresh
        with pytest.raises(UnheldParameterError):
            steps()

    def test_model_that_needs_no_losses(self, tmp_path):
        class Own(TinyNet):
            def loss_computation(self, logits_list, losses, data):
                return [CrossEntropyLoss()(logits_list[0], data["label"])]

        model = Own()
        paddleseg.core.train(
            model, Squares(), optimizer=adam(model), save_dir=str(tmp_path), iters=2,
            batch_size=2, losses=None,
        )  # fmt: skip
        assert (tmp_path / "iter_2" / "model.pdopt").exists()

    def test_batch_larger_than_the_data_set(self, tmp_path):
        with pytest.raises(ConfigError, match=r"batch_size: expected at most 6, .* found 7"):
            run_training(tmp_path, 2, batch_size=7)

    def test_a_session_that_never_begins_leaves_no_hooks(self, tmp_path):
        model, losses = TinyNet(), {"types": mixed(), "coef": [1], "on_nonfinite": "skip"}
        losses["loss_aggregator"] = {"type": "FAMO", "exact": True}
        inner = losses["types"][0].losses
        for _ in range(2):
            TrainingSession(model, Squares(), adam(model), losses, str(tmp_path), 0, 100)
        layers = [model, *inner, losses["types"][0]]
        assert not any(x._forward_pre_hooks or x._forward_post_hooks for x in layers)

    def test_evaluation_on_the_training_set_sees_every_image_after_a_resume(self, tmp_path):
        data, model = Squares(length=4), TinyNet()
        losses = {"types": [], "coef": []}
        session = TrainingSession(model, data, adam(model), losses, str(tmp_path), 3, 100)
        with session.attached():
            sampler = paddle.io.DistributedBatchSampler
            evaluated = list(sampler(data, batch_size=1, shuffle=False))
            trained = list(sampler(data, batch_size=1, shuffle=True, drop_last=True))
        assert len(evaluated) == 4
        assert len(trained) == 1

    def test_wrong_number_of_losses(self, tmp_path):
        with pytest.raises(ConfigError, match=r"expected 2, one per output of the model, found 1"):
            run_training(tmp_path, 2, model=lambda: TinyNet(2))

    def test_the_stock_function_learns_too_where_it_was_imported_before(self, tmp_path):
        code = (
            "import zlib\n"
            "from paddleseg.core import train\n"
            f"{SCRIPT_HEAD}"
            "model = TinyNet()\n"
            "loss = paddleseg_autoloss.AutoWeightedLoss(ce_and_dice())\n"
            "train(model, Squares(), optimizer=adam(model), iters=6, save_dir=sys.argv[1],\n"
            "      losses={'types': [loss], 'coef': [1]})\n"
            "print('learned', loss.aggregator.weighting.c.tolist())\n"
        )
        result = run_tool("-c", code, tmp_path)
        assert result.returncode == 0, result.stderr
        learned = json.loads(result.stdout.split("learned ")[1])
        assert all(abs(c - 1) > 0.01 for c in learned)
