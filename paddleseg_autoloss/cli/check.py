"""Check all images and labels of a config: find unreadable files, and list the label values.

Training itself checks up to 2,000 labels first and decodes no image; this command checks all.
For this installation and its devices see "autoloss checks".
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from paddleseg.cvlibs import SegBuilder

from paddleseg_autoloss.cli import options
from paddleseg_autoloss.data_checks.examination import examine
from paddleseg_autoloss.data_checks.files import open_dataset
from paddleseg_autoloss.data_checks.findings import Finding, class_counts
from paddleseg_autoloss.data_checks.labels import Facts
from paddleseg_autoloss.data_checks.overlap import note_overlap
from paddleseg_autoloss.errors import DataError
from paddleseg_autoloss.installation import CONFIG_DIR
from paddleseg_autoloss.integration.config import find_config, load_config

__all__ = ["add_flags", "check_from", "run"]

_SECTIONS = ("train_dataset", "val_dataset")


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags of the command."""
    options.add_config(parser)
    options.add_opts(parser)


def run(args: Namespace) -> None:
    """Run the command; see `check_from`."""
    check_from(args)


def check_from(args: Namespace) -> None:
    """Check all files of a config's data sets, and print a line for each finding.

    Args:
        args: the flags ``config`` and ``opts``.

    Raises:
        ConfigError: the config is invalid.
        DataError: a file cannot be read, or a label is unusable for training.
    """
    config = load_config(find_config(args.config, CONFIG_DIR), opts=args.opts)
    builder = SegBuilder(config)
    errors = 0
    datasets = {}
    for key in _SECTIONS:
        section = getattr(config, f"{key}_cfg")
        if section:
            dataset, lists = open_dataset(key, section, lambda: getattr(builder, key))  # noqa: B023
            datasets[key] = dataset
            facts, findings = examine(key, dataset, lists, most=None, decode=True)
            for line in _report(key, facts, findings):
                print(line)
            errors += sum(finding.is_error for finding in findings)
    note_overlap(datasets.get("train_dataset"), datasets.get("val_dataset"))
    if errors:
        noun = "error" if errors == 1 else "errors"
        raise DataError(f"{args.config}: {errors} {noun} in the data, shown above")


def _report(key: str, facts: Sequence[Facts], findings: Sequence[Finding]) -> list[str]:
    """Return the findings, or a line without findings, and how often each value occurs."""
    lines = [f"{'error' if one.is_error else 'warning'}: {one.text}" for one in findings]
    if not findings:
        lines.append(f"{key}: {len(facts)} images and labels, no errors found")
    counts = class_counts(facts)
    total = sum(counts.values())
    if total:
        parts = [f"{value}: {100 * counts[value] / total:.3g} %" for value in sorted(counts)[:20]]
        rest = len(counts) - len(parts)
        more = [f"and {rest} more values"] if rest else []
        lines.append(f"{key}: share of the pixels by value: {', '.join(parts + more)}")
    return lines
