"""One training run: what is added to PaddleSeg's loop while it trains."""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import paddle
import visualdl
from paddle import Tensor, nn
from paddle.optimizer import Optimizer

from paddleseg_autoloss.compat import overflowed
from paddleseg_autoloss.errors import AutoLossError, CheckpointError, ConfigError
from paddleseg_autoloss.integration.checkpoint import (
    atomic_save,
    check_plain,
    checked_load,
    non_finite,
)
from paddleseg_autoloss.integration.evaluation import captured_figures
from paddleseg_autoloss.integration.guard import StepGuard
from paddleseg_autoloss.integration.joint import JointAggregation
from paddleseg_autoloss.integration.monitor import TermMonitor
from paddleseg_autoloss.integration.optimizer import hold_parameters
from paddleseg_autoloss.integration.report import RunReport, TrainLogger
from paddleseg_autoloss.integration.second_evaluation import SecondEvaluation
from paddleseg_autoloss.integration.state import LossState
from paddleseg_autoloss.integration.terms import aggregators_of, terms_of
from paddleseg_autoloss.ranks import broadcast, mean_over_ranks
from paddleseg_autoloss.seams import replaced
from paddleseg_autoloss.tensors import as_vector, tensors_in

__all__ = ["LOOP", "TrainingSession"]

#: The module of PaddleSeg's loop; as an attribute of its package, the function hides it.
LOOP = importlib.import_module("paddleseg.core.train")


