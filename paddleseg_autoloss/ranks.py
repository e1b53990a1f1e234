"""What several cards that train one network have to agree upon."""

from __future__ import annotations

import paddle
from paddle import Tensor

__all__ = ["is_writing_rank", "mean_over_ranks"]


def is_writing_rank() -> bool:
    """Whether this rank is the one that writes files and log lines."""
    return paddle.distributed.ParallelEnv().local_rank == 0


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks; with a single one, the tensor itself."""
    ranks = paddle.distributed.get_world_size()
    if ranks == 1 or not paddle.distributed.is_initialized():
        return tensor
    mean = tensor.clone()
    # ReduceOp.AVG does not exist for gloo.
    paddle.distributed.all_reduce(mean)
    return mean / ranks
