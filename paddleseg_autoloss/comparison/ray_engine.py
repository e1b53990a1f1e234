"""Runs of a comparison as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import DEVNULL
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
#: Addresses at which Ray looks only at what runs on this machine.
_OWN_ADDRESSES = ("auto", "local")
_CONNECT = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False)"
_CONNECT_SECONDS = 30
#: Most nodes that an error names.
_MOST_NODES = 3


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
            _check_resources(self._ray.nodes(), cores, cards)
            self._check_nodes(save_dir)
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
    address = os.environ.get("RAY_ADDRESS", "auto")
    if address not in _OWN_ADDRESSES:
        _check_answer(address)
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": search_path()},
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{_KEY}: expected a running cluster, found none: {typed_line(error)}; start one with "
            "`ray start --head`, or give its address in RAY_ADDRESS"
        ) from error


def _check_answer(address: str) -> None:
    """Check that an address answers, in a process that can be killed: Ray tries for minutes."""
    command = [sys.executable, "-c", _CONNECT, address]
    try:
        subprocess.run(
            command, check=False, timeout=_CONNECT_SECONDS, stdout=DEVNULL, stderr=DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"{_KEY}: expected a running cluster at RAY_ADDRESS={address}, found no answer in "
            f"{_CONNECT_SECONDS} seconds; correct RAY_ADDRESS, or start a cluster with "
            "`ray start --head`"
        ) from error


def _check_resources(nodes: Sequence[dict[str, Any]], cores: int, cards: int) -> None:
    """Check that a node can do a run: a run has one node, and Ray would wait for ever."""
    found = [
        tuple(node["Resources"].get(name, 0) for name in ("CPU", "GPU"))
        for node in nodes
        if node["Alive"]
    ]
    if not any(own[0] >= cores and own[1] >= cards for own in found):
        wanted, *largest = (
            f"{one[0]:g} cores" + (f" and {one[1]:g} cards" if cards else "")
            for one in ((cores, cards), *sorted(set(found), reverse=True)[:_MOST_NODES])
        )
        raise ConfigError(
            f"{_KEY}: expected a node with {wanted} or more for each run, found nodes with "
            f"{', '.join(largest) or 'nothing'}; lower --cores, or add a node"
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
