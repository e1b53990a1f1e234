"""Check this installation: versions, conflicts, and five steps of every method on every device.

The output is made to be pasted into a report of a fault. It takes half a minute on a CPU. For the
images and labels of a config see "autoloss check".
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

__all__ = ["add_flags", "run"]


def add_flags(parser: ArgumentParser) -> None:
    """Add no flags: the command checks everything there is."""


def run(args: Namespace) -> None:
    """Run the command."""
    from paddleseg_autoloss.installation_checks.command import check_installation

    check_installation()
