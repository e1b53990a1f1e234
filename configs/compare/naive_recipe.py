"""AutoWeightedLoss as forum answers have it: loss parameters put into the optimizer by hand.

PaddleSeg's own loop then clears the gradients of the model only, so those of the loss parameters
add up over the whole run.  The flags are those of ``autoloss train``, except that such a run cannot
be resumed: its checkpoints do not hold the loss parameters.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import paddle
import paddleseg.core

from paddleseg_autoloss.cli.main import main
from paddleseg_autoloss.integration.history import WeightHistory
from paddleseg_autoloss.integration.monitor import TermMonitor
from paddleseg_autoloss.integration.terms import terms_of
from paddleseg_autoloss.integration.training import train as session_train

#: PaddleSeg's function, which this package replaces when it is imported.
stock_train = inspect.unwrap(session_train)


def naive_train(
    model: paddle.nn.Layer,
    *data: Any,
    optimizer: paddle.optimizer.Optimizer,
    losses: dict[str, list[Any]],
    save_dir: str,
    log_iters: int,
    **options: Any,
) -> None:
    """Train as the recipe does, and record the weights as ``loss_weights.csv``."""
    for loss in losses["types"]:
        optimizer._parameter_list.extend(loss.parameters())
        # Outside of a session the loss would report that nobody clears its gradients.
        loss.aggregator.in_session = True

    monitor, history = (
        TermMonitor(terms_of(losses), save_dir, start_iter=0),
        WeightHistory(save_dir),
    )

    def loss_computation(
        logits: list[paddle.Tensor], losses: dict[str, list[Any]], data: dict[str, paddle.Tensor]
    ) -> list[paddle.Tensor]:
        if monitor.iteration % log_iters == 0:
            history.append(monitor.log_window())
        labels = data["label"].astype("int64")
        pairs = zip(losses["types"], losses["coef"], logits)
        result = [coef * loss(x, labels) for loss, coef, x in pairs]
        monitor.record(monitor.collect(), result)
        return result

    model.loss_computation = loss_computation
    # The command also has options that only this package's function takes.
    known = inspect.signature(stock_train).parameters
    with monitor.attached():
        stock_train(
            model,
            *data,
            optimizer=optimizer,
            losses=losses,
            save_dir=save_dir,
            log_iters=log_iters,
            **{name: value for name, value in options.items() if name in known},
        )
    history.append(monitor.log_window())


if __name__ == "__main__":
    paddleseg.core.train = naive_train
    sys.exit(main(["train", *sys.argv[1:]]))
