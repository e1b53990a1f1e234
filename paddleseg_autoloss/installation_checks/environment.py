"""What is installed: versions, conflicts, cures of PaddleSeg's faults, fonts, devices."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import paddle
import paddleseg

import paddleseg_autoloss
from paddleseg_autoloss.compat import APPLIED_FIXES, SOURCE_FIXES
from paddleseg_autoloss.conflicts import find_conflicts, installed_versions
from paddleseg_autoloss.flags import gpu_count
from paddleseg_autoloss.fonts import chinese_font
from paddleseg_autoloss.installation import processor
from paddleseg_autoloss.seams import SEAMS

__all__ = ["describe_environment"]


def describe_environment() -> tuple[list[tuple[str, str]], list[str]]:
    """Return what is installed, as names and values, and the known conflicts."""
    versions = installed_versions()
    conflicts = find_conflicts(versions)
    rows = [
        ("system", f"{platform.platform()}, Python {platform.python_version()}"),
        ("paddleseg_autoloss", f"{paddleseg_autoloss.__version__}, {_folder(paddleseg_autoloss)}"),
        ("paddle", f"{paddle.__version__}, {_build()}"),
        ("paddleseg", f"{paddleseg.__version__}, {_folder(paddleseg)}"),
        *(row for row in versions.items() if not row[0].startswith("paddle")),
        *(("conflict", text) for text in conflicts or ["none known"]),
        ("cures", _cures()),
        ("stand-ins", f"{len(SEAMS)}, all of which PaddleSeg uses"),
        ("Chinese font", chinese_font() or "none: Chinese names in pictures are boxes"),
        ("processor", f"{processor()}, {os.cpu_count()} cores"),
        ("GPUs", _gpus()),
    ]
    return rows, conflicts


def _folder(module: object) -> str:
    return str(Path(str(vars(module)["__file__"])).parent)


def _build() -> str:
    if not paddle.is_compiled_with_cuda():
        return "build for the CPU"
    return f"build for CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}"


def _cures() -> str:
    """Say which of the faults that `compat` knows are in this PaddleSeg and cured."""
    functions = dict.fromkeys(fix.target.split(":")[1] for fix in APPLIED_FIXES)
    return f"{len(APPLIED_FIXES)} of {len(SOURCE_FIXES)} needed: {', '.join(functions)}"


def _gpus() -> str:
    count = gpu_count()
    if count:
        return ", ".join(paddle.device.cuda.get_device_name(index) for index in range(count))
    if Path("/proc/driver/nvidia/version").exists() and not paddle.is_compiled_with_cuda():
        return "not used: there is an NVIDIA driver, but this Paddle is built for the CPU"
    return "none that Paddle sees"
