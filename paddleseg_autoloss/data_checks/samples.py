"""Samples of which a reader can pass on even the failed ones."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import paddle
from paddle.io.dataloader.collate import default_collate_fn
from paddleseg.transforms import Compose

from paddleseg_autoloss.data_checks.image_limit import describe
from paddleseg_autoloss.errors import DataError

__all__ = ["Batches", "Samples", "read_batch", "without_failures"]

#: Key of a failed batch that contains the error text.
_FAILURE = "paddleseg_autoloss_failure"

_MOST_TEXT = 300
#: Types of arrays that Paddle converts to tensors; for others its loader waits forever or dies.
_TYPES = {"bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"}
_TYPES |= {"uint16"}
#: The notes of a process: its id, and its current sample and transform, or -1.
_NOTES = 3


class _Failure:
    """Replaces a sample that could not be read.

    Args:
        text: the error text.
    """

    def __init__(self, text: str) -> None:
        self.text = text


class Samples(paddle.io.Dataset):
    """The samples of a data set with their indices, and a `_Failure` for those that fail.

    Args:
        dataset: the data set.
        num_workers: number of processes that read from it; 0 for a thread.
    """

    def __init__(self, dataset: Any, num_workers: int) -> None:
        super().__init__()
        self.dataset = dataset
        self.key = "val_dataset" if getattr(dataset, "mode", "") == "val" else "train_dataset"
        compose = getattr(dataset, "transforms", None)
        self.steps = list(compose.transforms) if isinstance(compose, Compose) else []
        self._notes = multiprocessing.RawArray("q", _NOTES * num_workers)
        self._noting: _Notes | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        self._note(index)
        try:
            return index, self.dataset[index]
        # SystemExit would end a reader like any other error.
        except (Exception, SystemExit) as error:
            reason = _what_failed(error, self.steps)
            return index, _Failure(f"{self.key}: cannot read {self.files(index)}: {reason}")
        finally:
            self._note(-1)

    def files(self, *indices: int) -> str:
        """Return the names of the files of some samples."""
        paths = getattr(self.dataset, "file_list", None)
        names = (
            " with ".join(map(str, filter(None, paths[i]))) if paths else f"sample {i}"
            for i in indices
        )
        return " and ".join(names)

    def _note(self, index: int) -> None:
        worker = paddle.io.get_worker_info()
        if worker is None:
            return
        if self._noting is None:
            # This process has its own copy of the data set.
            self._noting = _Notes(self._notes, worker.id)
            if self.steps:
                steps = [_Noted(step, i, self._noting) for i, step in enumerate(self.steps)]
                self.dataset.transforms.transforms = steps
        self._noting.write([os.getpid(), index, -1])

    def describe_death(self, process: int, status: int) -> str:
        """Describe how a process ended and what it was reading.

        Args:
            process: its id.
            status: its exit status, or the negative number of the signal that ended it.
        """
        how = f"was killed by {_signal_name(-status)}" if status < 0 else f"left with {status}"
        place = ""
        for row in range(0, len(self._notes), _NOTES):
            noted, sample, step = self._notes[row : row + _NOTES]
            if noted == process and sample >= 0:
                name = type(self.steps[step]).__name__ if step >= 0 else "reading"
                place = f" at {self.files(sample)}, in {name}"
        return (
            f"{self.key}: a process that loads data {how}{place}; if memory is short, lower "
            "--num_workers or batch_size"
        )


class _Notes:
    """A row of the memory that the processes of a loader share.

    Args:
        memory: all rows.
        row: the row of this process.
    """

    def __init__(self, memory: Any, row: int) -> None:
        self._memory, self._start = memory, row * _NOTES

    def write(self, notes: list[int]) -> None:
        """Store process, sample and transform."""
        self._memory[self._start : self._start + _NOTES] = notes

    def write_step(self, step: int) -> None:
        """Store the next transform of the same sample."""
        self._memory[self._start + _NOTES - 1] = step


class _Noted:
    """A transform that stores in the notes that it is running.

    Args:
        transform: the transform.
        step: its index among the transforms.
        notes: the notes of this process.
    """

    def __init__(self, transform: Any, step: int, notes: _Notes) -> None:
        self._transform, self._step, self._notes = transform, step, notes

    def __call__(self, sample: Any) -> Any:
        self._notes.write_step(self._step)
        return self._transform(sample)


class Batches:
    """Combines samples to a batch, or returns a failed batch.

    Args:
        samples: the data set of the samples.
        collate: function that makes a batch of samples.
    """

    def __init__(self, samples: Samples, collate: Any) -> None:
        self._samples, self._collate = samples, collate

    def __call__(self, pairs: Sequence[tuple[int, Any]]) -> Any:
        """Return the batch of some samples, or a failed batch with the error text."""
        failures = [sample.text for _, sample in pairs if isinstance(sample, _Failure)]
        if failures:
            return _failed_batch(failures[0])
        indices, samples = [index for index, _ in pairs], [sample for _, sample in pairs]
        where = f"{self._samples.key}: cannot read {self._samples.files(*indices)}"
        try:
            batch = self._collate(samples)
        except (Exception, SystemExit) as error:
            return _failed_batch(self._mismatch(indices, samples) or f"{where}: {_reason(error)}")
        for name, value in batch.items() if isinstance(batch, dict) else ():
            if isinstance(value, np.ndarray) and value.dtype.name not in _TYPES:
                text = f"{name!r} has type {value.dtype.name}, which cannot become a tensor"
                return _failed_batch(f"{where}: {text}")
        return batch

    def _mismatch(self, indices: Sequence[int], samples: Sequence[Any]) -> str | None:
        """Return an error text with two samples whose arrays differ in shape, or None."""
        if not all(isinstance(sample, dict) for sample in samples):
            return None
        arrays = {k: v for k, v in samples[0].items() if isinstance(v, np.ndarray)}
        for name, value in arrays.items():
            for index, sample in zip(indices, samples):
                other = sample.get(name)
                if isinstance(other, np.ndarray) and other.shape != value.shape:
                    steps = ", ".join(type(step).__name__ for step in self._samples.steps)
                    first, second = (" x ".join(map(str, x.shape)) for x in (value, other))
                    return (
                        f"{self._samples.key}.transforms: expected images that make a batch, found "
                        f"{name!r} of the shapes {first} and {second} after "
                        f"{steps or 'no transforms'}, from "
                        f"{self._samples.files(indices[0], index)}; add Resize or "
                        "RandomPaddingCrop, or set batch_size to 1"
                    )
        return None


def read_batch(dataset: Any, indices: Iterable[int]) -> Any:
    """Read samples in this process, and combine them as Paddle's loader does.

    Args:
        dataset: the data set.
        indices: indices of the samples.

    Raises:
        DataError: a sample cannot be read, or the samples do not fit together.
    """
    samples = Samples(dataset, num_workers=0)
    batch = Batches(samples, default_collate_fn)([samples[index] for index in indices])
    return next(without_failures(iter([batch])))


def without_failures(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches of a reader; raise an error at a failed one.

    Args:
        batches: the batches from a reader.

    Raises:
        DataError: a sample could not be read.
    """
    for batch in batches:
        failure = batch.get(_FAILURE) if isinstance(batch, dict) else None
        if failure is not None:
            # The traceback must not keep the reader alive.
            del batches
            raise DataError(failure)
        yield batch


def _failed_batch(text: str) -> dict[str, Any]:
    return {_FAILURE: text, "img": np.zeros(1, "float32")}


def _what_failed(error: BaseException, steps: Sequence[Any]) -> str:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in frames:
        owner = frame.f_locals.get("self")
        if any(owner is step for step in steps):
            return f"{type(owner).__name__} failed: {_reason(error)}"
    sample = frames[-1].f_locals.get("data", {})
    if frames[-1].f_code is Compose.__call__.__code__ and isinstance(sample.get("img"), str):
        return "OpenCV cannot decode the image"
    return f"reading failed: {_reason(error)}"


def _reason(error: BaseException) -> str:
    # The name of OpenCV's error class is just "error".
    name = "" if type(error).__name__ == "error" else f"{type(error).__name__}: "
    return f"{name}{describe(error)}"[:_MOST_TEXT]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