class TrainingSession:
    """What training with learned loss weights adds to PaddleSeg's loop.

    PaddleSeg's loop stays the engine.  While the session is `attached`, the losses are computed
    under the eyes of a `TermMonitor`, the optimizer holds the losses' parameters, checkpoints hold
    their state and are written whole or not at all, and the log lines and curves show the weights.

    Args:
        model: the network.
        train_dataset: the data set, by which the loop's sampler is recognised.
        optimizer: the optimizer, made for the network alone or for the losses too.
        losses: PaddleSeg's loss dict, with ``types`` and ``coef``, and where they are wanted
            ``loss_aggregator`` and ``on_nonfinite``.
        save_dir: folder of the run.
        start_iter: iteration that the run continues from, 0 for a new one.
        save_interval: iterations between checkpoints.
    """

    def __init__(
        self,
        model: nn.Layer,
        train_dataset: paddle.io.Dataset,
        optimizer: Optimizer,
        losses: dict[str, list[Any]],
        save_dir: str,
        start_iter: int,
        save_interval: int,
    ) -> None:
        self.model = model
        self.train_dataset = train_dataset
        self.optimizer = optimizer
        self.losses = losses
        self.start_iter = start_iter
        self.save_interval = save_interval
        terms = terms_of(losses)
        config: Any = losses.get("loss_aggregator")
        self.joint = JointAggregation(config, terms) if config else None
        terms = self.joint.terms if self.joint else terms
        self.aggregators = [aggregator for _, aggregator in aggregators_of(terms)]
        self.state = LossState(optimizer, losses, self.joint.aggregator if self.joint else None)
        self.state.make_seeds_distinct()
        self.monitor = TermMonitor(terms, save_dir, start_iter)
        self.report = RunReport(losses, self.monitor, save_dir, start_iter)
        self.scaler: paddle.amp.GradScaler | None = None
        skips = losses.get("on_nonfinite") == "skip"
        self.guard = StepGuard(model, self.state, self.monitor, skips)
        self._begun = False
        needs_losses_after_step = any(
            aggregator.weighting.needs_losses_after_step for aggregator in self.aggregators
        )
        self.second_evaluation = (
            SecondEvaluation(model, self.aggregators) if needs_losses_after_step else None
        )
        self._autocast: Callable[[], Any] = nullcontext
        self.seed = paddle.get_rng_state()[0].current_seed()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Be part of PaddleSeg's loop, which is to be called inside."""
        optimizer, model = self.optimizer, self.model
        with ExitStack() as stack:
            stack.callback(self.monitor.close)
            stack.callback(self._let_go)
            stack.callback(self.guard.remove)
            if self.second_evaluation is not None:
                stack.callback(self.second_evaluation.remove)
            self._hold_loss_parameters()
            self._bind_network()
            for owner, name, value in (
                (model, "loss_computation", self._loss_computation()),
                (optimizer, "state_dict", self._state_dict(optimizer.state_dict)),
                (optimizer, "set_state_dict", self._set_state_dict(optimizer.set_state_dict)),
                (LOOP, "resume", self._resume(LOOP.resume)),
                (LOOP, "evaluate", self._evaluate(LOOP.evaluate)),
                (LOOP, "logger", TrainLogger(LOOP.logger, self.report)),
                (paddle, "save", self._save(paddle.save)),
                (optimizer, "step", self._around(optimizer.step, None)),
                (optimizer, "minimize", self._around(optimizer.minimize, ([], []))),
                (paddle.io, "DistributedBatchSampler", self._sampler()),
                (paddle.amp, "auto_cast", self._auto_cast(paddle.amp.auto_cast)),
                (paddle.amp, "GradScaler", self._grad_scaler(paddle.amp.GradScaler)),
                (visualdl, "LogWriter", self._log_writer(visualdl.LogWriter)),
            ):
                stack.enter_context(replaced(owner, name, value))
            yield

    def _hold_loss_parameters(self) -> None:
        parameters = list(self.state.parameters.values())
        hold_parameters(self.optimizer, parameters)
        for aggregator in self.aggregators:
            aggregator.held_by_optimizer = True
        if paddle.distributed.ParallelEnv().nranks > 1:
            for parameter in parameters:
                parameter.register_hook(mean_over_ranks)

    def _bind_network(self) -> None:
        for aggregator in self.aggregators:
            if aggregator.weighting.needs != "losses":
                # A loss inside may have parameters of its own, which are trained like the model's.
                parameters = [*self.model.parameters(), *self.state.parameters.values()]
                aggregator.bind(parameters, self.optimizer)
                aggregator.loss_scale = self._loss_scale

    def _loss_scale(self) -> Tensor | None:
        scaler = self.scaler
        return scaler._scale if scaler is not None and scaler.is_enable() else None

    def _let_go(self) -> None:
        """Whoever trains the losses next must hold and bind them again."""
        for parameter in self.state.parameters.values():
            parameter.clear_gradient(False)
        # The last to wrap the optimizer's step is the first to give it back.
        for aggregator in reversed(self.aggregators):
            aggregator.held_by_optimizer = aggregator.weighting.learned() is None
            aggregator.unbind()

    # What follows makes the stand-ins for PaddleSeg's functions.  They are plain functions: for EMA
    # PaddleSeg deep-copies the model, and a bound method on it would take the session along.

    def _loss_computation(self) -> Any:
        own = getattr(self.model, "loss_computation", None) or _stock_losses

        def loss_computation(
            logits_list: list[Tensor], losses: dict[str, Any], data: dict[str, Tensor]
        ) -> list[Tensor]:
            self._begin_step()
            self.guard.begin(logits_list, lambda outputs: self._observed(own, outputs, data))
            joint = self.joint
            values = self.guard.losses(
                lambda: self.monitor.watch(
                    lambda: own(logits_list, losses, data),
                    (lambda terms, result: joint.total(terms, result, tensors_in(logits_list)))
                    if joint
                    else None,
                )
            )
            if self.second_evaluation is not None:
                self.second_evaluation.prepare(
                    lambda outputs: self._evaluate_again(own, outputs, data)
                )
            exact = any(statistics.is_exact for statistics in self.monitor.gradients)
            if exact and isinstance(logits_list, list):
                # PaddleSeg's loop keeps the list until the next forward pass is over, and with it
                # the activations of this one, which no backward pass frees any more.
                logits_list[:] = [x.detach() if isinstance(x, Tensor) else x for x in logits_list]
            if self.monitor.iteration % self.save_interval == 0:
                self._reseed()
            return values

        return loss_computation

    def _begin_step(self) -> None:
        if not self._begun:
            # Random state included: without a seed every card has another.
            broadcast(self.state.tensors())
            self._begun = True
        # The loop clears the gradients of the model only.
        for parameter in self.state.parameters.values():
            parameter.clear_gradient(False)
        for aggregator in self.aggregators:
            aggregator.clear_substeps()

    def _around(self, stock: Callable, skipped: Any) -> Callable:
        """Wrap what takes a step: it may be left out, and methods may ask what it did.

        Args:
            stock: takes the step.
            skipped: what to return if it is left out.
        """

        def step(*args: Any, **kwargs: Any) -> Any:
            scaled = self._loss_scale() is not None
            overflow = scaled and overflowed(self.optimizer)
            if not self.guard.permits(scaled, overflow):
                return skipped
            result = stock(*args, **kwargs)
            if self.second_evaluation is not None and not overflow:
                self.second_evaluation.take(self._autocast())
            return result

        return step

    def _evaluate_again(self, own: Callable, outputs: Any, data: dict[str, Tensor]) -> None:
        terms, result = self.monitor.peek(lambda: own(outputs, self.losses, data))
        if self.joint:
            self.joint.total(terms, result, tensors_in(outputs))

    def _observed(self, own: Callable, outputs: Any, data: dict[str, Tensor]) -> list[Tensor]:
        with ExitStack() as stack:
            stack.enter_context(self._autocast())
            for aggregator in self.aggregators:
                stack.enter_context(aggregator.observing_after_step())
            result = own(outputs, self.losses, data)
        return [as_vector(result).sum()] if self.joint else result

    def _auto_cast(self, stock: Any) -> Any:
        """Note the precision of the loop; what switches it off within a step is ours."""

        @functools.wraps(stock)
        def auto_cast(enable: bool = True, **kwargs: Any) -> Any:
            if enable:
                self._autocast = lambda: stock(enable, **kwargs)
            return stock(enable, **kwargs)

        return auto_cast

    def _reseed(self) -> None:
        """Seed dropout from the iteration, so that a resumed run draws what this one will draw."""
        # A fixed mix trains exactly as in stock PaddleSeg.
        if self.aggregators:
            paddle.seed((self.seed + self.monitor.iteration) % 2**31)

    def _state_dict(self, stock: Any) -> Any:
        def state_dict() -> dict[str, Any]:
            return self.state.save(stock(), self.seed)

        return state_dict

    def _set_state_dict(self, stock: Any) -> Any:
        def set_state_dict(state: dict[str, Any]) -> None:
            own, seed = self.state.load(state)
            stock(own)
            if seed is not None:
                self.seed = seed
                self._reseed()

        return set_state_dict

    def _resume(self, stock: Any) -> Any:
        def resume(model: nn.Layer, optimizer: Optimizer, folder: str) -> int:
            for name in ("model.pdparams", "model.pdopt"):
                check_plain("--resume_model", Path(folder, name))
            try:
                with replaced(model, "set_state_dict", checked_load(model)):
                    return stock(model, optimizer, folder)
            except AutoLossError:
                raise
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise CheckpointError(f"--resume_model: cannot read {folder}: {reason}") from error

        return resume

    def _save(self, stock: Any) -> Any:
        def save(obj: Any, path: str, *args: Any, **kwargs: Any) -> None:
            self.monitor.settle()
            broken = non_finite(obj)
            if broken is not None:
                raise self.monitor.divergence(f"{broken} has become NaN or infinite")
            if Path(path).name == "model.pdparams":
                # An older run's state beside this model would pass for a whole checkpoint.
                Path(path).with_suffix(".pdopt").unlink(missing_ok=True)
            atomic_save(stock, obj, path, *args, **kwargs)

        return save

    def _sampler(self) -> Any:
        stock = paddle.io.DistributedBatchSampler

        def sampler(dataset: paddle.io.Dataset, *args: Any, **kwargs: Any) -> Any:
            if dataset is self.train_dataset and kwargs.get("shuffle"):
                return _ContinuedSampler(self.start_iter, dataset, *args, **kwargs)
            return stock(dataset, *args, **kwargs)

        return sampler

    def _grad_scaler(self, stock: Any) -> Any:
        @functools.wraps(stock)
        def grad_scaler(*args: Any, **kwargs: Any) -> paddle.amp.GradScaler:
            self.scaler = stock(*args, **kwargs)
            return self.scaler

        return grad_scaler

    def _evaluate(self, stock: Any) -> Any:
        def evaluate(model: nn.Layer, *args: Any, **kwargs: Any) -> Any:
            self.monitor.settle()
            with captured_figures() as figures:
                result = stock(model, *args, **kwargs)
            self.report.add_figures(figures(), prefix="" if model is self.model else "Ema_")
            return result

        return evaluate

    def _log_writer(self, stock: Any) -> Any:
        @functools.wraps(stock)
        def log_writer(*args: Any, **kwargs: Any) -> visualdl.LogWriter:
            self.report.writer = stock(*args, **kwargs)
            return self.report.writer

        return log_writer


def _stock_losses(
    logits_list: list[Tensor], losses: dict[str, Any], data: dict[str, Tensor]
) -> list[Tensor]:
    """Do what PaddleSeg's loop does for a model without a loss_computation."""
    count = len(losses["types"])
    if len(logits_list) != count:
        raise ConfigError(
            f"loss.coef: expected {len(logits_list)}, one per output of the model, found {count}"
        )
    edges = data["edge"].astype("int64") if "edge" in data else None
    labels = data["label"].astype("int64")
    return LOOP.loss_computation(logits_list, labels, edges, losses)


class _ContinuedSampler(paddle.io.DistributedBatchSampler):
    """PaddleSeg's sampler, whose first pass begins behind the batches that were seen already."""

    def __init__(self, start_iter: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epoch, self._seen = divmod(start_iter, max(len(self), 1))

    def __iter__(self) -> Iterator[list[int]]:
        seen, self._seen = self._seen, 0
        return itertools.islice(super().__iter__(), seen, None)
