"""Adds the losses' parameters to the optimizer that PaddleSeg built for the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from paddle import Tensor
from paddle.optimizer import SGD, Momentum, Optimizer
from paddle.regularizer import L2Decay
from paddleseg.utils import logger

from paddleseg_autoloss.compat import create_accumulators
from paddleseg_autoloss.seams import replace
from paddleseg_autoloss.tensors import all_parameters

__all__ = ["export_slots", "hold_parameters", "import_slots", "note_fast_weights"]


def note_fast_weights(optimizer: Optimizer, parameters: Iterable[Tensor]) -> None:
    """Warn of a multiplier of the learning rate that suits Adam only.

    Args:
        optimizer: the optimizer.
        parameters: the parameters of the losses.
    """
    rates = [getattr(p, "optimize_attr", {}).get("learning_rate", 1.0) for p in parameters]
    if isinstance(optimizer, (SGD, Momentum)) and max(rates, default=1.0) > 1:
        logger.warning(
            f"lr_mult: {max(rates):g} suits Adam, which gives all steps about one length; with "
            f"{type(optimizer).__name__} learned weights can run away, so begin with 1"
        )


def hold_parameters(optimizer: Optimizer, parameters: Iterable[Tensor]) -> None:
    """Let ``optimizer`` also train ``parameters``.

    They get settings of their own, even if the optimizer held them before.  They have no weight
    decay.  Gradient clipping leaves them out: its norm is that of the model's gradients only.
    Their learning rate is the optimizer's rate times the multiplier in their ``optimize_attr``.

    Args:
        optimizer: any Paddle optimizer, made from a list of parameters or of groups.
        parameters: trainable parameters; they are added after the others, so checkpoints without
            them still fit.
    """
    # One loss object of several heads has the same parameters at several paths.
    parameters = list({id(p): p for p in parameters}.values())
    groups = optimizer._param_groups
    # Without groups, _param_groups and _parameter_list are the same flat list.
    held = groups[-1]["params"] if isinstance(groups[0], dict) else groups
    known = {id(p) for p in all_parameters(groups)}
    held.extend(p for p in parameters if id(p) not in known)
    for parameter in parameters:
        parameter.regularizer = L2Decay(0.0)
        parameter.need_clip = False
    names = {p.name for p in parameters}
    _exempt_from_decoupled_decay(optimizer, names)
    _exempt_from_layerwise_rates(optimizer, names)


def _exempt_from_decoupled_decay(optimizer: Optimizer, names: set[str]) -> None:
    """Switch off the weight decay of AdamW, which ignores a parameter's regularizer."""
    if not hasattr(optimizer, "_apply_decay_param_fun"):
        return
    previous = optimizer._apply_decay_param_fun

    def decays(name: str) -> bool:
        return name not in names and (previous is None or previous(name))

    replace(optimizer, "_apply_decay_param_fun", decays)


def _exempt_from_layerwise_rates(optimizer: Optimizer, names: set[str]) -> None:
    """Leave out parameters in PaddleSeg's AdamWDL, which searches all in the model's layers."""
    previous = getattr(optimizer, "set_param_lr_fun", None)
    if previous is None:
        return

    def set_rate(parameter: Tensor) -> None:
        if parameter.name not in names:
            previous(parameter)

    replace(optimizer, "set_param_lr_fun", set_rate)


def export_slots(optimizer: Optimizer, parameters: dict[str, Tensor]) -> dict[str, Any]:
    """Return the optimizer's state of ``parameters``, such as moments, by their paths.

    Paddle stores the state by parameter name.  These names depend on what else the process built;
    the paths do not.
    """
    return {
        path: {
            slot: state[parameter.name]
            for slot, state in optimizer._accumulators.items()
            if parameter.name in state
        }
        for path, parameter in parameters.items()
    }


def import_slots(
    optimizer: Optimizer, parameters: dict[str, Tensor], slots: dict[str, Any]
) -> dict[str, Tensor]:
    """Return entries for ``optimizer.set_state_dict`` that restore the state of ``parameters``.

    Args:
        optimizer: the optimizer, which holds ``parameters``.
        parameters: the parameters by path.
        slots: what `export_slots` returned; a parameter whose path is missing starts anew.
    """
    create_accumulators(optimizer, list(parameters.values()))
    entries = {}
    for path, parameter in parameters.items():
        for slot, state in optimizer._accumulators.items():
            if parameter.name in state:
                fresh = state[parameter.name]
                entries[fresh.name] = slots.get(path, {}).get(slot, fresh)
    return entries
