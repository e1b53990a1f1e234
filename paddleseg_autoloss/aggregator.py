"""From named losses to the one tensor that training calls ``backward`` on."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Mapping, Sequence

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.errors import ConfigError, UnheldParameterError
from paddleseg_autoloss.weighting import Weighting

__all__ = ["LossAggregator", "as_vector", "unique_names"]


class LossAggregator(nn.Layer):
    """Named losses in, one tensor out: ``aggregator({"ce": ce, "dice": dice}).backward()``.

    Args:
        names: the K names of the losses, all different.
        weighting: the method; it must be made for K losses.

    Attributes:
        held_by_optimizer: whether an optimizer is known to hold the learned weights, if any.

    Raises:
        ConfigError: two names are the same, or the method is made for another number of losses.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.aggregator import LossAggregator
        >>> from paddleseg_autoloss.weighting import SumWeighting
        >>> aggregator = LossAggregator(["ce", "dice"], SumWeighting(2))
        >>> total = aggregator({"ce": paddle.to_tensor(0.5), "dice": paddle.to_tensor(0.25)})
        >>> float(total)
        0.75
    """

    def __init__(self, names: Sequence[str], weighting: Weighting) -> None:
        super().__init__()
        if len(set(names)) != len(names):
            repeated = next(name for name, count in Counter(names).items() if count > 1)
            raise ConfigError(f"names: expected different names, found {repeated!r} more than once")
        if weighting.num_losses != len(names):
            raise ConfigError(
                f"names: expected {weighting.num_losses} names, one per loss, found {len(names)}"
            )
        self.names = list(names)
        self.weighting = weighting
        self.held_by_optimizer = weighting.learned() is None
        self._had_gradient = False
        self._optimizers_seen: dict[int, float] = {}
        learned = weighting.learned()
        if learned is not None:
            learned.register_hook(self._note_gradient)

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the total, 0-D and float32.

        Args:
            losses: a tensor of one element for each name, in any order.

        Raises:
            ConfigError: the keys are not the names.
            UnheldParameterError: the method learns its weights, training has begun, and no
                optimizer holds them.
        """
        if losses.keys() != set(self.names):
            raise ConfigError(f"losses: expected {sorted(self.names)}, found {sorted(losses)}")
        if self.training and not self.held_by_optimizer:
            self._check_held()
        # Under mixed precision the sum of weighted losses would be taken in half precision.
        with paddle.amp.auto_cast(enable=False):
            return self.weighting(as_vector([losses[name] for name in self.names]))

    def _note_gradient(self, gradient: Tensor) -> None:
        self._had_gradient = True

    def _check_held(self) -> None:
        """Raise if optimizers are stepping and none of them holds the learned weights.

        It looks only once there was a gradient, and no more once it has found the weights held.
        """
        learned = self.weighting.learned()
        if learned is None or not (self._had_gradient or learned.grad is not None):
            return
        optimizers = [
            o for o in gc.get_objects() if issubclass(type(o), paddle.optimizer.Optimizer)
        ]
        if any(p is learned for o in optimizers for p in _parameters(o)):
            self.held_by_optimizer = True
            return
        sums = {id(o): sum(float(p.sum()) for p in _parameters(o)) for o in optimizers}
        stepped = any(sums[key] != self._optimizers_seen.get(key, sums[key]) for key in sums)
        self._optimizers_seen = sums
        if stepped:
            raise UnheldParameterError(
                f"{type(self.weighting).__name__}: no optimizer holds its learned parameter "
                f"{self.weighting.parameter_name!r}, so the weights would never change; import "
                "paddleseg_autoloss before paddleseg.core.train, or add the loss's parameters() "
                "to your optimizer"
            )


def _parameters(optimizer: paddle.optimizer.Optimizer) -> list[Tensor]:
    groups = getattr(optimizer, "_param_groups", None) or []
    grouped = bool(groups) and isinstance(groups[0], dict)
    listed = _flat(groups) if grouped else groups
    return [p for p in listed if not p.stop_gradient]


def _flat(groups: list[dict]) -> list[Tensor]:
    return [p for group in groups for p in group["params"]]


def as_vector(values: Sequence[Tensor]) -> Tensor:
    """Return tensors of one element each as one vector, float32."""
    vector = paddle.concat([value.reshape([1]) for value in values])
    return vector if vector.dtype == paddle.float32 else vector.astype("float32")


def unique_names(names: Sequence[str]) -> list[str]:
    """Number the names that occur more than once: ``["A", "A"]`` becomes ``["A_1", "A_2"]``."""
    counts, seen = Counter(names), Counter[str]()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name}_{seen[name]}" if counts[name] > 1 else name)
    return numbered
