"""Stand-ins for functions of PaddleSeg and Paddle that a run calls outside of its steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import paddle
import visualdl
from paddle import nn
from paddle.optimizer import Optimizer

from paddleseg_autoloss.errors import AutoLossError, CheckpointError, typed_line
from paddleseg_autoloss.integration.checkpoint import load_with_check, non_finite
from paddleseg_autoloss.integration.evaluation import capture_figures
from paddleseg_autoloss.integration.loggers import Curves
from paddleseg_autoloss.integration.loop import LOOP, ContinuedSampler
from paddleseg_autoloss.integration.report import TrainLogger
from paddleseg_autoloss.seams import replaced

if TYPE_CHECKING:
    from paddleseg_autoloss.integration.session import TrainingSession

__all__ = ["stand_ins"]


def stand_ins(session: TrainingSession) -> list[tuple[Any, str, Any]]:
    """Return owner, name and stand-in of each replaced function.

    The functions that every step calls are in `TrainingSession.step_seams`.

    Args:
        session: the session of the run.
    """
    optimizer = session.optimizer
    return [
        (optimizer, "state_dict", _state_dict(session, optimizer.state_dict)),
        (optimizer, "set_state_dict", _set_state_dict(session, optimizer.set_state_dict)),
        (LOOP, "resume", _resume(LOOP.resume)),
        (LOOP, "evaluate", _evaluate(session, LOOP.evaluate)),
        (LOOP, "logger", TrainLogger(LOOP.logger, session.report)),
        (paddle, "save", _save(session, paddle.save)),
        (paddle.io, "DistributedBatchSampler", _sampler(session)),
        (paddle.amp, "auto_cast", _auto_cast(session, paddle.amp.auto_cast)),
        (paddle.amp, "GradScaler", _grad_scaler(session, paddle.amp.GradScaler)),
        (visualdl, "LogWriter", _log_writer(session)),
    ]


def _state_dict(session: TrainingSession, stock: Callable) -> Callable:
    def state_dict() -> dict[str, Any]:
        return session.state.save(stock(), session.randomness())

    return state_dict


def _set_state_dict(session: TrainingSession, stock: Callable) -> Callable:
    def set_state_dict(state: dict[str, Any]) -> None:
        own, section = session.state.load(state)
        try:
            stock(own)
        except (AssertionError, KeyError, RuntimeError) as error:
            raise CheckpointError(
                "--resume_model: expected an lr_scheduler and an optimizer that take the state of "
                f"the checkpoint, found others ({typed_line(error)}); take those of the run that "
                "wrote it"
            ) from error
        session.restore_randomness(section)

    return set_state_dict


def _resume(stock: Callable) -> Callable:
    def resume(model: nn.Layer, optimizer: Optimizer, folder: str) -> int:
        try:
            with replaced(model, "set_state_dict", load_with_check(model)):
                return stock(model, optimizer, folder)
        except AutoLossError:
            raise
        except Exception as error:
            reason = typed_line(error)
            raise CheckpointError(f"--resume_model: cannot read {folder}: {reason}") from error

    return resume


def _evaluate(session: TrainingSession, stock: Callable) -> Callable:
    def evaluate(model: nn.Layer, *args: Any, **kwargs: Any) -> Any:
        session.monitor.check_latest()
        with session.stop.at_once(), capture_figures() as figures:
            result = stock(model, *args, **kwargs)
        session.report.add_figures(figures(), prefix="" if model is session.model else "Ema_")
        return result

    return evaluate


def _save(session: TrainingSession, stock: Callable) -> Callable:
    def save(obj: Any, path: str, *args: Any, **kwargs: Any) -> None:
        session.monitor.check_latest()
        broken = non_finite(obj)
        if broken is not None:
            raise session.monitor.divergence(f"{broken} has become NaN or infinite")
        session.checkpoints.save(stock, obj, path, *args, **kwargs)

    return save


def _sampler(session: TrainingSession) -> Callable:
    stock = paddle.io.DistributedBatchSampler

    def sampler(dataset: paddle.io.Dataset, *args: Any, **kwargs: Any) -> Any:
        if dataset is session.train_dataset and kwargs.get("shuffle"):
            return ContinuedSampler(session.start_iter, dataset, *args, **kwargs)
        return stock(dataset, *args, **kwargs)

    return sampler


def _auto_cast(session: TrainingSession, stock: Any) -> Callable:
    """Store the precision of the loop; calls with ``enable=False`` come from this package."""

    @functools.wraps(stock)
    def auto_cast(enable: bool = True, **kwargs: Any) -> Any:
        if enable:
            session.autocast = lambda: stock(enable, **kwargs)
        return stock(enable, **kwargs)

    return auto_cast


def _grad_scaler(session: TrainingSession, stock: Any) -> Callable:
    @functools.wraps(stock)
    def grad_scaler(*args: Any, **kwargs: Any) -> paddle.amp.GradScaler:
        scaler = stock(*args, **kwargs)
        session.set_scaler(scaler)
        return scaler

    return grad_scaler


def _log_writer(session: TrainingSession) -> Callable:
    def log_writer(logdir: str) -> Curves:
        session.report.curves = Curves(session.report.loggers, logdir, session.report.window)
        return session.report.curves

    return log_writer
