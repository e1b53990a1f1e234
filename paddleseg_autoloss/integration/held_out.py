"""Training images that are held out of training, for methods that learn from them."""

from __future__ import annotations

import copy
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddleseg.transforms import Compose
from paddleseg.utils import logger

from paddleseg_autoloss.checks import checked_integer, number_hint
from paddleseg_autoloss.data_checks import read_batch
from paddleseg_autoloss.data_checks.examination import classes_in
from paddleseg_autoloss.data_checks.randomness import seeded_randomness
from paddleseg_autoloss.data_checks.split import held_out_names
from paddleseg_autoloss.errors import CheckpointError, ConfigError, DataError, shown
from paddleseg_autoloss.integration.config_keys import check_keys

__all__ = [
    "DEFAULT_FRACTION",
    "HeldOut",
    "HeldOutBatches",
    "held_out_options",
    "hold_out",
    "needs_held_out",
    "split",
]

#: Share of the training images to hold out that errors and examples name.
DEFAULT_FRACTION = 0.1
#: What the losses of PaddleSeg read from a batch.
_ARRAYS = ("img", "label", "edge")
#: Transformed images stay in memory up to this size.
_CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class HeldOut:
    """Which training images are held out, and how they are read.

    Args:
        fraction: share of the training images, above 0 and at most 0.5.
        seed: seed of the split and of the order of the batches.
        batch_size: images in a batch; None for as many as in training.
        transforms: transforms of the images, or None for those of the validation images.
    """

    fraction: float = DEFAULT_FRACTION
    seed: int = 0
    batch_size: int | None = None
    transforms: Sequence[Any] | None = None


def held_out_options(value: Any) -> HeldOut | None:
    """Read the value of the config key ``held_out``.

    Args:
        value: a share, or a mapping with ``fraction``, ``seed`` and ``batch_size``, or None.

    Returns:
        The options, or None if no images are held out.

    Raises:
        ConfigError: the value is neither, or one of its parts is out of its range.
    """
    if value is None or isinstance(value, HeldOut):
        return value
    if not isinstance(value, dict):
        return HeldOut(_fraction("held_out", value))
    check_keys("held_out.", value, ("fraction", "seed", "batch_size"))
    if "fraction" not in value:
        raise ConfigError("held_out.fraction: expected a share of the training images, found none")
    batch_size = value.get("batch_size")
    return HeldOut(
        _fraction("held_out.fraction", value["fraction"]),
        checked_integer("held_out.seed", value.get("seed", 0), least=0),
        None if batch_size is None else checked_integer("held_out.batch_size", batch_size, least=1),
    )


def needs_held_out(method: str) -> str:
    """Return the error for a method that learns from held-out images, if there are none.

    Args:
        method: its name in a config.
    """
    return (
        f"held_out: expected a share of the training images such as {DEFAULT_FRACTION} for "
        f"{method}, which learns from images that are not trained on, found none"
    )


def _fraction(key: str, value: Any) -> float:
    is_share = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_share or not 0 < value <= 0.5:
        hint = number_hint(value)
        if is_share and value == 0:
            hint = "; remove the key to train on all images"
        raise ConfigError(
            f"{key}: expected a share above 0 and at most 0.5, found {shown(value)}{hint}"
        )
    return float(value)


def split(dataset: Any, fraction: float, seed: int) -> tuple[Any, Any]:
    """Split a data set into the images to train on and the images that are held out.

    The split depends on the names in the list and on the seed only, so it is the same after a
    resume and on all cards.  Images whose names show that they belong together stay together; see
    `paddleseg_autoloss.data_checks.split.groups_of`.

    Args:
        dataset: a data set of PaddleSeg, with a ``file_list`` of images and labels.
        fraction: share of the images to hold out, above 0 and at most 0.5.
        seed: seed of the split.

    Returns:
        Two data sets of the same class and attributes; ``dataset`` itself is left as it is.  An
        image that is listed several times is listed so in the first one, and once in the second.

    Raises:
        ConfigError: the data set has no list, or less than two images.
    """
    pairs = getattr(dataset, "file_list", None)
    if not pairs or len(pairs) != len(dataset):
        raise ConfigError(
            f"held_out: expected a train_dataset with a list of files, found "
            f"{type(dataset).__name__}, whose images cannot be divided; remove held_out"
        )
    if len({pair[0] for pair in pairs}) < 2:
        raise ConfigError("held_out: expected at least 2 training images, found 1")
    names, groups = held_out_names((pair[0] for pair in pairs), fraction, seed)
    rest = [pair for pair in pairs if pair[0] not in names]
    part = list({tuple(pair): pair for pair in pairs if pair[0] in names}.values())
    kept = f"; images that begin with {groups[0]} stay together" if groups else ""
    logger.info(
        f"held_out: {len(part)} images are held out of training, {len(rest)} are trained on{kept}"
    )
    return _with_list(dataset, rest), _with_list(dataset, part)


