"""``loss_aggregator`` and the gradient components inside PaddleSeg's own loop."""

from __future__ import annotations

from unittest import mock

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn
from paddleseg.models.losses import BCELoss, CrossEntropyLoss, DiceLoss, KLLoss, MixedLoss
from support.processes import ROOT, call
from support.records import table
from support.training import TinyNet, ce_and_dice, mixed, parameters, run_training, train_jointly
from visualdl import LogReader

import paddleseg_autoloss
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.integration import joint
from paddleseg_autoloss.integration.config import load_config
from paddleseg_autoloss.integration.loop import LOOP
from paddleseg_autoloss.integration.session import TrainingSession


class TestOneStep:
    """One SGD step of the loop, against gradients taken by hand."""

    @staticmethod
    def sgd(model):
        return paddle.optimizer.SGD(0.1, parameters=model.parameters())

    def test_separate_backward_trains_like_stock_paddleseg(self, tmp_path):
        ours, *_ = train_jointly(
            tmp_path / "a", 3, {"type": "SeparateBackward"}, optimizer=self.sgd
        )
        stock, *_ = run_training(tmp_path / "b", 3, mixed, optimizer=self.sgd)
        for one, other in zip(parameters(ours), parameters(stock)):
            np.testing.assert_allclose(one, other, atol=1e-6)

    def test_component_times_its_coefficient_beside_a_plain_head(self, tmp_path):
        """coef 0.4 on a PCGrad head scales its injected gradient, as it does any loss."""
        two = lambda: TinyNet(2)  # noqa: E731

        def train(folder, first, coef):
            losses = lambda: [first(), CrossEntropyLoss()]  # noqa: E731
            return run_training(folder, 1, losses, two, self.sgd, coef=coef)[0]

        separate = lambda: paddleseg_autoloss.SeparateBackward(ce_and_dice())  # noqa: E731
        summed = lambda: paddleseg_autoloss.Sum(ce_and_dice())  # noqa: E731
        ours = train(tmp_path / "a", separate, [0.4, 1])
        plain = train(tmp_path / "b", summed, [0.4, 1])
        for one, other in zip(parameters(ours), parameters(plain)):
            np.testing.assert_allclose(one, other, atol=1e-6)

    @pytest.mark.parametrize(
        "options",
        [
            {"use_ema": True},
            {"precision": "fp16", "amp_level": "O1"},
            {"precision": "fp16", "amp_level": "O2"},
        ],
    )
    @pytest.mark.parametrize("name", ["PCGrad", "GradNorm"])
    def test_ema_and_mixed_precision_flags(self, name, options, tmp_path):
        """On a CPU Paddle switches mixed precision off; the loop's code for it runs."""
        model, *_ = train_jointly(tmp_path, 4, {"type": name}, **options)
        assert all(np.isfinite(p).all() for p in parameters(model))
        assert (tmp_path / "iter_4" / "model.pdopt").exists()

    def test_gradient_clipping_sees_the_aggregated_gradient(self, tmp_path):
        def clipped(model):
            clip = nn.ClipGradByGlobalNorm(1e-3)
            return paddle.optimizer.SGD(1.0, parameters=model.parameters(), grad_clip=clip)

        before = run_training(tmp_path / "a", 1, mixed, optimizer=self.still)[0]
        after = train_jointly(tmp_path / "b", 1, {"type": "PCGrad"}, optimizer=clipped)[0]
        moved = [
            (a - b).ravel()
            for a, b, p in zip(parameters(before), parameters(after), before.parameters())
            if not p.stop_gradient
        ]
        assert np.linalg.norm(np.concatenate(moved)) == pytest.approx(1e-3, rel=1e-2)

    @staticmethod
    def still(model):
        return paddle.optimizer.SGD(0.0, parameters=model.parameters())


def test_parameters_of_an_inner_loss_are_trained(tmp_path):
    inner = lambda: paddleseg_autoloss.AutoWeightedLoss(ce_and_dice())  # noqa: E731
    losses = lambda: [paddleseg_autoloss.PCGrad([inner(), CrossEntropyLoss()])]  # noqa: E731
    _, (outer,), _ = run_training(tmp_path, 3, losses)
    assert (outer.losses[0].aggregator.weighting.c.numpy() != 1).all()


