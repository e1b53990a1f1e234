"""NaN and infinity in a loss, a gradient or the logits, and losses that never change."""

from __future__ import annotations

import re
from contextlib import contextmanager, nullcontext
from unittest import mock

import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss, MixedLoss
from support import TinyNet, ce_and_dice, run_training
from support.training import enabled_scaler

import paddleseg_autoloss
from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.integration import training
from paddleseg_autoloss.integration.config_checks import check_policy
from paddleseg_autoloss.integration.state import LossState

BAD_STEP = 3


class Watched(TinyNet):
    """Breaks one step, and notes the state of everything whenever a step begins."""

    def __init__(self, place: str, value: float) -> None:
        super().__init__()
        self.place, self.value = place, value
        self.states: list[dict[str, np.ndarray]] = []
        self.optimizer = None
        self.losses: list[nn.Layer] = []

    def forward(self, x):
        # Without gradients a batch is looked at again.
        if paddle.is_grad_enabled():
            self.note()
        outputs = super().forward(x)
        if len(self.states) == BAD_STEP and paddle.is_grad_enabled():
            if self.place == "logits":
                outputs[0] = outputs[0] * self.value
            elif self.place == "input of batch norm":
                outputs = super().forward(x * self.value)
            elif self.place == "gradient of the network":
                outputs[0].register_hook(lambda g: g * self.value)
        return outputs

    def note(self):
        found = {f"model.{k}": v.numpy() for k, v in self.state_dict().items()}
        for index, loss in enumerate(self.losses):
            found.update({f"loss{index}.{k}": v.numpy() for k, v in loss.state_dict().items()})
        for name, of_parameter in self.optimizer._accumulators.items():
            found.update({f"{name}.{k}": v.numpy() for k, v in of_parameter.items()})
        self.states.append(found)


class BrokenOnce(CrossEntropyLoss):
    def __init__(self, model, value):
        super().__init__()
        self.model, self.value = [model], value

    def forward(self, logit, label, semantic_weights=None):
        loss = super().forward(logit, label, semantic_weights)
        return loss * self.value if len(self.model[0].states) == BAD_STEP else loss


class BrokenGradientOnce(BrokenOnce):
    def forward(self, logit, label, semantic_weights=None):
        if len(self.model[0].states) == BAD_STEP:
            logit = logit * 1.0
            if not logit.stop_gradient:
                logit.register_hook(lambda g: g * self.value)
        return CrossEntropyLoss.forward(self, logit, label, semantic_weights)


BrokenOnce.__name__ = BrokenGradientOnce.__name__ = "CrossEntropyLoss"


BROKEN_LOSSES = {"loss": BrokenOnce, "gradient": BrokenGradientOnce}


def component(name, **options):
    return lambda inner: [getattr(paddleseg_autoloss, name)(inner, **options)]


LOSSES = {
    "AutoWeightedLoss": component("AutoWeightedLoss"),
    "PCGrad": component("PCGrad"),
    "DBMTL": component("DBMTL"),
    "FAMO, exact": component("FAMO", exact=True),
    "MixedLoss": lambda inner: [MixedLoss(inner, [1, 1])],
    "joint CAGrad": lambda inner: [MixedLoss(inner, [1, 1])],
}


@contextmanager
def sessions_with(keys, note=lambda session: None):
    """Give the sessions that begin within further keys of the config, and look at each."""
    stock = training.TrainingSession

    def session(**arguments):
        arguments["losses"].update(keys)
        made = stock(**arguments)
        note(made)
        return made

    with mock.patch.object(training, "TrainingSession", session):
        yield


def train(folder, model, kind, policy="skip", iters=6, **options):
    keys = {} if policy is None else {"on_nonfinite": policy}
    if kind == "joint CAGrad":
        keys["loss_aggregator"] = {"type": "CAGrad"}

    def note(session):
        model.losses = list(session.state.layers.values())
        model.optimizer = session.optimizer

    def losses():
        inner = ce_and_dice()
        if model.place in BROKEN_LOSSES:
            inner[0] = BROKEN_LOSSES[model.place](model, model.value)
        return LOSSES[kind](inner)

    with sessions_with(keys, note):
        run_training(folder, iters, losses, lambda: model, **options)


