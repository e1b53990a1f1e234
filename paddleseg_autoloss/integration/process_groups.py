"""Groups of processes over gloo that cannot mistake each other's addresses."""

from __future__ import annotations

import inspect
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import paddle
from paddle.base import core
from paddle.distributed import collective

from paddleseg_autoloss.seams import replaced

__all__ = ["separate_gloo_groups"]

_stock_group = collective._new_process_group_impl
_SIGNATURE = inspect.signature(_stock_group)

#: How often a port may be taken before the store has it.
_MOST_TAKEN = 4
_FLAG = "FLAGS_tcp_store_using_libuv"
#: The stores of each group's number.  A store must live as long as others may read from it.
_stores: defaultdict[int, list[Any]] = defaultdict(list)


@contextmanager
def separate_gloo_groups() -> Iterator[None]:
    """Give every process group over gloo that is made meanwhile a store of addresses of its own.

    Paddle's groups share one store, and their addresses have the same names in it.  A process
    ahead of the others finds the addresses of the group before: it is refused, or waits for ever.
    """
    with replaced(collective, "_new_process_group_impl", _new_group):
        yield


def _new_group(*args: Any, **kwargs: Any) -> Any:
    """Make a process group; the arguments are Paddle's."""
    call = _SIGNATURE.bind(*args, **kwargs)
    call.apply_defaults()
    options = call.arguments
    if options["backend"] == "gloo":
        options["store"] = _own_store(options["store"], options["rank"], options["group_id"])
    return _stock_group(*call.args, **call.kwargs)


def _own_store(shared: Any, rank: int, group_id: int) -> Any:
    """Return a store for one group; its first process serves it and tells the others where."""
    stores = _stores[group_id]
    key = f"store {len(stores)} of group {group_id}"
    if rank == 0:
        host = paddle.distributed.ParallelEnv().current_endpoint.rpartition(":")[0]
        store, port = _served_store(host)
        shared.set(key, f"{host}:{port}")
    else:
        shared.wait(key)
        host, _, text = shared.get(key).decode().rpartition(":")
        store = core.TCPStore(host, int(text), False, 1)
    stores.append(store)
    return store


def _served_store(host: str) -> tuple[Any, int]:
    """Return a store that this process serves, and its port.

    Between the search for a free port and its use, another program may take it.
    """
    with _server_that_raises():
        for _ in range(_MOST_TAKEN):
            port = _free_port()
            # The number of processes is 1, so that the first does not wait for the others.
            with suppress(ValueError):
                return core.TCPStore(host, port, True, 1), port
        port = _free_port()
        return core.TCPStore(host, port, True, 1), port


@contextmanager
def _server_that_raises() -> Iterator[None]:
    """Make stores meanwhile that raise an error if their port is taken.

    Those that Paddle 3 makes by itself end the process.
    """
    flags = {_FLAG: False} if core.globals().is_public(_FLAG) else {}
    before = paddle.get_flags(list(flags)) if flags else {}
    paddle.set_flags(flags)
    try:
        yield
    finally:
        paddle.set_flags(before)


def _free_port() -> int:
    with socket.socket() as probe:
        # As the store does: a port may be free at one address of this computer only.
        probe.bind(("", 0))
        return probe.getsockname()[1]
