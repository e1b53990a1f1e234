"""List all methods."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from paddleseg_autoloss.catalog import text_table

__all__ = ["add_flags", "run"]


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags of the command: there are none."""


def run(args: Namespace) -> None:
    """Print the table of methods."""
    print(text_table())
