"""A loss that does not fit is named before training, and the trial leaves no trace."""

from __future__ import annotations

import random
from argparse import Namespace
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn
from support import Squares, TinyNet, at, call

import paddleseg_autoloss
from paddleseg_autoloss.errors import ConfigError, DataError
from paddleseg_autoloss.integration.config import load_config
from paddleseg_autoloss.integration.loss_trial import try_losses
from paddleseg_autoloss.integration.parts import build_parts

CE, DICE = {"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}
FLAGS = Namespace(seed=3, device="cpu", num_workers=0)


def weighed(*losses, kind="AutoWeightedLoss"):
    return {"type": kind, "losses": list(losses)}


def mixed(*losses):
    return {"type": "MixedLoss", "losses": list(losses), "coef": [1] * len(losses)}


@pytest.fixture
def parts_of(config, fundus, tmp_path):
    """Build what a config trains with after a change; the labels are 0 and 1."""

    def make(loss, num_classes=2, change=lambda dic: None):
        path = Path(config(at("loss", "types", value=[loss])))
        dic = yaml.safe_load(path.read_text())
        for mode in ("train", "val"):
            dic[f"{mode}_dataset"] = {
                "type": "Dataset",
                "mode": mode,
                "dataset_root": str(fundus),
                f"{mode}_path": str(fundus / f"{mode}_list.txt"),
                "num_classes": num_classes,
                "transforms": dic["train_dataset"]["transforms"],
            }
        dic["model"]["num_classes"] = num_classes
        change(dic)
        path.write_text(yaml.safe_dump(dic))
        loaded = load_config(str(path))
        return build_parts(loaded, FLAGS), loaded.batch_size

    return make


def trial(parts_and_size):
    parts, batch_size = parts_and_size
    try_losses(parts.model, parts.train_dataset, parts.losses, batch_size)


def message_of(parts_and_size) -> str:
    with pytest.raises(ConfigError) as caught:
        trial(parts_and_size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestMisfits:
    @pytest.mark.parametrize(
        ("loss", "num_classes", "message"),
        [
            (weighed(DICE, CE), 1, "loss.types[0].losses[0]: DiceLoss expects an output for every"),
            (
                mixed({"type": "BCELoss"}, DICE),
                1,
                "loss.types[0].losses[0]: BCELoss expects an out",
            ),
            (DICE, 1, "loss.types[0]: DiceLoss expects an output for every class, including"),
            (
                weighed(CE, {"type": "FocalLoss"}),
                3,
                "loss.types[0].losses[1]: FocalLoss does not fit outputs of shape [2, 3, 32, 32] "
                "and labels of shape [2, 32, 32]: The channel of logit should be 2.",
            ),
            (
                weighed({**CE, "weight": [1, 2, 3]}, DICE),
                2,
                "loss.types[0].losses[0].weight: expected 2, one per class, found 3",
            ),
            (
                mixed(CE, {**DICE, "weight": [1, 2, 3]}),
                2,
                "loss.types[0].losses[1].weight: expected 2, one per class, found 3",
            ),
            (
                mixed(CE, {"type": "RMILoss"}),
                2,
                "loss.types[0].losses[1].num_classes: expected 2, as the network's output has, fo",
            ),
            (
                {"type": "BootstrappedCrossEntropyLoss", "min_K": 5000, "loss_th": 0.3},
                2,
                "loss.types[0].min_K: expected less than 1024, the pixels of an image, found 5000",
            ),
            (
                {"type": "PointCrossEntropyLoss"},
                2,
                "loss.types[0]: PointCrossEntropyLoss does not fit outputs of shape",
            ),
            (
                weighed(CE, {"type": "EdgeAttentionLoss"}),
                2,
                "loss.types[0].losses[1]: EdgeAttentionLoss does not fit outputs of shape",
            ),
            (
                mixed(CE, {"type": "PixelContrastCrossEntropyLoss"}),
                2,
                "loss.types[0].losses[1]: PixelContrastCrossEntropyLoss does not fit outputs",
            ),
            ({"type": "KLLoss"}, 2, "loss.types[0]: KLLoss does not fit outputs of shape"),
            (
                {"type": "BCELoss", "edge_label": True},
                2,
                "loss.types[0].edge_label: expected edge: true under train_dataset too",
            ),
            (
                {**CE, "data_format": "NHWC"},
                32,
                "loss.types[0]: expected a loss with data_format NCHW, as the network has, found",
            ),
        ],
    )
    def test_named_by_the_key(self, loss, num_classes, message, parts_of):
        assert message_of(parts_of(loss, num_classes)).startswith(message)

    def test_what_a_loss_is_made_for(self, parts_of):
        message = message_of(parts_of({"type": "PointCrossEntropyLoss"}))
        assert message.endswith(
            "PointCrossEntropyLoss is made for an output with points, as of PointRend"
        )
        assert "(at /" not in message
        assert "Hint" not in message

    def test_labels_beyond_the_classes(self, parts_of):
        parts, batch_size = parts_of(CE)
        stock = parts.train_dataset.__class__.__getitem__

        class Shifted(type(parts.train_dataset)):
            def __getitem__(self, index):
                data = stock(self, index)
                data["label"] = data["label"] + 1
                return data

        parts.train_dataset.__class__ = Shifted
        message = message_of((parts, batch_size))
        assert message == (
            "loss.types[0]: expected labels from 0 to 1, as the network has 2 classes, or 255 for "
            "pixels to ignore; found 2 in train_dataset"
        )

    @pytest.mark.parametrize("place", ["component", "aggregator"])
    def test_a_target_of_held_out_images(self, parts_of, place):
        target = {"type": "CrossEntropyLoss", "weight": [1, 2, 3]}
        method = {"type": "AutoLambda", "target": target}
        loss = mixed(DICE, CE) if place == "aggregator" else {**method, "losses": [DICE, CE]}

        def change(dic):
            dic["held_out"] = 0.2
            if place == "aggregator":
                dic["loss_aggregator"] = method

        message = message_of(parts_of(loss, change=change))
        assert message.startswith("target: expected a loss for outputs of shape [")
        assert "found CrossEntropyLoss, which fails: The number of weights = 3" in message

    @pytest.mark.parametrize("target", ["Dice", "CrossEntropy"])
    def test_a_target_ignores_what_the_data_set_ignores(self, parts_of, target):
        method = {"type": "AutoLambda", "target": target, "losses": [DICE, CE], "ignore_index": 9}

        def change(dic):
            dic["held_out"] = 0.2
            for mode in ("train", "val"):
                dic[f"{mode}_dataset"]["ignore_index"] = 9

        parts, batch_size = parts_of(method, change=change)
        stock = type(parts.train_dataset).__getitem__

        class Ignored(type(parts.train_dataset)):
            def __getitem__(self, index):
                data = stock(self, index)
                data["label"] = np.where(data["label"] == 1, 9, data["label"])
                return data

        parts.train_dataset.__class__ = Ignored
        try_losses(parts.model, parts.train_dataset, parts.losses, batch_size)

    def test_number_of_outputs(self, parts_of):
        message = message_of(parts_of(CE, change=at("loss", "coef", value=[1, 0.4])))
        assert message == "loss.coef: expected 1, one per output of the model, found 2"

    def test_a_loss_that_is_no_number(self):
        class PerPixel(nn.Layer):
            def forward(self, logits, labels):
                return logits.mean([1, 2, 3])

        with pytest.raises(ConfigError, match=r"loss.types\[0\]: expected a loss that is one numb"):
            try_losses(TinyNet(), Squares(), {"types": [PerPixel()], "coef": [1]}, 2)

    def test_images_that_make_no_batch(self, parts_of):
        parts, _ = parts_of(CE)
        parts.train_dataset.transforms.transforms[0].target_size = (32, 32)

        class Growing:
            def __call__(self, data):
                self.size = getattr(self, "size", 32) + 8
                data["img"] = np.zeros([self.size, 32, 3], "float32")
                data["label"] = np.zeros([self.size, 32], "int64")
                data["gt_fields"] = []
                return data

        parts.train_dataset.transforms.transforms.append(Growing())
        with pytest.raises(DataError, match=r"train_dataset.transforms: expected images that make"):
            try_losses(parts.model, parts.train_dataset, parts.losses, 2)

    def test_a_transform_that_fails(self, parts_of):
        parts, _ = parts_of(CE)
        parts.train_dataset.transforms.transforms[0].target_size = (0, 32)
        with pytest.raises(DataError, match=r"train_dataset: cannot read .*train_0000.*: "):
            try_losses(parts.model, parts.train_dataset, parts.losses, 2)

    def test_a_network_that_takes_other_images(self, parts_of):
        parts, _ = parts_of(CE)
        model = nn.Conv2D(1, 2, 1)
        with pytest.raises(ConfigError, match=r"model: it does not accept the images of train_dat"):
            try_losses(model, parts.train_dataset, parts.losses, 2)

    @pytest.mark.parametrize("command", ["train", "diagnose"])
    def test_the_commands_say_it(self, command, config, tmp_path):
        loss = mixed({**CE, "weight": [1, 2, 3]}, DICE)
        path = config(at("loss", "types", value=[loss]))
        arguments = ["--config", path, "--save_dir", tmp_path / "run", "--device", "cpu"]
        result = call(command, *arguments)
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        assert (
            "error: loss.types[0].losses[0].weight: expected 2, one per class, found 3"
            in result.stderr.splitlines()
        )

    def test_a_layout_that_a_loss_lacks(self, config, tmp_path):
        path = config(
            at(
                "model",
                value={"type": "DeepLabV3P", "num_classes": 2, "backbone": {"type": "ResNet18_vd"}},
            )
        )
        result = call("train", "--config", path, "--data_format", "NHWC")
        expected = "error: --data_format: expected losses for NHWC, found DiceLoss"
        assert any(line.startswith(expected) for line in result.stderr.splitlines()), result.stderr


def test_a_network_that_computes_its_losses_itself():
    """It finds tensors in the batch, however deep, as from Paddle's reader."""

    class WithInstances(Squares):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "instances": {"masks": [np.ones([3], "float32")]}}

    class OwnLosses(TinyNet):
        def loss_computation(self, outputs, losses, data):
            (mask,) = data["instances"]["masks"]
            return [losses["types"][0](outputs[0].mean([2, 3]), mask.argmax(-1))]

    losses = {"types": [nn.CrossEntropyLoss()], "coef": [1]}
    try_losses(OwnLosses(), WithInstances(), losses, 2)
    losses["types"][0] = nn.CrossEntropyLoss(weight=paddle.ones([5]))
    with pytest.raises(
        ConfigError, match=r"^loss.types\[0\]: CrossEntropyLoss does not fit outputs"
    ):
        try_losses(OwnLosses(), WithInstances(), losses, 2)


class TestNoTrace:
    @pytest.mark.parametrize("kind", ["AutoWeightedLoss", "CAGrad", "DWA", "RLW", "GradNorm"])
    def test_training_is_the_same_bit_for_bit(self, kind, parts_of, tmp_path):
        """Random augmentation, dropout, batch norm and what methods remember included."""

        def trained(tries: bool):
            def change(dic):
                dic["train_dataset"]["transforms"].insert(0, {"type": "RandomDistort"})
                dic["train_dataset"]["transforms"].insert(0, {"type": "RandomHorizontalFlip"})

            with paddle.utils.unique_name.guard():
                parts, batch_size = parts_of(weighed(CE, DICE, kind=kind), change=change)
                if tries:
                    trial((parts, batch_size))
                paddleseg_autoloss.integration.training.train(
                    parts.model, parts.train_dataset, optimizer=parts.optimizer,
                    save_dir=str(tmp_path / str(tries)), iters=3, batch_size=batch_size,
                    losses=parts.losses, log_iters=1,
                )  # fmt: skip
            state = {**parts.model.state_dict(), **parts.losses["types"][0].state_dict()}
            values = {key: value.numpy() for key, value in state.items()}
            return values, (tmp_path / str(tries) / "loss_weights.csv").read_text()

        (without, rows), (with_trial, same_rows) = trained(False), trained(True)
        assert rows == same_rows
        assert without.keys() == with_trial.keys()
        for key, value in without.items():
            np.testing.assert_array_equal(value, with_trial[key], err_msg=key)

    def test_state(self):
        class Restless(Squares):
            def __getitem__(self, index):
                random.random(), np.random.rand(), paddle.rand([1])
                return super().__getitem__(index)

        model = TinyNet()
        loss = paddleseg_autoloss.DWA([nn.CrossEntropyLoss(axis=1, ignore_index=255)] * 2)
        losses = {"types": [loss], "coef": [1]}

        def state():
            tensors = {**model.state_dict(), **loss.state_dict()}
            return (
                {key: value.numpy().copy() for key, value in tensors.items()},
                (random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2:]),
            )

        def numbers():
            return paddle.rand([3]).tolist(), np.random.rand(3).tolist(), random.random()

        paddle.seed(5)
        expected = numbers()
        paddle.seed(5)
        random.seed(1), np.random.seed(1)
        before, drawn = state()
        try_losses(model, Restless(), losses, 2)
        after, still = state()
        assert still == drawn
        assert paddle.rand([3]).tolist() == expected[0]
        assert before.keys() == after.keys()
        for key, value in before.items():
            np.testing.assert_array_equal(value, after[key], err_msg=key)
        assert loss.aggregator.last_weights is None
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not loss.losses[0]._forward_pre_hooks
        assert not loss.losses[0]._forward_post_hooks

    def test_state_after_an_error(self):
        model = TinyNet()
        before = {key: value.numpy().copy() for key, value in model.state_dict().items()}
        with pytest.raises(ConfigError):
            try_losses(model, Squares(), {"types": [nn.L1Loss()] * 2, "coef": [1, 1]}, 2)
        for key, value in model.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), before[key], err_msg=key)

    def test_batch_norm_over_cards_that_are_not_connected(self):
        """On a CPU it could not run at all."""
        model = nn.SyncBatchNorm.convert_sync_batchnorm(TinyNet())
        assert isinstance(model.body[1], nn.SyncBatchNorm)
        loss = nn.CrossEntropyLoss(axis=1, ignore_index=255)
        before = model.body[1]._mean.numpy().copy()
        try_losses(model, Squares(), {"types": [loss], "coef": [1]}, 2)
        np.testing.assert_array_equal(model.body[1]._mean.numpy(), before)
        assert "forward" not in vars(model.body[1])
