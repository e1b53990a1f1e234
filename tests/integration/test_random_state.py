"""A checkpoint holds the state of the random generator, for runs that are not seeded anew."""

from __future__ import annotations

import os
import signal
from functools import partial

import numpy as np
import paddle
import pytest
from paddleseg.models.losses import MixedLoss
from support.training import TinyNet, ce_and_dice, resumed, run_training, state_arrays

from paddleseg_autoloss import AutoWeightedLoss
from paddleseg_autoloss.errors import TrainingStopped
from paddleseg_autoloss.integration.random_state import random_state, set_random_state

pytestmark = pytest.mark.skipif(
    paddle.__version__.startswith("2."), reason="Paddle 2 does not give the state"
)


def test_random_numbers_go_on():
    paddle.seed(3)
    paddle.rand([5])
    saved = random_state()
    expected = paddle.rand([4]).tolist()
    paddle.seed(4)
    paddle.rand([1])
    set_random_state(saved)
    assert paddle.rand([4]).tolist() == expected


@pytest.mark.parametrize(
    "change",
    [
        {"engine": ""},
        {"engine": "1 " * 312 + "313"},
        {"engine": "1 " * 311 + "312"},
        {"engine": 5},
        {"seed": -1},
        {"seed": 2**64},
        {"offset": "0"},
        {"offset": None},
    ],
)
def test_a_state_from_a_strange_file_changes_nothing(change):
    paddle.seed(3)
    saved = random_state()
    expected = paddle.rand([4]).tolist()
    set_random_state(saved)
    set_random_state(saved | change)
    set_random_state(None)
    assert paddle.rand([4]).tolist() == expected


LOSSES = {
    "fixed": lambda: [MixedLoss(ce_and_dice(), [0.2, 0.8])],
    "learned": lambda: [AutoWeightedLoss(ce_and_dice())],
}


@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_a_run_with_dropout_is_resumed_bit_for_bit(losses, tmp_path):
    """The random numbers of a fixed mix are those of plain PaddleSeg, which no seed sets anew."""
    whole, parts = resumed(partial(run_training, losses=losses), tmp_path)
    for own, expected in zip(state_arrays(parts), state_arrays(whole)):
        np.testing.assert_array_equal(own, expected)


class Interrupted(TinyNet):
    """It gets Ctrl-C in the forward pass of the sixth step, after its dropout."""

    calls = 0

    def forward(self, x):
        Interrupted.calls += 1
        outputs = super().forward(x)
        if Interrupted.calls == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return outputs


@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_a_stop_between_two_checkpoints_changes_nothing(losses, tmp_path):
    whole, *_ = run_training(tmp_path / "whole", 8, losses)
    Interrupted.calls = 0
    with pytest.raises(TrainingStopped):
        run_training(tmp_path / "parts", 8, losses, Interrupted)
    assert (tmp_path / "parts/iter_5").is_dir()
    parts, *_ = run_training(tmp_path / "parts", 8, losses, resume_model="latest")
    for own, expected in zip(state_arrays(parts), state_arrays(whole)):
        np.testing.assert_array_equal(own, expected)
