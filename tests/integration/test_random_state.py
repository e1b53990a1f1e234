"""A checkpoint holds the state of the random generator, for runs that are not seeded anew."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddleseg.models.losses import MixedLoss
from support.training import ce_and_dice, resumed, run_training, state_arrays

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


def test_a_run_with_a_fixed_mix_is_resumed_bit_for_bit(tmp_path):
    """Its random numbers are those of plain PaddleSeg, which no seed sets anew."""

    def train(folder, iters, **options):
        return run_training(
            folder, iters, lambda: [MixedLoss(ce_and_dice(), [0.2, 0.8])], **options
        )

    whole, parts = resumed(train, tmp_path)
    for own, expected in zip(state_arrays(parts), state_arrays(whole)):
        np.testing.assert_array_equal(own, expected)
