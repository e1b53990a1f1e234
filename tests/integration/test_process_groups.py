"""The stores of addresses of process groups."""

from __future__ import annotations

import json

import paddle
import pytest
from support.processes import SCRIPT_HEAD, run_tool

SCRIPT = (
    SCRIPT_HEAD
    + """
import json
import socket
from paddle.base import core
from paddleseg_autoloss.integration import process_groups


def taken(address):
    taker = socket.socket()
    taker.bind((address, 0))
    taker.listen()
    return taker


address, count = json.loads(sys.argv[1])
takers = [taken(address) for _ in range(count)]
ports = iter([taker.getsockname()[1] for taker in takers])
stock = process_groups._free_port
process_groups._free_port = lambda *args: next(ports, None) or stock(*args)
# The store of all processes is a store like others.
shared = core.TCPStore("127.0.0.1", stock(), True, 1)
served = process_groups._own_store(shared, 0, 7)
process_groups._stores.clear()
other = process_groups._own_store(shared, 1, 7)
other.set("key", "value")
flags = [core.globals()[name] for name in core.globals().keys() if "libuv" in name]
print(json.dumps({"value": served.get("key").decode(), "flags": flags}))
"""
)


@pytest.mark.parametrize(("address", "count"), [("0.0.0.0", 1), ("127.0.0.1", 1), ("127.0.0.2", 3)])
def test_a_port_that_is_taken_meanwhile(address, count):
    """Paddle 3's server ends the process on a port that is taken."""
    done = run_tool(
        "-c", SCRIPT, json.dumps([address, count]), PADDLE_CURRENT_ENDPOINT="127.0.0.1:1"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["value"] == "value"
    assert found["flags"] or paddle.__version__.startswith("2.")
    assert all(found["flags"])