def assert_nothing_changed(before, after):
    assert before.keys() == after.keys()
    for key, array in before.items():
        np.testing.assert_array_equal(after[key], array, err_msg=key)


in_every_way = [
    pytest.mark.parametrize("kind", LOSSES),
    pytest.mark.parametrize("value", [float("nan"), float("inf")]),
    pytest.mark.parametrize(
        "place",
        ["loss", "gradient", "gradient of the network", "logits", "input of batch norm"],
    ),
]


def break_in_every_way(test):
    for mark in in_every_way:
        test = mark(test)
    return test


def message(place, value, kind):
    """What the log or the error says, as far as it is the same for all methods."""
    if place == "loss":
        return f"iteration {BAD_STEP}: CrossEntropyLoss is {value}"
    # Times 0 in a layer below, infinity becomes NaN.
    broken = "NaN" if np.isnan(float(value)) else "(NaN|infinite, an overflow)"
    sees_their_sum = kind in ("AutoWeightedLoss", "MixedLoss", "FAMO, exact")
    if place == "gradient of the network" and sees_their_sum:
        return f"iteration {BAD_STEP}: the gradient of body.0.weight is {broken}"
    if "gradient" in place:
        return f"iteration {BAD_STEP}: the gradient of CrossEntropyLoss is {broken}"
    return f"iteration {BAD_STEP}: "


@break_in_every_way
def test_a_skipped_step_leaves_everything_as_before_it(tmp_path, capfd, place, value, kind):
    model = Watched(place, value)
    train(tmp_path, model, kind)
    assert len(model.states) == 6
    after = model.states[BAD_STEP]
    assert_nothing_changed(model.states[BAD_STEP - 1], after)
    changed = model.states[BAD_STEP + 1]
    assert any((changed[key] != array).any() for key, array in after.items())
    for state in model.states:
        for key, array in state.items():
            assert not np.isinf(array).any(), key
    (line,) = [line for line in capfd.readouterr().out.split("\n") if "is skipped" in line]
    assert re.search(message(place, value, kind), line)


@break_in_every_way
def test_the_default_stops_with_everything_as_before_the_step(tmp_path, place, value, kind):
    model = Watched(place, value)
    with pytest.raises(TrainingDiverged, match=message(place, value, kind)):
        train(tmp_path, model, kind, policy=None)
    model.note()
    assert_nothing_changed(model.states[BAD_STEP - 1], model.states[BAD_STEP])


@pytest.mark.parametrize("method", ["PCGrad", "DWA", "GradNorm"])
def test_the_loss_to_blame_is_found_beside_a_method_on_another_head(tmp_path, method):
    """Methods that need exact gradients let the graph of the outputs go."""

    class Broken(CrossEntropyLoss):
        def forward(self, logit, label, semantic_weights=None):
            logit = logit * 1.0
            if not logit.stop_gradient:
                logit.register_hook(lambda g: g * float("nan"))
            return super().forward(logit, label, semantic_weights)

    def losses():
        return [getattr(paddleseg_autoloss, method)(ce_and_dice()), Broken()]

    with pytest.raises(TrainingDiverged, match=r"the gradient of head1/Broken is NaN"):
        run_training(tmp_path, 2, losses, lambda: TinyNet(2), coef=[1, 1])


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_an_overflow_under_a_gradient_scaler_is_left_to_it(tmp_path, policy):
    """That of a GPU on a CPU: only its check of the device is replaced."""
    model = Watched("gradient", float("nan"))
    with mock.patch("paddle.amp.GradScaler", return_value=enabled_scaler(1024.0)):
        train(tmp_path, model, "PCGrad", policy, precision="fp16")
    assert len(model.states) == 6
    before, after = model.states[BAD_STEP - 1], model.states[BAD_STEP]
    moved = {key for key, array in before.items() if (after[key] != array).any()}
    assert moved == {"model.body.1._mean", "model.body.1._variance"}


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_a_broken_loss_under_a_gradient_scaler(tmp_path, policy):
    model = Watched("loss", float("nan"))
    stops = pytest.raises(TrainingDiverged, match=message("loss", "nan", "PCGrad"))
    with (
        mock.patch("paddle.amp.GradScaler", return_value=enabled_scaler(1024.0)),
        stops if policy == "stop" else nullcontext(),
    ):
        train(tmp_path, model, "PCGrad", policy, precision="fp16")
    if policy == "stop":
        model.note()
    assert_nothing_changed(model.states[BAD_STEP - 1], model.states[BAD_STEP])


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_a_gradient_scaler_that_skips_for_ever_stops_the_run(tmp_path, policy):
    class Always(Watched):
        def forward(self, x):
            outputs = super().forward(x)
            outputs[0].register_hook(lambda g: g * float("nan"))
            return outputs

    with (
        mock.patch("paddle.amp.GradScaler", return_value=enabled_scaler(1024.0)),
        pytest.raises(TrainingDiverged, match=r"iteration 21: the scaled gradients .* the 20 step"),
    ):
        train(tmp_path, Always("nowhere", 1.0), "AutoWeightedLoss", policy, 40, precision="fp16")


