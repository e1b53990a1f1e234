"""Runs the trainings of `trial` in processes of their own, and judges what they came to."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import paddle

from paddleseg_autoloss.comparison.processes import (
    describe_status,
    kill_process,
    start_process,
    visible_cards,
)
from paddleseg_autoloss.files import read_json
from paddleseg_autoloss.flags import gpu_count
from paddleseg_autoloss.installation import package_command
from paddleseg_autoloss.installation_checks.expected import EXPECTED
from paddleseg_autoloss.installation_checks.trial import KINDS, Outcome
from paddleseg_autoloss.installation_checks.worker import SECONDS

__all__ = ["TOLERANCES", "Row", "check_devices", "judge", "rows_of"]

#: Largest relative difference.  Half precision, and the TF32 of NVIDIA's cards in float32, round
#: to 11 bits, which changes these gradients by 0.0004.
TOLERANCES = {"fp32": 2e-3, "fp16": 1e-2}
_NAMES = {"fp32": "float32", "fp16": "mixed"}
_NOT_HERE = "not available here"
_WORKER = "paddleseg_autoloss.installation_checks.worker"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        device: such as ``cpu`` or ``gpu:0``, and how many of them.
        precision: ``float32`` or ``mixed``.
        method: name of the method, or ``all``.
        result: ``ok``, ``FAILED`` or ``not available here``.
        reason: why it failed, or why it is not available.
        weights: relative difference of the weights.
        gradient: relative difference of the gradient.
    """

    device: str
    precision: str
    method: str
    result: str
    reason: str = ""
    weights: float | None = None
    gradient: float | None = None


def check_devices() -> Iterator[Row]:
    """Train on the CPU, on each GPU, and on two of them together."""
    yield from rows_of("cpu", 1)
    if not paddle.is_compiled_with_cuda():
        # In a build for CUDA, the processes of one launch talk over NCCL only.
        yield from rows_of("cpu", 2)
    count = gpu_count()
    for index in range(count):
        yield from rows_of(f"gpu:{index}", 1)
    if count == 0:
        yield from _missing("gpu", "Paddle sees no GPU")
    if count > 1:
        yield from rows_of("gpu", 2)
    else:
        yield from _missing("gpu x 2", "it takes two GPUs")


def _missing(device: str, reason: str) -> Iterator[Row]:
    for precision in _NAMES.values():
        yield Row(device, precision, "all", _NOT_HERE, reason)


def rows_of(device: str, processes: int) -> Iterator[Row]:
    """Train every kind of method in both precisions, and yield a row for each.

    Args:
        device: ``"cpu"``, ``"gpu:0"``, or ``"gpu"`` with several processes.
        processes: how many train together; on GPUs each has a card of its own.
    """
    ranks, end = _run(device, processes)
    name = device if processes == 1 else f"{device} x {processes}"
    if not ranks[0]:
        yield Row(name, _NAMES["fp32"], "all", "FAILED", end)
        return
    for precision, shown in _NAMES.items():
        if precision not in ranks[0]:
            yield Row(name, shown, "all", _NOT_HERE, "Paddle has no half precision on this device")
            continue
        for method in KINDS:
            found = [rank.get(precision, {}).get(method, {"error": end}) for rank in ranks]
            errors = [one["error"] for one in found if "error" in one]
            if errors:
                yield Row(name, shown, method, "FAILED", errors[0])
                continue
            outcomes = [Outcome(**one) for one in found]
            yield Row(
                name, shown, method, *judge(outcomes, EXPECTED[method], TOLERANCES[precision])
            )


def judge(
    outcomes: Sequence[Outcome], reference: Outcome, tolerance: float
) -> tuple[str, str, float, float]:
    """Compare a training with a reference; return result, reason and differences, as in `Row`.

    Args:
        outcomes: one for each process.
        reference: what the training should come to.
        tolerance: the largest relative difference.

    Example:
        >>> sound = Outcome([0.5, 0.5], [1.0, 2.0], [3.0])
        >>> judge([sound, sound], sound, 0.001)
        ('ok', '', 0.0, 0.0)
        >>> judge([Outcome([0.5, 0.6], [1.0, 2.0], [3.0])], sound, 0.001)[:2]
        ('FAILED', 'the weights differ by 0.14, tolerance 0.001')
    """
    weights = _difference(outcomes[0].weights, reference.weights)
    gradient = _difference(outcomes[0].gradient, reference.gradient)
    reason = ""
    if not weights <= tolerance:
        reason = f"the weights differ by {weights:.2g}, tolerance {tolerance:g}"
    elif not gradient <= tolerance:
        reason = f"the gradient differs by {gradient:.2g}, tolerance {tolerance:g}"
    elif any(other.parameters != outcomes[0].parameters for other in outcomes[1:]):
        reason = "the cards have different parameters after the last step"
    return "FAILED" if reason else "ok", reason, weights, gradient


def _difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """Return the length of the difference of two vectors over that of the second."""
    if len(found) != len(expected):
        return math.inf
    return math.dist(found, expected) / math.hypot(*expected)


def _run(device: str, processes: int) -> tuple[list[dict[str, Any]], str]:
    """Run the worker on some devices; return what each process wrote, and how they ended."""
    with TemporaryDirectory(prefix="autoloss_checks_", ignore_cleanup_errors=True) as name:
        folder, log = Path(name), Path(name, "log.txt")
        worker = [*package_command(_WORKER), device, name]
        if processes > 1:
            worker = [
                sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node",
                str(processes), "--log_dir", name, *worker,
            ]  # fmt: skip
        process = start_process(worker, _environment(processes), log)
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS + 30)
        finally:
            is_late = _stop(process)
        ranks = [_result(folder / f"rank{rank}.json") for rank in range(processes)]
        logs = [log, *folder.glob("workerlog.*")]
        late = is_late or process.returncode == -signal.SIGALRM
        end = f"no end after {SECONDS} s" if late else describe_status(process.returncode)
        return ranks, f"{end}; the last line was: {_last_line(logs)}"


def _environment(processes: int) -> dict[str, str]:
    if processes == 1 or gpu_count() == 0:
        return dict(os.environ)
    return os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(visible_cards()[:processes])}


def _stop(process: subprocess.Popen[bytes]) -> bool:
    """End a process, and return whether it was still running."""
    if process.poll() is not None:
        return False
    # A launcher ends the processes that it has started.
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(15)
    kill_process(process)
    return True


def _result(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _last_line(logs: Sequence[Path]) -> str:
    lines = [
        line.strip()
        for log in logs
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    return lines[-1][:200] if lines else "no output"