def _with_list(dataset: Any, pairs: list[Any]) -> Any:
    copied = copy.copy(dataset)
    copied.file_list = pairs
    return copied


def hold_out(
    train_dataset: Any, val_dataset: Any, options: HeldOut, batch_size: int
) -> tuple[Any, HeldOutBatches]:
    """Return the data set to train on, and the batches of the held-out images.

    Args:
        train_dataset: all training images.
        val_dataset: the validation images, or None; only their transforms are used.
        options: what to hold out.
        batch_size: images per card and step of training.

    Raises:
        ConfigError: the images cannot be divided, or no transforms of validation are known.
    """
    transforms = options.transforms
    if transforms is None:
        transforms = getattr(getattr(val_dataset, "transforms", None), "transforms", None)
    if transforms is None:
        raise ConfigError(
            "held_out: expected a val_dataset, whose transforms the held-out images go through, "
            "found none"
        )
    if not isinstance(getattr(train_dataset, "transforms", None), Compose):
        kind = type(train_dataset).__name__
        raise ConfigError(f"held_out: expected a data set of PaddleSeg to train on, found {kind}")
    rest, part = split(train_dataset, options.fraction, options.seed)
    _check_classes(rest, part)
    part.transforms = copy.copy(part.transforms)
    part.transforms.transforms = list(transforms)
    size = options.batch_size or batch_size
    return rest, HeldOutBatches(part, size, options.seed, training=rest)


def _check_classes(rest: Any, part: Any) -> None:
    """Warn of classes about which the held-out images, or those to train on, say nothing."""
    trained, held_out = classes_in("train_dataset", rest), classes_in("train_dataset", part)
    if trained is None or held_out is None:
        return
    if trained - held_out:
        logger.warning(
            f"held_out: no held-out image has the class(es) {_listed(trained - held_out)}, which "
            "the images to train on have; raise the fraction, or choose another seed"
        )
    if held_out - trained:
        logger.warning(
            f"held_out: only held-out images have the class(es) {_listed(held_out - trained)}, so "
            "the network is not trained on them; lower the fraction, or choose another seed"
        )


def _listed(classes: set[int]) -> str:
    return ", ".join(map(str, sorted(classes)))


