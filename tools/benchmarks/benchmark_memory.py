"""Measure the peak memory of a training step, on a network of PaddleSeg.

A step holds the parameters, the optimizer's state, the activations and the gradients.  A method
that looks at the gradient of each loss holds K gradients where a plain step holds one;
docs/memory.md has the formula.  Paddle counts the bytes itself; here those on the host.

    python tools/benchmarks/benchmark_memory.py --model UNet --size 64
"""

from __future__ import annotations

import gc
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import benchmark_gradients
import paddle
from _networks import feature_layer, make_network

core = paddle.base.core
#: Value of ``loss_aggregator`` for each row; what is remembered is counted with the step.
VARIANTS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "losses (DWA)": {"type": "DWA"},
    "level: logits": {"type": "UPGrad", "level": "logits"},
    "level: features": {"type": "UPGrad", "level": "features"},
    "Gramian, level: parameters": {"type": "UPGrad"},
    # The third step is measured: of these two, the first updates the weights in it.
    "update_interval, update": {"type": "UPGrad", "update_interval": 2},
    "update_interval, between": {"type": "UPGrad", "update_interval": 10},
    "Jacobian (GradDrop)": {"type": "GradDrop"},
    "Jacobian with memory (MoCo)": {"type": "MoCo"},
}
MEGABYTE = 2**20


def peak_of_step(args: Namespace, aggregator: dict[str, Any] | None) -> float:
    """Return the peak of the host memory during one step after two others, in MB.

    Args:
        args: the flags.
        aggregator: the value of ``loss_aggregator``, or None for the plain sum.
    """
    gc.collect()
    before = core.host_memory_stat_current_value("Allocated", 0)
    with ExitStack() as stack:
        step = benchmark_gradients.make_step(args, aggregator, stack)
        step()
        step()
        core.host_memory_stat_reset_peak_value("Allocated", 0)
        step()
        peak = core.host_memory_stat_peak_value("Allocated", 0) - before
    return peak / MEGABYTE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = benchmark_gradients.parse_args(argv)
    if not hasattr(core, "host_memory_stat_reset_peak_value"):
        print("error: this Paddle cannot reset its peak of memory; expected Paddle 3")
        return 1
    network = make_network(args.model, heads=args.heads)
    count = sum(p.size for p in network.parameters() if not p.stop_gradient)
    size = 4 * count / MEGABYTE
    layer = feature_layer(args.model)
    has_layer = layer in {name for name, _ in network.named_sublayers()}
    del network
    losses = args.heads * args.losses
    print(f"{args.model}, {args.size} x {args.size}, batch {args.batch_size}, K = {losses}")
    print(f"{count / 1e6:.1f} million parameters; one gradient, 4 n bytes: {size:.1f} MB")
    plain = peak_of_step(args, None)
    for name, aggregator in VARIANTS.items():
        if aggregator is not None and aggregator.get("level") == "features":
            if not has_layer:
                continue
            aggregator = {**aggregator, "layer": layer}
        peak = plain if aggregator is None else peak_of_step(args, aggregator)
        print(
            f"{name:28} {peak:7.1f} MB  {peak / plain:.2f} of plain  "
            f"{(peak - plain) / size:+.2f} gradients"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
