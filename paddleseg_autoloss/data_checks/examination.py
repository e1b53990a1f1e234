"""Checks of all images and labels of a data set before training."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from paddleseg.utils import logger

from paddleseg_autoloss.data_checks.findings import Finding, Labels, findings_in
from paddleseg_autoloss.data_checks.images import check_image
from paddleseg_autoloss.data_checks.labels import Facts, reader_of
from paddleseg_autoloss.data_checks.lists import ListFile
from paddleseg_autoloss.data_checks.survey import MOST_FILES, Sample, chosen_samples, survey
from paddleseg_autoloss.errors import DataError, one_line

__all__ = ["check_data", "check_files", "classes_in", "examine", "foreign_transform"]

#: Transforms of PaddleSeg that call OpenCV with the labels of every image.
_MOVING = frozenset(
    {
        "Padding", "RandomAffine", "RandomRotation", "Resize", "ResizeByLong", "ResizeByShort",
        "ResizeRangeScaling", "ResizeStepScaling",
    }
)  # fmt: skip

_checked: weakref.WeakSet[Any] = weakref.WeakSet()


def check_data(
    key: str, dataset: Any, lists: Sequence[ListFile] = (), changed_by: str | None = None
) -> None:
    """Check the images and labels of a data set, unless this was done before.

    Of more than `MOST_FILES` samples, `MOST_FILES` are checked, evenly spread over the list.

    Args:
        key: config key of the data set.
        dataset: the data set.
        lists: the list files that it read.
        changed_by: name of a transform that is not PaddleSeg's and may change the labels.

    Raises:
        DataError: a file cannot be read, or a label is unusable for training; the error names it.
    """
    if not getattr(dataset, "file_list", None) or dataset in _checked:
        return
    _, findings = examine(key, dataset, lists, MOST_FILES, changed_by=changed_by)
    errors = [finding.text for finding in findings if finding.is_error]
    for finding in findings:
        if not errors:
            logger.warning(finding.text)
    if errors:
        others = f" ({len(errors) - 1} more in what autoloss check shows)" if errors[1:] else ""
        raise DataError(errors[0] + others)
    _checked.add(dataset)


def examine(
    key: str,
    dataset: Any,
    lists: Sequence[ListFile],
    most: int | None,
    decode: bool = False,
    changed_by: str | None = None,
) -> tuple[list[Facts], list[Finding]]:
    """Check the images and labels of a data set.

    Args:
        key: config key of the data set.
        dataset: the data set.
        lists: the list files that it read.
        most: number of samples to check; None for all.
        decode: whether to decode the images too, and not only the labels.
        changed_by: name of a transform that is not PaddleSeg's and may change the labels.

    Returns:
        The facts about the samples, and the findings from them.
    """
    found = _repetitions(key, dataset)
    samples = []
    for sample in _samples(dataset, lists):
        absent = _missing(key, sample)
        found += absent
        samples += [] if absent else [sample]
    if not samples:
        return [], found
    reader = reader_of(dataset)
    if reader is None or not hasattr(dataset, "num_classes"):
        kind = type(dataset).__name__
        logger.info(f"{key}: labels are not checked, because {kind} reads them in its own way")
        check_files(key, dataset)
        return [], found
    chosen = chosen_samples(samples, most)
    if len(chosen) < len(samples):
        logger.info(
            f"{key}: {len(chosen)} of {len(samples)} labels, evenly spread over the list, are "
            "checked; autoloss check checks all"
        )
    root = str(getattr(dataset, "dataset_root", None) or "")
    facts = survey(key, reader, chosen, root, decode)
    labels = Labels(
        num_classes=dataset.num_classes,
        ignore_index=getattr(dataset, "ignore_index", 255),
        is_training=key == "train_dataset",
        is_complete=len(chosen) == len(samples),
        changed_by=changed_by or foreign_transform(map(type, dataset.transforms.transforms)),
        moved_by=_moving_transform(key, dataset.transforms.transforms),
    )
    return facts, found + findings_in(key, labels, chosen, facts)


def classes_in(key: str, dataset: Any) -> set[int] | None:
    """Return the classes that occur in the labels, as the checks before training found them.

    It is None where not all labels were checked, or their reader is not PaddleSeg's: to read them
    again would take long.

    Args:
        key: config key of the data set.
        dataset: the data set.
    """
    samples, reader = _samples(dataset, ()), reader_of(dataset)
    if reader is None or not reader.is_paddleseg or len(samples) > MOST_FILES:
        return None
    facts = survey(key, reader, samples, str(getattr(dataset, "dataset_root", None) or ""))
    values = {int(value) for one in facts for value in one.counts}
    return values & set(range(dataset.num_classes)) - {getattr(dataset, "ignore_index", 255)}


def _samples(dataset: Any, lists: Sequence[ListFile]) -> list[Sample]:
    """Return the samples of a data set, each once, with their lines in the list file if known."""
    pairs = list(getattr(dataset, "file_list", []))
    lines = [f"{one.path}, line {number}: " for one in lists for number in one.numbers]
    if len(lines) != len(pairs):
        lines = [""] * len(pairs)
    first: dict[tuple[Any, ...], Sample] = {}
    for index, (pair, line) in enumerate(zip(pairs, lines)):
        image, label = (*pair, None)[:2]
        first.setdefault((image, label), Sample(index, image, label, line))
    return list(first.values())


def _repetitions(key: str, dataset: Any) -> list[Finding]:
    """Return warnings of images with several labels, and of those that are evaluated repeatedly."""
    labels: dict[str, list[Any]] = {}
    for image, label in ((*pair, None)[:2] for pair in getattr(dataset, "file_list", [])):
        name = None if label is None else os.path.normpath(label)
        labels.setdefault(os.path.normpath(image), []).append(name)
    several = {image: list(dict.fromkeys(names)) for image, names in labels.items()}
    several = {image: names for image, names in several.items() if len(names) > 1}
    repeated = {image: names for image, names in labels.items() if len(names) > len(set(names))}
    texts = []
    if several:
        image, (first, second, *_) = next(iter(several.items()))
        texts.append(
            f"{len(several)} images have more than one label in the list, such as {image} with "
            f"{first} and {second}; remove the wrong ones"
        )
    # Repeated lines to train on are a usual way to show rare images more often.
    if repeated and key != "train_dataset":
        texts.append(
            f"{len(repeated)} images are in the list more than once with the same label, such as "
            f"{next(iter(repeated))}, and count as often in the figures"
        )
    return [Finding(f"{key}: {text}", is_error=False) for text in texts]


def _missing(key: str, sample: Sample) -> list[Finding]:
    return [
        Finding(f"{key}: {sample.where}cannot read {path}: it is missing")
        for path in (sample.image, sample.label)
        if path is not None and not os.path.exists(path)
    ]


def check_files(key: str, dataset: Any) -> None:
    """Check that every image and label of a data set exists, is an image and is complete.

    The pixels are not decoded, so this takes about a millisecond per file.  Training would not
    detect it: OpenCV pads an incomplete image silently.

    Raises:
        DataError: a file is missing, not an image or incomplete; the error names it.
    """
    for pair in getattr(dataset, "file_list", []):
        for path in pair:
            if path is not None:
                try:
                    check_image(Path(path))
                except Exception as error:
                    reason = "it is missing" if not Path(path).exists() else one_line(error)
                    raise DataError(f"{key}: cannot read {path}: {reason}") from error


def _moving_transform(key: str, transforms: Iterable[Any]) -> str | None:
    """Return the name of the first transform that calls OpenCV with the labels, or None."""
    if key != "train_dataset":
        # PaddleSeg's evaluation leaves labels as they are.
        return None
    names = (type(transform).__name__ for transform in transforms)
    return next((name for name in names if name in _MOVING), None)


def foreign_transform(kinds: Iterable[type]) -> str | None:
    """Return the name of the first transform that is not PaddleSeg's and may change labels.

    Args:
        kinds: the classes of the transforms.
    """
    names = (kind.__name__ for kind in kinds if not kind.__module__.startswith("paddleseg."))
    return next(names, None)
