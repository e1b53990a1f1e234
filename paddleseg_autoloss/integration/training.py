"""PaddleSeg's training function, with learned loss weights."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import paddleseg.core

from paddleseg_autoloss.integration.checkpoint import checkpoint_iteration
from paddleseg_autoloss.integration.mix import remember_component_configs
from paddleseg_autoloss.integration.session import LOOP, TrainingSession

__all__ = ["install", "train"]

_stock_train = LOOP.train


@functools.wraps(_stock_train)
def train(*args: Any, **kwargs: Any) -> Any:
    """Train as ``paddleseg.core.train`` does, and train the parameters of the losses too.

    All arguments are PaddleSeg's own.  ``optimizer`` may be made from ``model.parameters()`` alone:
    the losses' parameters join it.

    Raises:
        CheckpointError: ``resume_model`` is incomplete or holds the state of other losses.
        TrainingDiverged: a loss became NaN or infinite.
    """
    call = inspect.signature(_stock_train).bind(*args, **kwargs)
    call.apply_defaults()
    arguments = call.arguments
    resumed = arguments["resume_model"]
    session = TrainingSession(
        model=arguments["model"],
        train_dataset=arguments["train_dataset"],
        optimizer=arguments["optimizer"],
        losses=arguments["losses"],
        save_dir=arguments["save_dir"],
        start_iter=0 if resumed is None else checkpoint_iteration(resumed),
        save_interval=arguments["save_interval"],
    )
    try:
        with session.attached():
            result = _stock_train(*call.args, **call.kwargs)
    except KeyboardInterrupt:
        session.report.finish_interrupted()
        raise
    session.report.finish()
    return result


def install() -> None:
    """Put `train` in the place of ``paddleseg.core.train`` and let the builder note its configs."""
    setattr(LOOP, "train", train)  # noqa: B010
    paddleseg.core.train = train
    remember_component_configs()
