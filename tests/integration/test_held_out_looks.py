"""Methods that learn from held-out data, in PaddleSeg's loop."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from unittest import mock

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn
from paddleseg.cvlibs import SegBuilder
from paddleseg.models.losses import MixedLoss
from support import ROOT
from support.records import history
from support.training import (
    Squares,
    TinyNet,
    ce_and_dice,
    enabled_scaler,
    resumed,
    run_training,
    state_arrays,
)

import paddleseg_autoloss
from paddleseg_autoloss.errors import (
    CheckpointError,
    ConfigError,
    TrainingDiverged,
    TrainingStopped,
)
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.integration import training
from paddleseg_autoloss.integration.config import load_config
from paddleseg_autoloss.weighting import METHODS

#: The form of AutoLambda that evaluates losses beside the parameters.
DIFFERENCES = {"alignment": "differences", "rating": "product", "lr": 1}
#: Each method that learns from held-out data, with options that let it learn in a few steps.
HELD_OUT = [
    *(
        (name, {"CoBa": {"warmup": 2}, "OLAUX": {"looks": 1}}.get(name, {}))
        for name, method in METHODS.items()
        if method.uses_held_out
    ),
    ("AutoLambda", {**DIFFERENCES, "lr": 5}),
]


class Batches:
    """Held-out batches of noisy squares that no training image shows."""

    def __init__(self, factor: float = 1.0) -> None:
        self.drawn, self.factor = 0, factor

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def set_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]

    def __next__(self) -> dict[str, paddle.Tensor]:
        images = [Squares()[100 + 2 * self.drawn + index] for index in range(2)]
        self.drawn += 1
        return {
            "img": paddle.to_tensor(np.stack([one["img"] for one in images])) * self.factor,
            "label": paddle.to_tensor(np.stack([one["label"] for one in images])),
        }


def train(folder, iters, batches=None, **options):
    """Train through PaddleSeg's loop with held-out batches; return what `run_training` does."""
    stock, batches = training.TrainingSession, batches or Batches()

    def session(**arguments):
        arguments["losses"]["held_out"] = batches
        return stock(**arguments)

    with mock.patch.object(training, "TrainingSession", session):
        return run_training(folder, iters, **options)


def component(name: str, **options):
    kind = getattr(paddleseg_autoloss, name)
    return lambda: [kind(ce_and_dice(), update_interval=2, **options)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AutoLambda", {"lr": 0}),
        ("AutoLambda", {**DIFFERENCES, "lr": 0}),
        ("CoBa", {"warmup": 20}),
    ],
)
def test_a_look_leaves_no_trace_in_training(name, options, tmp_path):
    """With weights that stay 1, the run is that of a method that never looks.

    Batch norm's running means and dropout are those of the training batches only.  (With Adam,
    rounding errors alone would move the bias before batch norm, which has no effect.)
    """

    def sgd(model):
        return paddle.optimizer.SGD(0.05, parameters=model.parameters())

    batches = Batches()
    method = component(name, **options)
    looking, *_ = train(tmp_path / "a", 6, batches, losses=method, optimizer=sgd)
    assert batches.drawn == 2
    plain, *_ = run_training(
        tmp_path / "b", 6, losses=lambda: [paddleseg_autoloss.Sum(ce_and_dice())], optimizer=sgd
    )
    for one, other in zip(state_arrays(looking), state_arrays(plain)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), HELD_OUT)
def test_weights_are_learned_and_recorded(name, options, tmp_path, capsys):
    _, (loss,), _ = train(tmp_path, 6, losses=component(name, **options), log_iters=1)
    weights = loss.aggregator.last_weights.numpy()
    assert weights.sum() == pytest.approx(2, rel=1e-5)
    assert abs(weights[0] - weights[1]) > 1e-3
    rows = history(tmp_path)
    assert [float(row["weight"]) for row in rows[:2]] == [1, 1]
    assert [float(row["weight"]) for row in rows[-2:]] == pytest.approx(weights, rel=1e-5)
    assert "no method of this config" not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "options"), [*HELD_OUT, ("OLAUX", {})])
def test_resumed_equals_uninterrupted_bit_for_bit(name, options, tmp_path):
    """A look comes between iteration 4, where the checkpoint is, and iteration 5.

    By default ``OLAUX`` is then in the midst of the looks that it adds up.
    """

    def run(folder, iters, **more):
        return train(folder, iters, losses=component(name, **options), **more)

    whole, parts = resumed(run, tmp_path)
    for one, other in zip(state_arrays(whole), state_arrays(parts)):
        np.testing.assert_array_equal(one, other)


