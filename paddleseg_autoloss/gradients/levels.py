"""The Gramians of all levels from the same backward passes, and the weights that follow from them.

A level says with respect to what the losses are differentiated.  A cheap level changes nothing but
the weights, so the exact Gramian is enough to judge them, see `fidelity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from paddle import Tensor

from paddleseg_autoloss.gradients.fidelity import fidelity
from paddleseg_autoloss.gradients.jacobian import Jacobian
from paddleseg_autoloss.tensors import as_vector
from paddleseg_autoloss.weighting import GramianWeighting

__all__ = ["LevelGramian", "fidelities", "gramians_of_levels", "replay"]


class LevelGramian(NamedTuple):
    """What a method sees at one level.

    Args:
        gramian: the inner products of the gradients, shape [K, K].
        is_shared: whether all losses depend on the same targets.  If not, a method whose weights
            can be negative is refused at this level, and between updates; at the level of the
            parameters it is not, but its negative weights count as 0 in a part of the network.
    """

    gramian: np.ndarray
    is_shared: bool


def gramians_of_levels(
    losses: Sequence[Tensor], **targets: Sequence[Tensor]
) -> dict[str, LevelGramian]:
    """Differentiate each loss once, with respect to the targets of all levels.

    Args:
        losses: K losses, with one element each.
        **targets: for each level the tensors with respect to which the losses are differentiated:
            the trainable parameters, the outputs of a layer (`Features.tensors`), the outputs of
            the network.  A level without any is left out.

    Returns:
        What a method sees, by the names of the levels.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.gradients.levels import gramians_of_levels
        >>> x = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
        >>> logits = 3 * x
        >>> levels = gramians_of_levels([logits.sum(), logits[0]], parameters=[x], logits=[logits])
        >>> {name: level.gramian.tolist() for name, level in levels.items()}
        {'parameters': [[18.0, 9.0], [9.0, 9.0]], 'logits': [[2.0, 1.0], [1.0, 1.0]]}
    """
    known = {level: tensors for level, tensors in targets.items() if tensors}
    jacobians = Jacobian.for_groups(losses, list(known.values()), scale=None)
    values = as_vector(losses).detach()
    return {
        level: LevelGramian(jacobian.read(values)[0], jacobian.is_shared)
        for level, jacobian in zip(known, jacobians)
    }


def replay(
    method: GramianWeighting,
    losses: np.ndarray,
    gramians: np.ndarray,
    looks: np.ndarray | None = None,
) -> np.ndarray:
    """Return the weights that a method finds in a recorded training, shape [T, K].

    The method's state goes from step to step as in a training.  Between looks the weights stay.

    Args:
        method: a new method; this call changes its state.
        losses: the losses of T steps, finite, shape [T, K].
        gramians: what the method sees, at any level, finite, shape [T, K, K].
        looks: in which steps the weights are updated, shape [T]; in all steps by default.  The
            first step must be among them.

    Examples:
        >>> import numpy as np
        >>> from paddleseg_autoloss.gradients.levels import replay
        >>> from paddleseg_autoloss.weighting import MGDAWeighting
        >>> gramians = np.stack([np.diag([1.0, 3.0]), np.diag([1.0, 1.0])])
        >>> replay(MGDAWeighting(2), np.ones([2, 2]), gramians).round(3).tolist()
        [[0.75, 0.25], [0.5, 0.5]]
        >>> looks = np.array([True, False])
        >>> replay(MGDAWeighting(2), np.ones([2, 2]), gramians, looks).round(3).tolist()
        [[0.75, 0.25], [0.75, 0.25]]
    """
    found: list[np.ndarray] = []
    for step, (values, gramian) in enumerate(zip(losses, gramians)):
        due = looks is None or looks[step]
        found.append(method.solve(values, gramian) if due else found[-1])
    return np.stack(found)


def fidelities(gramians: np.ndarray, weights: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return the `fidelity` of the weights of each step, shape [T].

    Args:
        gramians: the exact ones of the parameters, shape [T, K, K].
        weights: the weights to judge, shape [T, K].
        exact: the weights of the exact method, shape [T, K].
    """
    return np.array([fidelity(*step) for step in zip(gramians, weights, exact)])
