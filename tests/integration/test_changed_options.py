"""A run that is resumed with other options of its losses or methods says so."""

from __future__ import annotations

import paddle
import pytest
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss, MixedLoss
from support.training import TinyNet, ce_and_dice, run_training, train_jointly

from paddleseg_autoloss import AutoLambda, AutoWeightedLoss, CAGrad, ScheduledLoss, Sum
from paddleseg_autoloss.errors import CheckpointError
from paddleseg_autoloss.integration.loss_options import changed_options, method_options

SAID = "The run goes on with other options than the checkpoint was written with: "


def mix(*coef):
    return lambda: [MixedLoss(ce_and_dice(), list(coef))]


def cagrad(calpha):
    return lambda: [CAGrad(ce_and_dice(), calpha=calpha)]


def weighted(*weight):
    return lambda: [AutoWeightedLoss([CrossEntropyLoss(weight=list(weight)), DiceLoss()])]


def two_heads(calpha):
    return lambda: [CAGrad(ce_and_dice()), CAGrad(ce_and_dice(), calpha=calpha)]


@pytest.mark.parametrize(
    ("before", "after", "change", "options"),
    [
        (cagrad(0.5), cagrad(0.9), "CAGrad: calpha is 0.9, was 0.5", {}),
        (
            mix(0.8, 0.2),
            mix(0.2, 0.8),
            "CrossEntropyLoss: coef is 0.2, was 0.8; DiceLoss: coef is 0.8, was 0.2",
            {},
        ),
        (
            weighted(1, 2),
            weighted(1, 5),
            "CrossEntropyLoss: weight is [1.0, 5.0], was [1.0, 2.0]",
            {},
        ),
        (
            two_heads(0.5),
            two_heads(0.9),
            "head1/CAGrad: calpha is 0.9, was 0.5",
            {"model": lambda: TinyNet(2)},
        ),
    ],
    ids=["method", "fixed mix", "class weights", "second head"],
)
def test_a_changed_option_is_said(before, after, change, options, tmp_path, capfd):
    run_training(tmp_path, 4, before, **options)
    run_training(tmp_path, 8, after, resume_model="latest", **options)
    lines = [line for line in capfd.readouterr().out.splitlines() if SAID in line]
    assert [line.partition(SAID)[2] for line in lines] == [change]


def test_a_changed_option_of_loss_aggregator_is_said(tmp_path, capfd):
    train_jointly(tmp_path, 4, {"type": "CAGrad"})
    train_jointly(tmp_path, 8, {"type": "CAGrad", "update_interval": 2}, resume_model="latest")
    assert f"{SAID}CAGrad: update_interval is 2, was 1\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    "losses", [cagrad(0.5), mix(0.8, 0.2), weighted(1, 2)], ids=["method", "mix", "weights"]
)
def test_nothing_is_said_without_a_change(losses, tmp_path, capfd):
    run_training(tmp_path, 4, losses)
    run_training(tmp_path, 8, losses, resume_model="latest")
    assert SAID not in capfd.readouterr().out


def test_a_checkpoint_without_the_options_of_methods_is_read(tmp_path, capfd):
    run_training(tmp_path, 4, cagrad(0.5))
    path = tmp_path / "iter_4" / "model.pdopt"
    state = paddle.load(str(path))
    del state["paddleseg_autoloss"]["method_options"]
    paddle.save(state, str(path))
    (tmp_path / "iter_4" / "proof.json").unlink()
    run_training(tmp_path, 8, cagrad(0.9), resume_model="latest")
    assert SAID not in capfd.readouterr().out


def test_options_of_a_method_are_its_arguments_and_those_of_its_aggregator():
    aggregator = AutoLambda(ce_and_dice(), target="Dice", lr=2).aggregator
    assert method_options(aggregator) == {
        "target": "Dice",
        "scaling": "optimizer",
        "rating": "cosine",
        "alignment": "gradients",
        "floor": 0.02,
        "lr": 2.0,
        "level": "parameters",
        "layer": None,
        "update_interval": 20,
        "reduction": None,
        "constant_sum": None,
    }


def test_every_target_and_schedule_is_compared():
    one = method_options(AutoLambda(ce_and_dice(), target="Dice").aggregator)
    other = method_options(AutoLambda(ce_and_dice(), target="mIoU").aggregator)
    assert changed_options(one, other) == ["target is 'Dice', was 'mIoU'"]
    one = method_options(ScheduledLoss(ce_and_dice(), coef=[0.8, 0.2]).aggregator)
    other = method_options(ScheduledLoss(ce_and_dice(), coef=[0.5, 0.5]).aggregator)
    assert changed_options(one, other) == ["coef is [0.8, 0.2], was [0.5, 0.5]"]


def test_a_target_that_is_a_loss_is_compared():
    one, other = (
        method_options(AutoLambda(ce_and_dice(), target=target).aggregator)
        for target in (DiceLoss(smooth=1.0), DiceLoss(smooth=2.0))
    )
    (change,) = changed_options(one, other)
    assert change.startswith("target is {'class': 'DiceLoss', ")


def test_weights_to_begin_with_are_not_compared():
    aggregator = AutoLambda(ce_and_dice(), init=[1, 4]).aggregator
    assert "init" not in method_options(aggregator)


def test_nan_and_whole_numbers_are_no_change():
    assert changed_options({"a": float("nan"), "b": 1}, {"a": float("nan"), "b": 1.0}) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (mix(0.8, 0.2), lambda: [MixedLoss([DiceLoss(), CrossEntropyLoss()], [0.8, 0.2])]),
        (mix(0.8, 0.2), lambda: [Sum(ce_and_dice())]),
        (mix(0.8, 0.2), lambda: [CrossEntropyLoss()]),
    ],
    ids=["other order", "method", "one loss"],
)
def test_other_losses_are_said(before, after, tmp_path, capfd):
    run_training(tmp_path, 4, before)
    run_training(tmp_path, 8, after, resume_model="latest")
    assert "but the checkpoint was written with ['MixedLoss'] of" in capfd.readouterr().out


def test_a_schedule_that_cannot_take_the_state_is_named(tmp_path):
    def warmed(model):
        rate = paddle.optimizer.lr.LinearWarmup(0.01, 4, 0.0, 0.01)
        return paddle.optimizer.Adam(rate, parameters=model.parameters())

    def falling(model):
        rate = paddle.optimizer.lr.PolynomialDecay(0.01, 8)
        rate = paddle.optimizer.lr.LinearWarmup(rate, 4, 0.0, 0.01)
        return paddle.optimizer.Adam(rate, parameters=model.parameters())

    run_training(tmp_path, 4, optimizer=warmed)
    with pytest.raises(CheckpointError, match="expected an lr_scheduler and an optim"):
        run_training(tmp_path, 8, optimizer=falling, resume_model="latest")
