"""Run an unchanged script of PaddleSeg with the features of this package.

The script runs as with "python script arguments". If it belongs to a clone of PaddleSeg, the
PaddleSeg of this clone is used instead of an installed one.
"""

from __future__ import annotations

import io
import os
import runpy
import sys
import tokenize
import zipfile
from argparse import REMAINDER, ArgumentParser, Namespace
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import NoReturn

import paddleseg

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.installation import package_command

__all__ = ["add_flags", "run"]

#: Environment variable with the path of the clone whose PaddleSeg a process must use.
_CLONE = "AUTOLOSS_CLONE"


def add_flags(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("script", help="the script, such as path/to/PaddleSeg/tools/train.py")
    parser.add_argument("arguments", nargs=REMAINDER, help="arguments of the script")


def run(args: Namespace) -> None:
    """Run the script.

    Raises:
        ConfigError: there is no such script, it is no text, or its own PaddleSeg cannot be used.
    """
    script = Path(args.script)
    if not script.is_file():
        raise ConfigError(f"run: expected a Python script, found nothing at {script}")
    _check_text(script)
    clone = _find_clone(script.resolve())
    if clone is not None and clone != Path(paddleseg.__file__).resolve().parents[1]:
        _run_with(clone, script, args.arguments)
    sys.argv = [str(script), *args.arguments]
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")


def _check_text(script: Path) -> None:
    """Check that a script is text; compiled ones and archives, which Python runs too, may be."""
    content = script.read_bytes()
    if content.startswith(MAGIC_NUMBER) or zipfile.is_zipfile(script):
        return
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        is_text = "\0" not in content.decode(encoding)
    except (SyntaxError, UnicodeDecodeError):
        is_text = False
    if not is_text:
        raise ConfigError(
            f"run: expected a Python script, found a file that is no text in UTF-8: {script}; save "
            "it as UTF-8, or give the path of a Python script"
        )


def _find_clone(script: Path) -> Path | None:
    """Return the clone of PaddleSeg that contains a script, at any depth, or None."""
    folders = (folder for folder in script.parents if (folder / "paddleseg/__init__.py").is_file())
    return next(folders, None)


def _run_with(clone: Path, script: Path, arguments: list[str]) -> NoReturn:
    """Restart this process with the PaddleSeg of a clone first in Python's path.

    Raises:
        ConfigError: this process was already restarted, and still uses another PaddleSeg.
    """
    if os.environ.get(_CLONE) == str(clone):
        raise ConfigError(
            f"run: expected the PaddleSeg of {clone}, to which {script} belongs, found the one at "
            f"{paddleseg.__file__}, which comes before it in Python's path; remove it from there"
        )
    path = os.pathsep.join(filter(None, [str(clone), os.environ.get("PYTHONPATH")]))
    command = [*package_command("paddleseg_autoloss"), "run", str(script), *arguments]
    os.execve(sys.executable, command, os.environ | {"PYTHONPATH": path, _CLONE: str(clone)})
