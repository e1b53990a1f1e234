"""Training images that are held out: PaddleSeg's loop never reads them, and their batches."""

from __future__ import annotations

import copy
import random
from collections import Counter
from unittest import mock

import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import SegBuilder
from paddleseg.datasets import Dataset
from paddleseg.transforms import Normalize, RandomPaddingCrop, Resize
from PIL import Image
from support.data import square, write_config, write_data
from support.processes import RANK_HEAD, launched
from support.training import Squares, TinyNet, adam, ce_and_dice, without_pictures

import paddleseg_autoloss
from paddleseg_autoloss.data_checks import examination
from paddleseg_autoloss.errors import CheckpointError, ConfigError, DataError
from paddleseg_autoloss.integration import training
from paddleseg_autoloss.integration.config import load_config
from paddleseg_autoloss.integration.held_out import (
    HeldOut,
    HeldOutBatches,
    held_out_options,
    hold_out,
    split,
)


def names(dataset) -> list[str]:
    return [pair[0] for pair in dataset.file_list]


def made(folder, transforms=None, kind=Dataset, mode="train"):
    """A data set of the images in a folder."""
    options = {"dataset_root": str(folder), f"{mode}_path": str(folder / "train.txt")}
    return kind(mode=mode, num_classes=2, transforms=transforms or [Normalize()], **options)


@pytest.fixture
def squares(tmp_path):
    """Eight images of 32 x 32 with labels."""
    write_data(tmp_path, [square()] * 8)
    return made(tmp_path)