class WithoutDropout(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Identity()


class Interrupted(WithoutDropout):
    """It gets Ctrl-C in the forward pass of the third step, before which there is a look."""

    calls = 0

    def forward(self, x):
        if self.training and paddle.is_grad_enabled():
            Interrupted.calls += 1
            # The passes are step 1, step 2, look, step 3.
            if Interrupted.calls == 4:
                os.kill(os.getpid(), signal.SIGINT)
        return super().forward(x)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AutoLambda", {}),
        ("AutoLambda", {**DIFFERENCES, "lr": 5}),
        ("CoBa", {"warmup": 2}),
        ("OLAUX", {"looks": 2}),
    ],
)
def test_a_look_before_a_step_that_is_not_taken_is_taken_again(name, options, tmp_path):
    def run(folder, model=WithoutDropout, **more):
        batches = Batches()
        made = component(name, **options)
        network, _, _ = train(
            folder, 8, batches, losses=made, model=model, save_interval=100, **more
        )
        return batches.drawn, state_arrays(network)

    drawn, expected = run(tmp_path / "whole")
    Interrupted.calls = 0
    with pytest.raises(TrainingStopped):
        run(tmp_path / "parts", Interrupted)
    assert (tmp_path / "parts" / "iter_2").is_dir()
    drawn_in_parts, found = run(tmp_path / "parts", resume_model="latest")
    assert drawn_in_parts == drawn
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)


def test_both_forms_of_the_alignments_learn_the_same_weights(tmp_path):
    """With a small rate the network hardly moves between the two points where they are taken."""

    def slow(model):
        return paddle.optimizer.SGD(1e-4, parameters=model.parameters())

    found = {}
    for alignment in ("gradients", "differences"):
        options = {"alignment": alignment, "rating": "product", "scaling": "none", "lr": 2}
        _, (loss,), _ = train(
            tmp_path / alignment,
            5,
            losses=component("AutoLambda", **options),
            model=WithoutDropout,
            optimizer=slow,
        )
        found[alignment] = loss.aggregator.weights.numpy()
    np.testing.assert_allclose(found["differences"], found["gradients"], atol=2e-3)
    assert abs(found["gradients"][0] - 1) > 0.5


def test_another_window_is_said_to_be_possible(tmp_path):
    """The memory has another shape, with the same network."""
    train(tmp_path, 4, losses=component("CoBa"))
    checkpoint = str(tmp_path / "iter_4")
    message = r"history has the shape \[2, 20\] in the checkpoint, but \[2, 9\] here: .*arguments"
    with pytest.raises(CheckpointError, match=message):
        train(tmp_path, 6, losses=component("CoBa", window=9), resume_model=checkpoint)


class TwoHeads(TinyNet):
    def __init__(self) -> None:
        super().__init__(2)


@pytest.mark.parametrize(
    ("name", "options"),
    [("AutoLambda", {}), ("AutoLambda", DIFFERENCES), ("CoBa", {"warmup": 2})],
)
def test_the_first_output_rates_the_terms_of_all_heads(name, options, tmp_path):
    names = [f"head{h}/{kind}" for h in (0, 1) for kind in ("CrossEntropyLoss", "DiceLoss")]
    method = METHODS[name](4, **options)
    aggregator = LossAggregator(names, method, update_interval=2)
    stock = training.TrainingSession

    def session(**arguments):
        arguments["losses"]["loss_aggregator"] = aggregator
        return stock(**arguments)

    with mock.patch.object(training, "TrainingSession", session):
        train(
            tmp_path,
            6,
            losses=lambda: [MixedLoss(ce_and_dice(), [1, 1]) for _ in range(2)],
            coef=[1, 0.4],
            model=TwoHeads,
        )
    weights = aggregator.last_weights.numpy()
    assert weights.sum() == pytest.approx(4, rel=1e-5)
    assert len(set(weights.round(6))) == 4


@pytest.mark.parametrize("options", [{}, DIFFERENCES])
def test_a_target_that_is_not_finite_stops_the_run_with_its_name(options, tmp_path):
    method = component("AutoLambda", **options)
    with pytest.raises(TrainingDiverged, match="the target on held-out data is NaN"):
        train(tmp_path, 6, Batches(factor=float("nan")), losses=method)


