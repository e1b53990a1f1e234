"""Train a PaddleSeg config with learned loss weights; the flags are PaddleSeg's own."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from paddleseg_autoloss.cli.commands import train_from
from paddleseg_autoloss.flags import default_device, non_negative_int, positive_int, run_command

CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--config", help="config file, or the name of one in configs/")
    devices = ["cpu", "gpu", "xpu", "npu", "mlu"]
    add("--device", choices=devices, default=default_device(), help="default: gpu if there is one")
    add("--save_dir", default="./output", help="folder of the run")
    add("--num_workers", type=non_negative_int, default=0, help="processes that load data")
    add("--do_eval", action="store_true", help="evaluate at every save_interval")
    add("--use_vdl", action="store_true", help="write VisualDL curves")
    add("--use_ema", action="store_true", help="keep a moving average of the model")

    add("--resume_model", help="folder to continue from, such as output/iter_1000, or latest")
    add("--iters", type=positive_int, help="iterations, instead of the config's")
    add("--batch_size", type=positive_int, help="images per card and step, instead of the config's")
    add("--learning_rate", type=float, help="learning rate, instead of the config's")
    add("--save_interval", type=positive_int, default=1000, help="iterations between checkpoints")
    add("--log_iters", type=positive_int, default=10, help="iterations between log lines")
    add("--keep_checkpoint_max", type=int, default=5, help="how many checkpoints to keep")

    add(
        "--seed", type=non_negative_int, help="seed of initial weights, data order and augmentation"
    )
    add("--loss_aggregator", help="weigh all terms of the loss with this method, such as PCGrad")
    policies = ["stop", "skip"]
    add("--on_nonfinite", choices=policies, help="what to do about NaN or infinity; default: stop")
    add("--precision", choices=["fp32", "fp16"], default="fp32", help="fp16: mixed precision")
    add("--amp_level", choices=["O1", "O2"], default="O1", help="level of mixed precision")
    add("--profiler_options", help="see paddleseg/utils/train_profiler.py")
    add("--data_format", choices=["NCHW", "NHWC"], default="NCHW", help="layout of the input")
    add("--repeats", type=positive_int, default=1, help="times every sample occurs in an epoch")
    add("--opts", nargs="+", help="config keys to change, as key=value or key.inner=value")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    return run_command(lambda: train_from(args, CONFIG_DIR))


if __name__ == "__main__":
    sys.exit(main())
