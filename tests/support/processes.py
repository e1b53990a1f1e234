"""Commands of ours in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
#: How a script begins that uses `support.training` in a process of its own.
SCRIPT_HEAD = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from support.training import *
"""


def run_tool(*arguments: str | Path, cwd: Path = ROOT, **environment: str):
    """Run a command of ours in a process of its own, as users do."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def launched(folder, text) -> list[dict]:
    """Run a script on two ranks, and return what each wrote to its JSON file."""
    script = folder / "script.py"
    script.write_text(text)
    result = subprocess.run(
        [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2",
         "--log_dir", str(folder / "log"), str(script), str(folder)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    logs = "\n".join(path.read_text() for path in (folder / "log").glob("workerlog.*"))
    assert result.returncode == 0, result.stderr + logs
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