class HeldOutBatches(Iterator[dict[str, Tensor]]):
    """An endless iterator of batches of held-out images.

    An image and its label, and its edges where training has them, go through the transforms of the
    validation images together, so a label has the size of its image.  An image that is larger than
    the images of training is cut to their size, at a place that the seed determines, so a batch
    needs no more memory than one of training.  If the images of a batch still differ in size, they
    are padded at the bottom and on the right: the image with 0, which is near the mean after
    ``Normalize``, and the label with ``ignore_index``.  Where transforms draw random numbers, they
    draw them from the seed, and the random state stays as it is.

    Each image is drawn once before any image is drawn again.  The batch depends on the seed, the
    number of batches before and the rank only: a resumed run goes on where it stopped, and several
    cards draw different images.

    Args:
        dataset: the held-out images, with the transforms of validation, in mode ``train``.
        batch_size: number of images in a batch; at most all of ``dataset`` are taken.
        seed: seed of the order, and of the places where images are cut.
        training: data set whose first image has the size of the images of training; None to cut
            no image.

    Attributes:
        drawn: number of batches drawn so far.

    Raises:
        DataError: an image or a label cannot be read, or a label has not the size of its image.
    """

    def __init__(self, dataset: Any, batch_size: int, seed: int = 0, training: Any = None) -> None:
        self.dataset = dataset
        self.batch_size = min(batch_size, len(dataset))
        self.seed = seed
        self.drawn = 0
        environment = paddle.distributed.ParallelEnv()
        self._rank, self._ranks = environment.rank, environment.nranks
        self._training = training
        self._largest: tuple[int, ...] = ()
        self._cache: dict[int, dict[str, np.ndarray]] = {}
        self._free = _CACHE_BYTES

    def state_dict(self) -> dict[str, int]:
        """Return the position, and what shows which images are held out, for a checkpoint."""
        paths = [os.path.abspath(pair[0]) for pair in self.dataset.file_list]
        folder = os.path.commonpath([os.path.dirname(path) for path in paths])
        names = sorted(os.path.relpath(path, folder) for path in paths)
        return {
            "drawn": self.drawn,
            "images": len(self.dataset),
            "seed": self.seed,
            "names": zlib.crc32("\n".join(names).encode("utf-8", "surrogatepass")),
        }

    def set_state_dict(self, state: dict[str, int]) -> None:
        """Go to the position of a checkpoint.

        Args:
            state: what `state_dict` returned; empty for a run that held out no images.

        Raises:
            CheckpointError: that run held out other images, so it trained on some of these.
        """
        own = self.state_dict()
        found = {name: state.get(name, 0) for name in own}
        if any(found[name] != own[name] for name in ("images", "seed", "names")):
            others = ", but others" if found["images"] == own["images"] else ""
            raise CheckpointError(
                f"--resume_model: expected a checkpoint that held out {own['images']} images with "
                f"seed {own['seed']}, found {found['images']} with seed {found['seed']}{others}, "
                "so images that are held out now were trained on; set held_out, and the list of "
                "train_dataset, as in the run that wrote it"
            )
        self.drawn = int(state["drawn"])

    def __next__(self) -> dict[str, Tensor]:
        """Return the next batch: ``img``, ``label`` and perhaps ``edge``."""
        start = (self.drawn * self._ranks + self._rank) * self.batch_size
        places = range(start, start + self.batch_size)
        samples = [self._cut(self._sample(self._index(place)), place) for place in places]
        self.drawn += 1
        heights, widths = zip(*(sample["img"].shape[-2:] for sample in samples))
        size = (max(heights), max(widths))
        return {
            name: paddle.to_tensor(np.stack([self._padded(s[name], name, size) for s in samples]))
            for name in samples[0]
        }

    def _index(self, place: int) -> int:
        """Return the image at a place of the endless sequence of shuffled passes."""
        turn, position = divmod(place, len(self.dataset))
        return int(
            np.random.default_rng([self.seed, turn]).permutation(len(self.dataset))[position]
        )

    def _sample(self, index: int) -> dict[str, np.ndarray]:
        if index in self._cache:
            return self._cache[index]
        with seeded_randomness(self.seed, index):
            batch = read_batch(self.dataset, [index])
        arrays = {name: np.asarray(batch[name])[0] for name in _ARRAYS if name in batch}
        image, label = arrays["img"].shape[-2:], arrays["label"].shape[-2:]
        if image != label:
            raise DataError(
                f"held_out: expected a label of the size of its image, {_text(image)}, found "
                f"{_text(label)} in {self.dataset.file_list[index][1]}"
            )
        size = sum(array.nbytes for array in arrays.values())
        if size <= self._free:
            self._free -= size
            self._cache[index] = arrays
        return arrays

    def _cut(self, sample: dict[str, np.ndarray], place: int) -> dict[str, np.ndarray]:
        """Cut a sample to the size of the training images, where it is larger."""
        if self._training is None:
            return sample
        if not self._largest:
            with seeded_randomness(self.seed):
                batch = read_batch(self._training, [0])
            self._largest = np.asarray(batch["img"]).shape[-2:]
        random = np.random.default_rng([self.seed, place, 1])
        slices: list[Any] = [...]
        for length, most in zip(sample["img"].shape[-2:], self._largest):
            first = int(random.integers(0, max(length - most, 0) + 1))
            slices.append(slice(first, first + most))
        return {name: array[tuple(slices)] for name, array in sample.items()}

    def _padded(self, array: np.ndarray, name: str, size: tuple[int, int]) -> np.ndarray:
        missing = [most - length for most, length in zip(size, array.shape[-2:])]
        if not any(missing):
            return array
        widths = [(0, 0)] * (array.ndim - 2) + [(0, count) for count in missing]
        value = 0 if name == "img" else getattr(self.dataset, "ignore_index", 255)
        return np.pad(array, widths, constant_values=value)


def _text(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
