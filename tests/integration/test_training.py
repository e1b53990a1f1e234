"""Through PaddleSeg's own loop: the weights are learned, shown, saved and resumed."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import paddle
import paddleseg.core
import pytest
import visualdl
import yaml
from paddle import nn
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.builder import SegBuilder
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss, MixedLoss
from support import Squares, TinyNet, adam, ce_and_dice, run_tool, run_training
from visualdl import LogReader

from paddleseg_autoloss import AutoWeightedLoss, Sum, UncertaintyWeightedLoss
from paddleseg_autoloss.errors import (
    CheckpointError,
    ConfigError,
    TrainingDiverged,
    UnheldParameterError,
)
from paddleseg_autoloss.integration.mix import equivalent_mix
from paddleseg_autoloss.integration.session import TrainingSession
from paddleseg_autoloss.integration.terms import terms_of

COMPONENTS = [AutoWeightedLoss, UncertaintyWeightedLoss]


def learned(types) -> np.ndarray:
    return np.concatenate([loss.aggregator.weighting.learned().numpy() for loss in types])


def history(folder) -> list[dict[str, str]]:
    with open(folder / "loss_weights.csv", newline="") as file:
        return list(csv.DictReader(file))


def parameters(model) -> list[np.ndarray]:
    return [value.numpy() for value in model.state_dict().values()]


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
        for own, expected in zip(parameters(model), parameters(other)):
            np.testing.assert_array_equal(own, expected)

    def test_fixed_mix_trains_as_in_stock_across_checkpoints(self, tmp_path):
        """No generator is seeded anew where nothing is learned."""

        def losses():
            return [MixedLoss(ce_and_dice(), [0.8, 0.2])]

        often, _, _ = run_training(tmp_path / "often", 5, losses, save_interval=1)
        once, _, _ = run_training(tmp_path / "once", 5, losses, save_interval=5)
        for own, expected in zip(parameters(often), parameters(once)):
            np.testing.assert_array_equal(own, expected)

    def test_sum_trains_as_the_mix_of_ones(self, tmp_path):
        one, _, _ = run_training(tmp_path / "sum", 3, lambda: [Sum(ce_and_dice())])
        two, _, _ = run_training(
            tmp_path / "mix", 3, lambda: [MixedLoss(ce_and_dice(), [1.0, 1.0])]
        )
        for own, expected in zip(parameters(one), parameters(two)):
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

    def test_early_import_of_the_stock_function_is_an_error(self):
        """Whoever got hold of PaddleSeg's function before us is told, not trained wrongly."""
        code = (
            "import zlib\n"
            "from paddleseg.core import train\n"
            "import sys; sys.path.insert(0, 'tests')\n"
            "from support import *\n"
            "model = TinyNet()\n"
            "loss = paddleseg_autoloss.AutoWeightedLoss(ce_and_dice())\n"
            "train(model, Squares(), optimizer=adam(model), iters=6, save_dir=sys.argv[1],\n"
            "      losses={'types': [loss], 'coef': [1]})\n"
        )
        result = run_tool("-c", code, "/nonexistent")
        assert "import paddleseg_autoloss before paddleseg.core.train" in result.stderr


