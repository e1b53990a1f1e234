"""What a run shows: curves, picture, equivalent mix."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn
from paddleseg.cvlibs.builder import SegBuilder
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss, MixedLoss
from support.records import history, scalars
from support.training import (
    Squares,
    TinyNet,
    adam,
    ce_and_dice,
    run_training,
    without_pictures,
)

from paddleseg_autoloss import AlignedMTL, AutoWeightedLoss
from paddleseg_autoloss.integration import report
from paddleseg_autoloss.integration.mix import equivalent_mix
from paddleseg_autoloss.integration.session import TrainingSession
from paddleseg_autoloss.integration.terms import terms_of


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
        options = {"use_vdl": True, "val_dataset": Squares("val", 2), "pictures": True}
        _, types, _ = run_training(folder, 8, losses, **options)
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
        run_training(tmp_path, 3, log_iters=10, pictures=True)
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

    def test_no_equivalent_mix_with_a_negative_weight(self):
        """PaddleSeg would train it, but configs with negative coefficients are refused."""
        loss = AlignedMTL(ce_and_dice())
        losses = {"types": [loss], "coef": [1]}
        for weights, has_mix in (([0.5, 1.0], True), ([-0.1, 1.0], False)):
            loss.aggregator.last_weights = paddle.to_tensor(weights)
            assert (equivalent_mix(losses, terms_of(losses)) is not None) == has_mix

    def test_a_weight_that_is_negative_by_rounding_is_0(self):
        loss = AlignedMTL(ce_and_dice())
        losses = {"types": [loss], "coef": [1]}
        loss.aggregator.last_weights = paddle.to_tensor([-1e-8, 1.0])
        assert equivalent_mix(losses, terms_of(losses)).coefs == [[0.0, 1.0]]

    def test_a_run_without_an_equivalent_mix_leaves_none_of_an_older_run(self, tmp_path, capfd):
        losses = {"types": [AlignedMTL(ce_and_dice())], "coef": [1]}
        session = TrainingSession(
            TinyNet(), Squares(), adam(TinyNet()), losses, str(tmp_path), 0, 10
        )
        losses["types"][0].aggregator.last_weights = paddle.to_tensor([-0.1, 1.0])
        (tmp_path / "equivalent_mixed_loss.yml").write_text("of an older run")
        with without_pictures():
            session.report.finish()
        assert "No MixedLoss is equivalent: a weight is negative" in capfd.readouterr().out
        assert not (tmp_path / "equivalent_mixed_loss.yml").exists()

    def test_a_run_that_learned_nothing_leaves_the_mix_that_is_there(self, tmp_path):
        """All its iterations were done before, with a fixed mix."""
        losses = {"types": [AlignedMTL(ce_and_dice())], "coef": [1]}
        model = TinyNet()
        session = TrainingSession(model, Squares(), adam(model), losses, str(tmp_path), 10, 10)
        (tmp_path / "equivalent_mixed_loss.yml").write_text("of an older run")
        with without_pictures():
            session.report.finish()
        assert (tmp_path / "equivalent_mixed_loss.yml").is_file()

    def test_a_card_that_does_not_write_leaves_the_history_alone(self, tmp_path, monkeypatch):
        """PaddleSeg after 2.9 writes a log line on every card."""
        model, losses = TinyNet(), {"types": [AutoWeightedLoss(ce_and_dice())], "coef": [1]}
        session = TrainingSession(model, Squares(), adam(model), losses, str(tmp_path), 0, 10)
        path = tmp_path / "loss_weights.csv"
        path.write_text("those of the first card")
        monkeypatch.setattr(report, "is_writing_rank", lambda: False)
        session.report.close_window()
        assert path.read_text() == "those of the first card"

    def test_a_run_with_a_fixed_mix_leaves_the_learned_one_that_its_config_may_name(self, tmp_path):
        path = tmp_path / "equivalent_mixed_loss.yml"
        path.write_text("learned before")
        run_training(tmp_path, 2, lambda: [MixedLoss(ce_and_dice(), [1, 1])])
        assert path.read_text() == "learned before"

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


class LearnedMix(nn.Layer):
    """A loss of somebody's own: two losses, weighed by two learned numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.both = ce_and_dice()
        self.log_variances = self.create_parameter([2])
        self.offset = self.create_parameter([1])

    def forward(self, logits, labels):
        values = paddle.stack([loss(logits, labels.clone()) for loss in self.both])
        total = (values * (-self.log_variances).exp() + self.log_variances).sum()
        return total + (self.offset**2).sum()


def test_a_learned_loss_of_ones_own_is_shown_by_its_parameters(tmp_path, capfd):
    run_training(tmp_path, 4, lambda: [LearnedMix()], use_vdl=True, pictures=True)
    shown = scalars(tmp_path)
    assert "Loss_weight/LearnedMix" not in shown
    for name in ("log_variances[0]", "log_variances[1]", "offset"):
        assert len(shown[f"Loss_parameter/LearnedMix/{name}"]) == 2
    line = next(line for line in capfd.readouterr().out.splitlines() if "| weights:" in line)
    assert re.search(r"weights: LearnedMix \(log_variances\[0\] .*, offset ", line)
    rows = history(tmp_path)
    assert {row["weight"] for row in rows} == {"nan"}
    assert all(row["raw"] == row["weighted"] for row in rows)
    assert (tmp_path / "loss_weights.png").is_file()


def test_picture_is_written_when_interrupted(tmp_path, capfd):
    class Ctrl(nn.Layer):
        calls = 0

        def forward(self, logits, labels):
            self.calls += 1
            if self.calls == 7:
                raise KeyboardInterrupt
            return logits.mean()

    losses = lambda: [AutoWeightedLoss([DiceLoss(), Ctrl()])]  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path, 12, losses, pictures=True)
    assert (tmp_path / "loss_weights.png").exists()
    output = capfd.readouterr().out
    assert f"to go on: the same command with --resume_model {tmp_path / 'iter_4'}" in output