class TestEveryTermOfEveryHead:
    def test_names_and_curves(self, tmp_path):
        two = lambda: TinyNet(2)  # noqa: E731
        losses = lambda: [*mixed(), CrossEntropyLoss()]  # noqa: E731
        train_jointly(
            tmp_path, 4, {"type": "CAGrad"}, losses, (1, 0.4), two, use_vdl=True, pictures=True
        )
        names = ["head0/CrossEntropyLoss", "head0/DiceLoss", "head1/CrossEntropyLoss"]
        assert [row["term"] for row in table(tmp_path / "loss_weights.csv")] == names * 2
        pairs = table(tmp_path / "loss_gradients.csv")
        assert [(row["first"], row["second"]) for row in pairs[:3]] == [
            (names[0], names[1]), (names[0], names[2]), (names[1], names[2])
        ]  # fmt: skip
        for row in pairs:
            assert -1 <= float(row["cosine"]) <= 1
            assert 0 <= float(row["conflict"]) <= 1
            assert float(row["first_norm"]) > 0
        reader = LogReader(file_path=str(next(tmp_path.glob("vdlrecords.*"))))
        tags = reader.get_tags()["scalar"]
        for name in names:
            assert f"Gradient_norm/{name}" in tags
        assert f"Gradient_cosine/{names[0]} x {names[1]}" in tags
        assert "Gradient_conflict_rate" in tags
        shown = reader.get_data("scalar", f"Gradient_cosine/{names[0]} x {names[1]}")
        assert [record.id for record in shown] == [2, 4]
        assert shown[0].value == pytest.approx(float(pairs[0]["cosine"]), rel=1e-5)
        assert (tmp_path / "loss_weights.png").stat().st_size > 10_000

    def test_a_component_shows_its_gradients_too(self, tmp_path):
        two = lambda: TinyNet(2)  # noqa: E731
        losses = lambda: [  # noqa: E731
            paddleseg_autoloss.PCGrad(ce_and_dice()), paddleseg_autoloss.CAGrad(ce_and_dice())
        ]  # fmt: skip
        run_training(tmp_path, 2, losses, two)
        pairs = [(row["first"], row["second"]) for row in table(tmp_path / "loss_gradients.csv")]
        heads = ("head0", "head1")
        assert pairs == [(f"{h}/CrossEntropyLoss", f"{h}/DiceLoss") for h in heads]

    def test_cosine_in_the_csv_is_that_of_the_gradients(self, tmp_path):
        still = lambda m: paddle.optimizer.SGD(0.0, parameters=m.parameters())  # noqa: E731
        twice = lambda: [MixedLoss([CrossEntropyLoss(), CrossEntropyLoss()], [1, 3])]  # noqa: E731
        train_jointly(tmp_path, 2, {"type": "PCGrad"}, twice, optimizer=still)
        (row,) = table(tmp_path / "loss_gradients.csv")
        assert float(row["cosine"]) == pytest.approx(1, abs=1e-5)
        assert float(row["second_norm"]) == pytest.approx(3 * float(row["first_norm"]), rel=1e-5)

    def test_model_with_its_own_loss_computation(self, tmp_path):
        """Two losses added up, as PIDNet does: the terms are found by their losses."""

        class Own(TinyNet):
            def __init__(self):
                super().__init__(2)

            def loss_computation(self, logits_list, losses, data):
                label = data["label"].astype("int64")
                parts = [
                    c * loss(x, label)
                    for c, loss, x in zip(losses["coef"], losses["types"], logits_list)
                ]
                return [parts[0] + parts[1]]

        losses = lambda: [CrossEntropyLoss(), DiceLoss()]  # noqa: E731
        train_jointly(tmp_path, 2, {"type": "PCGrad"}, losses, (1, 0.4), Own)
        names = [row["term"] for row in table(tmp_path / "loss_weights.csv")]
        assert names == ["head0/CrossEntropyLoss", "head1/DiceLoss"]

    def test_model_that_does_something_else_is_refused(self, tmp_path):
        class Own(TinyNet):
            def loss_computation(self, logits_list, losses, data):
                first, second = losses["types"][0](logits_list[0], data["label"].astype("int64"))
                return [(first + second) * 3]

        with pytest.raises(ConfigError, match=r"the model trains on .* computes another total"):
            train_jointly(tmp_path, 2, {"type": "PCGrad"}, model=Own)

    def test_edge_and_distillation_losses_of_the_loop(self):
        """BCELoss of edges and KLLoss get other arguments than labels from PaddleSeg's loop."""
        paddle.seed(0)
        model = TinyNet(3)
        types = [CrossEntropyLoss(), KLLoss(), BCELoss(edge_label=True)]
        losses = {"types": types, "coef": [1, 0.5, 2.0]}
        labels = paddle.randint(0, 2, [2, 16, 16])
        data = {"label": labels, "edge": paddle.randint(0, 2, [2, 1, 16, 16])}
        images = paddle.rand([2, 3, 16, 16])
        model.heads[2] = nn.Conv2D(8, 1, 1)
        model.dropout = nn.Dropout(0.0)
        stock = sum(LOOP.loss_computation(model(images), labels, data["edge"], losses))
        stock.backward()
        expected = [None if p.grad is None else p.grad.numpy() for p in model.parameters()]
        model.clear_gradients()
        optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
        joint = {**losses, "loss_aggregator": {"type": "SeparateBackward"}}
        session = TrainingSession(model, None, optimizer, joint, "unused", 0, 10**9)
        assert session.joint.aggregator.names == [
            "head0/CrossEntropyLoss",
            "head1/KLLoss",
            "head2/BCELoss",
        ]
        with session.attached():
            (total,) = model.loss_computation(model(images), losses, data)
            total.backward()
        assert float(total) == pytest.approx(float(stock), rel=1e-5)
        for parameter, gradient in zip(model.parameters(), expected):
            if gradient is not None:
                np.testing.assert_allclose(parameter.grad.numpy(), gradient, atol=1e-5)

    def test_activations_are_let_go(self):
        """The loop keeps the list of outputs until after the next forward pass."""
        model = TinyNet(1)
        optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
        losses = {"types": mixed(), "coef": [1], "loss_aggregator": {"type": "PCGrad"}}
        session = TrainingSession(model, None, optimizer, losses, "unused", 0, 10**9)
        with session.attached():
            outputs = model(paddle.rand([2, 3, 16, 16]))
            data = {"label": paddle.randint(0, 2, [2, 16, 16])}
            (total,) = model.loss_computation(outputs, losses, data)
            assert all(x.is_leaf for x in outputs)
            total.backward()
        assert model.body[0].weight.grad is not None


