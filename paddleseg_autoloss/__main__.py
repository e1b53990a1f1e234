"""The methods in the terminal: ``python -m paddleseg_autoloss list`` and ``show CAGrad``."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence

from paddleseg_autoloss.catalog import text_entry, text_table
from paddleseg_autoloss.errors import ConfigError, nearest
from paddleseg_autoloss.integration.commands import run_command
from paddleseg_autoloss.weighting import METHODS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = ArgumentParser(prog="python -m paddleseg_autoloss", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list all methods")
    show = commands.add_parser("show", help="explain one method, with a config to paste")
    show.add_argument("method", help="such as CAGrad")
    args = parser.parse_args(argv)
    return run_command(lambda: print(_show(args.method) if "method" in args else text_table()))


def _show(name: str) -> str:
    if name not in METHODS:
        raise ConfigError(f"method: there is no {name!r}{nearest(name, METHODS)}")
    return text_entry(name)


if __name__ == "__main__":
    sys.exit(main())
