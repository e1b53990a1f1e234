"""PaddleSeg's training function, with learned loss weights."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import paddle

from paddleseg_autoloss.data_checks import check_data, reader_errors
from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.integration.builder import extend_builder
from paddleseg_autoloss.integration.checkpoint import (
    check_writable,
    checkpoint_iteration,
    latest_checkpoint,
)
from paddleseg_autoloss.integration.loading import guard_loaders
from paddleseg_autoloss.integration.loop import LOOP
from paddleseg_autoloss.integration.report import TrainLogger
from paddleseg_autoloss.integration.safety import install_safety
from paddleseg_autoloss.integration.session import TrainingSession
from paddleseg_autoloss.seams import check_seams, redirect

__all__ = ["install", "train"]

_stock_train: Callable = LOOP.train


@functools.wraps(_stock_train)
def train(*args: Any, **kwargs: Any) -> Any:
    """Train as ``paddleseg.core.train`` does, and train the parameters of the losses too.

    All arguments are PaddleSeg's own.  ``optimizer`` may be made from ``model.parameters()`` alone:
    the losses' parameters join it.  ``resume_model="latest"`` is the newest whole checkpoint in
    ``save_dir``.

    Raises:
        CheckpointError: ``resume_model`` is incomplete, or of another network, optimizer or losses;
            or a checkpoint cannot be written.
        DataError: an image or a label cannot be read or cannot be trained on.
        ConfigError: ``save_dir`` cannot be written to, or an argument cannot work.
        TrainingDiverged: a loss or a gradient became NaN or infinite; the network, the optimizer
            and the losses are as before that step.
    """
    call = inspect.signature(_stock_train).bind(*args, **kwargs)
    call.apply_defaults()
    arguments = call.arguments
    _check_sizes(arguments)
    _check_datasets(arguments)
    check_writable(arguments["save_dir"])
    if arguments["resume_model"] == "latest":
        arguments["resume_model"] = latest_checkpoint(arguments["save_dir"])
    session = TrainingSession(
        model=arguments["model"],
        train_dataset=arguments["train_dataset"],
        optimizer=arguments["optimizer"],
        losses=arguments["losses"] or {"types": [], "coef": []},
        save_dir=arguments["save_dir"],
        start_iter=_start_iter(arguments),
        save_interval=arguments["save_interval"],
    )
    if "logger" in arguments:
        # After 2.9 the loop logs to this one, and on every card.
        arguments["logger"] = TrainLogger(arguments["logger"], session.report)
    if arguments["to_static_training"]:
        _check_static_training(session)
    try:
        with reader_errors(), session.attached():
            result = _stock_train(*call.args, **call.kwargs)
    except KeyboardInterrupt:
        session.report.finish_interrupted()
        raise
    except TrainingDiverged:
        session.report.plot()
        raise
    session.report.finish()
    return result


def _start_iter(arguments: dict[str, Any]) -> int:
    if arguments["resume_model"] is None:
        return 0
    start_iter = checkpoint_iteration(arguments["resume_model"])
    if start_iter >= arguments["iters"]:
        raise ConfigError(
            f"iters: expected more than {start_iter}, where {arguments['resume_model']} stands, "
            f"found {arguments['iters']}"
        )
    return start_iter


def _check_sizes(arguments: dict[str, Any]) -> None:
    """PaddleSeg's loop would turn for ever without a single batch."""
    ranks = paddle.distributed.ParallelEnv().nranks
    images, batch = len(arguments["train_dataset"]), arguments["batch_size"]
    if images < batch * ranks:
        raise ConfigError(
            f"batch_size: expected at most {images // ranks}, as train_dataset has {images} images "
            f"for {ranks} card(s), found {batch}"
        )


def _check_datasets(arguments: dict[str, Any]) -> None:
    """What was built from a config has been looked at; this is for what a script hands over."""
    for key in ("train_dataset", "val_dataset"):
        if arguments[key] is not None:
            check_data(key, arguments[key])


def _check_static_training(session: TrainingSession) -> None:
    for aggregator in session.aggregators:
        if aggregator.uses_gradients:
            raise ConfigError(
                "to_static_training: expected False with a method that looks at gradients, as "
                "Paddle goes backward through a static graph only once; found True"
            )


def install() -> None:
    """Let ``paddleseg.core.train`` call `train`, extend the builder, and guard the loaders.

    Raises:
        UnsupportedVersionError: the installed PaddleSeg lacks something that this package needs.
    """
    global _stock_train
    check_seams()
    _stock_train = redirect(LOOP.train, train)
    extend_builder()
    install_safety()
    guard_loaders()