class Reads(Dataset):
    """A data set that notes what is read from it; copies of it share the notes."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.read: list[str] = []

    def __getitem__(self, index):
        self.read.append(self.file_list[index][0])
        return super().__getitem__(index)


def train(dataset, folder, held_out, iters, checkpoint=None):
    losses = {"types": [paddleseg_autoloss.AutoWeightedLoss(ce_and_dice())], "coef": [1]}
    sessions = []
    stock = training.TrainingSession

    def session(**arguments):
        # The checks before training read all labels.
        if isinstance(dataset, Reads):
            dataset.read.clear()
        sessions.append(stock(**arguments))
        return sessions[-1]

    patched = mock.patch.object(training, "TrainingSession", session)
    with paddle.utils.unique_name.guard(), without_pictures(), patched:
        model = TinyNet()
        training.train(
            model, dataset, optimizer=adam(model), save_dir=str(folder), iters=iters, batch_size=2,
            save_interval=iters, log_iters=iters, losses={**losses, "held_out": held_out},
            resume_model=checkpoint,
        )  # fmt: skip
    return sessions[0]


def test_the_loop_reads_no_held_out_image(tmp_path):
    write_data(tmp_path, [square()] * 8)
    dataset = made(tmp_path, kind=Reads)
    rest, part = split(dataset, 0.25, seed=0)
    held_out = HeldOut(0.25, transforms=[Normalize()])
    session = train(dataset, tmp_path / "run", held_out, iters=6)
    # Six images make three batches, so six iterations are two passes.  The loader reads ahead.
    assert set(dataset.read) == set(names(rest))
    assert Counter(dataset.read[:12]) == dict.fromkeys(names(rest), 2)
    batches = session.losses["held_out"]
    dataset.read.clear()
    for _ in range(4):
        next(batches)
    # The first image of training shows the size of its images.
    assert set(dataset.read) == {*names(part), names(rest)[0]}
    assert len(names(dataset)) == 8


def test_split_keeps_what_is_listed_twice_together(squares):
    squares.file_list = squares.file_list * 3
    rest, part = split(squares, 0.25, seed=0)
    assert set(Counter(names(rest)).values()) == {3}
    assert set(Counter(names(part)).values()) == {1}
    assert not set(names(rest)) & set(names(part))
    assert (rest.num_classes, rest.ignore_index, rest.edge) == (2, 255, False)


def test_each_image_is_drawn_once_in_a_pass(squares):
    batches = HeldOutBatches(squares, batch_size=2, seed=1)
    images = [squares[index]["img"] for index in range(8)]

    def drawn():
        rows = np.concatenate([next(batches)["img"].numpy() for _ in range(4)])
        return [next(i for i, image in enumerate(images) if (image == row).all()) for row in rows]

    first, second = drawn(), drawn()
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second


def test_a_resumed_run_draws_the_same_batches(squares):
    whole = HeldOutBatches(squares, batch_size=3, seed=1)
    drawn = [next(whole)["img"].numpy() for _ in range(7)]
    start = HeldOutBatches(squares, batch_size=3, seed=1)
    for _ in range(4):
        next(start)
    resumed = HeldOutBatches(squares, batch_size=3, seed=1)
    resumed.set_state_dict(start.state_dict())
    for expected in drawn[4:]:
        np.testing.assert_array_equal(next(resumed)["img"].numpy(), expected)


def test_images_that_no_method_learns_from(squares, tmp_path, capsys):
    train(squares, tmp_path / "a", HeldOut(0.25, transforms=[Normalize()]), iters=1)
    assert "no method of this config learns from held-out images" in capsys.readouterr().out
    train(squares, tmp_path / "b", None, iters=1)
    assert "no method of this config" not in capsys.readouterr().out


def held_out_now(session) -> list:
    return session.losses["held_out"].dataset.file_list


def test_the_position_is_in_the_checkpoint(squares, tmp_path):
    """And a run that trained on images that are held out now is not resumed."""
    held_out = HeldOut(0.25, transforms=[Normalize()])
    session = train(squares, tmp_path, held_out, iters=1)
    session.losses["held_out"].drawn = 5
    saved = session.state.save({}, {"seed": 0})
    resumed = train(squares, tmp_path / "other", held_out, iters=1)
    resumed.state.load(saved)
    assert resumed.losses["held_out"].drawn == 5
    checkpoint = str(tmp_path / "iter_1")
    with pytest.raises(
        CheckpointError,
        match=r"^--resume_model: expected .* held out 4 images with seed 0, found 2 with seed 0",
    ):
        train(squares, tmp_path, HeldOut(0.5, transforms=[Normalize()]), 2, checkpoint)
    shorter = copy.copy(squares)
    shorter.file_list = [pair for pair in squares.file_list if pair != held_out_now(session)[0]]
    with pytest.raises(CheckpointError, match="found 2 with seed 0, but others, so images"):
        train(shorter, tmp_path, HeldOut(0.25, transforms=[Normalize()]), 2, checkpoint)
    plain = train(squares, tmp_path / "plain", None, iters=1)
    with pytest.raises(CheckpointError, match="found 0 with seed 0"):
        resumed.state.load(plain.state.save({}, {"seed": 0}))


class TestSizes:
    def test_labels_are_resized_with_their_images(self, tmp_path):
        """`val_dataset` itself leaves labels as large as they are."""
        write_data(tmp_path, [square(size=64)] * 4)
        val = made(tmp_path, [Resize((32, 32)), Normalize()], mode="val")
        rest, batches = hold_out(made(tmp_path), val, HeldOut(0.5), batch_size=2)
        batch = next(batches)
        assert batch["img"].shape == [2, 3, 32, 32]
        np.testing.assert_array_equal(batch["label"].numpy(), [square(size=32)] * 2)
        assert val[0]["label"].shape == (1, 64, 64)
        assert len(rest) == 2
        assert rest[0]["img"].shape == (3, 64, 64)

    def test_larger_images_are_cut_to_the_size_of_training(self, tmp_path):
        values = np.random.default_rng(0).integers(0, 255, (48, 64), dtype="uint8")
        write_data(tmp_path, [values] * 2)
        for index in range(2):
            Image.fromarray(np.stack([values] * 3, axis=-1)).save(tmp_path / f"{index}.png")
        training = made(tmp_path, [RandomPaddingCrop((32, 24)), Normalize()])
        batches = HeldOutBatches(made(tmp_path), 1, training=training)
        parts = [next(batches) for _ in range(8)]
        for part in parts:
            assert part["img"].shape == [1, 3, 24, 32]
            # Normalize takes 0 to 255 to -1 to 1.
            pixels = part["img"].numpy()[:, 0] * 127.5 + 127.5
            np.testing.assert_allclose(pixels, part["label"].numpy(), atol=1e-3)
        assert len({part["label"].numpy().tobytes() for part in parts}) > 1

    def test_images_of_other_sizes_are_padded(self, tmp_path):
        write_data(tmp_path, [square(size=16), square(size=24)])
        dataset = made(tmp_path)
        batch = next(HeldOutBatches(dataset, 2))
        small = int(batch["label"].numpy()[0, -1, -1] != 255)
        images, labels = (batch[name].numpy()[small] for name in ("img", "label"))
        np.testing.assert_array_equal(images[:, :16, :16], dataset[0]["img"])
        np.testing.assert_array_equal(labels[:16, :16], square(size=16))
        assert (images[:, 16:] == 0).all()
        assert (images[:, :, 16:] == 0).all()
        assert (labels[16:] == 255).all()
        assert (labels[:, 16:] == 255).all()

    def test_edges_come_along(self, tmp_path):
        write_data(tmp_path, [square()] * 4)
        dataset = made(tmp_path)
        dataset.edge = True
        _, batches = hold_out(dataset, made(tmp_path, mode="val"), HeldOut(0.5), batch_size=2)
        np.testing.assert_array_equal(next(batches)["edge"].numpy()[0], dataset[0]["edge"])


def test_ranks_draw_different_images(squares):
    drawn = []
    for rank in range(2):
        environment = mock.Mock(rank=rank, nranks=2)
        with mock.patch("paddle.distributed.ParallelEnv", return_value=environment):
            batches = HeldOutBatches(squares, batch_size=2, seed=0)
        drawn += [row.tobytes() for _ in range(2) for row in next(batches)["img"].numpy()]
    assert len(set(drawn)) == 8


def test_images_are_read_once_while_memory_lasts(tmp_path, monkeypatch):
    write_data(tmp_path, [square()] * 4)
    dataset = made(tmp_path, kind=Reads)
    # An image of float32 with 3 channels, and its label.
    room = 2 * 32 * 32 * (3 * 4 + 1)
    monkeypatch.setattr("paddleseg_autoloss.integration.held_out._CACHE_BYTES", room)
    batches = HeldOutBatches(dataset, batch_size=4)
    for _ in range(3):
        next(batches)
    assert sorted(Counter(dataset.read).values()) == [1, 1, 3, 3]


#: How transforms draw a number from 0 to 7.
DRAWS = {
    "python": lambda: random.randrange(8),
    "numpy": lambda: np.random.randint(8),
    "paddle": lambda: int(paddle.randint(8, shape=[])),
}


class RandomSize(Resize):
    """A transform to one of eight sizes."""

    def __init__(self, draw) -> None:
        super().__init__()
        self._draw = draw

    def __call__(self, data):
        self.target_size = (8 + self._draw(), 8 + self._draw())
        return super().__call__(data)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
class TestRandomTransforms:
    """What is drawn depends on the seed, the batches before and the rank, however they draw."""

    def other_states(self):
        for seed in range(4):
            random.seed(seed)
            np.random.seed(seed)
            paddle.seed(seed)
            yield seed

    def test_training_of_random_sizes(self, squares, tmp_path, draw):
        training = made(tmp_path, [RandomSize(draw), Normalize()])
        found = {
            next(HeldOutBatches(squares, 2, training=training))["img"].numpy().tobytes()
            for _ in self.other_states()
        }
        assert len(found) == 1
        sizes = {
            tuple(next(HeldOutBatches(squares, 1, seed, training))["img"].shape)
            for seed in range(8)
        }
        assert len(sizes) > 1

    def test_held_out_images_of_random_sizes(self, squares, draw):
        """A resumed run has no image in memory."""
        squares.transforms.transforms = [RandomSize(draw), Normalize()]
        whole = HeldOutBatches(squares, batch_size=1)
        drawn = [next(whole)["img"].numpy() for _ in range(10)]
        assert len({image.shape for image in drawn}) > 1
        for start in self.other_states():
            resumed = HeldOutBatches(squares, batch_size=1)
            resumed.drawn = start
            for expected in drawn[start:]:
                np.testing.assert_array_equal(next(resumed)["img"].numpy(), expected)

    def test_the_random_state_stays(self, squares, tmp_path, draw):
        squares.transforms.transforms = [RandomSize(draw), Normalize()]
        training = made(tmp_path, [RandomSize(draw), Normalize()])
        drawn = []
        for reads in (False, True):
            next(self.other_states())
            if reads:
                next(HeldOutBatches(squares, batch_size=2, training=training))
            drawn.append([draw() for _ in range(8)])
        assert drawn[0] == drawn[1]


def test_classes_without_a_held_out_image_are_named(tmp_path, capsys):
    """Only one of four images has class 1, and one is held out."""
    write_data(tmp_path, [square(value=0)] * 3 + [square()])
    named = []
    for seed in range(6):
        hold_out(made(tmp_path), made(tmp_path, mode="val"), HeldOut(0.25, seed), batch_size=1)
        _, part = split(made(tmp_path), 0.25, seed)
        named.append("no held-out image has the class(es) 1" in capsys.readouterr().out)
        assert named[-1] == (not names(part)[0].endswith("3.png"))
    assert set(named) == {True, False}


def test_classes_without_an_image_to_train_on_are_named(tmp_path, capsys):
    write_data(tmp_path, [square(value=0)] * 3 + [square()])
    for seed in range(6):
        hold_out(made(tmp_path), made(tmp_path, mode="val"), HeldOut(0.25, seed), batch_size=1)
        _, part = split(made(tmp_path), 0.25, seed)
        is_named = "only held-out images have the class(es) 1" in capsys.readouterr().out
        assert is_named == names(part)[0].endswith("3.png")


def test_classes_that_are_not_known_are_not_named(tmp_path, capsys, monkeypatch):
    """Too many images to look at all of them are left to train on, but few are held out."""
    monkeypatch.setattr(examination, "MOST_FILES", 2)
    write_data(tmp_path, [square()] * 4)
    hold_out(made(tmp_path), made(tmp_path, mode="val"), HeldOut(0.25), batch_size=1)
    assert "held-out images have the class" not in capsys.readouterr().out


def test_the_key_of_a_config(tmp_path):
    """Without ``--do_eval`` the loop gets no `val_dataset`, but the config has its transforms."""
    root = tmp_path / "data"
    write_data(root, [square()] * 8)
    resize = [{"type": "Resize", "target_size": [16, 16]}, {"type": "Normalize"}]
    path = write_config(root, held_out={"fraction": 0.25, "seed": 1, "batch_size": 1})
    config = load_config(str(path), opts=[f"val_dataset.transforms={resize}"])
    losses = SegBuilder(config).loss
    session = train(made(root), tmp_path / "run", losses["held_out"], iters=1)
    batches = session.losses["held_out"]
    assert (batches.batch_size, batches.seed, len(batches.dataset)) == (1, 1, 2)
    assert next(batches)["img"].shape == [1, 3, 16, 16]
    with pytest.raises(
        ConfigError, match=r"^held_out: only paddleseg\.core\.train applies this key"
    ):
        losses["types"][0](paddle.rand([1, 2, 4, 4]), paddle.zeros([1, 4, 4], "int64"))


ERRORS = [
    (0, "held_out: expected a share above 0 and at most 0.5, found 0; remove the key to tr"),
    (0.6, "held_out: expected a share above 0 and at most 0.5, found 0.6"),
    (float("nan"), "held_out: expected a share above 0 and at most 0.5, found nan"),
    (True, "held_out: expected a share above 0 and at most 0.5, found True"),
    ("0.1", "held_out: expected a share above 0 and at most 0.5, found '0.1'; it is text: write"),
    ({"fraction": "1e-1"}, "held_out.fraction: expected a share .* found '1e-1'; it is text"),
    ([0.1], r"held_out: expected a share above 0 and at most 0.5, found \[0.1\]"),
    ({}, "held_out.fraction: expected a share of the training images, found none"),
    ({"fraction": None}, "held_out.fraction: expected a share above 0 and at most 0.5, found"),
    ({"fraktion": 0.1}, "held_out.fraktion: .* did you mean fraction?"),
    ({"fraction": 0.1, "seed": -1}, "held_out.seed: expected an integer of at least 0, found -1"),
    ({"fraction": 0.1, "batch_size": 0}, "held_out.batch_size: expected a positive integer, fo"),
]


@pytest.mark.parametrize(("value", "message"), ERRORS)
def test_bad_values(value, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        held_out_options(value)


def test_good_values():
    assert held_out_options(None) is None
    assert held_out_options(0.5) == HeldOut(0.5, 0, None)
    mapping = {"fraction": 0.2, "seed": 3, "batch_size": 4}
    assert held_out_options(mapping) == HeldOut(0.2, 3, 4)


def test_data_sets_that_cannot_be_divided(tmp_path):
    write_data(tmp_path, [square()])
    val = made(tmp_path, mode="val")
    with pytest.raises(ConfigError, match=r"^held_out: expected at least 2 training images"):
        hold_out(made(tmp_path), val, HeldOut(), batch_size=1)
    with pytest.raises(ConfigError, match=r"^held_out: expected a val_dataset, whose transforms"):
        hold_out(made(tmp_path), None, HeldOut(), batch_size=1)
    with pytest.raises(ConfigError, match=r"^held_out: expected .* found Squares"):
        hold_out(Squares(), val, HeldOut(), batch_size=1)
    squares = made(tmp_path)
    squares.file_list = []
    with pytest.raises(
        ConfigError, match=r"^held_out: expected .* with a list of files, found Dat"
    ):
        split(squares, 0.1, seed=0)


def test_too_few_images_are_left(squares, tmp_path):
    held_out = HeldOut(0.5, transforms=[Normalize()])
    squares.file_list = squares.file_list[:3]
    with pytest.raises(
        ConfigError,
        match=r"^batch_size: expected at most 1, as train_dataset has 1 images that are not held_o",
    ):
        train(squares, tmp_path / "run", held_out, iters=1)


def test_a_file_that_cannot_be_read_is_named(squares):
    batches = HeldOutBatches(squares, batch_size=8)
    with open(squares.file_list[3][0], "wb"):
        pass
    with pytest.raises(DataError, match=r"^train_dataset: cannot read .*/3\.png with .*3_label"):
        next(batches)


def test_a_label_of_another_size_is_named(squares):
    Image.fromarray(square(size=16)).save(squares.file_list[3][1])
    with pytest.raises(
        DataError, match=r"^held_out: expected a label .* 32 x 32, found 16 x 16 in .*3_label"
    ):
        next(HeldOutBatches(squares, batch_size=8))


SCRIPT = (
    RANK_HEAD
    + """
from paddleseg.datasets import Dataset
from paddleseg.transforms import Normalize
from paddleseg_autoloss.integration.held_out import HeldOut, hold_out

paddle.distributed.init_parallel_env()
dataset = Dataset("train", str(folder), [Normalize()], 2, train_path=str(folder / "train.txt"))
if rank:
    dataset.file_list.reverse()
rest, batches = hold_out(dataset, dataset, HeldOut(0.5), batch_size=1)
sums = [float(next(batches)["img"].sum()) for _ in "ab"]
report({"rest": sorted(rest.file_list), "sums": sums})
"""
)


def test_two_ranks(tmp_path):
    """They train on the same images, and draw all four held-out images between them."""
    write_data(tmp_path, [square()] * 8)
    first, second = launched(tmp_path, SCRIPT)
    assert first["rest"] == second["rest"]
    assert len({*first["sums"], *second["sums"]}) == 4
