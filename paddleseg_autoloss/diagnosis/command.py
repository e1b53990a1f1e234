"""The command ``diagnose``: measure, print and write."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddleseg.utils import logger

from paddleseg_autoloss.diagnosis.advice import describe, wrap
from paddleseg_autoloss.diagnosis.level_advice import describe_levels
from paddleseg_autoloss.diagnosis.levels import check_layer, measure_levels, methods_of
from paddleseg_autoloss.diagnosis.measurement import diagnosis_notes, fixed_mix, measure
from paddleseg_autoloss.diagnosis.numbers import Diagnosis
from paddleseg_autoloss.diagnosis.report import write_report
from paddleseg_autoloss.files import check_save_dir
from paddleseg_autoloss.integration.config import find_config, load_config
from paddleseg_autoloss.integration.loss_trial import try_losses
from paddleseg_autoloss.integration.parts import build_parts

__all__ = ["diagnose_from"]


def diagnose_from(args: Namespace, config_dir: Path) -> Diagnosis:
    """Run ``autoloss diagnose`` with its flags; print and write the result.

    Args:
        args: the parsed flags.
        config_dir: folder in which config names without a folder are searched.

    Raises:
        ConfigError: the config is invalid, or it has only one loss.
    """
    folder = Path(args.save_dir)
    check_save_dir(folder)
    path = find_config(args.config, config_dir)
    config = load_config(path, batch_size=args.batch_size, opts=args.opts)
    with _quiet_logger():
        parts = build_parts(config, args)
        try_losses(parts.model, parts.train_dataset, parts.losses, config.batch_size)
        notes = diagnosis_notes(parts.losses)
        methods = methods_of(parts.losses) if args.levels else None
        if methods is not None:
            check_layer(parts.model, methods)
        diagnosis = measure(parts, args.iters, config.batch_size, args.num_workers)
        levels = None
        if methods is not None:
            fixed = fixed_mix(parts.losses)
            levels = measure_levels(parts, fixed, methods, config.batch_size)
    folder.mkdir(parents=True, exist_ok=True)
    head = {"config": path, "iterations": args.iters, "seed": args.seed, "notes": notes}
    paths = write_report(diagnosis, folder, head, levels)
    print(f"\nThe losses of {args.config} over {args.iters} iterations\n")
    for note in notes:
        print(f"{wrap(note)}\n")
    print(describe(diagnosis))
    if levels is not None:
        print(f"\nLevels of gradient methods\n\n{describe_levels(levels)}")
    print(f"\nThe results are in {', '.join(map(str, paths[:-1]))} and {paths[-1]}")
    return diagnosis


@contextmanager
def _quiet_logger() -> Iterator[None]:
    """Let PaddleSeg log only errors."""
    level, logger.log_level = logger.log_level, 0
    try:
        yield
    finally:
        logger.log_level = level
