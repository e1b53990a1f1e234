"""A config with keys of ours, in a loop that is not PaddleSeg's."""

from __future__ import annotations

import paddle
import paddleseg.core
import pytest
import yaml
from paddleseg.core.train import loss_computation
from paddleseg.cvlibs import Config, SegBuilder
from support import Squares, TinyNet, adam

from paddleseg_autoloss.errors import ConfigError

CONFIG = {
    "batch_size": 2,
    "iters": 2,
    "train_dataset": {"type": "SyntheticFundus", "mode": "train", "dataset_root": "unused"},
    "model": {"type": "FastSCNN", "num_classes": 2},
    "optimizer": {"type": "adam"},
    "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.01},
    "loss": {
        "types": [
            {
                "type": "MixedLoss",
                "losses": [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}],
                "coef": [0.5, 0.5],
            }
        ],
        "coef": [1],
    },
}


def losses(tmp_path, **keys):
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump({**CONFIG, **keys}))
    return SegBuilder(Config(str(path))).loss


def batch():
    return paddle.rand([2, 3, 8, 8]), paddle.randint(0, 2, [2, 8, 8])


@pytest.mark.parametrize(
    ("key", "value"), [("loss_aggregator", {"type": "CAGrad"}), ("on_nonfinite", "skip")]
)
def test_a_key_that_the_loop_ignores_is_an_error_that_says_how(tmp_path, key, value):
    built, (images, labels) = losses(tmp_path, **{key: value}), batch()
    with pytest.raises(ConfigError, match=rf"{key}: .* train with paddleseg\.core\.train"):
        loss_computation(TinyNet()(images), labels, None, built)
    with pytest.raises(ConfigError, match=rf"{key}: "):
        built["types"][0](TinyNet()(images)[0], labels)


def test_evaluation_and_configs_without_the_keys_are_let_be(tmp_path):
    images, labels = batch()
    with paddle.no_grad():
        loss_computation(TinyNet()(images), labels, None, losses(tmp_path, on_nonfinite="skip"))
    sum(loss_computation(TinyNet()(images), labels, None, losses(tmp_path))).backward()


def test_paddlesegs_loop_heeds_them(tmp_path):
    built = losses(tmp_path, loss_aggregator={"type": "CAGrad"})
    with paddle.utils.unique_name.guard():
        model = TinyNet()
        paddleseg.core.train(
            model, Squares(), optimizer=adam(model), save_dir=str(tmp_path / "out"), iters=2,
            batch_size=2, losses=built, log_iters=1,
        )  # fmt: skip
    assert (tmp_path / "out/loss_gradients.csv").is_file()
    images, labels = batch()
    built["types"][0](TinyNet()(images)[0], labels)