def test_differences_beside_a_method_that_counts_its_steps(tmp_path):
    """The evaluations beside the parameters are no steps of any method."""

    def losses():
        return [
            paddleseg_autoloss.AutoLambda(ce_and_dice(), update_interval=2, **DIFFERENCES),
            paddleseg_autoloss.ScheduledLoss(
                ce_and_dice(), final_coef=[6, 1], schedule="linear", end_iter=5
            ),
        ]

    train(tmp_path, 5, losses=losses, coef=[1, 1], model=TwoHeads, log_iters=1)
    rows = [row for row in history(tmp_path) if row["term"] == "head1/CrossEntropyLoss"]
    assert [float(row["weight"]) for row in rows] == pytest.approx([1, 2, 3, 4, 5])


def test_differences_are_taken_after_the_step_and_in_full_precision(tmp_path):
    """The two points have the parameters of the next step in their midst."""
    stock, active = paddle.amp.auto_cast, []
    steps, points = [], []

    @contextmanager
    def auto_cast(enable=True, **options):
        active.append(enable)
        with stock(enable, **options):
            yield
        active.pop()

    class Watched(WithoutDropout):
        def forward(self, x):
            values = self.body[0].weight.numpy()
            if not self.training:
                return super().forward(x)
            if paddle.is_grad_enabled():
                steps.append(values)
            else:
                points.append((values, active[-1]))
            return super().forward(x)

    with mock.patch("paddle.amp.auto_cast", auto_cast):
        method = component("AutoLambda", **DIFFERENCES)
        options = {"precision": "fp16", "amp_level": "O1"}
        train(tmp_path, 4, losses=method, model=Watched, **options)
    # Training steps 1 and 2, a look, training steps 3 and 4; the points come after step 3.
    assert len(steps) == 5
    (one, cast), (other, cast_again) = points
    assert not cast
    assert not cast_again
    np.testing.assert_allclose((one + other) / 2, steps[4], atol=1e-6)
    assert abs(one - steps[4]).max() > 1e-5
    assert abs(steps[4] - steps[3]).max() > 1e-4


@pytest.mark.parametrize("is_spoiled", [True, False])
def test_nothing_is_learned_after_a_step_that_a_gradient_scaler_skips(is_spoiled, tmp_path):
    """A GradScaler of a GPU on a CPU: only its check of the device is replaced."""

    class Spoiled(WithoutDropout):
        steps = points = 0

        def forward(self, x):
            outputs = super().forward(x)
            if paddle.is_grad_enabled():
                Spoiled.steps += 1
                # Training steps 1 and 2, a look, then training step 3.
                if is_spoiled and Spoiled.steps == 4:
                    outputs[0].register_hook(lambda gradient: gradient * float("inf"))
            elif self.training:
                Spoiled.points += 1
            return outputs

    with mock.patch("paddle.amp.GradScaler", return_value=enabled_scaler(1024.0)):
        method = component("AutoLambda", **{**DIFFERENCES, "lr": 5})
        _, (loss,), _ = train(tmp_path, 3, losses=method, model=Spoiled, precision="fp16")
    assert Spoiled.steps == 4
    assert Spoiled.points == (0 if is_spoiled else 2)
    assert (loss.aggregator.weights.tolist() == [1, 1]) == is_spoiled


def test_a_network_with_the_channels_last_learns_the_same_weights(tmp_path):
    """PaddleSeg's loop transposes the images of such a network; labels and targets do not."""

    class ChannelsLast(WithoutDropout):
        data_format = "NHWC"

        def forward(self, x):
            outputs = super().forward(x.transpose([0, 3, 1, 2]))
            return [output.transpose([0, 2, 3, 1]) for output in outputs]

    class OfChannelsLast(nn.Layer):
        data_format = "NHWC"

        def __init__(self, loss):
            super().__init__()
            self.loss = loss

        def forward(self, logit, label):
            return self.loss(logit.transpose([0, 3, 1, 2]), label)

    def last():
        losses = [OfChannelsLast(loss) for loss in ce_and_dice()]
        return [paddleseg_autoloss.AutoLambda(losses, update_interval=2)]

    found = []
    for model, losses in ((WithoutDropout, component("AutoLambda")), (ChannelsLast, last)):
        _, (loss,), _ = train(tmp_path / model.__name__, 5, losses=losses, model=model)
        found.append(loss.aggregator.weights.numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert abs(found[0][0] - 1) > 1e-3


def test_differences_beside_a_method_that_sees_the_losses_after_the_step(tmp_path):
    """Each of the two learns as it does without the other."""

    def losses(**options):
        return lambda: [
            paddleseg_autoloss.AutoLambda(ce_and_dice(), update_interval=2, **options),
            paddleseg_autoloss.FAMO(ce_and_dice(), exact=True),
        ]

    found = []
    for options in ({"lr": 0}, {**DIFFERENCES, "lr": 0}, {**DIFFERENCES, "lr": 5}):
        _, (auto_lambda, famo), _ = train(
            tmp_path / str(len(found)), 5, losses=losses(**options), coef=[1, 1e-6], model=TwoHeads
        )
        found.append((auto_lambda.aggregator.weights.numpy(), famo.aggregator.weighting.xi.numpy()))
    np.testing.assert_array_equal(found[0][0], [1, 1])
    np.testing.assert_array_equal(found[1][0], [1, 1])
    assert abs(found[2][0][0] - 1) > 0.05
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-4)
    assert abs(found[0][1]).min() > 0


