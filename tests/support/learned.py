"""The total of losses with learned weights, and its slopes."""

from __future__ import annotations

import numpy as np
import paddle

LOSSES = [0.3, 1.0, 2.5]


def total_loss(weighting, losses) -> paddle.Tensor:
    return weighting.total(losses, weighting(losses))


def total(weighting, losses=LOSSES) -> float:
    return float(total_loss(weighting, paddle.to_tensor(losses, dtype="float32")))


def set_parameter(weighting, values):
    weighting.learned().set_value(np.asarray(values, "float32"))
    return weighting


def gradient(weighting, losses=LOSSES) -> np.ndarray:
    weighting.clear_gradients()
    total_loss(weighting, paddle.to_tensor(losses, dtype="float32")).backward()
    return weighting.learned().grad.numpy()


def finite_differences(formula, values, step=1e-6) -> np.ndarray:
    slopes = []
    for index in range(len(values)):
        up, down = np.array(values, float), np.array(values, float)
        up[index] += step
        down[index] -= step
        slopes.append((formula(up) - formula(down)) / (2 * step))
    return np.array(slopes)
