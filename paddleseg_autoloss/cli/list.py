"""List all methods."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from paddleseg_autoloss.catalog import text_table

__all__ = ["add_flags", "run"]


def add_flags(parser: ArgumentParser) -> None:
    """Add no flags: the command has none."""


def run(args: Namespace) -> None:
    """Print the table of methods."""
    print(text_table())
