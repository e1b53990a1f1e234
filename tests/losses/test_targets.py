"""What held-out data are rated by, against the figures of an evaluation."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddleseg.models.losses import CrossEntropyLoss, LovaszSoftmaxLoss
from paddleseg.utils import metrics

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.losses.targets import TARGETS, Target


def batch(classes: int = 3, seed: int = 0) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Logits and labels, of which some are ignored; the last class does not occur."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes - 1, [2, 5, 6])
    labels[:, 0] = 255
    logits = random.standard_normal([2, classes, 5, 6]).astype("float32")
    return paddle.to_tensor(logits), paddle.to_tensor(labels)


@pytest.mark.parametrize("name", ["mIoU", "Jaccard", "Dice"])
def test_of_hard_predictions_it_is_one_minus_the_figure(name):
    """PaddleSeg's counts of pixels give the figures, over the classes that occur."""
    logits, labels = batch()
    # No class is predicted that does not occur: it would be a class of the evaluation.
    logits[:, 2] = -9.0
    areas = metrics.calculate_area(logits.argmax(1, keepdim=True), labels.unsqueeze(1), 3)
    common, predicted, true = (area.numpy()[:2].astype(float) for area in areas)
    figures = {"Dice": 2 * common / (predicted + true)}
    expected = 1 - figures.get(name, common / (predicted + true - common)).mean()
    assert float(Target(name)(logits * 1000, labels)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", TARGETS)
def test_its_gradient_is_that_of_finite_differences(name):
    logits, labels = batch(seed=1)
    logits.stop_gradient = False
    target = Target(name)
    (gradient,) = paddle.grad(target(logits, labels), [logits])
    assert not gradient[:, :, 0].any(), "ignored pixels"
    direction = paddle.to_tensor(np.random.default_rng(2).standard_normal(logits.shape), "float32")
    with paddle.no_grad():
        up, down = (target(logits + h * direction, labels) for h in (1e-2, -1e-2))
    slope = float(up - down) / 2e-2
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=0.03)


@pytest.mark.parametrize("name", TARGETS)
def test_a_batch_of_ignored_pixels_is_rated_0(name):
    logits, labels = batch()
    logits.stop_gradient = False
    found = Target(name)(logits, paddle.full_like(labels, 255))
    assert float(found) == 0
    (gradient,) = paddle.grad(found, [logits])
    assert not gradient.any()


def test_one_channel_is_the_logit_of_class_1():
    logits, labels = batch(classes=3)
    one = logits[:, 1:2]
    both = paddle.concat([paddle.zeros_like(one), one], axis=1)
    assert float(Target("Dice")(one, labels)) == pytest.approx(float(Target("Dice")(both, labels)))


def test_losses_of_paddleseg():
    logits, labels = batch()
    target = {"type": "CrossEntropyLoss", "weight": [1.0, 2.0, 3.0]}
    expected = float(CrossEntropyLoss(weight=[1.0, 2.0, 3.0])(logits, labels))
    assert float(Target(target)(logits, labels)) == pytest.approx(expected)
    of_zero = labels.clone()
    of_zero[:, 0] = 0
    ignoring = Target(LovaszSoftmaxLoss(), ignore_index=0)(logits, of_zero)
    expected = float(LovaszSoftmaxLoss(ignore_index=0)(logits, of_zero))
    assert float(ignoring) == pytest.approx(expected)
    nested = {"type": "MixedLoss", "losses": [{"type": "DiceLoss"}], "coef": [0.5]}
    assert Target(nested)(logits, labels).shape == []


def test_smaller_outputs_are_resized():
    logits, labels = batch()
    smaller = logits[:, :, ::2, ::2]
    resized = paddle.nn.functional.interpolate(smaller, [5, 6], mode="bilinear")
    assert float(Target("Dice")(smaller, labels)) == float(Target("Dice")(resized, labels))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("IoU", "target: expected one of mIoU, Jaccard, Dice, CrossEntropy, found 'IoU'"),
        ({"weight": 1}, "target: expected a loss with a 'type', found"),
        ({"type": "DiceLoss", "alpha": 1}, "target: .*alpha"),
        ({"type": ["DiceLoss"]}, "target: expected a loss with a 'type', found"),
        ({"type": "AutoLambda"}, "target: expected a loss without weights of its own, found Auto"),
        ({"type": "IMTLL", "losses": []}, "target: expected a loss without weights of its own"),
    ],
)
def test_bad_targets(target, message):
    with pytest.raises(ConfigError, match=message):
        Target(target)


def test_an_output_that_is_no_picture_is_refused():
    with pytest.raises(ConfigError, match="target: expected a network whose first output is a te"):
        Target("Dice")({"masks": 1}, paddle.zeros([1, 2, 2], "int64"))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ({"type": "CrossEntropyLoss", "weight": [1, 2, 3]}, "number of weights = 3"),
        ({"type": "FocalLoss", "gamma": "x"}, "found FocalLoss, which fails: "),
        ({"type": "KLLoss"}, "found KLLoss, which fails: "),
        ({"type": "EdgeAttentionLoss"}, "found EdgeAttentionLoss, which fails: "),
    ],
)
def test_a_loss_that_does_not_fit(target, reason):
    with pytest.raises(ConfigError, match=r"target: expected a loss for outputs .*" + reason):
        Target(target)(paddle.rand([1, 2, 4, 4]), paddle.zeros([1, 4, 4], "int64"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "target",
    [
        "mIoU",
        {"type": "DiceLoss"},
        {
            "type": "MixedLoss",
            "losses": [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}],
            "coef": [1, 1],
        },
    ],
    ids=["name", "loss", "mix"],
)
def test_outputs_in_half_precision_are_rated_in_full(target, dtype):
    logits, labels = batch()
    logits = logits.astype(dtype)
    expected = float(Target(target)(logits.astype("float32"), labels))
    assert float(Target(target)(logits, labels)) == expected
