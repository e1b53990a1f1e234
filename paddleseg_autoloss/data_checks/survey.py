"""Checks the files of a data set in parallel, and only those that have changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import paddleseg
from PIL import Image

from paddleseg_autoloss.data_checks.cache import Memory
from paddleseg_autoloss.data_checks.labels import Facts, LabelReader
from paddleseg_autoloss.data_checks.parallel import in_threads
from paddleseg_autoloss.data_checks.randomness import preserve_randomness

__all__ = ["MOST_FILES", "Sample", "chosen_samples", "survey"]

#: Most samples that are checked before training; of more, this many are spread over the list.
MOST_FILES = 2000

#: Increase it with every change of the content of `Facts`.
_VERSION = 2


@dataclass(frozen=True)
class Sample:
    """An image and its label.

    Args:
        index: index in the data set.
        image: path of the image.
        label: path of the label, or None.
        where: list file and line that name them, or an empty text.
    """

    index: int
    image: str
    label: str | None
    where: str = ""


def chosen_samples(samples: Sequence[Sample], most: int | None) -> list[Sample]:
    """Return all samples, or ``most`` samples that are evenly spread over the list."""
    if most is None or len(samples) <= most:
        return list(samples)
    return [samples[i] for i in np.linspace(0, len(samples) - 1, most).astype(int)]


def survey(
    key: str, reader: LabelReader, samples: Sequence[Sample], root: str, decode: bool = False
) -> list[Facts]:
    """Check samples; if their files have not changed since the last check, use its results.

    Args:
        key: config key of the data set, for the progress bar.
        reader: the reader of the labels.
        samples: the samples to check, whose files exist.
        root: folder of the data set.
        decode: whether to decode the images too.

    Returns:
        The facts, in the order of ``samples``.
    """
    if not reader.is_paddleseg:
        # The user's code may change between two runs, and may not be thread-safe.
        with preserve_randomness():
            return _look(key, reader, samples, decode, threads=1)
    version = f"{_VERSION} {paddleseg.__version__} {reader.name} {os.path.abspath(root)}"
    memory = Memory(f"{version} {Image.MAX_IMAGE_PIXELS}")
    states = {sample: _state(sample) for sample in samples}
    known = _known(memory.load(), states, decode)
    missing = [sample for sample in samples if sample not in known]
    with memory.locked() if missing else nullcontext():
        if missing:
            entries = memory.load()
            known |= _known(entries, states, decode)
            missing = [sample for sample in samples if sample not in known]
        if missing:
            found = _look(key, reader, missing, decode)
            known |= zip(missing, found)
            # What cannot be read now may be readable later, without a change of the file.
            new = {
                _name(sample): [states[sample], asdict(facts)]
                for sample, facts in zip(missing, found)
                if not (facts.image_error or facts.label_error)
            }
            memory.save(entries | new)
    return [known[sample] for sample in samples]


def _look(
    key: str,
    reader: LabelReader,
    samples: Sequence[Sample],
    decode: bool,
    threads: int | None = None,
) -> list[Facts]:
    def facts(sample: Sample) -> Facts:
        return reader.facts(sample.index, decode)

    return list(in_threads(facts, samples, f"{key}: labels", threads))


def _name(sample: Sample) -> str:
    return f"{sample.image}\n{sample.label}"


def _state(sample: Sample) -> list[int]:
    """Return size and modification time of both files."""
    paths = [path for path in (sample.image, sample.label) if path is not None]
    status = [os.stat(path) for path in paths]
    return [number for one in status for number in (one.st_size, one.st_mtime_ns)]


def _known(
    entries: dict[str, Any], states: dict[Sample, list[int]], decode: bool
) -> dict[Sample, Facts]:
    known = {}
    for sample, state in states.items():
        facts = _facts_of_entry(entries.get(_name(sample)), state)
        if facts is not None and (facts.decoded or not decode):
            known[sample] = facts
    return known


def _facts_of_entry(entry: Any, state: list[int]) -> Facts | None:
    """Return the facts in an entry, or None if it is damaged or its files have changed."""
    if not (isinstance(entry, list) and len(entry) == 2 and entry[0] == state):
        return None
    try:
        facts = Facts(**entry[1])
        texts = (facts.image_error, facts.label_error, facts.dtype)
        lists = (facts.image_size, facts.label_shape)
        sound = all(isinstance(text, str) for text in texts) and all(
            isinstance(number, int) for numbers in lists for number in numbers
        )
        counts = {str(int(value)): int(number) for value, number in facts.counts.items()}
    except (TypeError, ValueError, AttributeError):
        return None
    return facts if sound and counts == facts.counts else None
