"""Losses of PaddleSeg on a batch in which every pixel is ignored."""

from __future__ import annotations

import paddle
import pytest
from paddleseg.cvlibs import manager
from paddleseg.models.losses.lovasz_loss import flatten_probas, lovasz_softmax_flat
from support import run_training

import paddleseg_autoloss

NAMES = ["LovaszSoftmaxLoss", "LovaszHingeLoss", "DiceLoss", "FocalLoss", "CrossEntropyLoss"]


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_a_number_and_trains_nothing(name):
    logits = paddle.rand([2, 2, 4, 4])
    logits.stop_gradient = False
    loss = manager.LOSSES[name]()(logits, paddle.full([2, 4, 4], 255, "int64"))
    assert loss.shape == []
    loss.backward()
    if name.startswith("Lovasz"):
        assert float(loss) == 0
        assert float(logits.grad.abs().sum()) == 0


def test_other_batches_are_as_before():
    logits, labels = paddle.rand([2, 3, 4, 4]), paddle.randint(0, 3, [2, 4, 4])
    loss = manager.LOSSES["LovaszSoftmaxLoss"]()
    probabilities = paddle.nn.functional.softmax(logits, axis=1)
    flat = flatten_probas(probabilities, labels, 255)
    assert float(loss(logits, labels)) == float(lovasz_softmax_flat(*flat, classes="present"))


class IgnoredLovasz(manager.LOSSES["LovaszSoftmaxLoss"]):
    """The loss on labels that are ignored everywhere."""

    def forward(self, logits, labels):
        return super().forward(logits, paddle.full_like(labels, 255))


def test_training_goes_on(tmp_path):
    def losses():
        both = [manager.LOSSES["CrossEntropyLoss"](), IgnoredLovasz()]
        return [paddleseg_autoloss.AutoWeightedLoss(both)]

    model, *_ = run_training(tmp_path, 3, losses)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
