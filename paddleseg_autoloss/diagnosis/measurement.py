"""A few training steps in which the gradient of every loss is recorded."""

from __future__ import annotations

import tempfile
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import paddle
import paddleseg.core
from paddleseg.models.losses import MixedLoss
from tqdm import tqdm

from paddleseg_autoloss.diagnosis.numbers import Diagnosis
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.integration.parts import Parts
from paddleseg_autoloss.integration.terms import terms_of
from paddleseg_autoloss.weighting import SeparateBackwardWeighting

__all__ = ["diagnosis_notes", "fixed_mix", "measure"]


def measure(parts: Parts, iters: int, batch_size: int, num_workers: int) -> Diagnosis:
    """Train for a few iterations in a temporary folder and compare the gradients of the losses.

    Losses and gradients may decrease by an order of magnitude in the first steps.  So the first
    tenth of the steps, at most 5 steps, is not counted.

    Args:
        parts: the model, the training data, the optimizer and the losses of a config.
        iters: number of iterations.
        batch_size: images per step.
        num_workers: processes that load data.

    Raises:
        ConfigError: there is only one loss.
    """
    terms = [replace(term, sources=()) for term in terms_of(parts.losses)]
    if len(terms) < 2:
        raise ConfigError(
            f"loss.types: expected two or more losses to compare, found {terms[0].name} alone"
        )
    losses = fixed_mix(parts.losses)
    with tempfile.TemporaryDirectory() as folder, tqdm(total=iters, desc="diagnosing") as progress:
        recorder = _Recorder([term.name for term in terms_of(losses)], progress)
        with redirect_stdout(StringIO()):
            paddleseg.core.train(
                parts.model,
                parts.train_dataset,
                optimizer=parts.optimizer,
                save_dir=folder,
                iters=iters,
                batch_size=batch_size,
                save_interval=iters,
                log_iters=iters + 1,
                num_workers=num_workers,
                losses=losses | {"loss_aggregator": recorder.aggregator},
            )
    skipped = min(5, iters // 10)
    values, gramians = np.array(recorder.values), np.array(recorder.gramians)
    return Diagnosis(terms, values[skipped:], gramians[skipped:], skipped)


class _Recorder:
    """Records the values and the Gramian of every step.

    Args:
        names: names of the losses.
        progress: progress bar that shows the number of finished steps.
    """

    def __init__(self, names: list[str], progress: tqdm) -> None:
        self.values: list[list[float]] = []
        self.gramians: list[np.ndarray | None] = []
        self._progress = progress
        self.aggregator = LossAggregator(names, SeparateBackwardWeighting(len(names)))
        self.aggregator.register_forward_post_hook(self._record)

    def _record(self, layer: LossAggregator, inputs: tuple, total: paddle.Tensor) -> None:
        self.values.append([float(inputs[0][name]) for name in layer.names])
        self.gramians.append(layer.last_gramian)
        self._progress.update()


def fixed_mix(losses: dict[str, Any]) -> dict[str, Any]:
    """Return PaddleSeg's loss dict with ``MixedLoss`` instead of each loss that learns weights.

    Args:
        losses: PaddleSeg's loss dict, with ``types`` and ``coef``.
    """
    terms = terms_of(losses)
    types, coefs = list(losses["types"]), list(losses["coef"])
    for head in {term.head for term in terms if term.sources}:
        own = [term for term in terms if term.head == head]
        types[head] = MixedLoss([term.layer for term in own], [term.coef for term in own])
        coefs[head] = 1.0
    return {"types": types, "coef": coefs}


def diagnosis_notes(losses: dict[str, Any]) -> list[str]:
    """List the parts of a config that the diagnosis replaces.

    Args:
        losses: PaddleSeg's loss dict.
    """
    weighted = {term.head for term in terms_of(losses) if term.sources}
    notes = [
        f"{type(losses['types'][head]).__name__} learns its weights or computes them in each step; "
        "here each of its losses has the coefficient 1 instead."
        for head in sorted(weighted)
    ]
    if losses.get("loss_aggregator") is not None:
        notes.append("loss_aggregator is not used here: the update is the plain sum of the losses.")
    return list(dict.fromkeys(notes))
