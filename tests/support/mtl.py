"""PaddleScience's call form: small problems, and how to make each aggregator."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_autoloss import mtl

#: How to make each aggregator, with settings under which eight calls show all that it remembers.
MAKERS = {
    "AGDA": lambda model: mtl.AGDA(model, M=3, gamma=0.5),
    "GradNorm": lambda model: mtl.GradNorm(model, num_losses=2, update_freq=3, momentum=0.5),
    "NTK": lambda model: mtl.NTK(model, num_losses=2, update_freq=3),
    "PCGrad": lambda model: mtl.PCGrad(model),
    "Relobralo": lambda model: mtl.Relobralo(num_losses=2, alpha=0.5, beta=0.5),
    "Sum": lambda model: mtl.Sum(),
}
STATE = {
    "AGDA": {"weighting.step", "weighting.smooth", "weighting.smooth_kM"},
    "GradNorm": {"weighting.weight", "next_step"},
    "NTK": {"weighting.weight", "next_step"},
    "PCGrad": {"draws.seed", "draws.step"},
    "Relobralo": {
        *("weighting.losses_init", "weighting.losses_prev", "weighting.lmbda"),
        *("weighting.draws.seed", "weighting.draws.step"),
    },
    "Sum": set(),
}
every_method = pytest.mark.parametrize("name", MAKERS)
by_gradients = pytest.mark.parametrize("name", ["AGDA", "GradNorm", "NTK", "PCGrad"])


class Plane(nn.Layer):
    """A point p; `losses` has the gradients that it is told to have there."""

    def __init__(self, *start: float) -> None:
        super().__init__()
        self.p = self.create_parameter([len(start)])
        self.p.set_value(np.array(start, "float32"))

    def losses(self, gradients, values=None) -> dict[str, paddle.Tensor]:
        values = values or [1.0] * len(gradients)
        slopes = [(self.p * paddle.to_tensor(g, dtype="float32")).sum() for g in gradients]
        return {f"loss{i}": s - s.detach() + v for i, (s, v) in enumerate(zip(slopes, values))}

    def step(self, aggregator, gradients, values=None, **options) -> np.ndarray:
        """Call the aggregator and return the gradient that it leaves."""
        self.clear_gradients()
        aggregator(self.losses(gradients, values), **options).backward()
        return self.p.grad.numpy()


class Regression:
    """Two losses of a Linear(3, 4) on random data, and their gradients by hand."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.model = nn.Linear(3, 4)
        self.model.weight.set_value(self._normal(3, 4))
        self.model.bias.set_value(self._normal(4))

    def _normal(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape).astype("float32")

    def new_batch(self):
        """Return the losses, their values, and a row of gradients for each."""
        x1, x2 = self._normal(8, 3), self._normal(8, 3)
        # Sometimes the two losses pull the same way, sometimes not.
        target = self._normal(8, 4) + 6 * self._normal()
        y1, y2 = (self.model(paddle.to_tensor(x)) for x in (x1, x2))
        losses = {
            "pde": ((y1 - paddle.to_tensor(target)) ** 2).mean(),
            "bc": ((y2 - 2) ** 2).sum(),
        }
        w, b = self.model.weight.numpy(), self.model.bias.numpy()
        residuals = [x1 @ w + b - target, x2 @ w + b - 2]
        values = [(residuals[0] ** 2).mean(), (residuals[1] ** 2).sum()]
        slopes = [2 * residuals[0] / residuals[0].size, 2 * residuals[1]]
        rows = [
            np.concatenate([(x.T @ slope).ravel(), slope.sum(axis=0)])
            for x, slope in zip((x1, x2), slopes)
        ]
        return losses, np.array(values, "float64"), np.array(rows, "float64")

    def gradient(self) -> np.ndarray:
        model = self.model
        found = np.concatenate([model.weight.grad.numpy().ravel(), model.bias.grad.numpy()])
        model.clear_gradients()
        return found
