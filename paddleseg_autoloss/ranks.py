"""Communication between several cards that train one network."""

from __future__ import annotations

from collections.abc import Iterable

import paddle
from paddle import Tensor

__all__ = ["any_rank", "broadcast", "is_one_of_several_ranks", "is_writing_rank", "mean_over_ranks"]


def is_writing_rank() -> bool:
    """Whether this rank writes files and log lines."""
    return paddle.distributed.ParallelEnv().local_rank == 0


def is_one_of_several_ranks() -> bool:
    """Whether other ranks train the same network."""
    return paddle.distributed.get_world_size() > 1 and paddle.distributed.is_initialized()


def any_rank(*flags: bool) -> list[bool]:
    """Return for each flag whether it is true on any rank."""
    if not is_one_of_several_ranks():
        return list(flags)
    return (mean_over_ranks(paddle.to_tensor([float(flag) for flag in flags])) > 0).tolist()


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks; with a single rank, return the tensor itself."""
    if not is_one_of_several_ranks():
        return tensor
    mean = tensor.clone()
    # The backend gloo has no ReduceOp.AVG.
    paddle.distributed.all_reduce(mean)
    return mean / paddle.distributed.get_world_size()


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Set tensors to their values on the first rank."""
    if not is_one_of_several_ranks():
        return
    for tensor in tensors:
        # Some tensors are on the host; NCCL can only send from the device.
        shared = paddle.to_tensor(tensor.numpy())
        paddle.distributed.broadcast(shared, src=0)
        tensor.set_value(shared.numpy())