def scalars(folder) -> dict[str, list]:
    logs = sorted(folder.glob("vdlrecords.*"))
    reader = LogReader(file_path=str(logs[-1]))
    return {tag: reader.get_data("scalar", tag) for tag in reader.get_tags()["scalar"]}


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[Path, AutoWeightedLoss, str]:
    """A run with everything on: its folder, its loss and what was printed."""
    folder = tmp_path_factory.mktemp("run")

    def losses():
        config = {
            "type": "AutoWeightedLoss",
            "losses": [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss", "smooth": 2.0}],
        }
        return [SegBuilder(config=None).build_component(config)]

    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        _, types, _ = run_training(folder, 8, losses, use_vdl=True, val_dataset=Squares("val", 2))
    return folder, types[0], output.getvalue()


class TestWhatIsShown:
    def test_weights_on_every_log_line(self, shown):
        _, _, output = shown
        lines = [line for line in output.split("\n") if "[TRAIN]" in line]
        assert len(lines) == 4
        pattern = r"ETA \d\d:\d\d:\d\d \| weights: CrossEntropyLoss \d\.\d{4}, DiceLoss \d\.\d{4}$"
        assert all(re.search(pattern, line) for line in lines)

    def test_curves_in_the_same_visualdl_run(self, shown):
        folder, loss, _ = shown
        assert len(list(folder.glob("vdlrecords.*"))) == 1
        curves = scalars(folder)
        for name in loss.names:
            for kind in ("raw", "weight", "weighted"):
                assert [r.id for r in curves[f"Loss_{kind}/{name}"]] == [2, 4, 6, 8]
            assert len(curves[f"Loss_parameter/c/{name}"]) == 4
        assert {"Train/loss", "Evaluate/mIoU"} <= set(curves)
        for name in ("Evaluate/Dice", "Evaluate/Kappa"):
            assert [r.id for r in curves[name]] == [4, 8]
        final = [curves[f"Loss_parameter/c/{name}"][-1].value for name in loss.names]
        np.testing.assert_allclose(final, loss.aggregator.weighting.c.numpy(), rtol=1e-6)

    def test_weighted_loss_is_weight_times_raw(self, shown):
        """With two iterations a window, means of products are near products of means."""
        curves = scalars(shown[0])
        for name in shown[1].names:
            raw, weight, weighted = (
                np.array([r.value for r in curves[f"Loss_{kind}/{name}"]])
                for kind in ("raw", "weight", "weighted")
            )
            np.testing.assert_allclose(weighted, raw * weight, rtol=0.1)

    def test_dice_is_that_of_the_evaluation(self, shown):
        folder, _, output = shown
        printed = [float(d) for d in re.findall(r"\[EVAL\] #Images.* Dice: ([\d.]+)", output)]
        logged = [r.value for r in scalars(folder)["Evaluate/Dice"]]
        np.testing.assert_allclose(logged, printed, atol=1e-4)

    def test_picture(self, shown):
        from PIL import Image

        with Image.open(shown[0] / "loss_weights.png") as image:
            assert image.size[0] >= 1000
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20

    def test_equivalent_mix(self, shown):
        folder, loss, output = shown
        weights = loss.aggregator.last_weights.numpy()
        expected = weights / weights.sum()
        stated = json.loads(re.search(r"equivalent MixedLoss coef: (\[.+\])", output)[1])
        np.testing.assert_allclose(stated, expected, atol=1e-4)

        config = yaml.safe_load((folder / "equivalent_mixed_loss.yml").read_text())["loss"]
        assert config["coef"] == [1.0]
        assert config["types"][0]["coef"] == stated
        mixed = SegBuilder(config=None).build_component(config["types"][0])
        assert isinstance(mixed, MixedLoss)
        assert [type(inner) for inner in mixed.losses] == [CrossEntropyLoss, DiceLoss]
        assert mixed.losses[1].smooth == 2.0

    def test_curves_of_a_run_shorter_than_a_log_window(self, tmp_path):
        run_training(tmp_path, 3, log_iters=10)
        assert [row["iteration"] for row in history(tmp_path)] == ["3", "3"]
        assert (tmp_path / "loss_weights.png").exists()

    def test_equivalent_mix_keeps_small_shares_and_ignored_labels(self):
        config = {
            "type": "AutoWeightedLoss",
            "losses": [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}],
            "ignore_index": 0,
        }
        loss = SegBuilder(config=None).build_component(config)
        loss.aggregator.weighting.c.set_value(np.array([0.15, 60.0], "float32"))
        loss(paddle.zeros([1, 2, 4, 4]), paddle.ones([1, 4, 4], dtype="int64"))
        losses = {"types": [loss], "coef": [1]}
        mixed = equivalent_mix(losses, terms_of(losses)).loss_config()["types"][0]
        assert mixed["coef"][1] == pytest.approx(0.15**2 / 60**2, rel=1e-3)
        assert [inner["ignore_index"] for inner in mixed["losses"]] == [0, 0]

    def test_no_equivalent_mix_for_a_head_without_coefficient(self, tmp_path):
        run_training(tmp_path, 1, coef=[0])
        assert not (tmp_path / "equivalent_mixed_loss.yml").exists()

    def test_equivalent_mix_of_two_heads(self, tmp_path):
        def losses():
            config = {
                "type": "AutoWeightedLoss",
                "losses": [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}],
            }
            return [SegBuilder(config=None).build_component(config) for _ in range(2)]

        _, types, _ = run_training(tmp_path, 4, losses, model=lambda: TinyNet(2), coef=[0.5, 0.2])
        config = yaml.safe_load((tmp_path / "equivalent_mixed_loss.yml").read_text())["loss"]
        found = np.array(
            [np.array(entry["coef"]) * coef for entry, coef in zip(config["types"], config["coef"])]
        )
        weights = np.array([t.aggregator.last_weights.numpy() for t in types])
        expected = weights * np.array([[0.5], [0.2]])
        np.testing.assert_allclose(found / found[0, 0], expected / expected[0, 0], rtol=1e-3)
        assert config["coef"][0] == 0.5


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
        for own, expected in zip(parameters(resumed), parameters(model)):
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
            "import paddleseg_autoloss, paddle, sys; sys.path.insert(0, 'tests')\n"
            "from support import *\n"
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
        assert "The checkpoint holds no loss weights: they start afresh." in capfd.readouterr().out
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

    def test_finished_run(self, tmp_path):
        run_training(tmp_path, 4)
        with pytest.raises(ConfigError, match=r"iters: expected more than 4, where .* stands"):
            run_training(tmp_path, 4, resume_model=str(tmp_path / "iter_4"))

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
        message = r"iteration 8: the gradient of Root is NaN or infinite; .* is .*iter_4$"
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

        with pytest.raises(TrainingDiverged, match=r"Poisoned is nan .*no checkpoint was saved"):
            run_training(tmp_path, 12, losses)


def test_picture_is_written_when_interrupted(tmp_path, capfd):
    class Ctrl(nn.Layer):
        calls = 0

        def forward(self, logits, labels):
            self.calls += 1
            if self.calls == 7:
                raise KeyboardInterrupt
            return logits.mean()

    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path, 12, lambda: [AutoWeightedLoss([DiceLoss(), Ctrl()])])
    assert (tmp_path / "loss_weights.png").exists()
    output = capfd.readouterr().out
    assert f"continue with --resume_model {tmp_path / 'iter_4'}" in output
