"""Methods that ask for the losses of the same batch after the step, in PaddleSeg's loop."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from unittest import mock

import numpy as np
import paddle
import pytest
from paddle import nn
from support import Squares, TinyNet, ce_and_dice, run_training

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.integration.loop import LOOP
from paddleseg_autoloss.integration.second_evaluation import SecondEvaluation
from paddleseg_autoloss.losses import WeightedLoss
from paddleseg_autoloss.weighting import LossWeighting, SumWeighting


class Watcher(LossWeighting):
    """Weights of 1, and a record of what it was given."""

    def __init__(self, num_losses: int, needs_losses_after_step: bool = True) -> None:
        super().__init__(num_losses)
        self.needs_losses_after_step = needs_losses_after_step
        self.before: list[list[float]] = []
        self.after: list[list[float]] = []

    def forward(self, losses):
        self.before.append(losses.tolist())
        return paddle.ones_like(losses)

    def observe_after_step(self, losses):
        self.after.append(losses.tolist())


class WithoutDropout(TinyNet):
    def __init__(self, outputs: int = 1) -> None:
        super().__init__(outputs)
        self.dropout = nn.Dropout(0.0)


def component(**options):
    return lambda: [WeightedLoss(ce_and_dice(), lambda k: Watcher(k, **options))]


def test_sees_the_same_batch_after_the_step(tmp_path):
    """With all images in one batch, the next step begins where this one ended."""
    options = {"batch_size": len(Squares()), "save_interval": 2}
    _, (loss,), _ = run_training(
        tmp_path, 5, losses=component(), model=WithoutDropout, val_dataset=Squares("val"), **options
    )
    method = loss.aggregator.weighting
    assert len(method.before) == len(method.after) == 5
    np.testing.assert_allclose(method.after[:-1], method.before[1:], rtol=1e-4)
    assert not np.allclose(method.after, method.before, rtol=1e-4)


def test_joint_aggregation_sees_every_term(tmp_path):
    watcher = Watcher(4)
    names = [f"head{h}/{kind}" for h in (0, 1) for kind in ("CrossEntropyLoss", "DiceLoss")]
    aggregator = LossAggregator(names, watcher)
    from paddleseg.models.losses import MixedLoss

    paddle.seed(1)
    with paddle.utils.unique_name.guard():
        import paddleseg

        model = WithoutDropout(2)
        paddleseg.core.train(
            model,
            Squares(),
            optimizer=paddle.optimizer.Adam(0.05, parameters=model.parameters()),
            save_dir=str(tmp_path),
            iters=4,
            batch_size=len(Squares()),
            losses={
                "types": [MixedLoss(ce_and_dice(), [1, 1]) for _ in range(2)],
                "coef": [1, 0.4],
                "loss_aggregator": aggregator,
            },
        )
    assert len(watcher.before) == len(watcher.after) == 4
    np.testing.assert_allclose(watcher.after[:-1], watcher.before[1:], rtol=1e-4)


def test_looking_leaves_no_trace(tmp_path):
    """Batch norm's statistics, dropout's draws, curves and the other methods stay as they were."""
    runs = []
    for looks in (False, True):
        folder = tmp_path / str(looks)
        model, _, _ = run_training(folder, 5, losses=component(needs_losses_after_step=looks))
        state = {key: value.numpy() for key, value in model.state_dict().items()}
        runs.append((state, (folder / "loss_weights.csv").read_text(encoding="utf-8")))
    assert runs[0][1] == runs[1][1]
    for key, value in runs[0][0].items():
        np.testing.assert_array_equal(runs[1][0][key], value, err_msg=key)


def test_dropout_draws_as_before(tmp_path):
    """Where the network does not move, the same batch has the same losses."""

    def still(model):
        return paddle.optimizer.SGD(0.0, parameters=model.parameters())

    _, (loss,), _ = run_training(tmp_path, 4, losses=component(), optimizer=still)
    method = loss.aggregator.weighting
    assert len(method.after) == 4
    assert method.after == method.before


def test_sees_what_the_loop_gives_to_the_network(tmp_path):
    """PaddleSeg's loop transposes the images of a model with this layout."""
    shapes = []

    class ChannelsLast(WithoutDropout):
        data_format = "NHWC"

        def forward(self, x):
            shapes.append(x.shape)
            return super().forward(x.transpose([0, 3, 1, 2]))

    run_training(tmp_path, 2, losses=component(), model=ChannelsLast)
    assert shapes[:4] == [[2, 32, 32, 3]] * 4


def test_precision_is_that_of_the_loop(tmp_path):
    stock, active, seen = paddle.amp.auto_cast, [], []

    @contextmanager
    def auto_cast(enable=True, **options):
        active.append((enable, options.get("level")))
        with stock(enable, **options):
            yield
        active.pop()

    class Noting(WithoutDropout):
        def forward(self, x):
            if self.training:
                seen.append(list(active))
            return super().forward(x)

    with mock.patch("paddle.amp.auto_cast", auto_cast):
        options = {"precision": "fp16", "amp_level": "O1"}
        run_training(tmp_path, 2, losses=component(), model=Noting, **options)
    assert seen[:4] == [[(True, "O1")]] * 4


def test_a_copy_of_the_network_takes_nothing_of_the_run_along(tmp_path):
    """PaddleSeg's moving average is one, and it is evaluated while the run goes on."""
    copies = []

    def deepcopy(network):
        copies.append((network, copy.deepcopy(network)))
        return copies[-1][1]

    with mock.patch.object(LOOP, "deepcopy", deepcopy):
        run_training(tmp_path, 4, losses=component(), use_ema=True, val_dataset=Squares("val"))
    ((network, copied),) = copies
    # One for the guard of the steps, one for the second look.
    hooks = list(copied._forward_pre_hooks.values())
    assert len(hooks) == 2
    for hook in hooks:
        cells = [cell.cell_contents for cell in hook.__closure__]
        assert any(one is network or getattr(one, "model", None) is network for one in cells)
        assert not any(one is copied for one in cells)


def test_each_evaluation_sees_the_same_buffers():
    """Some networks use in their outputs what they change in a forward pass."""

    class Counting(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("passes", paddle.zeros([1]))

        def forward(self, x):
            self.passes.set_value(self.passes + 1)
            return x + self.passes

    model = Counting()
    second = SecondEvaluation(model)
    with second.attached():
        model(paddle.zeros([1]))
        with second.of_latest_batch() as outputs:
            assert [float(outputs()) for _ in range(3)] == [2, 2, 2]
    assert float(model.passes) == 1
    assert not model._forward_pre_hooks


def test_methods_that_do_not_look_again_remember_nothing_of_it():
    method = Watcher(2, needs_losses_after_step=False)
    aggregator = LossAggregator(["a", "b"], method)
    with aggregator.observing_after_step():
        total = aggregator({"a": paddle.to_tensor(1.0), "b": paddle.to_tensor(2.0)})
    assert float(total) == 3
    assert method.before == method.after == []
    assert aggregator.last_weights is None


def test_observe_is_for_methods_that_define_it():
    with pytest.raises(ConfigError, match="SumWeighting: it does not use the losses after"):
        SumWeighting(2).observe_after_step(paddle.ones([2]))
