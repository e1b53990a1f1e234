"""Groups of processes over gloo that cannot mistake each other's addresses."""

from __future__ import annotations

import inspect
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle.base import core
from paddle.distributed import collective

from paddleseg_autoloss.seams import replaced

__all__ = ["separate_gloo_groups"]

_stock_group = collective._new_process_group_impl
_SIGNATURE = inspect.signature(_stock_group)

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
        port = _free_port(host)
    else:
        shared.wait(key)
        host, _, port = shared.get(key).decode().rpartition(":")
    # The number of processes is 1, so that the first does not wait for the others.
    store = core.TCPStore(host, int(port), rank == 0, 1)
    if rank == 0:
        shared.set(key, f"{host}:{port}")
    stores.append(store)
    return store


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