def test_too_many_in_a_row_stop_the_run(tmp_path):
    class Always(TinyNet):
        def forward(self, x):
            return [super().forward(x)[0] * float("nan")]

    with (
        sessions_with({"on_nonfinite": "skip"}),
        pytest.raises(TrainingDiverged, match=r"iteration 21: .* 20 steps before were skipped too"),
    ):
        run_training(tmp_path, 40, model=Always)


def test_a_gradient_whose_sum_overflows_is_not_broken(tmp_path):
    """Each element of it is finite."""
    model = TinyNet()
    bias = model.heads[0].bias
    bias.set_value(np.zeros(2, "float32"))

    class Steep(nn.Layer):
        def forward(self, logit, label):
            return (logit * 0).sum() + (bias * 2e38).sum()

    run_training(
        tmp_path, 1, lambda: [MixedLoss([Steep()], [1])], lambda: model,
        lambda model: paddle.optimizer.SGD(1e-38, parameters=model.parameters()),
    )  # fmt: skip
    np.testing.assert_allclose(bias.numpy(), [-2, -2], rtol=1e-6)


class Replacing(Watched):
    """A layer that puts new tensors in the place of its buffer, as PaddleSeg's EMANet does."""

    def __init__(self, place, value):
        super().__init__(place, value)
        self.register_buffer("mu", paddle.zeros([1]))

    def forward(self, x):
        outputs = super().forward(x)
        if self.training and paddle.is_grad_enabled():
            self.mu = self.mu * 0.9 + outputs[0].detach().mean().reshape([1])
        return outputs


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_a_buffer_that_the_network_replaces(tmp_path, policy):
    model = Replacing("logits", float("nan"))
    with pytest.raises(TrainingDiverged) if policy == "stop" else nullcontext():
        train(tmp_path, model, "AutoWeightedLoss", policy)
    if policy == "stop":
        model.note()
    assert_nothing_changed(model.states[BAD_STEP - 1], model.states[BAD_STEP])
    assert model.states[BAD_STEP]["model.mu"] != 0


@pytest.mark.parametrize("kind", LOSSES)
def test_the_log_goes_on_behind_a_skipped_step(tmp_path, capfd, kind):
    train(tmp_path, Watched("loss", float("nan")), kind, log_iters=1)
    losses = re.findall(r"iter: \d/6, loss: (\S+),", capfd.readouterr().out)
    assert len(losses) == 6
    assert np.isfinite([float(loss) for loss in losses]).all()


