"""Trains and evaluates the runs of a comparison, several at a time."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from paddleseg.utils import logger
from tqdm import tqdm

from paddleseg_autoloss.comparison.engines import Engine, RunningJob
from paddleseg_autoloss.comparison.folders import RunFolder
from paddleseg_autoloss.comparison.plan import Run
from paddleseg_autoloss.comparison.processes import Interruption
from paddleseg_autoloss.errors import DataError
from paddleseg_autoloss.files import json_number

__all__ = ["Runner"]


class Runner:
    """Trains and evaluates the runs that are not done.

    Args:
        folders: folders of the runs, in the order in which they start.
        engine: what executes them.

    Attributes:
        failed: the folders of the runs that failed.
    """

    def __init__(self, folders: Sequence[RunFolder], engine: Engine) -> None:
        self.folders = list(folders)
        self.failed: list[RunFolder] = []
        self._engine = engine
        self._by_run = {folder.run.key: folder for folder in folders}
        self._waiting = [folder for folder in self.folders if not folder.is_done]
        self._jobs: list[RunningJob] = []

    def run(self) -> list[RunFolder]:
        """Do all remaining runs; return the folders of the failed runs.

        Raises:
            DataError: the first run that ended could not read its data, which all runs share.
            KeyboardInterrupt: the comparison was stopped; its processes have ended.
        """
        done = len(self.folders) - len(self._waiting)
        if done:
            logger.info(f"{done} of {len(self.folders)} runs are done already")
        total = sum(folder.run.config["iters"] for folder in self._waiting)
        seconds = 1 if sys.stderr.isatty() else 60
        progress = tqdm(total=total, unit="it", smoothing=0, mininterval=seconds)
        interruption = Interruption()
        with interruption.delayed(), progress:
            try:
                self._work(progress, interruption)
            except BaseException:
                self._stop()
                raise
        return self.failed

    def _work(self, progress: tqdm, interruption: Interruption) -> None:
        finished = 0
        while self._waiting or self._jobs:
            interruption.check()
            self._start_jobs()
            time.sleep(self._engine.poll)
            for job in [job for job in self._jobs if job.is_over()]:
                self._jobs.remove(job)
                finished += job.folder.run.config["iters"]
                self._report(job, progress)
            progress.set_description(f"{self._count()} runs", refresh=False)
            progress.update(finished + sum(job.iteration() for job in self._jobs) - progress.n)

    def _stop(self) -> None:
        """Stop all jobs, also after one that cannot be stopped."""
        with ExitStack() as stack:
            for job in self._jobs:
                stack.callback(job.stop)

    def _start_jobs(self) -> None:
        """Start waiting runs, up to the number of jobs."""
        for folder in list(self._waiting):
            if len(self._jobs) >= self._engine.most_jobs:
                return
            source = self._source(folder.run)
            if source is None or self._has_ended(source):
                self._waiting.remove(folder)
                self._jobs.append(self._engine.start(folder, source))

    def _source(self, run: Run) -> RunFolder | None:
        """Return the folder of the run whose weights another run uses."""
        return self._by_run[run.source] if run.source is not None else None

    def _has_ended(self, folder: RunFolder) -> bool:
        return folder not in self._waiting and all(job.folder is not folder for job in self._jobs)

    def _count(self) -> str:
        left = len(self._waiting) + len(self._jobs)
        return f"{len(self.folders) - left}/{len(self.folders)}"

    def _report(self, job: RunningJob, progress: tqdm) -> None:
        folder, count = job.folder, f"{self._count()} runs"
        if job.error is not None:
            self.failed.append(folder)
            if job.is_data_error and not any(folder.is_done for folder in self.folders):
                # All other runs would fail at the same data.
                raise DataError(f"{folder.run}: {job.error}")
            progress.write(f"{count}: failed: {folder.run}: {job.error}; see {folder.error_path}")
            return
        result = folder.result() or {}
        miou = json_number(result["test"]["mIoU"])
        shown = "undefined" if math.isnan(miou) else f"{miou:.4f}"
        progress.write(
            f"{count}: done: {folder.run}: test mIoU {shown}, {result['wall_seconds']:.0f} s"
        )
