"""What the cluster's engine refuses; a real cluster is in test_command.py."""

from __future__ import annotations

import socket
import sys
import time
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
        names = {"NodeID": "0" * 56, "NodeManagerAddress": "10.0.0.2"}
        return [{"Alive": True, "Resources": {"CPU": self.cores}, **names}]

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
    with pytest.raises(
        ConfigError, match="expected a node with 3 cores or more for each run, found nodes with 2"
    ):
        RayEngine(commands, tmp_path)
    assert ray.closed


def test_no_cluster(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "no address")
    with pytest.raises(ConfigError, match="--engine ray: expected a running cluster, found none"):
        RayEngine(COMMANDS, tmp_path)


@pytest.mark.parametrize("is_listening", [True, False])
def test_an_address_that_does_not_answer(is_listening, monkeypatch, tmp_path):
    """Nobody is there, or something that is no cluster of Ray: Ray itself tries for minutes."""
    monkeypatch.setattr(ray_engine, "_CONNECT_SECONDS", 8)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1] if is_listening else 1}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        since = time.monotonic()
        with pytest.raises(ConfigError, match=f"RAY_ADDRESS={address}, found no answer in 8 sec"):
            RayEngine(COMMANDS, tmp_path)
    assert time.monotonic() - since < 20


@pytest.fixture(scope="module")
def cluster():
    """Two nodes in this machine: one core and one card, three cores without a card."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80_000_000}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1, **memory})
    made.add_node(num_cpus=3, num_gpus=0, **memory)
    yield made
    made.shutdown()


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Ray's newest version for Python 3.9 is old")
@pytest.mark.parametrize(
    ("cores", "device", "message"),
    [
        (4, "cpu", "a node with 4 cores or more for each run, found nodes with 3 cores, 1 cores;"),
        (2, "gpu", "2 cores and 1 cards or more for each run, found nodes with 3 cores and 0 car"),
        (3, "cpu", None),
    ],
)
def test_room_is_that_of_one_node(cores, device, message, cluster, monkeypatch, tmp_path):
    """A run has one node, whatever the sum over the cluster is."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    (tmp_path / "setup.json").write_text("{}")
    commands = SimpleNamespace(args=Namespace(jobs=None, cores=cores, device=device))
    if message is None:
        RayEngine(commands, tmp_path).close()
        return
    with pytest.raises(ConfigError, match=message):
        RayEngine(commands, tmp_path)


def test_ray_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingPackageError, match="--engine ray needs the package ray"):
        RayEngine(COMMANDS, tmp_path)
