"""Run a script of PaddleSeg, unchanged, with what this package adds.

The script runs as under "python script arguments". If it belongs to a clone of PaddleSeg, that
clone's PaddleSeg is used instead of an installed one.
"""

from __future__ import annotations

import os
import runpy
import sys
from argparse import REMAINDER, ArgumentParser, Namespace
from pathlib import Path

import paddleseg

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.installation import package_command

__all__ = ["add_flags", "run"]


def add_flags(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("script", help="such as path/to/PaddleSeg/tools/train.py")
    parser.add_argument("arguments", nargs=REMAINDER, help="the script's own")


def run(args: Namespace) -> None:
    """Run the script.

    Raises:
        ConfigError: there is no such script.
    """
    script = Path(args.script)
    if not script.is_file():
        raise ConfigError(f"run: expected a Python script, found nothing at {script}")
    clone = script.resolve().parents[1]
    beside, imported = clone / "paddleseg" / "__init__.py", Path(paddleseg.__file__)
    if beside.is_file() and beside.resolve() != imported.resolve():
        path = os.pathsep.join(filter(None, [str(clone), os.environ.get("PYTHONPATH")]))
        command = [*package_command("paddleseg_autoloss"), "run", str(script), *args.arguments]
        os.execve(sys.executable, command, os.environ | {"PYTHONPATH": path})
    sys.argv = [str(script), *args.arguments]
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")
