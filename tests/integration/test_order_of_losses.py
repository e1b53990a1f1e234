"""A run is resumed with each weight at the loss that it was learned for."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss, MixedLoss, OhemCrossEntropyLoss
from support.processes import SCRIPT_HEAD, run_tool
from support.training import TinyNet, learned, run_training, train_jointly

from paddleseg_autoloss import AutoWeightedLoss
from paddleseg_autoloss.errors import CheckpointError
from paddleseg_autoloss.integration.loss_options import options_of, swapped_losses
from paddleseg_autoloss.integration.terms import terms_of

TWO_HEADS = {"model": lambda: TinyNet(2)}


def rare():
    return CrossEntropyLoss(weight=[0.1, 0.9])


def common():
    return CrossEntropyLoss(weight=[0.9, 0.1])


class OwnLoss(nn.Layer):
    """A user's own, which counts its calls."""

    def __init__(self, power, calls=0):
        super().__init__()
        self.power = power
        self.calls = calls

    def forward(self, logits, labels):
        self.calls += 1
        return (paddle.nn.functional.softmax(logits, axis=1)[:, 1] ** self.power).mean()


def cross_entropies(*losses):
    return lambda: [AutoWeightedLoss([loss() for loss in losses])]


def mixes(*coefs):
    return lambda: [AutoWeightedLoss([MixedLoss([rare(), DiceLoss()], list(c)) for c in coefs])]


def in_mixed(*losses):
    return lambda: [AutoWeightedLoss([MixedLoss([loss()], [1.0]) for loss in losses])]


def heads(*losses):
    return lambda: [AutoWeightedLoss([loss(), DiceLoss()]) for loss in losses]


def named(*losses):
    return lambda: [AutoWeightedLoss([loss() for loss in losses], names=["a", "b"])]


def dice(*weights):
    return lambda: [AutoWeightedLoss([DiceLoss(weight=weight) for weight in weights])]


def own(*powers):
    return lambda: [AutoWeightedLoss([OwnLoss(power) for power in powers])]


class TestSwapped:
    @pytest.mark.parametrize(
        ("before", "after", "names", "options"),
        [
            (
                cross_entropies(rare, common),
                cross_entropies(common, rare),
                r"CrossEntropyLoss_1 \(weight: \[0.89.*\]\) and CrossEntropyLoss_2 \(weight: \[0.1",
                {},
            ),
            (
                cross_entropies(rare, common, DiceLoss),
                cross_entropies(common, rare, DiceLoss),
                r"CrossEntropyLoss_1 .* and CrossEntropyLoss_2 ",
                {},
            ),
            (dice([1, 2], None), dice(None, [1, 2]), r"DiceLoss_1 .* and DiceLoss_2 \(weight", {}),
            (
                mixes((0.8, 0.2), (0.2, 0.8)),
                mixes((0.2, 0.8), (0.8, 0.2)),
                r"MixedLoss_1/CrossEntropyLoss \(coef: 0.2\) and MixedLoss_2/Cross",
                {},
            ),
            (
                in_mixed(rare, common),
                in_mixed(common, rare),
                r"MixedLoss_1/CrossEntropyLoss .* and MixedLoss_2/CrossEntropyLoss ",
                {},
            ),
            (heads(rare, common), heads(common, rare), r"head0/Cross.* and head1/Cro", TWO_HEADS),
            (named(rare, DiceLoss), named(DiceLoss, rare), "a and b stand in another order", {}),
            (own(1, 2), own(2, 1), r"OwnLoss_1 \(power: 2\) and OwnLoss_2 \(power: 1\)", {}),
        ],
        ids=["weights", "three", "dice", "mixes", "in mixes", "heads", "names", "own"],
    )
    def test_is_an_error_that_names_both(self, before, after, names, options, tmp_path):
        run_training(tmp_path, 4, before, **options)
        with pytest.raises(CheckpointError, match=rf"^--resume_model: .*{names}") as caught:
            run_training(tmp_path, 8, after, resume_model="latest", **options)
        assert "\n" not in str(caught.value)
        run_training(tmp_path, 8, before, resume_model="latest", **options)

    def test_is_an_error_under_loss_aggregator(self, tmp_path):
        def losses(one, other):
            return lambda: [MixedLoss([one(), other()], [0.5, 0.5])]

        method = {"type": "AutoWeightedLoss"}
        train_jointly(tmp_path, 4, method, losses(rare, common))
        with pytest.raises(CheckpointError, match=r"CrossEntropyLoss_1 .* and CrossEntropyLoss_2 "):
            train_jointly(tmp_path, 8, method, losses(common, rare), resume_model="latest")

    def test_three_in_a_circle_are_swapped(self):
        options = [{"weight": [1.0, 0.0]}, {"weight": [0.5, 0.5]}, {"weight": None}]
        assert swapped_losses(options, options) is None
        assert swapped_losses(options, options[1:] + options[:1]) is not None


