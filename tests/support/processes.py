"""Commands of ours in processes of their own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
#: How a script begins that uses `support.training` in a process of its own.
#: Paddle's own first seed is another one in each process.
SCRIPT_HEAD = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from support.training import *
paddle.seed(1)
"""
#: How a script begins that runs on several ranks: it has `folder`, `rank` and `report`.
RANK_HEAD = (
    SCRIPT_HEAD
    + """
import json

paddle.set_device("cpu")
folder, rank = Path(sys.argv[1]), int(paddle.distributed.ParallelEnv().rank)


def report(found):
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
"""
)


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


def call(*words: str | Path) -> SimpleNamespace:
    """Run a command of ours in this process, which saves the seconds of a start.

    Args:
        *words: the words after ``autoloss``.

    Returns:
        What `run_tool` returns: ``returncode``, ``stdout`` and ``stderr``.
    """
    import paddle

    from paddleseg_autoloss.cli.main import main

    output, errors = io.StringIO(), io.StringIO()
    # The names of parameters start at 0, as in a process of its own.
    with redirect_stdout(output), redirect_stderr(errors), paddle.utils.unique_name.guard():
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:
            status = error.code
    return SimpleNamespace(returncode=status, stdout=output.getvalue(), stderr=errors.getvalue())


def launch(folder, text, count: int):
    """Run a script on several ranks.

    Args:
        folder: folder of the script and of the logs.
        text: the script, which begins with `RANK_HEAD`; its argument is the folder.
        count: number of ranks.
    """
    script = folder / "script.py"
    script.write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(count),
         "--log_dir", str(folder / "log"), str(script), str(folder)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def logs_of_ranks(folder) -> str:
    return "\n".join(path.read_text() for path in (folder / "log").glob("workerlog.*"))


def launched(folder, text, count: int = 2) -> list[dict]:
    """Run a script on several ranks, and return what each wrote to its JSON file."""
    done = launch(folder, text, count)
    assert done.returncode == 0, done.stderr + logs_of_ranks(folder)
    return _results(folder, count)


def launched_in_turn(folder, scripts: dict[str, str], count: int = 2) -> dict[str, list[dict]]:
    """Run scripts one after the other on ranks that start once, each in a folder of its name.

    Returns:
        For each name, what every rank wrote to its JSON file.
    """
    for name, text in scripts.items():
        (folder / name).mkdir()
        (folder / name / "part.py").write_text(text)
    driver = f"""
import runpy, sys
for name in {list(scripts)!r}:
    sys.argv[1:] = [f"{folder}/{{name}}"]
    runpy.run_path(f"{folder}/{{name}}/part.py", run_name="__main__")
"""
    done = launch(folder, driver, count)
    assert done.returncode == 0, done.stderr + logs_of_ranks(folder)
    return {name: _results(folder / name, count) for name in scripts}


def _results(folder, count: int) -> list[dict]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(count)]


HOLDER = """
import sys
from paddleseg_autoloss.locks import lock_folder
with lock_folder(sys.argv[1], "training"):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def lock_holder(folder):
    """A process that holds the lock of a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HOLDER, str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.stdout.readline() != "locked\n":
        assert process.poll() is None
    yield process
    process.kill()
    process.communicate()
