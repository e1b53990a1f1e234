"""Train a PaddleSeg config with learned loss weights; the flags are PaddleSeg's own."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser, Namespace

import paddleseg.core

from paddleseg_autoloss.cli import options
from paddleseg_autoloss.flags import positive_int, positive_number
from paddleseg_autoloss.installation import CONFIG_DIR
from paddleseg_autoloss.integration.checkpoint import checkpoint_iteration
from paddleseg_autoloss.integration.config import find_config, load_config
from paddleseg_autoloss.integration.loggers import check_loggers
from paddleseg_autoloss.integration.loss_trial import try_losses
from paddleseg_autoloss.integration.parts import build_parts

__all__ = ["add_flags", "newer_arguments", "run"]


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags of the command."""
    add = parser.add_argument
    options.add_config(parser)
    options.add_device(parser)
    add("--save_dir", default="./output", help="folder of the run; default: %(default)s")
    options.add_num_workers(parser)
    add("--do_eval", action="store_true", help="evaluate at every save_interval")
    add("--use_vdl", action="store_true", help="write VisualDL curves")
    options.add_loggers(parser)
    add("--use_ema", action="store_true", help="keep a moving average of the model")

    add(
        "--resume_model",
        help="folder to continue from, such as output/iter_1000, or latest; default: a new run",
    )
    add("--iters", type=positive_int, help="iterations; default: the config's")
    add("--batch_size", type=positive_int, help="images per card and step; default: the config's")
    add("--learning_rate", type=positive_number, help="learning rate; default: the config's")
    add(
        "--save_interval",
        type=positive_int,
        default=1000,
        help="iterations between checkpoints; default: %(default)s",
    )
    add(
        "--log_iters",
        type=positive_int,
        default=10,
        help="iterations between log lines; default: %(default)s",
    )
    add(
        "--keep_checkpoint_max",
        type=int,
        default=5,
        help="how many checkpoints to keep; default: %(default)s",
    )

    options.add_seed(parser)
    add(
        "--loss_aggregator",
        help="weigh all terms of the loss with this method, such as PCGrad; default: the config's",
    )
    policies = ["stop", "skip"]
    add(
        "--on_nonfinite",
        choices=policies,
        help="reaction to NaN or infinity; default: the config's, else stop",
    )
    add(
        "--precision",
        choices=["fp32", "fp16"],
        default="fp32",
        help="fp16: mixed precision; default: %(default)s",
    )
    add(
        "--amp_level",
        choices=["O1", "O2"],
        default="O1",
        help="level of mixed precision; default: %(default)s",
    )
    add("--profiler_options", help="see paddleseg/utils/train_profiler.py; default: no profile")
    options.add_data_format(parser)
    add(
        "--repeats",
        type=positive_int,
        default=1,
        help="times every sample occurs in an epoch; default: %(default)s",
    )
    add("--to_static_training", action="store_true", help="train the model as a static graph")
    options.add_multilabel(parser, paddleseg.core.evaluate)
    if _can_stop_early():
        add(
            "--early_stop_intervals",
            type=positive_int,
            help="stop after so many evaluations without a better mIoU; default: never",
        )
    options.add_quiet(parser)
    options.add_opts(parser)


def _can_stop_early() -> bool:
    """Whether the installed PaddleSeg can, that is since 2.9.1."""
    return "early_stop_intervals" in inspect.signature(paddleseg.core.train).parameters


def run(args: Namespace) -> None:
    """Run the command."""
    if args.resume_model not in (None, "latest"):
        checkpoint_iteration(args.resume_model)
    check_loggers(args.logger)
    config = load_config(
        find_config(args.config, CONFIG_DIR),
        learning_rate=args.learning_rate,
        iters=args.iters,
        batch_size=args.batch_size,
        opts=_opts(args),
    )
    options.set_data_format(config, args.data_format)
    parts = build_parts(config, args, with_val_dataset=args.do_eval)
    if args.repeats > 1:
        parts.train_dataset.file_list *= args.repeats
    try_losses(parts.model, parts.train_dataset, parts.losses, config.batch_size)
    options.show_config(config)
    paddleseg.core.train(
        parts.model,
        parts.train_dataset,
        val_dataset=parts.val_dataset,
        optimizer=parts.optimizer,
        save_dir=args.save_dir,
        iters=config.iters,
        batch_size=config.batch_size,
        resume_model=args.resume_model,
        save_interval=args.save_interval,
        log_iters=args.log_iters,
        num_workers=args.num_workers,
        use_vdl=args.use_vdl,
        loggers=args.logger,
        config=config.dic,
        use_ema=args.use_ema,
        losses=parts.losses,
        keep_checkpoint_max=args.keep_checkpoint_max,
        test_config=config.test_config | options.multilabel(args),
        precision=args.precision,
        amp_level=args.amp_level,
        profiler_options=args.profiler_options,
        to_static_training=config.to_static_training,
        **newer_arguments(args),
    )


def newer_arguments(args: Namespace) -> dict[str, int]:
    """Return the arguments that only the training function of a newer PaddleSeg takes."""
    intervals = getattr(args, "early_stop_intervals", None)
    return {} if intervals is None else {"early_stop_intervals": intervals}


def _opts(args: Namespace) -> list[str]:
    """Return PaddleSeg's ``--opts``, preceded by the flags that set config keys."""
    flags = []
    if args.loss_aggregator is not None:
        flags.append(f"loss_aggregator={{'type': '{args.loss_aggregator}'}}")
    if args.on_nonfinite is not None:
        flags.append(f"on_nonfinite={args.on_nonfinite}")
    if args.to_static_training:
        flags.append("to_static_training=True")
    return [*flags, *(args.opts or [])]