@pytest.mark.parametrize("name", ["PCGrad", "AutoWeightedLoss", "Krum", "FAMO"])
def test_a_single_loss_trains_as_without(name, tmp_path):
    def plain():
        return [CrossEntropyLoss()]

    with mock.patch.object(joint.logger, "warning") as warning:
        ours, *_ = train_jointly(tmp_path / "ours", 5, {"type": name}, plain)
    stock, *_ = run_training(tmp_path / "stock", 5, plain)
    for one, other in zip(parameters(ours), parameters(stock)):
        np.testing.assert_array_equal(one, other)
    (call,) = warning.call_args_list
    assert call.args[0].startswith("loss_aggregator: CrossEntropyLoss is the only loss, so there")
    rows = table(tmp_path / "ours" / "loss_weights.csv")
    assert {(row["term"], float(row["weight"])) for row in rows} == {("CrossEntropyLoss", 1.0)}


class TestRefusals:
    @pytest.mark.parametrize(
        ("aggregator", "message"),
        [
            ({"type": "AGDA"}, r"loss_aggregator.losses: AGDA expects 2 losses, found 4"),
            ({"type": "CAGrad", "calpha": -1}, r"loss_aggregator.calpha: expected a number of at"),
            ({"type": "PCGrad", "level": "x"}, r"loss_aggregator.level: expected one of"),
            (
                {"type": "CRMOGM", "method": ["MGDA"]},
                r"loss_aggregator.method: expected a name, found \['MGDA'\]",
            ),
            (
                {"type": "DWA", "window": 10**30},
                r"loss_aggregator.window: expected an integer from",
            ),
            ({"type": "STCH", "warmup": 10**30}, r"loss_aggregator.warmup: expected an integer fr"),
            (
                {"type": "MGDA", "level": "features", "layer": "nope"},
                r"loss_aggregator.layer: TinyNet has no layer 'nope'",
            ),
            (
                {"type": "MGDA", "level": "features", "layer": "*"},
                r"loss_aggregator.layer: expected one layer of TinyNet",
            ),
            (
                {"type": "MGDA", "level": "features", "layer": "heads.0"},
                r"loss_aggregator.layer: expected a layer that everything below it is used through",
            ),
        ],
    )
    def test_arguments(self, aggregator, message, tmp_path):
        two = lambda: TinyNet(2)  # noqa: E731
        with pytest.raises(ConfigError, match=message):
            train_jointly(tmp_path, 1, aggregator, lambda: mixed() + mixed(), (1, 1), two)

    def test_weighed_twice(self, tmp_path):
        losses = lambda: [paddleseg_autoloss.AutoWeightedLoss(ce_and_dice())]  # noqa: E731
        with pytest.raises(ConfigError, match="already weighs CrossEntropyLoss"):
            train_jointly(tmp_path, 1, {"type": "PCGrad"}, losses)

    @pytest.mark.parametrize("level", ["parameters", "logits"])
    def test_static_graph(self, level, tmp_path):
        aggregator = {"type": "PCGrad", "level": level}
        with pytest.raises(ConfigError, match="to_static_training: expected False with a method"):
            train_jointly(tmp_path, 1, aggregator, to_static_training=True)

    def test_static_graph_with_a_method_of_losses(self, tmp_path):
        model, *_ = train_jointly(tmp_path, 2, {"type": "Relobralo"}, to_static_training=True)
        assert all(np.isfinite(p).all() for p in parameters(model))

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("PCGrad", "loss_aggregator: expected a 'type', found 'PCGrad'"),
            ({"type": "PCGard"}, "loss_aggregator.type: there is no 'PCGard'; did you mean PCGrad"),
            (
                {"type": "CAGrad", "calfa": 1},
                "loss_aggregator.calfa: CAGrad has no such argument; did you mean calpha",
            ),
            ({"type": "Sum", "level": "logits"}, "loss_aggregator.level: Sum has no such argument"),
        ],
    )
    def test_config_key(self, value, message, tmp_path):
        path = tmp_path / "config.yml"
        base = str(ROOT / "configs" / "fixed_ce_dice_demo.yml")
        path.write_text(yaml.safe_dump({"_base_": base, "loss_aggregator": value}))
        with pytest.raises(ConfigError, match=message):
            load_config(str(path))


