"""OCRNet, BiSeNetV2 and U2Net with the losses of all heads weighed together."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import SegBuilder, manager
from paddleseg.models import BiSeNetV2, OCRNet, U2Netp
from paddleseg.models.losses import MixedLoss
from support.processes import ROOT
from support.training import ce_and_dice

from paddleseg_autoloss.integration.config import load_config
from paddleseg_autoloss.integration.joint import JointAggregation
from paddleseg_autoloss.integration.loop import LOOP
from paddleseg_autoloss.integration.session import TrainingSession
from paddleseg_autoloss.integration.terms import terms_of

MODELS = {
    "ocrnet": lambda: OCRNet(
        2, manager.BACKBONES["HRNet_W18"](), backbone_indices=[0], ocr_mid_channels=32,
        ocr_key_channels=16,
    ),
    "bisenetv2": lambda: BiSeNetV2(2),
    "u2netp": lambda: U2Netp(2),
}  # fmt: skip
HEADS = {"ocrnet": 2, "bisenetv2": 5, "u2netp": 7}


@pytest.mark.parametrize("aggregator", ["AutoWeightedLoss", "PCGrad"])
@pytest.mark.parametrize("name", MODELS)
def test_models_with_several_heads(name, aggregator):
    """OCRNet, BiSeNetV2 and U2Net: one step moves every trainable parameter that plain does."""
    paddle.seed(0)
    model = MODELS[name]()
    model.train()
    heads = HEADS[name]
    losses = {
        "types": [MixedLoss(ce_and_dice(), [1, 1]) for _ in range(heads)],
        "coef": [1] + [0.4] * (heads - 1),
        "loss_aggregator": {"type": aggregator},
    }
    optimizer = paddle.optimizer.SGD(0.01, parameters=model.parameters())
    session = TrainingSession(model, None, optimizer, losses, "unused", 0, 10**9)
    assert len(session.joint.aggregator.names) == 2 * heads
    assert session.joint.aggregator.names[-1] == f"head{heads - 1}/DiceLoss"
    with session.attached():
        data = {"label": paddle.randint(0, 2, [2, 64, 64])}
        (total,) = model.loss_computation(model(paddle.rand([2, 3, 64, 64])), losses, data)
        total.backward()
        reached = [p.name for p in model.parameters() if p.grad is not None]
        plain = sum(
            LOOP.loss_computation(model(paddle.rand([2, 3, 64, 64])), data["label"], None, losses)
        )
        model.clear_gradients()
        plain.backward()
        assert np.isfinite(float(total))
        assert reached == [p.name for p in model.parameters() if p.grad is not None]
    assert (session.joint.aggregator.last_weights.numpy() > 0).all()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "heads").glob("*.yml")), ids=lambda path: path.stem
)
def test_configs_of_models_with_several_heads(path):
    config = load_config(str(path))
    losses = SegBuilder(config).loss
    name = {"OCRNet": "ocrnet", "BiSeNetV2": "bisenetv2", "U2Net": "u2netp"}[
        config.dic["model"]["type"]
    ]
    assert len(losses["types"]) == len(losses["coef"]) == HEADS[name]
    joint = JointAggregation(config.dic["loss_aggregator"], terms_of(losses))
    assert len(joint.aggregator.names) == 2 * HEADS[name]
