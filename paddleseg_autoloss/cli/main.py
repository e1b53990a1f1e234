"""The command line ``autoloss``, which the scripts in ``tools/`` call too."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import paddleseg_autoloss
from paddleseg_autoloss.cli import (
    check,
    checks,
    compare,
    diagnose,
    init,
    predict,
    run,
    show,
    train,
    val,
)
from paddleseg_autoloss.cli import list as list_
from paddleseg_autoloss.compat import quiet
from paddleseg_autoloss.errors import did_you_mean
from paddleseg_autoloss.flags import run_command

__all__ = ["COMMANDS", "EXIT_STATUSES", "main", "parse_args", "tool_main"]

#: The commands by name, in the order of ``autoloss --help``.
COMMANDS: dict[str, ModuleType] = {
    "init": init,
    "train": train,
    "val": val,
    "predict": predict,
    "check": check,
    "diagnose": diagnose,
    "compare": compare,
    "list": list_,
    "show": show,
    "run": run,
    "checks": checks,
}

#: What the exit statuses mean.
EXIT_STATUSES = {
    "0": "done",
    "1": "an error, named in the last line on standard error",
    "2": "the command line cannot be read",
    "130, 143, 129": "stopped by Ctrl-C, SIGTERM, SIGHUP",
    "141": "the program that reads the output has ended",
}
_EXIT_STATUS = f"Exit status: {'; '.join(map(': '.join, EXIT_STATUSES.items()))}."


def main(argv: Sequence[str] | None = None, program: Sequence[str] = ("autoloss",)) -> int:
    """Run the command whose name is the first argument, and return the exit status.

    Args:
        argv: the arguments after the program; by default those of this process.
        program: the words that called the program, for messages and reports.
    """
    return _run(_parser(program), program, sys.argv[1:] if argv is None else argv)


def tool_main(name: str) -> int:
    """Run one command as a script of its own, such as ``tools/train.py``; return the exit status.

    Args:
        name: name of the command.
    """
    program = ("python", sys.argv[0])
    parser = _HintingParser(prog=" ".join(program), allow_abbrev=False)
    _add_version(parser)
    _add_command(parser, name)
    return _run(parser, program, sys.argv[1:])


def parse_args(argv: Sequence[str]) -> Namespace:
    """Return the flags of a command line of ``autoloss``.

    Args:
        argv: the arguments after ``autoloss``; the first is the name of the command.
    """
    return _parser(("autoloss",)).parse_args(argv)


class _HintingParser(ArgumentParser):
    """Says which flag an unknown one may be, with the usage of its own command."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; one that is not known ends the process with status 2."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            hint = did_you_mean(flag, self._option_string_actions) if flag[:1] == "-" else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found, unknown


def _run(parser: ArgumentParser, program: Sequence[str], words: Sequence[str]) -> int:
    args = parser.parse_args(words)
    _expand_home(args)
    args.command_line = shlex.join([*program, *words])
    with quiet() if getattr(args, "quiet", False) else nullcontext():
        return run_command(lambda: args.run(args))


def _expand_home(args: Namespace) -> None:
    """Replace the ~ that a shell leaves as it is in --save_dir=~/runs: it would name a folder."""
    for name, value in vars(args).items():
        if isinstance(value, str) and value.startswith("~"):
            setattr(args, name, os.path.expanduser(value))


def _parser(program: Sequence[str]) -> ArgumentParser:
    parser = _HintingParser(
        prog=" ".join(program),
        description="Automatic loss weighting for PaddleSeg.",
        epilog=_EXIT_STATUS,
        allow_abbrev=False,
    )
    _add_version(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        summary = str(command.__doc__).partition("\n")[0]
        _add_command(commands.add_parser(name, help=summary, allow_abbrev=False), name)
    return parser


def _add_version(parser: ArgumentParser) -> None:
    version = f"paddleseg_autoloss {paddleseg_autoloss.__version__}"
    parser.add_argument("--version", action="version", version=version)


def _add_command(parser: ArgumentParser, name: str) -> None:
    command = COMMANDS[name]
    parser.description, parser.epilog = command.__doc__, _EXIT_STATUS
    command.add_flags(parser)
    parser.set_defaults(run=command.run)
