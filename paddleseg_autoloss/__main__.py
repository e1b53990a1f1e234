"""``python -m paddleseg_autoloss``: the methods in the terminal, and PaddleSeg's own scripts.

``list`` lists the methods, ``show CAGrad`` explains one, and ``run path/to/PaddleSeg/tools/train.py
--config ...`` runs a script of PaddleSeg, unchanged, with the components of this package.
"""

from __future__ import annotations

import os
import runpy
import sys
from argparse import REMAINDER, ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import paddleseg

from paddleseg_autoloss.catalog import LEFT_OUT, text_entry, text_table
from paddleseg_autoloss.errors import ConfigError, did_you_mean
from paddleseg_autoloss.flags import run_command
from paddleseg_autoloss.weighting import METHODS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = ArgumentParser(prog="python -m paddleseg_autoloss")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list all methods")
    show = commands.add_parser("show", help="explain one method, with a config to paste")
    show.add_argument("method", help="such as CAGrad")
    run = commands.add_parser("run", help="run a script of PaddleSeg with what this package adds")
    run.add_argument("script", help="such as path/to/PaddleSeg/tools/train.py")
    run.add_argument("arguments", nargs=REMAINDER, help="its own")
    args = parser.parse_args(argv)
    if args.command == "run":
        return run_command(lambda: _run(Path(args.script), args.arguments))
    return run_command(lambda: print(_show(args.method) if "method" in args else text_table()))


def _show(name: str) -> str:
    for names, reason in LEFT_OUT.items():
        if name in names.split(", "):
            raise ConfigError(f"method: {name} is left out: it {reason}")
    if name not in METHODS:
        raise ConfigError(f"method: there is no {name!r}{did_you_mean(name, METHODS)}")
    return text_entry(name)


def _run(script: Path, arguments: list[str]) -> None:
    """Run a script as ``python script arguments`` does, with this package imported before.

    A clone of PaddleSeg that the script belongs to goes before an installed PaddleSeg.
    """
    if not script.is_file():
        raise ConfigError(f"run: expected a Python script, found nothing at {script}")
    clone = script.resolve().parents[1]
    beside, imported = clone / "paddleseg" / "__init__.py", Path(paddleseg.__file__)
    if beside.is_file() and beside.resolve() != imported.resolve():
        path = os.pathsep.join(filter(None, [str(clone), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "paddleseg_autoloss", "run", str(script), *arguments]
        os.execve(sys.executable, command, os.environ | {"PYTHONPATH": path})
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    sys.exit(main())
