"""What a run shows to users: log lines, curves, and the fixed mix at the end."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddleseg.utils import logger

from paddleseg_autoloss.integration.evaluation import Figures
from paddleseg_autoloss.integration.gradient_statistics import PairRow
from paddleseg_autoloss.integration.history import WeightHistory
from paddleseg_autoloss.integration.loggers import Curves, FirstWindow
from paddleseg_autoloss.integration.mix import equivalent_mix
from paddleseg_autoloss.integration.monitor import TermMonitor, current_weights
from paddleseg_autoloss.integration.terms import Term, own_parameters
from paddleseg_autoloss.ranks import is_writing_rank

__all__ = ["RunReport", "TrainLogger"]

_LOSS = re.compile(r"(?<=, loss: )-?\d+\.\d+")


class RunReport:
    """Writes the monitor's records to the loggers, to a CSV file, to a picture and to the log.

    Args:
        losses: PaddleSeg's loss dict.
        monitor: records the terms of the losses.
        save_dir: folder of the run.
        start_iter: iteration that the run continues from.

    Attributes:
        window: the first log window of the run.
        loggers: names of the loggers that the curves go to, if PaddleSeg's loop writes curves.
        curves: where PaddleSeg's loop writes its curves, once it does.
    """

    def __init__(
        self, losses: dict[str, list[Any]], monitor: TermMonitor, save_dir: str, start_iter: int
    ) -> None:
        self.losses = losses
        self.monitor = monitor
        self.save_dir = Path(save_dir)
        self.history = WeightHistory(save_dir, start_iter)
        self.window = FirstWindow()
        self.loggers: Sequence[str] = ["visualdl"]
        self.curves: Curves | None = None

    def add_figures(self, figures: Figures, prefix: str) -> None:
        """Add curves for the metrics of an evaluation that PaddleSeg does not plot itself.

        Args:
            figures: metrics of the evaluation.
            prefix: prefix of the curves' names, for a model other than the trained one.
        """
        self._add_scalars(
            {f"Evaluate/{prefix}Dice": figures.Dice, f"Evaluate/{prefix}Kappa": figures.Kappa}
        )

    def close_window(self) -> str:
        """Write the means since the last log line, and return the weights as text for this line."""
        rows = self.monitor.log_window()
        # PaddleSeg after 2.9 logs on every card, and all of them have one folder.
        if is_writing_rank():
            self.history.append(rows)
        for row in rows:
            values = {f"Loss_raw/{row.term}": row.raw, f"Loss_weighted/{row.term}": row.weighted}
            if not math.isnan(row.weight):
                values[f"Loss_weight/{row.term}"] = row.weight
            self._add_scalars(values)
        self._add_scalars(self._learned_parameters())
        pairs = self.monitor.gradient_window()
        self.history.append_gradients(pairs)
        self._add_scalars(_gradient_scalars(pairs))
        weights = current_weights(self.monitor.terms)
        return ", ".join(map(_describe, self.monitor.terms, weights))

    def _add_scalars(self, values: dict[str, float]) -> None:
        if self.curves is not None:
            for tag, value in values.items():
                self.curves.add_scalar(tag, value, self.monitor.iteration)

    def _learned_parameters(self) -> dict[str, float]:
        """Return the learned parameters of the methods and of the losses."""
        values = {}
        for term in self.monitor.terms:
            for name, value in own_parameters(term.layer).items():
                values[f"Loss_parameter/{term.name}/{name}"] = value
            for aggregator, index in term.sources:
                weighting = aggregator.weighting
                learned = weighting.learned()
                if learned is not None:
                    tag = f"Loss_parameter/{weighting.parameter_name}/{term.name}"
                    values[tag] = float(learned[index])
        return values

    def close_curves(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Close the loggers after an error; PaddleSeg's loop does so at its end.

        Args:
            kind: type of the error.
            error: what ended the run, or None.
            trace: where it was raised.
        """
        if self.curves is not None:
            self.curves.close(error)

    def finish(self) -> None:
        """Draw the curves, and report the fixed mix that corresponds to the weights."""
        self.plot()
        # A run with a fixed mix leaves the mix that another run has learned in this folder.
        if not is_writing_rank() or not any(term.sources for term in self.monitor.terms):
            return
        if any(math.isnan(weight) for weight in current_weights(self.monitor.terms)):
            # All iterations were done before, by a run without these weights.
            return
        path = self.save_dir / "equivalent_mixed_loss.yml"
        mix = equivalent_mix(self.losses, self.monitor.terms)
        if mix is None:
            path.unlink(missing_ok=True)
            logger.info("No MixedLoss is equivalent: a weight is negative, or a head's sum is 0")
            return
        logger.info(mix.describe())
        methods = ", ".join(type(loss).__name__ for loss in self.losses["types"])
        if mix.write(path, f"The weights of {methods} after {self.monitor.iteration} iterations"):
            logger.info(f"A config with these coefficients: {path}")

    def finish_interrupted(self) -> None:
        """Draw the curves so far, and log how to continue the run."""
        self.plot()
        if not is_writing_rank():
            return
        good = self.monitor.newest_checkpoint()
        advice = "nothing was saved yet"
        if good is not None:
            advice = f"to go on: the same command with --resume_model {shlex.quote(str(good))}"
        logger.info(f"Stopped at iteration {self.monitor.iteration}; {advice}")

    def plot(self) -> None:
        """Draw the curves, including the steps since the last log line."""
        if not is_writing_rank():
            return
        self.history.append(self.monitor.log_window())
        self.history.append_gradients(self.monitor.gradient_window())
        if self.history.plot():
            logger.info(f"The curves of the loss weights are in {self.history.png_path}")


def _describe(term: Term, weight: float) -> str:
    """Return the weight of a term as text for a log line; or its loss's own learned parameters."""
    if term.is_learned:
        learned = own_parameters(term.layer).items()
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in learned)
        return f"{term.name} ({numbers})"
    return f"{term.name} {weight:.4f}"


def _gradient_scalars(pairs: list[PairRow]) -> dict[str, float]:
    values: dict[str, float] = {}
    for pair in pairs:
        values[f"Gradient_norm/{pair.first}"] = pair.first_norm
        values[f"Gradient_norm/{pair.second}"] = pair.second_norm
        values[f"Gradient_cosine/{pair.first} x {pair.second}"] = pair.cosine
    if pairs:
        values["Gradient_conflict_rate"] = sum(pair.conflict for pair in pairs) / len(pairs)
    return {tag: value for tag, value in values.items() if math.isfinite(value)}


class TrainLogger:
    """PaddleSeg's logger, with the weights in the log lines of training, and the loss of a resume.

    Args:
        stock: PaddleSeg's logger.
        report: the report, which writes its means at every such line.
    """

    def __init__(self, stock: Any, report: RunReport) -> None:
        self._stock = stock
        self._report = report

    def info(self, message: str = "") -> None:
        """Log a message."""
        if message.startswith("[TRAIN]"):
            factor = self._report.window.factor(self._report.monitor.iteration)
            if factor != 1:
                message = _LOSS.sub(lambda found: f"{factor * float(found[0]):.4f}", message)
            if self._report.monitor.terms:
                message = f"{message} | weights: {self._report.close_window()}"
        self._stock.info(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)
