"""Errors of failed imports, which name the missing package and the module that needs it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, TracebackType

from paddleseg_autoloss.conflicts import find_conflicts, installed_versions
from paddleseg_autoloss.errors import AutoLossError, MissingPackageError, one_line

__all__ = ["explained_imports", "import_for"]

#: Names in pip of packages that are imported under another name.
_NAMES_OF_PIP = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "paddle": "paddlepaddle",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


@contextmanager
def explained_imports() -> Iterator[None]:
    """Context that converts a failed import to an error with the name of the missing package.

    Commands print it as one line.  PaddleSeg imports all packages at once, even those that a run
    does not need.

    Raises:
        MissingPackageError: a package is not installed, or cannot be loaded.
    """
    try:
        yield
    except AutoLossError as error:
        _show_in_one_line(error, f"error: {error}")
        raise
    except KeyboardInterrupt as stop:
        _show_in_one_line(stop, "stopped by SIGINT")
        raise
    except ImportError as error:
        explained = MissingPackageError(_explanation(error))
        _show_in_one_line(explained, f"error: {explained}")
        raise explained from error


def _explanation(error: ImportError) -> str:
    importer = _importer(error.__traceback__)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _need(importer, error.name)
    cures = find_conflicts(installed_versions())
    return "; ".join(
        [f"{importer} cannot import {error.name or 'a package'}: {one_line(error)}", *cures]
    )


def _need(user: str, module: str) -> str:
    package = module.partition(".")[0]
    package = _NAMES_OF_PIP.get(package, package)
    return f"{user} needs the package {package}, which is missing: pip install {package}"


def import_for(user: str, module: str) -> ModuleType:
    """Import a module of a package that is not installed with this one.

    Args:
        user: what needs it, for the error.
        module: name of the module.

    Raises:
        MissingPackageError: the package is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPackageError(_need(user, error.name or module)) from error
    except ImportError as error:
        raise MissingPackageError(f"{user} cannot import {module}: {one_line(error)}") from error


def _importer(trace: TracebackType | None) -> str:
    """Return the innermost module of PaddleSeg or of this package that was being imported."""
    importer = "paddleseg_autoloss"
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name.partition(".")[0] in ("paddleseg", "paddleseg_autoloss") and name != __name__:
            importer = f"{name} ({trace.tb_frame.f_code.co_filename})"
        trace = trace.tb_next
    return importer


def _show_in_one_line(failure: BaseException, line: str) -> None:
    """Let Python print one line for this error, as commands do, if it ends the process."""
    stock = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if error is failure:
            print(line, file=sys.stderr)
        else:
            stock(kind, error, trace)

    sys.excepthook = show
