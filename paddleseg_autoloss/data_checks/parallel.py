"""Work on many files in threads, with a progress bar."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

__all__ = ["in_threads", "number_of_threads"]

_MOST_THREADS = 8

T = TypeVar("T")
R = TypeVar("R")


def number_of_threads() -> int:
    """Return the number of threads for reading files: one for each core, at most eight."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)


def in_threads(
    work: Callable[[T], R], items: Sequence[T], what: str, threads: int | None = None
) -> Iterator[R]:
    """Yield ``work(item)`` for every item, in their order; show a progress bar after a second.

    Args:
        work: a function that may run in several threads at once.
        items: one for each file.
        what: text before the bar.
        threads: number of threads; by default `number_of_threads`.

    Example:
        >>> list(in_threads(abs, [-1, 2, -3], "numbers"))
        [1, 2, 3]
    """
    progress = tqdm(total=len(items), desc=what, unit="file", delay=1, leave=False)
    pool = ThreadPoolExecutor(number_of_threads() if threads is None else threads)
    try:
        for result in pool.map(work, items):
            progress.update()
            yield result
    finally:
        # After Ctrl-C, do not read the other files.
        pool.shutdown(cancel_futures=True)
        progress.close()
