"""A process that tries every kind of method on one device; it writes what each came to."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import paddle

from paddleseg_autoloss.errors import one_line
from paddleseg_autoloss.files import write_json
from paddleseg_autoloss.installation_checks.trial import KINDS, mixed_precision_works, try_kind

__all__ = ["SECONDS", "main"]

#: The process ends after this time: a card that waits for another one may wait for ever.
SECONDS = 300


def main(device: str, folder: Path) -> None:
    """Try every kind of method, and write ``rank0.json`` after each.

    Args:
        device: name for ``paddle.set_device``, such as ``"gpu:0"``; with several processes
            ``"gpu"``, where each takes a card of its own.
        folder: folder for the result, and for the files of the trainings.
    """
    paddle.set_device(device)
    rank = paddle.distributed.ParallelEnv().rank
    results: dict[str, Any] = {"fp32": {}}
    if mixed_precision_works():
        results["fp16"] = {}
    for precision, outcomes in results.items():
        for method in KINDS:
            place = folder / f"{precision}_{method}"
            try:
                outcomes[method] = asdict(try_kind(method, precision, place))
            except Exception as error:
                outcomes[method] = {"error": one_line(error) or type(error).__name__}
            write_json(folder / f"rank{rank}.json", results)


if __name__ == "__main__":
    signal.alarm(SECONDS)
    main(sys.argv[1], Path(sys.argv[2]))
