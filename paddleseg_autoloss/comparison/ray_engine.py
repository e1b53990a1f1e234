"""Runs of a comparison as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import math
import os
import time
from pathlib import Path
from typing import Any

from paddleseg.utils import logger

import paddleseg_autoloss
from paddleseg_autoloss.comparison.engines import search_path
from paddleseg_autoloss.comparison.folders import RunFolder
from paddleseg_autoloss.comparison.job import Commands, Job
from paddleseg_autoloss.errors import ConfigError, typed_line
from paddleseg_autoloss.missing_packages import import_for

__all__ = ["RayEngine", "RayJob"]

#: How often a run is tried elsewhere after its node died.
_MOST_RETRIES = 3
#: Seconds to wait until a node answers, and until a run that was told to stop has stopped.
_PATIENCE = 60
_KEY = "--engine ray"


class RayEngine:
    """Sends every run to a Ray cluster, as a task with its own cores and card.

    All nodes must see the folder of the comparison and the images under the same paths, and have
    the same version of this package.  A run whose node dies continues on another one, from its last
    checkpoint.

    Args:
        commands: the command lines of the comparison.
        save_dir: folder of the comparison.

    Raises:
        MissingPackageError: Ray is not installed.
        ConfigError: there is no cluster, or one of its nodes cannot do the runs.
    """

    poll = 1.0

    def __init__(self, commands: Commands, save_dir: Path) -> None:
        self._ray = import_for(_KEY, "ray")
        self._commands = commands
        self.most_jobs: float = commands.args.jobs or math.inf
        _connect(self._ray)
        cores, cards = commands.args.cores, 1 if commands.args.device == "gpu" else 0
        try:
            self._check_nodes(save_dir)
            _check_resources(self._ray.cluster_resources(), cores, cards)
        except BaseException:
            self.close()
            raise
        options = {"num_cpus": cores, "num_gpus": cards, "max_retries": _MOST_RETRIES}
        self._task = self._ray.remote(**options)(_execute)

    def start(self, folder: RunFolder, source: RunFolder | None) -> RayJob:
        """Send a run to the cluster, which starts it as soon as there is room."""
        return RayJob(self._ray, folder, self._task.remote(folder, source, self._commands))

    def _check_nodes(self, save_dir: Path) -> None:
        """Check that every node sees the folder, and has this version of the package."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        look = self._ray.remote(num_cpus=0, max_retries=0)(_look)
        for node in nodes:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            name, answer = node["NodeManagerAddress"], look.options(scheduling_strategy=strategy)
            try:
                version, sees = self._ray.get(answer.remote(save_dir), timeout=_PATIENCE)
            except self._ray.exceptions.RayError as error:
                raise ConfigError(
                    f"{_KEY}: expected paddleseg_autoloss on node {name}, found "
                    f"{typed_line(error)}; install it there in the same environment"
                ) from error
            if version != paddleseg_autoloss.__version__:
                raise ConfigError(
                    f"{_KEY}: expected paddleseg_autoloss {paddleseg_autoloss.__version__} on node "
                    f"{name}, found {version}"
                )
            if not sees:
                raise ConfigError(
                    f"--save_dir: expected a folder that all nodes share, but node {name} does not "
                    f"see {save_dir}"
                )
        total = self._ray.cluster_resources()
        logger.info(
            f"Ray: {len(nodes)} nodes, {total.get('CPU', 0):g} cores, {total.get('GPU', 0):g} cards"
        )

    def close(self) -> None:
        """Disconnect from the cluster; it goes on running."""
        self._ray.shutdown()


class RayJob:
    """A run that was sent to the cluster; see `RunningJob`."""

    def __init__(self, ray: Any, folder: RunFolder, task: Any) -> None:
        self.folder = folder
        self.error: str | None = None
        self.is_data_error = False
        self._ray = ray
        self._task = task
        self._iteration = 0
        self._is_over = False

    def is_over(self) -> bool:
        """Return whether the run is done or has failed."""
        if not self._is_over:
            finished, _ = self._ray.wait([self._task], timeout=0)
            self._is_over = bool(finished)
            if finished:
                self._take_result()
        return self._is_over

    def _take_result(self) -> None:
        try:
            self.error, self.is_data_error = self._ray.get(self._task)
        except self._ray.exceptions.RayError as error:
            self.error = f"Ray: {typed_line(error)}"
            self.folder.write_error(self.error, self.folder.log_path)

    def iteration(self) -> int:
        """Return the latest training iteration in the log."""
        self._iteration = max(self._iteration, self.folder.iteration())
        return self._iteration

    def stop(self) -> None:
        """Stop the run on its node, and wait until it has stopped."""
        self._ray.cancel(self._task)
        stopped, _ = self._ray.wait([self._task], timeout=_PATIENCE)
        if not stopped:
            self._ray.cancel(self._task, force=True)


def _connect(ray: Any) -> None:
    try:
        ray.init(
            address=os.environ.get("RAY_ADDRESS", "auto"),
            runtime_env={"env_vars": search_path()},
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{_KEY}: expected a running cluster, found none: {typed_line(error)}; start one with "
            "`ray start --head`, or give its address in RAY_ADDRESS"
        ) from error


def _check_resources(found: dict[str, float], cores: int, cards: int) -> None:
    """Check that the cluster can run a task at all: Ray would wait for ever."""
    for name, kind, number in (("CPU", "cores", cores), ("GPU", "cards", cards)):
        if found.get(name, 0) < number:
            raise ConfigError(
                f"{_KEY}: expected at least {number} {kind} in the cluster, found "
                f"{found.get(name, 0):g}"
            )


def _look(save_dir: Path) -> tuple[str, bool]:
    """Return this node's version of the package, and whether it sees the comparison's folder."""
    return paddleseg_autoloss.__version__, (save_dir / "setup.json").is_file()


def _execute(
    folder: RunFolder, source: RunFolder | None, commands: Commands
) -> tuple[str | None, bool]:
    """Do a run on the node that it was sent to; return why it failed."""
    job = Job(folder, source, dict(os.environ), commands)
    try:
        while not job.is_over():
            time.sleep(0.1)
    finally:
        # Ray interrupts a task that is cancelled.
        job.stop()
    return job.error, job.is_data_error