def test_flag_on_an_unmodified_config(fundus, tmp_path):
    """train --loss_aggregator CAGrad --opts loss_aggregator.calpha=0.3"""
    data = [f"{mode}_dataset.{key}" for mode in ("train", "val") for key in (
        f"dataset_root={fundus}", "num_train=8", "num_val=3", "image_size=64"
    )]  # fmt: skip
    done = call(
        "train", "--config", "fixed_ce_dice_demo.yml", "--iters", "2", "--log_iters", "1",
        "--save_dir", tmp_path / "run", "--device", "cpu", "--loss_aggregator", "CAGrad",
        "--opts", "loss_aggregator.calpha=0.3", "batch_size=2", *data,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "loss_gradients.csv").exists()
    done = call(
        "train", "--config", "fixed_ce_dice_demo.yml", "--loss_aggregator", "CAGard",
    )  # fmt: skip
    assert done.returncode == 1
    assert "loss_aggregator.type: there is no 'CAGard'; did you mean CAGrad?" in done.stderr


def test_two_random_components_draw_differently(tmp_path):
    losses = lambda: [paddleseg_autoloss.RLW(ce_and_dice()) for _ in range(2)]  # noqa: E731
    _, (first, second), _ = run_training(tmp_path, 2, losses, lambda: TinyNet(2))
    weights = [loss.aggregator.last_weights.tolist() for loss in (first, second)]
    assert weights[0] != weights[1]


def test_a_new_run_leaves_no_gradients_of_an_older_one(tmp_path):
    run_training(tmp_path, 4, lambda: [paddleseg_autoloss.PCGrad(ce_and_dice())])
    assert (tmp_path / "loss_gradients.csv").is_file()
    run_training(tmp_path, 4, lambda: [paddleseg_autoloss.Sum(ce_and_dice())])
    assert not (tmp_path / "loss_gradients.csv").exists()
