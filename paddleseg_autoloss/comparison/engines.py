"""Where the runs of a comparison are executed; here in processes of this machine."""

from __future__ import annotations

import os
from typing import Protocol

from paddleseg_autoloss.comparison.folders import RunFolder
from paddleseg_autoloss.comparison.job import Commands, Job
from paddleseg_autoloss.comparison.processes import visible_cards
from paddleseg_autoloss.installation import CHECKOUT

__all__ = ["Engine", "LocalEngine", "RunningJob", "search_path"]


class RunningJob(Protocol):
    """A run that has been started."""

    folder: RunFolder
    #: The reason why the run failed, or None.
    error: str | None
    #: Whether the reason is the data, which all runs share.
    is_data_error: bool

    def is_over(self) -> bool:
        """Return whether the run is done or has failed."""

    def iteration(self) -> int:
        """Return the latest training iteration."""

    def stop(self) -> None:
        """Stop the run; it can go on later."""


class Engine(Protocol):
    """Starts runs."""

    #: Number of runs that may be started at the same time.
    most_jobs: float
    #: Seconds between two looks at the runs.
    poll: float

    def start(self, folder: RunFolder, source: RunFolder | None) -> RunningJob:
        """Start a run.

        Args:
            folder: folder of the run.
            source: folder of the run whose weights it trains with, or None.
        """

    def close(self) -> None:
        """Release what the engine holds."""


class LocalEngine:
    """Starts runs in processes of this machine, on one of its cards each.

    Args:
        commands: the command lines of the comparison.
    """

    poll = 0.1

    def __init__(self, commands: Commands) -> None:
        self.most_jobs: float = commands.args.jobs or 1
        self._commands = commands
        self._cards = visible_cards() if commands.args.device == "gpu" else []
        self._jobs: list[Job] = []

    def start(self, folder: RunFolder, source: RunFolder | None) -> Job:
        """Start a run; see `Engine.start`."""
        self._jobs = [job for job in self._jobs if not job.is_over()]
        job = Job(folder, source, self._environment(), self._commands)
        self._jobs.append(job)
        return job

    def _environment(self) -> dict[str, str]:
        """Return environment variables that give a process this package and one of the cards."""
        environment = os.environ | search_path()
        if self._cards:
            used = [job.environment["CUDA_VISIBLE_DEVICES"] for job in self._jobs]
            environment["CUDA_VISIBLE_DEVICES"] = min(self._cards, key=used.count)
        return environment

    def close(self) -> None:
        """Do nothing: the processes have ended."""


def search_path() -> dict[str, str]:
    """Return the PYTHONPATH with which other processes import this copy of the package."""
    if CHECKOUT is None:
        return {}
    path = filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")])
    return {"PYTHONPATH": os.pathsep.join(path)}
