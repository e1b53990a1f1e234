"""Combinations of packages that are known not to work together."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

__all__ = ["PACKAGES", "find_conflicts", "installed_versions"]

#: Packages that matter to a training, by their names in pip.
PACKAGES = (
    "paddlepaddle", "paddlepaddle-gpu", "paddleseg", "numpy", "opencv-python",
    "opencv-python-headless", "opencv-contrib-python", "protobuf", "pandas", "visualdl", "scipy",
    "matplotlib", "pillow", "tensorboard", "wandb", "swanlab",
)  # fmt: skip
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
_PADDLE = ("paddlepaddle", "paddlepaddle-gpu")

Versions = Mapping[str, str]


def installed_versions() -> dict[str, str]:
    """Return the versions of those `PACKAGES` that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _release(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:3]))


def _is_from(versions: Versions, package: str, first: str) -> bool:
    return package in versions and _release(versions[package]) >= _release(first)


def _is_before(versions: Versions, package: str, first: str) -> bool:
    return package in versions and _release(versions[package]) < _release(first)


@dataclass(frozen=True)
class _Conflict:
    """A combination that fails.

    Args:
        exists: whether it is installed.
        text: what fails, and the cure.
    """

    exists: Callable[[Versions], bool]
    text: str


def _old_opencv(versions: Versions) -> bool:
    old = any(_is_before(versions, package, "4.10") for package in _OPENCV)
    return old and _is_from(versions, "numpy", "2")


def _several_opencv(versions: Versions) -> bool:
    return len({versions[package] for package in _OPENCV if package in versions}) > 1


def _old_paddle_with_protobuf(versions: Versions) -> bool:
    old = any(_is_before(versions, package, "3") for package in _PADDLE)
    return old and _is_from(versions, "protobuf", "7")


def _two_paddles(versions: Versions) -> bool:
    return all(package in versions for package in _PADDLE)


def _new_pandas(versions: Versions) -> bool:
    return _is_from(versions, "pandas", "3.1") and _is_before(versions, "numpy", "2")


_CONFLICTS = (
    _Conflict(
        _old_opencv,
        "OpenCV before 4.10 is compiled for NumPy 1 and cannot be imported with NumPy 2: "
        "pip install 'numpy<2'",
    ),
    _Conflict(
        _several_opencv,
        "several OpenCV packages of different versions write to the same folder: uninstall them "
        "all, and install one",
    ),
    _Conflict(
        _old_paddle_with_protobuf,
        "Paddle 2 cannot train on several cards with protobuf 7: pip install 'protobuf<7'",
    ),
    _Conflict(
        _two_paddles,
        "paddlepaddle and paddlepaddle-gpu write to the same folder: uninstall both, and install "
        "one",
    ),
    _Conflict(
        _new_pandas,
        "pandas 3.1 needs NumPy 2, and the page of VisualDL needs pandas: pip install 'pandas<3.1'",
    ),
)


def find_conflicts(versions: Versions) -> list[str]:
    """Return what is known to fail, one text for each conflict.

    Args:
        versions: the installed packages, as `installed_versions` returns them.

    Example:
        >>> find_conflicts({"numpy": "1.26.4", "pandas": "3.1.1"})[0]
        "pandas 3.1 needs NumPy 2, and the page of VisualDL needs pandas: pip install 'pandas<3.1'"
    """
    return [conflict.text for conflict in _CONFLICTS if conflict.exists(versions)]
