"""What the cluster's engine refuses; a real cluster is in test_command.py."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from paddleseg_autoloss.comparison import ray_engine
from paddleseg_autoloss.comparison.ray_engine import RayEngine
from paddleseg_autoloss.errors import ConfigError, MissingPackageError

pytestmark = pytest.mark.once

COMMANDS = SimpleNamespace(args=Namespace(jobs=None, cores=1, device="cpu"))


class Ray:
    """A cluster with one node, which answers with what it is given."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self, answer, cores=4):
        self.answer = answer
        self.cores = cores
        self.closed = False

    def init(self, **options):
        pass

    def nodes(self):
        return [{"Alive": True, "NodeID": "0" * 56, "NodeManagerAddress": "10.0.0.2"}]

    def remote(self, **options):
        remote = SimpleNamespace(remote=lambda *values: None)
        return lambda function: SimpleNamespace(options=lambda **options: remote)

    def get(self, task, timeout):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def cluster_resources(self):
        return {"CPU": self.cores}

    def shutdown(self):
        self.closed = True


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            ("0.0.1", True),
            r"--engine ray: expected paddleseg_autoloss \S+ on node 10.0.0.2, found 0",
        ),
        (("same", False), r"--save_dir: .* node 10.0.0.2 does not see /no/such"),
        (RuntimeError("no module"), r"on node 10.0.0.2, found RuntimeError: no module; install it"),
    ],
)
def test_a_node_that_cannot_do_the_runs_is_named(answer, message, monkeypatch):
    version = ray_engine.paddleseg_autoloss.__version__
    if not isinstance(answer, Exception):
        answer = (version if answer[0] == "same" else answer[0], answer[1])
    ray = Ray(answer)
    monkeypatch.setattr(ray_engine, "import_for", lambda user, module: ray)
    with pytest.raises(ConfigError, match=message):
        RayEngine(COMMANDS, Path("/no/such"))
    assert ray.closed


def test_a_cluster_without_room_is_refused(monkeypatch, tmp_path):
    """Ray would wait for ever."""
    ray = Ray((ray_engine.paddleseg_autoloss.__version__, True), cores=2)
    monkeypatch.setattr(ray_engine, "import_for", lambda user, module: ray)
    commands = SimpleNamespace(args=Namespace(jobs=None, cores=3, device="cpu"))
    with pytest.raises(ConfigError, match="expected at least 3 cores in the cluster, found 2"):
        RayEngine(commands, tmp_path)
    assert ray.closed


def test_no_cluster(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "no address")
    with pytest.raises(ConfigError, match="--engine ray: expected a running cluster, found none"):
        RayEngine(COMMANDS, tmp_path)


def test_ray_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingPackageError, match="--engine ray needs the package ray"):
        RayEngine(COMMANDS, tmp_path)
