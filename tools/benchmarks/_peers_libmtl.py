"""LibMTL's way to combine gradients, written from its formulas in Torch.

Each loss has a backward pass, and its gradient is copied into one vector of all parameters, a row
of a matrix.  Methods combine the rows, and the result is copied back.  NashMTL and FairGrad take
the weighted sum of the losses instead, and one more backward pass.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import cvxpy
import numpy as np
import torch
from _peers_shared import C
from qpsolvers import solve_qp
from scipy.optimize import least_squares, minimize
from torch import Tensor

Step = Callable[[Sequence[Tensor], Sequence[Tensor]], None]


def rows_by_backward(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Return the gradient of each loss as a row, by way of the parameters' gradients."""
    rows = torch.zeros(len(losses), sum(p.numel() for p in parameters))
    for i, loss in enumerate(losses):
        loss.backward(retain_graph=i + 1 < len(losses))
        row, start = torch.zeros(rows.shape[1]), 0
        for parameter in parameters:
            assert parameter.grad is not None
            row[start : start + parameter.numel()] = parameter.grad.flatten()
            start += parameter.numel()
            parameter.grad.zero_()
        rows[i] = row
    return rows


def rows_by_grad(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Return the gradient of each loss as a row; the graph stays."""
    rows = torch.zeros(len(losses), sum(p.numel() for p in parameters))
    for i, loss in enumerate(losses):
        found = torch.autograd.grad(loss, list(parameters), retain_graph=True)
        rows[i] = torch.cat([gradient.flatten() for gradient in found])
    return rows


def write_gradient(vector: Tensor, parameters: Sequence[Tensor]) -> None:
    """Copy a vector into the gradients of the parameters."""
    start = 0
    for parameter in parameters:
        assert parameter.grad is not None
        part = vector[start : start + parameter.numel()]
        parameter.grad.data = part.view(parameter.shape).clone()
        start += parameter.numel()


def upgrad(gramian: Tensor) -> Tensor:
    """Return UPGrad's weights: a quadratic program for each loss, by quadprog.

    The Gramian is divided by its trace, and 1e-4 is added to its diagonal.
    """
    count = len(gramian)
    scaled = (gramian / gramian.trace() + 1e-4 * torch.eye(count)).double().numpy()
    weights = np.zeros(count)
    for least in np.eye(count) / count:
        found = solve_qp(scaled, np.zeros(count), -np.eye(count), -least, solver="quadprog")
        if found is None:
            raise ValueError("no solution")
        weights += found
    return torch.as_tensor(weights, dtype=gramian.dtype)


def shortest_of_two(aa: Tensor, ab: Tensor, bb: Tensor) -> tuple[float, Tensor]:
    """Return the share of a in the shortest vector between a and b, and its squared length.

    An end of the line counts as 0.999 or 0.001.
    """
    if ab >= aa:
        return 0.999, aa
    if ab >= bb:
        return 0.001, bb
    share = (bb - ab) / (aa + bb - 2 * ab)
    return float(share), bb + share * (ab - bb)


def onto_simplex(point: Tensor) -> Tensor:
    """Return the point of the simplex that is nearest."""
    ordered = point.sort(descending=True)[0]
    shift, total = (point.sum() - 1) / len(point), torch.zeros(())
    for i in range(len(point) - 1):
        total = total + ordered[i]
        bound = (total - 1) / (i + 1)
        if bound > ordered[i + 1]:
            shift = bound
            break
    return (point - shift).clamp(min=0)


def next_point(weights: Tensor, direction: Tensor) -> Tensor:
    """Return where a line from the weights leaves the simplex, projected onto it."""
    slope = direction - direction.mean()
    down = -weights[slope < 0] / slope[slope < 0]
    up = (1 - weights[slope > 0]) / slope[slope > 0]
    length = torch.ones((), dtype=weights.dtype)
    if (down > 1e-7).any():
        length = down[down > 1e-7].min()
    if (up > 1e-7).any():
        length = torch.minimum(length, up[up > 1e-7].min())
    return onto_simplex(weights + length * slope)


def mgda(gramian: Tensor) -> Tensor:
    """Return MGDA's weights: the best pair, then projected gradients with an exact line search."""
    count = len(gramian)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    shares = [shortest_of_two(gramian[i, i], gramian[i, j], gramian[j, j]) for i, j in pairs]
    best = min(range(len(pairs)), key=lambda index: float(shares[index][1]))
    weights = torch.zeros(count, dtype=gramian.dtype)
    weights[pairs[best][0]], weights[pairs[best][1]] = shares[best][0], 1 - shares[best][0]
    if count == 2:
        return weights
    for _ in range(250):
        point = next_point(weights, -(gramian @ weights))
        share, _length = shortest_of_two(
            weights @ gramian @ weights, weights @ gramian @ point, point @ gramian @ point
        )
        moved = share * weights + (1 - share) * point
        if (moved - weights).abs().sum() < 1e-5:
            break
        weights = moved
    return weights


def cagrad(gramian: Tensor) -> Tensor:
    """Return CAGrad's weights: SLSQP over the simplex, without rescaling."""
    array, count = gramian.numpy(), len(gramian)
    start = np.full(count, 1 / count)
    radius = float(C * (gramian.mean() + 1e-8).sqrt() + 1e-8)

    def objective(w: np.ndarray) -> float:
        return float(w @ array @ start + radius * np.sqrt(w @ array @ w + 1e-8))

    sums_to_one = {"type": "eq", "fun": lambda w: 1 - sum(w)}
    w = minimize(objective, start, bounds=[(0, 1)] * count, constraints=sums_to_one).x
    w = torch.as_tensor(w, dtype=gramian.dtype)
    length = (w @ gramian @ w).clamp(min=0).sqrt()
    return 1 / count + radius / (length + 1e-8) * w


def fairgrad(gramian: Tensor) -> Tensor:
    """Return FairGrad's weights for alpha = 1: least squares."""
    array, count = gramian.numpy(), len(gramian)
    start = np.full(count, 1 / count)
    found = least_squares(lambda w: array @ w - 1 / w, start, bounds=(0, np.inf))
    return torch.as_tensor(found.x, dtype=gramian.dtype)


class Nash:
    """NashMTL's weights: the convex-concave procedure of the paper, in cvxpy by ECOS.

    In a step phi(a) = sum log a_i + sum log (G a)_i is replaced by its tangent, at most 20 times.
    It starts from the weights of the call before.
    """

    def __init__(self, count: int) -> None:
        self.last = np.ones(count)
        self.gramian = cvxpy.Parameter((count, count), value=np.eye(count))
        self.norm = cvxpy.Parameter(1, value=np.ones(1))
        self.before = cvxpy.Parameter(count, value=self.last)
        self.weights = cvxpy.Variable(count, nonneg=True)
        products = self.gramian @ self.weights
        slope = 1 / self.before + (1 / (self.gramian @ self.before)) @ self.gramian
        tangent = slope @ (self.weights - self.before)
        bounds = [
            -cvxpy.log(self.weights[i] * self.norm) - cvxpy.log(products[i]) <= 0
            for i in range(count)
        ]
        self.problem = cvxpy.Problem(
            cvxpy.Minimize(cvxpy.sum(products) + tangent / self.norm), bounds
        )

    def solve(self, gramian: Tensor) -> np.ndarray:
        """Return the weights for a Gramian, which is divided by its norm."""
        norm = gramian.norm().item()
        array = gramian.numpy() / norm
        self.gramian.value, self.norm.value = array, np.array([norm])
        weights = self.last
        for _ in range(20):
            self.weights.value = self.before.value = weights
            try:
                self.problem.solve(solver=cvxpy.ECOS, warm_start=True, max_iters=100)
            except (cvxpy.SolverError, ValueError):
                self.weights.value = weights
            found = self.weights.value
            if (
                found is None
                or np.linalg.norm(array @ weights - 1 / (weights + 1e-10)) < 1e-3
                or np.linalg.norm(found - weights) < 1e-6
            ):
                break
            weights = found
        self.last = weights
        return weights


def make_solvers(count: int) -> dict[str, Callable[[Tensor], Any]]:
    """Return the solvers for K losses, by the names of the methods."""
    return {
        "UPGrad": upgrad,
        "MGDA": mgda,
        "CAGrad": cagrad,
        "NashMTL": Nash(count).solve,
        "FairGrad": fairgrad,
    }


def pcgrad(rows: Tensor) -> Tensor:
    """Return PCGrad's update: each gradient is projected off those that oppose it, in turn."""
    projected = rows.clone()
    for i in range(len(rows)):
        for j in random.sample(range(len(rows)), len(rows)):
            product = torch.dot(projected[i], rows[j])
            if product < 0:
                projected[i] -= product * rows[j] / rows[j].norm().pow(2)
    return projected.sum(0)


def make_step(name: str, count: int) -> Step:
    """Return a function of losses and parameters that leaves the update in the gradients."""
    if name == "PCGrad":
        return pcgrad_step
    solve = make_solvers(count)[name]

    def by_rows(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        rows = rows_by_backward(losses, parameters)
        weights = solve(rows @ rows.T)
        write_gradient(torch.einsum("i,in->n", weights, rows), parameters)

    def by_losses(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        rows = rows_by_grad(losses, parameters)
        weights = torch.as_tensor(solve(rows @ rows.T), dtype=torch.float32)
        (weights * torch.stack(list(losses))).sum().backward()

    return by_losses if name in ("NashMTL", "FairGrad") else by_rows


def pcgrad_step(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    """Leave PCGrad's update in the gradients."""
    write_gradient(pcgrad(rows_by_backward(losses, parameters)), parameters)
