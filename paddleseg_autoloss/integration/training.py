"""PaddleSeg's training function, with learned loss weights."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import paddle
import paddleseg.core
import visualdl
from paddleseg.utils import logger

from paddleseg_autoloss.data_checks import check_data, reader_errors
from paddleseg_autoloss.data_checks.image_limit import set_image_limit
from paddleseg_autoloss.errors import (
    CheckpointError,
    ConfigError,
    TrainingDiverged,
    TrainingStopped,
)
from paddleseg_autoloss.files import output_errors
from paddleseg_autoloss.integration.builder import extend_builder
from paddleseg_autoloss.integration.checkpoint import (
    check_writable,
    checkpoint_iteration,
    latest_checkpoint,
    whole_checkpoints,
)
from paddleseg_autoloss.integration.held_out import held_out_options, hold_out
from paddleseg_autoloss.integration.loading import guard_loaders, load_weights
from paddleseg_autoloss.integration.loggers import FirstWindow, check_loggers
from paddleseg_autoloss.integration.loop import LOOP
from paddleseg_autoloss.integration.process_groups import separate_gloo_groups
from paddleseg_autoloss.integration.proof import PROOF, has_proof
from paddleseg_autoloss.integration.report import TrainLogger
from paddleseg_autoloss.integration.safety import install_safety
from paddleseg_autoloss.integration.session import TrainingSession
from paddleseg_autoloss.locks import lock_folder
from paddleseg_autoloss.ranks import any_rank, is_writing_rank
from paddleseg_autoloss.seams import check_seams, redirect

__all__ = ["install", "train"]

_stock_train: Callable = LOOP.train


@functools.wraps(_stock_train)
def train(
    *args: Any,
    loggers: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Train as ``paddleseg.core.train`` does, and train the parameters of the losses too.

    All arguments are those of PaddleSeg's function.  ``optimizer`` may be made with
    ``model.parameters()`` only: the losses' parameters are added to it.  ``resume_model="latest"``
    means the newest usable checkpoint in ``save_dir``.  If it already has ``iters`` iterations,
    only the evaluation and the report that follow the last iteration are done.

    Args:
        *args: as PaddleSeg's function takes them.
        loggers: where the curves go besides VisualDL: ``"tensorboard"``, ``"wandb"``,
            ``"swanlab"``.  ``"visualdl"`` is the same as ``use_vdl=True``.
        config: keys and values of the config that the arguments were built from.  Checkpoints hold
            it, and a run that is continued with another one names what has changed.
        **kwargs: as PaddleSeg's function takes them.

    Raises:
        CheckpointError: ``resume_model`` is incomplete, or of another network, optimizer or losses;
            or a checkpoint cannot be written.
        DataError: an image or a label cannot be read or is unusable for training.
        ConfigError: ``save_dir`` cannot be written to, or an argument is invalid, or a logger does
            not start.
        MissingPackageError: the package of a logger is not installed.
        TrainingDiverged: a loss or a gradient became NaN or infinite; the network, the optimizer
            and the losses have their state from before that step.
        TrainingStopped: Ctrl-C, SIGTERM or SIGHUP; the iteration that was reached is saved.
    """
    call = inspect.signature(_stock_train).bind(*args, **kwargs)
    call.apply_defaults()
    arguments = call.arguments
    loggers = check_loggers(loggers, arguments["use_vdl"])
    # The loop writes its curves only then.
    arguments["use_vdl"] = bool(loggers)
    _check_sizes(arguments)
    _check_datasets(arguments)
    _hold_out(arguments)
    check_writable(arguments["save_dir"])
    # Of several computers that share the folder, only the first one locks it.
    is_first = paddle.distributed.ParallelEnv().rank == 0
    lock = lock_folder(arguments["save_dir"], "training") if is_first else nullcontext()
    with lock, output_errors(arguments["save_dir"]):
        return _prepared(call, loggers, config)


def _prepared(
    call: inspect.BoundArguments, loggers: Sequence[str], config: Mapping[str, Any] | None
) -> Any:
    """Train in a folder that this process has locked."""
    arguments = call.arguments
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
        keep_checkpoint_max=arguments["keep_checkpoint_max"],
    )
    if arguments["resume_model"] is not None:
        session.monitor.resumed = Path(arguments["resume_model"])
    session.report.loggers = loggers
    session.report.window = FirstWindow(session.start_iter, arguments["log_iters"])
    session.state.config = config
    if "logger" in arguments:
        # In PaddleSeg after 2.9 the loop uses this logger, on every card.
        arguments["logger"] = TrainLogger(arguments["logger"], session.report)
    if arguments["to_static_training"]:
        _check_static_training(session)
    with session.stop.noted(), separate_gloo_groups():
        return _trained(session, call)


