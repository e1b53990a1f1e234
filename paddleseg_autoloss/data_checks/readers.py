"""Paddle's data loader, with clear errors from its readers.

When a read fails, Paddle's loader waits forever for a thread that has ended, or some seconds for a
process that has ended.  Here a failed sample replaces its batch, and its error is raised when the
batch is requested.  A process stores the sample that it is reading, for the case that it dies.
"""

from __future__ import annotations

import inspect
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle.io.dataloader.collate import default_collate_fn

from paddleseg_autoloss.data_checks.samples import Batches, Samples, without_failures
from paddleseg_autoloss.errors import AutoLossError, DataError
from paddleseg_autoloss.seams import replaced

__all__ = ["reader_errors"]

_LOADER = inspect.signature(paddle.io.DataLoader.__init__)
#: Seconds between two checks by Paddle whether its processes are alive.
_CHECK_INTERVAL = 1
#: Words in Paddle's error about a dead process of a loader.
_SIGN = "Blocking queue is killed"


@contextmanager
def reader_errors() -> Iterator[None]:
    """Let data loaders that are created in this context raise the errors of their readers.

    Raises:
        DataError: a sample cannot be read, the samples of a batch do not fit together, or a reading
            process has died; the error names the files and the transform.
    """
    loaders: list[_Loader] = []

    class Loader(_Loader):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            loaders.append(self)

    with (
        replaced(paddle.io, "DataLoader", Loader),
        replaced(paddle.base.core, "_set_process_pids", _watch_nothing),
    ):
        try:
            yield
        except AutoLossError:
            raise
        except Exception as error:
            deaths = [death for loader in loaders for death in loader.deaths()]
            if deaths and _SIGN in str(error):
                raise DataError(deaths[0]) from error
            raise


def _watch_nothing(loader: int, processes: tuple[int, ...]) -> None:
    """Leave it to the loader's thread to find dead processes, within `_CHECK_INTERVAL`.

    Paddle's signal handler raises the death of a process that it watches at any place in the main
    thread, even after the run.
    """


class _Loader(paddle.io.DataLoader):
    """Paddle's loader, with readers that pass on their errors; the arguments are Paddle's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        call = _LOADER.bind(self, *args, **kwargs)
        call.apply_defaults()
        options = dict(call.arguments)
        del options["self"]
        dataset = options["dataset"]
        self._guarded: Samples | None = None
        self._workers: set[Any] = set()
        is_batched = options["batch_sampler"] is not None or options["batch_size"] is not None
        if is_batched and not isinstance(dataset, paddle.io.IterableDataset):
            self._guarded = Samples(dataset, options["num_workers"])
            collate = options["collate_fn"] or default_collate_fn
            options["dataset"] = self._guarded
            options["collate_fn"] = Batches(self._guarded, collate)
            options["timeout"] = options["timeout"] or _CHECK_INTERVAL
        super().__init__(**options)

    def __iter__(self) -> Iterator[Any]:
        others = set(multiprocessing.active_children())
        batches = super().__iter__()
        self._workers = set(multiprocessing.active_children()) - others
        return without_failures(batches)

    def deaths(self) -> list[str]:
        """Describe for each dead process what it was reading."""
        dead = [worker for worker in self._workers if worker.exitcode]
        if self._guarded is None:
            return []
        return [self._guarded.describe_death(worker.pid, worker.exitcode) for worker in dead]
