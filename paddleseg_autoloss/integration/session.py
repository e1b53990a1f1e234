"""One training run: what this package adds to each step of PaddleSeg's loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.optimizer import Optimizer
from paddleseg.utils import logger

from paddleseg_autoloss.compat import found_overflow
from paddleseg_autoloss.errors import ConfigError, TrainingStopped
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.integration.checkpoint import CheckpointWriter, fault_of
from paddleseg_autoloss.integration.guard import StepGuard
from paddleseg_autoloss.integration.held_out import needs_held_out
from paddleseg_autoloss.integration.held_out_looks import HeldOutLooks
from paddleseg_autoloss.integration.joint import joint_aggregation
from paddleseg_autoloss.integration.loop import LOOP
from paddleseg_autoloss.integration.monitor import TermMonitor
from paddleseg_autoloss.integration.optimizer import hold_parameters, note_fast_weights
from paddleseg_autoloss.integration.own_loops import confirm_session
from paddleseg_autoloss.integration.random_state import random_state, set_random_state
from paddleseg_autoloss.integration.report import RunReport
from paddleseg_autoloss.integration.run_seams import stand_ins
from paddleseg_autoloss.integration.second_evaluation import SecondEvaluation
from paddleseg_autoloss.integration.state import LossState
from paddleseg_autoloss.integration.stopping import StopRequest
from paddleseg_autoloss.integration.terms import aggregators_of, terms_of
from paddleseg_autoloss.ranks import broadcast, is_writing_rank, mean_over_ranks
from paddleseg_autoloss.seams import replaced

__all__ = ["TrainingSession", "stock_losses"]

#: Computes the losses of the network's outputs: ``compute(outputs, losses, data)``.
LossComputation = Callable[[Any, dict[str, Any], dict[str, Tensor]], list[Tensor]]


class TrainingSession:
    """Adds learned loss weights to the steps of PaddleSeg's loop.

    PaddleSeg's loop still controls the training.  While the session is `attached`, the loop calls
    `losses_of_step` instead of computing the losses, and `take_step` instead of the optimizer's
    step.  The module `run_seams` replaces the other functions: checkpoints, evaluation, log and
    curves.

    Args:
        model: the network.
        train_dataset: the data set to train on; it identifies the sampler of the loop.
        optimizer: the optimizer, made with the parameters of the network, with or without those of
            the losses.
        losses: PaddleSeg's loss dict, with ``types`` and ``coef``, and optionally
            ``loss_aggregator`` and ``on_nonfinite``.
        save_dir: folder of the run.
        start_iter: iteration that the run continues from, 0 for a new one.
        save_interval: iterations between checkpoints.
        keep_checkpoint_max: number of checkpoints to keep, 0 for all.
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
        keep_checkpoint_max: int = 0,
    ) -> None:
        self.model = model
        self.train_dataset = train_dataset
        self.optimizer = optimizer
        self.losses = losses
        self.start_iter = start_iter
        self.save_interval = save_interval
        confirm_session(losses)
        self.checkpoints = CheckpointWriter(save_dir, keep_checkpoint_max)
        terms = terms_of(losses)
        aggregator: Any = losses.get("loss_aggregator")
        self.joint = joint_aggregation(aggregator, terms)
        terms = self.joint.terms if self.joint else terms
        self.aggregators = [aggregator for _, aggregator in aggregators_of(terms)]
        self.state = LossState(optimizer, losses, self.joint.aggregator if self.joint else None)
        self.state.make_seeds_distinct()
        self.monitor = TermMonitor(terms, save_dir, start_iter)
        self.report = RunReport(losses, self.monitor, save_dir, start_iter)
        skips = losses.get("on_nonfinite") == "skip"
        self.stop = StopRequest()
        self.guard = StepGuard(
            model,
            self.state,
            self.monitor,
            self.aggregators,
            self.stop,
            skips,
            self._evaluate_again,
        )
        self.looks = self._held_out_looks()
        self._observes = any(a.weighting.needs_losses_after_step for a in self.aggregators)
        self._preparing = [a for a in self.aggregators if a.steps_each or a.learns_from_differences]
        twice = self._observes or any(a.learns_from_differences for a in self.aggregators)
        self.second_evaluation = SecondEvaluation(model) if twice else None
        self.scaler: paddle.amp.GradScaler | None = None
        self.autocast: Callable[[], Any] = nullcontext
        self.seed = paddle.get_rng_state()[0].current_seed()
        self._compute: LossComputation = getattr(model, "loss_computation", None) or stock_losses
        self._data: dict[str, Tensor] = {}
        self._has_begun = False
        self._is_in_step = False
        # PaddleSeg's loop keeps the outputs until the end of the next forward pass.  They keep the
        # activations of this pass in memory if each gradient was computed separately, because then
        # the loop's backward pass frees nothing.
        self._detaches = any(statistics.is_exact for statistics in self.monitor.gradients)

    def losses_of_step(
        self, compute: LossComputation, outputs: Any, data: dict[str, Tensor]
    ) -> list[Tensor]:
        """Return the losses of one step; PaddleSeg's loop adds them up and calls ``backward``.

        Args:
            compute: the function that computes the losses: the model's own, or PaddleSeg's.
            outputs: what the network returned.
            data: the batch.

        Raises:
            TrainingStopped: a signal has asked for it; the steps before are whole.
        """
        if self.stop.agreed:
            self.guard.undo_forward()
            if self.looks is not None:
                self.looks.undo()
            raise self.stop.error()
        self._is_in_step = True
        self._compute, self._data = compute, data
        self._begin_step()
        self.guard.snapshot, self.guard.outputs = self.state.snapshot(), outputs
        result = compute(outputs, self.losses, data)
        values = self.monitor.collect()
        if self.joint:
            result = [self.joint.total(values, result, outputs)]
        self.monitor.record(values, result)
        if self._detaches and isinstance(outputs, list):
            for index, output in enumerate(outputs):
                if isinstance(output, Tensor):
                    outputs[index] = output.detach()
                    # The guard asks which outputs are trained.
                    outputs[index].stop_gradient = output.stop_gradient
        if self.monitor.iteration % self.save_interval == 0:
            self.reseed()
        return self.guard.shown(result) if self.guard.skips else result

    def take_step(self, step: Callable[[], Any], skipped: Any = None) -> Any:
        """Let the optimizer take its step, unless a loss or a gradient is not finite.

        Args:
            step: function that takes the step.
            skipped: the value to return if the step is skipped.
        """
        scaled = self.scaler is not None and self.scaler.is_enable()
        overflow = scaled and found_overflow(self.optimizer)
        if not self.guard.permits(scaled, overflow):
            self._is_in_step = False
            return skipped
        result = step()
        if self.second_evaluation is not None and not overflow:
            self._look_back(self.second_evaluation)
        self._is_in_step = False
        return result

    @paddle.no_grad()
    def _look_back(self, second: SecondEvaluation) -> None:
        """Let the methods see the losses of the batch after the step, if they ask for it."""
        due = [a for a in self.aggregators if a.needs_differences]
        if not second.take_turn() or not (self._observes or due):
            return
        with second.of_latest_batch() as outputs_again:
            if self._observes:
                with self.autocast():
                    self._evaluate_again(outputs_again())
            with self._collecting():
                for aggregator in due:
                    aggregator.learn_from_differences(
                        lambda: self._values_of_terms(outputs_again(), self._data)
                    )

    def _begin_step(self) -> None:
        """Clear the gradients of the losses; PaddleSeg's loop clears those of the model only."""
        if not self._has_begun:
            # This also makes the random state equal: without a seed it differs between cards.
            broadcast(self.state.tensors())
            self._has_begun = True
        for parameter in self.state.parameters.values():
            parameter.clear_gradient(False)
        for aggregator in self._preparing:
            aggregator.forget_step()

    def _evaluate_again(self, outputs: Any) -> list[Tensor | None]:
        """Compute the losses of other outputs for the latest batch, without computing weights.

        Methods that need the losses after the step get them.

        Args:
            outputs: outputs of the network.

        Returns:
            The value of every term.
        """
        with ExitStack() as stack:
            stack.enter_context(self.autocast())
            for aggregator in self.aggregators:
                stack.enter_context(aggregator.observing_after_step())
            return self._values_of_terms(outputs, self._data)

    def _values_of_terms(self, outputs: Any, data: dict[str, Tensor]) -> list[Tensor | None]:
        """Compute the value of every term, and give the values to the aggregators."""
        result = self._compute(outputs, self.losses, data)
        values = self.monitor.collect()
        if self.joint:
            self.joint.total(values, result, outputs)
        return values

    def _held_out_looks(self) -> HeldOutLooks | None:
        """Return what looks at held-out batches, or None if no method asks for it.

        Raises:
            ConfigError: a method asks for it, and no images are held out.
        """
        aggregators = [a for a in self.aggregators if a.weighting.uses_held_out]
        batches: Any = self.losses.get("held_out")
        if not aggregators:
            if batches is not None:
                logger.warning(
                    "held_out: no method of this config learns from held-out images, so these "
                    "images have no use; remove held_out to train on them"
                )
            return None
        if batches is None:
            raise ConfigError(needs_held_out(aggregators[0].weighting.short_name))
        ignore_index = getattr(self.train_dataset, "ignore_index", 255)
        return HeldOutLooks(
            self.model, aggregators, batches, self._held_out_losses, self.state, ignore_index
        )

    @paddle.no_grad()
    def _held_out_losses(
        self, aggregator: LossAggregator, outputs: Any, data: Mapping[str, Tensor]
    ) -> Tensor:
        """Compute the losses that an aggregator weighs, shape [K], for a held-out batch."""
        with self._collecting() as found:
            self._values_of_terms(outputs, dict(data))
        return found[self.aggregators.index(aggregator)][0]

    @contextmanager
    def _collecting(self) -> Iterator[list[list[Tensor]]]:
        """Context in which each aggregator keeps its losses, and computes no weights."""
        with ExitStack() as stack:
            yield [stack.enter_context(a.collecting()) for a in self.aggregators]

    def randomness(self) -> dict[str, Any]:
        """Return what the random numbers of the run go on from, for a checkpoint."""
        return {"seed": self.seed, "random_state": random_state()}

    def restore_randomness(self, saved: dict[str, Any]) -> None:
        """Let the random numbers go on as in the run that wrote a checkpoint.

        Args:
            saved: what `randomness` returned; parts that are missing change nothing.
        """
        self.seed = saved.get("seed", self.seed)
        if "seed" in saved:
            self.reseed()
        # Without a method each card draws numbers of its own, and one of them wrote the checkpoint.
        if self.aggregators or paddle.distributed.ParallelEnv().nranks == 1:
            set_random_state(saved.get("random_state"))

    def reseed(self) -> None:
        """Set the seed from the iteration, so that a resumed run draws the same random numbers."""
        # Without a method the run must be identical to a run of plain PaddleSeg.
        if self.aggregators:
            paddle.seed((self.seed + self.monitor.iteration) % 2**31)

    def step_seams(self) -> list[tuple[Any, str, Any]]:
        """Return owner, name and stand-in of each function that the loop calls in every step.

        The stand-ins are plain functions: PaddleSeg deep-copies the model for EMA, and a bound
        method would copy the session too.
        """
        compute = getattr(self.model, "loss_computation", None) or stock_losses
        step, minimize = self.optimizer.step, self.optimizer.minimize

        def loss_computation(
            logits_list: list[Tensor], losses: dict[str, Any], data: dict[str, Tensor]
        ) -> list[Tensor]:
            return self.losses_of_step(compute, logits_list, data)

        def guarded_step() -> None:
            self.take_step(step)

        def guarded_minimize(*args: Any, **kwargs: Any) -> Any:
            return self.take_step(lambda: minimize(*args, **kwargs), skipped=([], []))

        return [
            (self.model, "loss_computation", loss_computation),
            (self.optimizer, "step", guarded_step),
            (self.optimizer, "minimize", guarded_minimize),
        ]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach the session to PaddleSeg's loop; call the loop inside this context."""
        with ExitStack() as stack:
            stack.push(self.report.close_curves)
            stack.callback(self._release)
            for part in (self.monitor, self.guard, self.looks, self.second_evaluation):
                if part is not None:
                    stack.enter_context(part.attached())
            self._hold_loss_parameters()
            self._bind_network()
            for owner, name, value in [*self.step_seams(), *stand_ins(self)]:
                stack.enter_context(replaced(owner, name, value))
            yield

    def _hold_loss_parameters(self) -> None:
        parameters = list(self.state.parameters.values())
        note_fast_weights(self.optimizer, parameters)
        hold_parameters(self.optimizer, parameters)
        for aggregator in self.aggregators:
            aggregator.held_by_optimizer = True
        if paddle.distributed.ParallelEnv().nranks > 1:
            for parameter in parameters:
                parameter.register_hook(mean_over_ranks)

    def _bind_network(self) -> None:
        # An inner loss may have parameters of its own, which are trained like those of the model.
        parameters = [*self.model.parameters(), *self.state.parameters.values()]
        for aggregator in self.aggregators:
            aggregator.in_session = True
            if aggregator.uses_gradients:
                aggregator.bind(parameters, self.optimizer, self.model)

    @contextmanager
    def saved_when_stopped(self) -> Iterator[None]:
        """Context that saves a checkpoint if a signal stops the training.

        Raises:
            TrainingStopped: there was a signal.
        """
        try:
            yield
        except TrainingStopped:
            self._save()
            raise
        except Exception as error:
            # The signal has also ended the readers, between two steps.
            if self.stop.agreed and not self._is_in_step:
                self._save()
                raise self.stop.error() from error
            raise

    def _save(self) -> None:
        """Save a checkpoint of the last complete iteration, unless it exists."""
        folder = self.checkpoints.save_dir / f"iter_{self.monitor.iteration}"
        has_moved = self.monitor.iteration > self.start_iter
        if is_writing_rank() and has_moved and fault_of(folder) is not None:
            folder.mkdir(parents=True, exist_ok=True)
            paddle.save(self.model.state_dict(), str(folder / "model.pdparams"))
            paddle.save(self.optimizer.state_dict(), str(folder / "model.pdopt"))
            self.checkpoints.delete_oldest()

    def set_scaler(self, scaler: paddle.amp.GradScaler) -> None:
        """Store the gradient scaler that PaddleSeg's loop has created."""
        self.scaler = scaler
        for aggregator in self.aggregators if scaler.is_enable() else []:
            aggregator.loss_scale = lambda: scaler._scale

    def _release(self) -> None:
        """Detach the losses from the optimizer and the network, so another run can use them."""
        for parameter in self.state.parameters.values():
            parameter.clear_gradient(False)
        # Restore the optimizer's step in the reverse order in which it was wrapped.
        for aggregator in reversed(self.aggregators):
            aggregator.held_by_optimizer = aggregator.weighting.learned() is None
            aggregator.in_session = False
            aggregator.unbind()


def stock_losses(
    outputs: list[Tensor], losses: dict[str, Any], data: dict[str, Tensor]
) -> list[Tensor]:
    """Compute the losses as PaddleSeg's loop does for a model without a ``loss_computation``.

    Args:
        outputs: what the network returned.
        losses: PaddleSeg's loss dict.
        data: the batch.

    Raises:
        ConfigError: the loss dict does not have one entry per output.
    """
    count = len(losses["types"])
    if len(outputs) != count:
        raise ConfigError(
            f"loss.coef: expected {len(outputs)}, one per output of the model, found {count}"
        )
    edges = data["edge"].astype("int64") if "edge" in data else None
    labels = data["label"].astype("int64")
    return LOOP.loss_computation(outputs, labels, edges, losses)
