"""The state of the losses in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from paddle import Tensor, nn
from paddle.optimizer import Optimizer
from paddleseg.utils import logger

from paddleseg_autoloss.errors import CheckpointError
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.integration.held_out import HeldOutBatches
from paddleseg_autoloss.integration.loss_options import (
    changed_options,
    different_twins,
    method_options,
    options_of,
    special_options,
    swapped_losses,
)
from paddleseg_autoloss.integration.optimizer import export_slots, import_slots
from paddleseg_autoloss.integration.run_config import changed_keys, config_as_text
from paddleseg_autoloss.integration.terms import aggregators_of, loss_layers, terms_of
from paddleseg_autoloss.weighting import METHODS, Weighting
from paddleseg_autoloss.weighting.draws import Draws

__all__ = ["LossState"]

#: Key of ``model.pdopt`` that contains the losses' state.
_SECTION = "paddleseg_autoloss"


class LossState:
    """Adds the losses' state to the optimizer's state, and restores it from there.

    So ``model.pdopt`` contains it, and ``model.pdparams`` stays a plain PaddleSeg model.

    Args:
        optimizer: the optimizer that holds the losses' parameters.
        losses: PaddleSeg's loss dict.
        aggregator: the aggregator of the key ``loss_aggregator``, or None.

    Attributes:
        parameters: the losses' trainable parameters by path.
        config: the keys and values of the run's config, or None where a script trains without one.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        losses: dict[str, Any],
        aggregator: LossAggregator | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.layers = loss_layers(losses)
        self.held_out: HeldOutBatches | None = losses.get("held_out")
        self.config: Mapping[str, Any] | None = None
        self.methods = [type(loss).__name__ for loss in losses["types"]]
        if aggregator is not None:
            self.layers["loss_aggregator"] = aggregator
            self.methods.append(_name_of(aggregator))
        self.parameters = _trainable(self.layers)
        self._frozen = {path: _frozen(layer) for path, layer in self.layers.items()}
        terms = terms_of(losses)
        self.names = [term.name for term in terms]
        # Some losses change their attributes in training.
        self.options = [options_of(term) for term in terms]
        methods = aggregators_of(terms) + ([] if aggregator is None else [("", aggregator)])
        self.method_options = {
            f"{prefix}{_name_of(method)}": method_options(method) for prefix, method in methods
        }

    def make_seeds_distinct(self) -> None:
        """Give every method that draws random numbers a seed of its own."""
        draws = [part for part in self._parts() if isinstance(part, Draws)]
        for index, part in enumerate(draws):
            part.seed.set_value(np.asarray((int(part.seed) + index) % 2**32))

    def _parts(self) -> list[nn.Layer]:
        """Return all layers of the losses, including inner ones."""
        return [
            part for layer in self.layers.values() for part in layer.sublayers(include_self=True)
        ]

    @property
    def is_empty(self) -> bool:
        """Whether the losses have neither parameters nor buffers."""
        return not any(layer.state_dict() for layer in self.layers.values())

    def tensors(self) -> list[Tensor]:
        """Return all parameters and buffers of the losses."""
        return [value for layer in self.layers.values() for value in layer.state_dict().values()]

    def snapshot(self) -> dict[str, dict[str, Tensor]]:
        """Return a copy of the losses' parameters and buffers, without frozen ones."""
        return {
            path: {
                name: value.clone()
                for name, value in layer.state_dict().items()
                if name not in self._frozen[path]
            }
            for path, layer in self.layers.items()
        }

    def restore(self, snapshot: dict[str, dict[str, Tensor]]) -> None:
        """Restore a snapshot."""
        for path, values in snapshot.items():
            own = self.layers[path].state_dict()
            for name, value in values.items():
                own[name].set_value(value)

    def save(self, state: dict[str, Any], randomness: dict[str, Any]) -> dict[str, Any]:
        """Return the optimizer's ``state`` with the losses' state added.

        Args:
            state: what the optimizer's ``state_dict`` returned.
            randomness: what the random numbers of the run go on from.
        """
        for part in self._parts():
            if isinstance(part, Weighting):
                part.undo_drift()
        section = {
            "optimizer": type(self.optimizer).__name__,
            "methods": self.methods,
            "terms": self.names,
            "options": self.options,
            "method_options": self.method_options,
            **randomness,
            "losses": {path: dict(layer.state_dict()) for path, layer in self.layers.items()},
            "slots": export_slots(self.optimizer, self.parameters),
            "weights": {
                name: aggregator.last_weights
                for name, aggregator in self._aggregators().items()
                if aggregator.last_weights is not None
            },
        }
        if self.held_out is not None:
            section["held_out"] = self.held_out.state_dict()
        if self.config is not None:
            section["config"] = config_as_text(self.config)
        return {**state, _SECTION: section}

    def load(self, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Restore the losses; return the optimizer's part of ``state``, and what was added to it.

        If the checkpoint contains no state of losses, they stay unchanged, and the log says so.

        Raises:
            CheckpointError: the checkpoint contains the state of other losses.
        """
        state = dict(state)
        section = state.pop(_SECTION, {})
        self._check_optimizer(section)
        saved = section.get("losses", {})
        if any(saved.values()):
            self._check(section)
            self._check_order(section)
            for path, layer in self.layers.items():
                layer.set_state_dict(saved[path])
        elif not self.is_empty:
            logger.info("The checkpoint contains no loss weights: they start anew")
        self._note_changed_config(section)
        if self._is_of_same_losses(section):
            self._note_changes(section)
            for name, aggregator in self._aggregators().items():
                aggregator.last_weights = section.get("weights", {}).get(name)
        elif "terms" in section:
            logger.warning(
                f"The run goes on with {self.methods} of {self.names}, but the checkpoint was "
                f"written with {section['methods']} of {section['terms']}"
            )
        if self.held_out is not None:
            self.held_out.set_state_dict(section.get("held_out", {}))
        state.update(import_slots(self.optimizer, self.parameters, section.get("slots", {})))
        return state, section

    def _is_of_same_losses(self, section: dict[str, Any]) -> bool:
        return (section.get("methods"), section.get("terms")) == (self.methods, self.names)

    def _aggregators(self) -> dict[str, LossAggregator]:
        return {
            f"{path}.{name}": part
            for path, layer in self.layers.items()
            for name, part in layer.named_sublayers(include_self=True)
            if isinstance(part, LossAggregator)
        }

    def _check_optimizer(self, section: dict[str, Any]) -> None:
        own = type(self.optimizer).__name__
        saved = section.get("optimizer", own)
        if saved != own:
            raise CheckpointError(
                f"--resume_model: the checkpoint was trained with the optimizer {saved}, but the "
                f"config has {own}"
            )

    def _check(self, section: dict[str, Any]) -> None:
        own = {path: _shapes(layer.state_dict()) for path, layer in self.layers.items()}
        saved = {path: _shapes(state) for path, state in section["losses"].items()}
        same_losses = self._is_of_same_losses(section)
        if same_losses:
            for path, state in own.items():
                _check_shapes(path, state, saved.get(path, {}))
        if not same_losses or own != saved:
            raise CheckpointError(
                f"--resume_model: the checkpoint was trained with {section['methods']} of "
                f"{section['terms']}, but the config has {self.methods} of {self.names}"
            )

    def _check_order(self, section: dict[str, Any]) -> None:
        """Check the order of losses of one class, whose names do not distinguish them."""
        saved = section.get("options")
        twins = different_twins(self.options)
        if saved is None and twins is not None:
            one, other = (self._described(index) for index in twins)
            logger.warning(
                f"The checkpoint does not hold the options of its losses: {one} and {other} must "
                "stand in the order of the run that wrote it, or each takes the weight of the other"
            )
        swapped = swapped_losses(self.options, saved) if saved is not None else None
        if swapped is not None:
            one, other = (self._described(index) for index in swapped)
            raise CheckpointError(
                f"--resume_model: {one} and {other} stand in another order in the checkpoint, and "
                "would take over the weights of each other; list the losses in the order of the "
                "run that wrote it"
            )

    def _note_changes(self, section: dict[str, Any]) -> None:
        """Say which options of losses and methods differ from those of the checkpoint."""
        saved = dict(zip(self.names, section.get("options", [])))
        saved |= section.get("method_options", {})
        own = dict(zip(self.names, self.options)) | self.method_options
        changes = [
            f"{name}: {change}"
            for name, options in own.items()
            for change in changed_options(options, saved.get(name, {}))
        ]
        if changes:
            logger.warning(
                "The run goes on with other options than the checkpoint was written with: "
                + "; ".join(changes)
            )

    def _note_changed_config(self, section: dict[str, Any]) -> None:
        """Say which keys of the config differ from those of the checkpoint."""
        if self.config is None or "config" not in section:
            return
        changes = changed_keys(config_as_text(self.config), section["config"])
        if changes:
            logger.warning(
                "The config differs from the one that the checkpoint was written with: "
                + "; ".join(changes)
            )

    def _described(self, index: int) -> str:
        special = special_options(self.options, index)
        return f"{self.names[index]} ({special})" if special else self.names[index]


def _name_of(aggregator: LossAggregator) -> str:
    names = {method.__name__: name for name, method in METHODS.items()}
    class_name = aggregator.weighting.class_name
    return names.get(class_name, class_name)


def _trainable(layers: dict[str, nn.Layer]) -> dict[str, Tensor]:
    return {
        f"{path}.{name}": parameter
        for path, layer in layers.items()
        for name, parameter in layer.named_parameters()
        if not parameter.stop_gradient
    }


def _frozen(layer: nn.Layer) -> set[str]:
    """Return the names of frozen parameters; batch norm's statistics change, and are not frozen."""
    return {
        name
        for name, parameter in layer.named_parameters()
        if parameter.stop_gradient and not name.endswith(("_mean", "_variance"))
    }


def _shapes(state: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items()}


def _check_shapes(path: str, own: dict[str, list[int]], saved: dict[str, list[int]]) -> None:
    for name in own:
        if own[name] != saved.get(name, own[name]):
            raise CheckpointError(
                f"--resume_model: {path}.{name} has the shape {saved[name]} in the checkpoint, but "
                f"{own[name]} here: the network, its trainable parameters or the arguments of the "
                "method have changed"
            )
