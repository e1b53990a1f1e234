"""Where this package is: a checkout of its repository, or an installed wheel; and the machine."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

__all__ = ["CHECKOUT", "CONFIG_DIR", "package_command", "processor"]

_PACKAGE = Path(__file__).resolve().parent

#: The checkout that contains this package, or None if a wheel is installed.
CHECKOUT = None if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent

#: The folder of the configs of this package.
CONFIG_DIR = (CHECKOUT or _PACKAGE) / "configs"


def package_command(module: str) -> list[str]:
    """Return the start of a command line that runs a module of this copy of the package.

    ``python -m`` may run another copy: it first searches the current folder, and it finds an
    installed copy instead of the checkout of a script.

    Args:
        module: full name of the module, such as ``paddleseg_autoloss``.
    """
    first = [str(CHECKOUT)] if CHECKOUT is not None else []
    code = (
        f"import runpy, sys; sys.path = {first!r} + [path for path in sys.path if path]; "
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", code]


def processor() -> str:
    """Return the name of the processor, or its kind where Linux does not tell the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