def test_without_held_out_images_the_run_does_not_start(tmp_path):
    with pytest.raises(ConfigError, match="held_out: expected a share of the training images"):
        run_training(tmp_path, 4, losses=component("AutoLambda"))


@pytest.mark.parametrize("options", [{}, DIFFERENCES])
def test_a_gradient_scaler_changes_no_weight(options, tmp_path):
    found = []
    for scale in (None, 1024.0):
        stock = training.TrainingSession

        def session(stock=stock, scale=scale, **arguments):
            made = stock(**arguments)
            if scale is not None:
                for aggregator in made.aggregators:
                    aggregator.loss_scale = lambda: paddle.to_tensor([scale])
            return made

        with mock.patch.object(training, "TrainingSession", session):
            made = component("AutoLambda", **options)
            _, (loss,), _ = train(tmp_path / str(scale), 4, losses=made)
        found.append(loss.aggregator.weighting.shares.numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


DEMO = str(ROOT / "configs/auto_lambda_ce_dice_demo.yml")


def load(path, **changes):
    """Load the demo config with some of its keys changed."""
    path.write_text(yaml.safe_dump({"_base_": DEMO, **changes}))
    return load_config(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": None}, "held_out: expected a share of .* for AutoLambda"),
        (
            {"loss_aggregator": {"type": "OLAUX", "target": "IoU"}},
            r"loss_aggregator.target: expected one of mIoU, Jaccard, Dice, CrossEntropy, found",
        ),
        (
            {"loss_aggregator": {"type": "L2RW", "target": {"type": "DiceLos"}}},
            r"loss_aggregator.target.type: there is no 'DiceLos'; did you mean DiceLoss",
        ),
        (
            {"loss_aggregator": {"type": "AutoLambda", "level": "logits"}},
            "loss_aggregator.level: AutoLambda has no such argument",
        ),
    ],
)
def test_configs_that_are_refused(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "config.yml", **changes)


def test_a_target_in_a_config_may_be_any_loss(tmp_path):
    """PaddleSeg's builder makes the loss itself where a component has one."""
    config = load(tmp_path / "config.yml")
    config.dic["loss"]["types"][0]["target"] = {"type": "FocalLoss", "gamma": 2.0}
    (loss,) = SegBuilder(config).loss["types"]
    assert type(loss.aggregator.weighting.target).__name__ == "FocalLoss"
    assert not loss.aggregator.weighting.sublayers()


@pytest.mark.parametrize("name", ["auto_lambda_ce_dice", "auto_lambda_ce_dice_demo"])
def test_the_example_configs_are_valid(name):
    assert load_config(str(ROOT / f"configs/{name}.yml")).dic["held_out"] == 0.1


@pytest.mark.parametrize("options", [{}, DIFFERENCES])
def test_a_step_that_is_skipped_is_looked_at_again(options, tmp_path):
    """The step after a look is left out, so its weights are too; the next step looks anew."""

    class Spoiled(TinyNet):
        calls = 0

        def forward(self, x):
            outputs = super().forward(x)
            Spoiled.calls += 1
            # Training steps 1 and 2, a look, then training step 3.
            return [o * float("nan") for o in outputs] if Spoiled.calls == 4 else outputs

    stock, batches = training.TrainingSession, Batches()

    def session(**arguments):
        arguments["losses"]["on_nonfinite"] = "skip"
        return stock(**arguments)

    with mock.patch.object(training, "TrainingSession", session):
        made = component("AutoLambda", **options)
        _, (loss,), _ = train(tmp_path, 5, batches, losses=made, model=Spoiled)
    assert int(loss.aggregator.calls) == 4
    assert batches.drawn == 2