def test_the_first_step_is_skipped_with_two_heads(tmp_path):
    """PaddleSeg's loop adds up as many losses as the first step has."""

    class First(CrossEntropyLoss):
        calls = 0

        def forward(self, logit, label, semantic_weights=None):
            self.calls += 1
            loss = super().forward(logit, label, semantic_weights)
            return loss * float("nan") if self.calls == 1 else loss

    def losses():
        return [paddleseg_autoloss.PCGrad([First(), DiceLoss()]) for _ in range(2)]

    with sessions_with({"on_nonfinite": "skip"}):
        run_training(tmp_path, 4, losses, lambda: TinyNet(2))
    assert (tmp_path / "iter_4" / "model.pdparams").is_file()


def test_why_a_source_cannot_be_told_hides_nothing(tmp_path, capfd):
    class Fails(BrokenGradientOnce):
        seen = 0

        def forward(self, logit, label, semantic_weights=None):
            now = len(self.model[0].states)
            self.seen += now == BAD_STEP
            if self.seen > 1 and now == BAD_STEP:
                raise RuntimeError("once is enough")
            return super().forward(logit, label, semantic_weights)

    model = Watched("gradient", float("nan"))
    with (
        mock.patch.dict(BROKEN_LOSSES, {"gradient": Fails}),
        pytest.raises(TrainingDiverged, match=r"the gradient of body.0.weight is NaN"),
    ):
        train(tmp_path, model, "AutoWeightedLoss", "stop")
    model.note()
    assert_nothing_changed(model.states[BAD_STEP - 1], model.states[BAD_STEP])
    log = capfd.readouterr().out
    assert "cannot find the loss whose gradient is not finite: once is enough" in log


def test_a_frozen_network_in_a_loss_is_not_copied(tmp_path):
    class Perceptual(nn.Layer):
        def __init__(self):
            super().__init__()
            self.frozen = nn.Sequential(nn.Conv2D(2, 2, 1), nn.BatchNorm2D(2))
            for parameter in self.frozen.parameters():
                parameter.stop_gradient = True
            self.learned = nn.Conv2D(2, 2, 1)

        def forward(self, logit, label):
            return (self.learned(self.frozen(logit)) ** 2).mean()

    losses = {"types": [paddleseg_autoloss.Sum([CrossEntropyLoss(), Perceptual()])], "coef": [1]}
    optimizer = paddle.optimizer.SGD(0.1, parameters=nn.Linear(1, 1).parameters())
    (copied,) = LossState(optimizer, losses).snapshot().values()
    ends = {name.split("losses.1.")[-1] for name in copied if "losses.1." in name}
    assert ends == {"frozen.1._mean", "frozen.1._variance", "learned.weight", "learned.bias"}


def test_policy_is_checked():
    check_policy("skip")
    with pytest.raises(ConfigError, match="on_nonfinite: expected stop or skip, found 'ignore'"):
        check_policy("ignore")


def test_a_loss_that_never_changes_is_reported_once_by_name(tmp_path, capfd):
    class Constant(nn.Layer):
        def forward(self, logit, label):
            return (logit * 0).sum() + 0.25

    def losses():
        return [paddleseg_autoloss.Sum([CrossEntropyLoss(), Constant()])]

    run_training(tmp_path, 450, losses, log_iters=50, save_interval=450)
    lines = [line for line in capfd.readouterr().out.split("\n") if "does not train" in line]
    assert len(lines) == 1
    assert "Constant has been exactly 0.25 for 200 iterations" in lines[0]


def test_skipping_changes_nothing_else(tmp_path):
    """With nothing broken the run is the same, bit for bit."""
    finals = []
    for policy in ("stop", "skip"):
        paddle.seed(1)
        model = Watched("nowhere", 1.0)
        train(tmp_path / policy, model, "PCGrad", policy)
        finals.append({key: value.numpy() for key, value in model.state_dict().items()})
    for key, value in finals[0].items():
        np.testing.assert_array_equal(finals[1][key], value, err_msg=key)


def test_diverged_says_what_and_from_where_to_go_on():
    error = TrainingDiverged("iteration 3: a is nan", "the last good checkpoint is iter_2")
    assert str(error) == "iteration 3: a is nan; the last good checkpoint is iter_2"
    assert error.what == "iteration 3: a is nan"
    assert str(TrainingDiverged("a is nan")) == "a is nan"
