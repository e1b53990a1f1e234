"""Methods called with arrays."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import (
    METHODS,
    AlignmentWeighting,
    GramianWeighting,
    HeldOutLossWeighting,
    JacobianWeighting,
    LossWeighting,
    Weighting,
)


def methods_of(kind: type[Weighting]) -> list[str]:
    """The names of the methods that are of a kind with their default arguments."""
    defaults = {name: method(method.least_losses) for name, method in METHODS.items()}
    return [name for name, method in defaults.items() if isinstance(method, kind)]


#: Methods that need no held-out data.
OF_TRAINING = [name for name, method in METHODS.items() if not method.uses_held_out]


def weigh(method: Weighting, losses: paddle.Tensor, gramian: paddle.Tensor) -> paddle.Tensor:
    """The weights of a method that is not of the Jacobian; a target is the mean of the losses."""
    if isinstance(method, (LossWeighting, HeldOutLossWeighting)):
        return method(losses)
    if isinstance(method, AlignmentWeighting):
        gramian = with_target(gramian)
    return method(losses, gramian)


def with_target(gramian: paddle.Tensor) -> paddle.Tensor:
    """The Gramian with the mean of the gradients as the first one."""
    products = gramian.mean(axis=1, keepdim=True)
    first = paddle.concat([products.mean().reshape([1, 1]), products.T], axis=1)
    return paddle.concat([first, paddle.concat([products, gramian], axis=1)])


def solve(method: GramianWeighting, jacobian: np.ndarray, losses=None) -> np.ndarray:
    losses = np.ones(len(jacobian)) if losses is None else np.asarray(losses, float)
    return method.solve(losses, jacobian @ jacobian.T)


#: Eigenvalues of the cosines below 1e-8 are raised to that, which moves what a gradient of length
#: 1 gains by at most 1e-8 times the weights of such gradients; a little more for rounding.
RAISED = 1.01e-8


def tensor(losses) -> paddle.Tensor:
    return paddle.to_tensor(np.asarray(losses, "float32"))


def weights_of(method: Weighting, losses) -> np.ndarray:
    return method(tensor(losses)).numpy().astype("float64")


def value_and_gradient(method: Weighting, losses, weights=None) -> tuple[float, np.ndarray]:
    """The total and its derivatives by autograd."""
    values = tensor(losses)
    values.stop_gradient = False
    total = method.total(values, method(values.detach()) if weights is None else tensor(weights))
    assert total.shape == []
    total.backward()
    return float(total), values.grad.numpy().astype("float64")


def finite_differences(formula, losses) -> np.ndarray:
    slopes = []
    for index, loss in enumerate(losses):
        step = 1e-6 * max(abs(loss), 1e-3)
        up, down = np.array(losses, float), np.array(losses, float)
        up[index] += step
        down[index] -= step
        slopes.append((formula(up) - formula(down)) / (2 * step))
    return np.array(slopes)


def softmax(logits) -> np.ndarray:
    exponentials = np.exp(logits - np.max(logits))
    return exponentials / exponentials.sum()


NAMES = methods_of(JacobianWeighting)
REMEMBERING = [name for name in NAMES if METHODS[name].matrices or METHODS[name].vectors]
every_method = pytest.mark.parametrize("name", NAMES)


def update(method: JacobianWeighting, jacobian, losses=None) -> tuple[np.ndarray, np.ndarray]:
    """Call a method with arrays; return d and the weights."""
    losses = np.ones(len(jacobian)) if losses is None else np.asarray(losses)
    found = method.update(
        paddle.to_tensor(losses, dtype="float32"), paddle.to_tensor(jacobian, dtype="float32")
    )
    return tuple(tensor.numpy().astype("float64") for tensor in found)


def after_a_step(aggregator: LossAggregator, scale: float | None) -> np.ndarray:
    """Where (1, 2) is after a step of plain gradient descent at the rate 0.1.

    The losses are the first number, 4 times the second, and 3 times their sum.

    Args:
        aggregator: for the losses a, b and c.
        scale: the loss scale of a gradient scaler, or None without one.
    """
    x = paddle.create_parameter([2], "float32")
    x.set_value(np.array([1.0, 2.0], "float32"))
    optimizer = paddle.optimizer.SGD(0.1, parameters=[x])
    aggregator.bind([x], optimizer)
    if scale is not None:
        aggregator.loss_scale = lambda: paddle.to_tensor([scale])
    total = aggregator({"a": x[0], "b": x[1] * 4, "c": x.sum() * 3})
    (total * (scale or 1)).backward()
    if scale is not None:
        # As a gradient scaler does, which knows of p.grad alone.
        x.grad.set_value(x.grad / scale)
    optimizer.step()
    aggregator.unbind()
    return x.numpy()