def _trained(session: TrainingSession, call: inspect.BoundArguments) -> Any:
    """Call PaddleSeg's loop, or finish a run whose iterations are done; then draw and report."""
    result = None
    try:
        with reader_errors(), session.attached(), session.saved_when_stopped():
            if session.start_iter < call.arguments["iters"]:
                result = _stock_train(*call.args, **call.kwargs)
            else:
                _finish(session, call.arguments)
    except TrainingStopped:
        session.report.finish_interrupted()
        # Paddle's launcher ends all cards soon after the first has ended.
        any_rank(True)
        raise
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
        _note_older_run(arguments["save_dir"])
        return 0
    folder = arguments["resume_model"]
    start_iter = checkpoint_iteration(folder)
    if start_iter > arguments["iters"]:
        raise ConfigError(
            f"iters: expected at least {start_iter}, the iteration of {folder}, found "
            f"{arguments['iters']}"
        )
    if not has_proof(Path(folder)):
        logger.warning(
            f"--resume_model: {folder} has no {PROOF} (checkpoints of version 0.2 and of plain "
            "PaddleSeg have none), so it is unknown whether its files have changed"
        )
    return start_iter


def _note_older_run(save_dir: str) -> None:
    older = whole_checkpoints(save_dir)
    if older:
        logger.warning(
            f"--save_dir: {save_dir} has checkpoints of an earlier run, such as {older[-1].name}. "
            "This run replaces its best_model and its curves, but for those of VisualDL, and "
            "deletes its checkpoints beyond keep_checkpoint_max, the oldest first. "
            "To go on with that run instead, use --resume_model latest"
        )


def _finish(session: TrainingSession, arguments: dict[str, Any]) -> None:
    """Do what is missing in a run that stopped after its last checkpoint: evaluate it."""
    model, iteration = arguments["model"], session.start_iter
    LOOP.resume(model, arguments["optimizer"], arguments["resume_model"])
    logger.info(f"All {iteration} iterations are already done: only the evaluation is left")
    if arguments["val_dataset"] is None:
        return
    writer = None
    if arguments["use_vdl"] and is_writing_rank():
        writer = visualdl.LogWriter(arguments["save_dir"])
    mean_iou, accuracy = _evaluate(LOOP.evaluate, arguments)
    best = Path(arguments["save_dir"], "best_model", "model.pdparams")
    if mean_iou > _mean_iou_of(best, arguments) and is_writing_rank():
        paddle.save(model.state_dict(), str(best))
        logger.info(f"[EVAL] The model with the best validation mIoU ({mean_iou:.4f}) is saved.")
    if writer is not None:
        writer.add_scalar("Evaluate/mIoU", mean_iou, iteration)
        writer.add_scalar("Evaluate/Acc", accuracy, iteration)
        writer.close()


def _evaluate(evaluate: Callable, arguments: dict[str, Any]) -> tuple[float, float]:
    """Evaluate as PaddleSeg's loop does, and return mIoU and accuracy."""
    mean_iou, accuracy, *_ = evaluate(
        arguments["model"],
        arguments["val_dataset"],
        num_workers=min(arguments["num_workers"], 1),
        precision=arguments["precision"],
        amp_level=arguments["amp_level"],
        **(arguments["test_config"] or {}),
    )
    return float(mean_iou), float(accuracy)


def _mean_iou_of(path: Path, arguments: dict[str, Any]) -> float:
    """Return the mIoU of the weights in a file, or -1 if the file has no usable weights."""
    model = arguments["model"]
    own = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        load_weights(model, str(path), "best_model")
        return _evaluate(paddleseg.core.evaluate, arguments)[0]
    except CheckpointError:
        return -1.0
    finally:
        model.set_state_dict(own)


def _check_sizes(arguments: dict[str, Any], kind: str = "images") -> None:
    """Check that there is at least one batch; without one PaddleSeg's loop never ends."""
    ranks = paddle.distributed.ParallelEnv().nranks
    images, batch = len(arguments["train_dataset"]), arguments["batch_size"]
    if images < batch * ranks:
        raise ConfigError(
            f"batch_size: expected at most {images // ranks}, as train_dataset has {images} "
            f"{kind} for {ranks} card(s), found {batch}"
        )


def _check_datasets(arguments: dict[str, Any]) -> None:
    """Check the data sets that a script passes; those built from a config are already checked."""
    for key in ("train_dataset", "val_dataset"):
        if arguments[key] is not None:
            check_data(key, arguments[key])


def _hold_out(arguments: dict[str, Any]) -> None:
    """Train without the images that the losses hold out, and put their batches in the losses."""
    losses = arguments["losses"] or {}
    options = held_out_options(losses.get("held_out"))
    if options is None:
        return
    arguments["train_dataset"], batches = hold_out(
        arguments["train_dataset"], arguments["val_dataset"], options, arguments["batch_size"]
    )
    arguments["losses"] = {**losses, "held_out": batches}
    _check_sizes(arguments, "images that are not held_out")


def _check_static_training(session: TrainingSession) -> None:
    for aggregator in session.aggregators:
        if aggregator.uses_gradients:
            raise ConfigError(
                "to_static_training: expected False with a method that needs gradients, because "
                "Paddle runs only one backward pass through a static graph; found True"
            )


def install() -> None:
    """Let ``paddleseg.core.train`` call `train`, extend the builder, and replace the loaders.

    Raises:
        UnsupportedVersionError: the installed PaddleSeg lacks something that this package needs.
    """
    global _stock_train
    check_seams()
    _stock_train = redirect(LOOP.train, train)
    extend_builder()
    install_safety()
    set_image_limit()
    guard_loaders()
