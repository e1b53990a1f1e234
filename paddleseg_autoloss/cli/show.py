"""Explain one method, with an example config."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from paddleseg_autoloss.catalog import LEFT_OUT, text_entry
from paddleseg_autoloss.errors import ConfigError, did_you_mean
from paddleseg_autoloss.weighting import METHODS

__all__ = ["add_flags", "run"]


def add_flags(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("method", help="name of the method, such as CAGrad")


def run(args: Namespace) -> None:
    """Print the documentation of the method.

    Raises:
        ConfigError: there is no such method.
    """
    name = args.method
    for names, reason in LEFT_OUT.items():
        if name in names.split(", "):
            raise ConfigError(f"method: {name} is left out: {reason}")
    if name not in METHODS:
        raise ConfigError(f"method: there is no {name!r}{did_you_mean(name, METHODS)}")
    print(text_entry(name))
