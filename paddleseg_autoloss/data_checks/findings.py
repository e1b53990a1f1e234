"""Judges the labels of a data set: errors, which stop the training, and warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddleseg_autoloss.data_checks.images import describe_notes
from paddleseg_autoloss.data_checks.labels import Facts
from paddleseg_autoloss.data_checks.survey import Sample

__all__ = ["Finding", "Labels", "class_counts", "findings_in"]

_MOST_SHOWN = 8
_CHANNELS = {2: "grey with transparency", 3: "RGB", 4: "RGBA"}
_ZERO_255 = "are these 0/255 masks? Save 255 as 1"


@dataclass(frozen=True)
class Finding:
    """A problem of a data set, in one line.

    Args:
        text: the line.
        is_error: whether it prevents training.
    """

    text: str
    is_error: bool = True


@dataclass(frozen=True)
class Labels:
    """The values that the labels of a data set should have.

    Args:
        num_classes: number of classes.
        ignore_index: value of the pixels to ignore.
        is_training: whether the data set is used for training.
        is_complete: whether all of its labels were checked.
        changed_by: name of a transform that is not PaddleSeg's and may change the values.
        moved_by: name of a transform that moves the pixels of the labels with OpenCV.
    """

    num_classes: int
    ignore_index: int
    is_training: bool = True
    is_complete: bool = True
    changed_by: str | None = None
    moved_by: str | None = None

    @property
    def classes(self) -> range:
        """All classes; a network with one output separates class 1 from class 0."""
        return range(max(self.num_classes, 2))

    @property
    def expected(self) -> str:
        """The values that a label may have, in words."""
        last = self.classes[-1]
        return f"the classes 0 to {last} or ignore_index {self.ignore_index}"


def findings_in(
    key: str, labels: Labels, samples: Sequence[Sample], facts: Sequence[Facts]
) -> list[Finding]:
    """Return the findings from the facts about samples.

    Args:
        key: config key of the data set.
        labels: the expected values of the labels.
        samples: the checked samples.
        facts: the facts about each sample.
    """
    found = []
    for sample, fact in zip(samples, facts):
        fault = _fault(labels, sample, fact)
        if fault is not None:
            found.append(Finding(f"{key}: {sample.where}{fault.text}", fault.is_error))
    notes = describe_notes((sample.image, fact.note) for sample, fact in zip(samples, facts))
    found += [Finding(f"{key}: {note}", is_error=False) for note in notes]
    if labels.ignore_index in labels.classes:
        found.append(_ignored_class(key, labels))
    if not any(finding.is_error for finding in found) and any(fact.counts for fact in facts):
        found += [
            Finding(f"{key}: {finding.text}", finding.is_error)
            for finding in _faults_of_all(labels, samples, facts)
        ]
    return found


def class_counts(facts: Iterable[Facts]) -> Counter[int]:
    """Return the number of pixels with each value."""
    total: Counter[int] = Counter()
    for fact in facts:
        total.update({int(value): number for value, number in fact.counts.items()})
    return total


def _fault(labels: Labels, sample: Sample, facts: Facts) -> Finding | None:
    """Return the fault of one sample, or None."""
    if facts.image_error:
        return Finding(f"cannot read {sample.image}: {facts.image_error}")
    if facts.label_error:
        return Finding(f"cannot read {sample.label}: {facts.label_error}")
    if sample.label is None:
        return None
    form = _fault_of_form(labels, sample, facts)
    if form is not None:
        return Finding(f"{sample.label}: {form}")
    return _fault_of_values(labels, sample, sorted(map(int, facts.counts)))


def _fault_of_form(labels: Labels, sample: Sample, facts: Facts) -> str | None:
    """Return the fault in shape or type of a label, or None."""
    shape, size = facts.label_shape, facts.image_size
    if len(shape) != 2:
        kind = _CHANNELS.get(shape[2], "many channels") if len(shape) == 3 else f"shape {shape}"
        return (
            f"found a colour mask ({kind}), expected one number for each pixel; save it as a grey "
            "or palette PNG whose values are the classes"
        )
    if shape != size:
        return (
            f"found a label of {_size(shape)} pixels, expected {_size(size)} as its image "
            f"{sample.image} has; do the two belong together?"
        )
    if facts.dtype == "uint16" or np.dtype(facts.dtype).kind not in "biu":
        return (
            f"found numbers of type {facts.dtype}, which Paddle cannot use as classes; expected "
            "8 bits; save it as a grey or palette PNG of 8 bits"
        )
    if facts.dtype == "bool" and labels.moved_by is not None:
        return (
            f"found a mask of 1 bit, with which {labels.moved_by} fails; expected 8 bits; save it "
            "as a grey or palette PNG of 8 bits"
        )
    return None


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _fault_of_values(labels: Labels, sample: Sample, values: list[int]) -> Finding | None:
    allowed = {*labels.classes, labels.ignore_index}
    if allowed.issuperset(values):
        return None
    found = f"{sample.label}: found the values {_list_values(values)}, expected {labels.expected}"
    if labels.changed_by is not None:
        return Finding(f"{found}; does {labels.changed_by} correct that?", is_error=False)
    return Finding(f"{found}; {_remedy(labels, sample, values)}")


def _remedy(labels: Labels, sample: Sample, values: list[int]) -> str:
    last = labels.classes[-1]
    if set(values) <= {0, 255}:
        return _ZERO_255
    if str(sample.label).lower().endswith((".jpg", ".jpeg")):
        return "JPEG changes the values; save labels as PNG"
    if values[-1] == last + 1 or values[-1] == 255 != labels.ignore_index:
        return "classes count from 0; is num_classes or ignore_index right?"
    return "is num_classes right, or are these grey levels of a picture?"


def _ignored_class(key: str, labels: Labels) -> Finding:
    count, ignored = labels.num_classes, labels.ignore_index
    return Finding(
        f"{key}.ignore_index: {ignored} is a class of num_classes {count} too, so its pixels do "
        "not count and its IoU is 0 or undefined; unless that is meant, choose another value, such "
        f"as {max(255, count)}",
        is_error=False,
    )


def _list_values(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:_MOST_SHOWN]))
    return shown if len(values) <= _MOST_SHOWN else f"{shown}, ... ({len(values)} values)"


def _faults_of_all(
    labels: Labels, samples: Sequence[Sample], facts: Sequence[Facts]
) -> list[Finding]:
    """Return the faults of all labels together."""
    values = [set(map(int, fact.counts)) for fact in facts]
    occurring = set().union(*values)
    if occurring <= {0, labels.ignore_index}:
        return [_without_foreground(labels, samples, values)]
    found = []
    absent = [c for c in labels.classes if c not in occurring]
    if absent:
        noun = "class" if len(absent) == 1 else "the classes"
        verb = "occurs" if len(absent) == 1 else "occur"
        found.append(
            f"{noun} {_list_values(absent)} {verb} in none of the {len(samples)} labels"
            f"{'' if labels.is_complete else ' checked'}; is num_classes right?"
        )
    is_no_class = labels.ignore_index not in labels.classes
    ignoring = [is_no_class and labels.ignore_index in one for one in values]
    with_foreground = [bool(one - {0, labels.ignore_index}) for one in values]
    if any(ignoring) and not any(a and b for a, b in zip(ignoring, with_foreground)):
        first = samples[ignoring.index(True)]
        found.append(
            f"{first.where}{first.label}: {sum(ignoring)} labels contain {labels.ignore_index}, "
            f"which is ignore_index, but no foreground; the others contain foreground, but no "
            f"{labels.ignore_index}; are some of these 0/255 masks?"
        )
    return [Finding(text, is_error=False) for text in found]


def _without_foreground(
    labels: Labels, samples: Sequence[Sample], values: Sequence[set[int]]
) -> Finding:
    ignore = labels.ignore_index
    wanted = "class 1" if len(labels.classes) == 2 else f"classes from 1 to {labels.classes[-1]}"
    ignoring = [ignore in one for one in values]
    if any(ignoring):
        first = samples[ignoring.index(True)]
        held = _list_values(sorted(set().union(*values)))
        hint = f"; {_ZERO_255}" if ignore == 255 else ""
        text = (
            f"{first.where}{first.label}: found only the values {held} in "
            f"{_labels_seen(labels, samples)}, expected {wanted} too; {ignore} is ignore_index"
        )
        return Finding(text + hint, is_error=labels.changed_by is None)
    text = (
        f"{samples[0].where}{samples[0].label}: found only class 0 in "
        f"{_labels_seen(labels, samples)}, expected {wanted} too"
    )
    certain = labels.is_training and labels.is_complete and labels.changed_by is None
    return Finding(f"{text}; are these the right labels?", is_error=certain)


def _labels_seen(labels: Labels, samples: Sequence[Any]) -> str:
    which = "all" if labels.is_complete else "the"
    return f"{which} {len(samples)} labels" + ("" if labels.is_complete else " checked")
