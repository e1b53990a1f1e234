"""The tools of a checkout use that checkout, whatever other copy Python would find first.

The checkout here is a copy of this one whose version is 9.9.9.  The other copy is this one: it is
installed, on PYTHONPATH and in the current folder at once.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from support.processes import ROOT, run_tool

import paddleseg_autoloss

#: The scripts that people start; a module with an underscore is imported by them.
TOOLS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("tools", "docs")
    for path in (ROOT / folder).rglob("[!_]*.py")
    if re.search(r"^(import|from) paddleseg_autoloss", path.read_text("utf-8"), flags=re.MULTILINE)
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("paddleseg_autoloss", "configs", "tools", "docs"):
        shutil.copytree(ROOT / name, folder / name)
    source = folder / "paddleseg_autoloss" / "__init__.py"
    text = source.read_text(encoding="utf-8")
    assert f'"{paddleseg_autoloss.__version__}"' in text
    changed = text.replace(f'"{paddleseg_autoloss.__version__}"', '"9.9.9"')
    source.write_text(changed, encoding="utf-8")
    return folder


def run(*arguments: str | Path) -> str:
    result = run_tool(*arguments, cwd=ROOT, PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stderr
    return result.stdout


#: Runs each script up to its first import of the package, and prints where that would come from.
FIRST_IMPORT = """
import runpy, sys
from pathlib import Path
from importlib.machinery import PathFinder

class Found(Exception):
    pass

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "paddleseg_autoloss":
            raise Found(PathFinder.find_spec(name).origin)

sys.meta_path.insert(0, Finder)
for script in sys.argv[1:]:
    before = list(sys.path)
    sys.path[0] = str(Path(script).parent)
    try:
        runpy.run_path(script, run_name="script")
    except Found as found:
        print(script, found)
    sys.path[:] = before
"""


def test_every_tool_finds_the_package_of_its_checkout(checkout):
    assert len(TOOLS) > 10
    package = checkout / "paddleseg_autoloss" / "__init__.py"
    found = run("-c", FIRST_IMPORT, *(checkout / tool for tool in TOOLS)).splitlines()
    wrong = set(found) - {f"{checkout / tool} {package}" for tool in TOOLS}
    assert not wrong, "the path of the checkout is not the first that is searched"
    assert len(found) == len(TOOLS)


def test_version_of_a_tool_is_that_of_its_checkout(checkout):
    assert run(checkout / "tools/train.py", "--version") == "paddleseg_autoloss 9.9.9\n"


PROCESS_OF_ITS_OWN = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from paddleseg_autoloss.installation import CONFIG_DIR, package_command
print(CONFIG_DIR, flush=True)
subprocess.run([*package_command("paddleseg_autoloss"), "--version"], check=True)
"""


def test_processes_that_it_starts_use_the_checkout_too(checkout):
    """Those of ``compare`` and of ``run``, which begin with what `package_command` returns."""
    configs, version = run("-c", PROCESS_OF_ITS_OWN, checkout).splitlines()
    assert configs == str(checkout / "configs")
    assert version == "paddleseg_autoloss 9.9.9"
