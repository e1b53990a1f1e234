"""A package that PaddleSeg imports and that is not there is named in one line."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import paddleseg
import pytest
from support import ROOT, run_tool

pytestmark = pytest.mark.once

MISSING = "raise ModuleNotFoundError(\"No module named '{0}'\", name='{0}')\n"
NEED = "needs the package {0}, which is missing: pip install {0}"
LIBRARY = "libGL.so.1: cannot open shared object file: No such file or directory"


def without(folder: Path, name: str, content: str = MISSING) -> str:
    """Return a path for Python, on which a package is missing."""
    (folder / f"{name}.py").write_text(content.format(name), encoding="utf-8")
    return f"{folder}:{ROOT}"


@pytest.mark.parametrize(
    ("name", "package", "module"),
    [
        ("yaml", "pyyaml", "paddleseg.cvlibs.config"),
        ("scipy", "scipy", "paddleseg"),
        ("cv2", "opencv-python", "paddleseg"),
    ],
)
@pytest.mark.parametrize("command", [["tools/train.py"], ["-m", "paddleseg_autoloss", "list"]])
def test_commands_say_so_in_one_line(tmp_path, name, package, module, command):
    done = run_tool(*command, PYTHONPATH=without(tmp_path, name), PYTHONWARNINGS="ignore")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {module}")
    assert line.endswith(NEED.format(package))
    assert "Traceback" not in done.stderr


def test_clone_of_paddleseg_that_needs_more(tmp_path):
    """As PaddleSeg develop needs scikit-image."""
    clone = tmp_path / "PaddleSeg"
    shutil.copytree(Path(paddleseg.__file__).parent, clone / "paddleseg")
    infer = clone / "paddleseg/core/infer.py"
    infer.write_text("from skimage import measure\n" + infer.read_text())
    (clone / "tools").mkdir()
    (clone / "tools/train.py").write_text("import paddleseg\n")
    path = without(tmp_path, "skimage")
    done = run_tool("-m", "paddleseg_autoloss", "run", clone / "tools/train.py", PYTHONPATH=path)
    assert done.returncode == 1
    line = f"error: paddleseg.core.infer ({infer}) {NEED.format('scikit-image')}"
    assert done.stderr.splitlines()[-1] == line
    assert "Traceback" not in done.stderr


def test_package_that_cannot_be_loaded(tmp_path):
    """What OpenCV says in a container without a screen."""
    path = without(tmp_path, "cv2", f"raise ImportError({LIBRARY!r}, name='cv2')\n")
    done = run_tool("tools/val.py", PYTHONPATH=path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f" cannot import cv2: {LIBRARY}")
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_packages_are_imported(tmp_path):
    path = without(tmp_path, "cv2", "raise KeyboardInterrupt\n")
    done = run_tool("-m", "paddleseg_autoloss", "list", PYTHONPATH=path, PYTHONWARNINGS="ignore")
    # A shell reports this as 130.
    assert done.returncode == -signal.SIGINT
    assert done.stderr.splitlines()[-1] == "stopped by SIGINT"
    assert "Traceback" not in done.stderr


def test_conflict_that_is_the_cause(tmp_path):
    """What an OpenCV for NumPy 1 says with NumPy 2, of which only the name is here."""
    reason = "numpy.core.multiarray failed to import"
    path = without(tmp_path, "cv2", f"raise ImportError({reason!r}, name='cv2')\n")
    for name, version in (("numpy", "2.3.5"), ("opencv_python", "4.5.5.64")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    done = run_tool("-m", "paddleseg_autoloss", "checks", PYTHONPATH=path)
    assert done.returncode == 1
    end = "OpenCV before 4.10 is compiled for NumPy 1 and cannot be imported with NumPy 2: pip "
    assert done.stderr.splitlines()[-1].endswith(f"{reason}; {end}install 'numpy<2'")


def test_other_errors_of_a_script_keep_their_traceback(tmp_path):
    code = (
        "try:\n    import paddleseg_autoloss\n"
        "except ImportError as error:\n    print('caught', type(error).__name__)\n"
        "raise ValueError('of the script')\n"
    )
    done = run_tool("-c", code, PYTHONPATH=without(tmp_path, "scipy"))
    assert "caught MissingPackageError" in done.stdout
    assert "Traceback" in done.stderr
    assert "ValueError: of the script" in done.stderr