class TestHarmlessChanges:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (
                cross_entropies(CrossEntropyLoss, OhemCrossEntropyLoss),
                cross_entropies(
                    lambda: CrossEntropyLoss(ignore_index=255, weight=None),
                    lambda: OhemCrossEntropyLoss(thresh=0.7, min_kept=10000),
                ),
            ),
            (
                cross_entropies(rare, common),
                cross_entropies(rare, lambda: CrossEntropyLoss(weight=(0.5, 0.5))),
            ),
            (mixes((0.8, 0.2), (0.2, 0.8)), mixes((0.2, 0.8), (0.2, 0.8))),
            (cross_entropies(CrossEntropyLoss, CrossEntropyLoss),) * 2,
        ],
        ids=["defaults written out", "one changed", "coefficients changed", "twins"],
    )
    def test_run_goes_on(self, before, after, tmp_path):
        run_training(tmp_path, 4, before)
        _, types, _ = run_training(tmp_path, 8, after, resume_model="latest")
        assert (learned(types) != 1).all()

    def test_losses_may_count_their_calls(self, tmp_path):
        """The checkpoint was written by losses that had been called before."""
        run_training(tmp_path, 4, lambda: [AutoWeightedLoss([OwnLoss(1, 7), OwnLoss(2)])])
        run_training(tmp_path, 8, own(1, 2), resume_model="latest")

    def test_an_option_that_another_version_lacks_is_not_compared(self):
        saved = [{"weight": 1}, {"weight": 2}]
        assert swapped_losses([{"weight": 1, "new": 3}, {"weight": 2, "new": 4}], saved) is None


class TestCheckpointOfAnOlderVersion:
    """One that does not hold the options of its losses."""

    @pytest.fixture
    def without_options(self, tmp_path):
        def train(losses):
            run_training(tmp_path, 4, losses)
            path = tmp_path / "iter_4" / "model.pdopt"
            state = paddle.load(str(path))
            del state["paddleseg_autoloss"]["options"]
            paddle.save(state, str(path))
            (tmp_path / "iter_4" / "proof.json").unlink()

        return train

    def test_resumes_and_says_what_it_cannot_tell(self, without_options, tmp_path, capfd):
        without_options(cross_entropies(rare, common))
        run_training(tmp_path, 8, cross_entropies(rare, common), resume_model="latest")
        shown = capfd.readouterr().out
        assert "The checkpoint does not hold the options of its losses: CrossEntropyLoss_1" in shown

    def test_says_nothing_where_no_two_can_be_mixed_up(self, without_options, tmp_path, capfd):
        without_options(cross_entropies(rare, DiceLoss))
        run_training(tmp_path, 8, cross_entropies(rare, DiceLoss), resume_model="latest")
        assert "does not hold the options" not in capfd.readouterr().out


class TestOptions:
    def test_are_those_of_the_class_and_no_layer_of_paddle(self):
        loss = CrossEntropyLoss(weight=[0.25, 0.75], ignore_index=7)
        (term,) = terms_of({"types": [loss], "coef": [0.4]})
        assert options_of(term) == {
            "class": "CrossEntropyLoss",
            "coef": 0.4,
            "ignore_index": 7,
            "top_k_percent_pixels": 1.0,
            "avg_non_ignore": True,
            "EPS": 1e-8,
            "data_format": "NCHW",
            "weight": [0.25, 0.75],
        }

    def test_do_not_hold_what_is_learned_or_too_large(self):
        loss = OwnLoss(2)
        loss.sigma = loss.create_parameter([2])
        loss.register_buffer("average", paddle.zeros([3]))
        loss.table = np.zeros(5000)
        loss.inner = DiceLoss(smooth=3.0)
        loss.function = print
        (term,) = terms_of({"types": [loss], "coef": [1]})
        found = options_of(term)
        assert {"class": "OwnLoss", "power": 2, "inner.smooth": 3.0}.items() <= found.items()
        assert not {"sigma", "average", "table", "function", "training"} & found.keys()

    def test_are_the_same_in_another_process(self):
        code = (
            f"{SCRIPT_HEAD}"
            "import json\n"
            "from paddleseg.models.losses import CrossEntropyLoss\n"
            "from paddleseg_autoloss.integration.loss_options import options_of\n"
            "from paddleseg_autoloss.integration.terms import terms_of\n"
            "CrossEntropyLoss()\n"
            "losses = {'types': [CrossEntropyLoss(weight=[0.1, 0.9])], 'coef': [1]}\n"
            "print(json.dumps([options_of(term) for term in terms_of(losses)]))\n"
        )
        done = run_tool("-c", code)
        assert done.returncode == 0, done.stderr
        (term,) = terms_of({"types": [rare()], "coef": [1]})
        assert json.loads(done.stdout.splitlines()[-1]) == [options_of(term)]
