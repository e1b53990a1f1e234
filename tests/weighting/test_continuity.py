"""Updates near linearly dependent gradients: no jump, and no longer than the paper's bound."""

from __future__ import annotations

import re

import numpy as np
import paddle
import pytest
from support.calls import methods_of

from paddleseg_autoloss.weighting import METHODS, GramianWeighting, IMTLGWeighting, IMTLWeighting

GRAMIAN = methods_of(GramianWeighting)
#: Arguments that change how a method treats dependent gradients.
VARIANTS = [(name, {}) for name in GRAMIAN] + [
    ("AlignedMTL", {"scale_mode": "median"}),
    ("AlignedMTL", {"scale_mode": "rmse"}),
    ("CAGrad", {"calpha": 1.0}),
    ("DCGD", {"variant": "proj"}),
    ("FairGrad", {"alpha": 0.5}),
    ("MGDA", {"normalization": "l2"}),
    ("NashMTL", {"max_norm": 0}),
]
#: Methods that drop something by their paper's own definition.
JUMPS = {"AlignedMTL", "Krum", "PCD"}


def rows_of(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((6, 8)) * random.uniform(0.3, 3, (6, 1))


#: Gradients g, h, k that become dependent as t goes to 0, with e, f, w for what is left.
FAMILIES = {
    "sum to 0": lambda t, g, h, k, e, f, w: [g, h, -g - h + t * e],
    "cancel with other weights": lambda t, g, h, k, e, f, w: [g, h, -0.3 * g - 2 * h + t * e],
    "one is the sum": lambda t, g, h, k, e, f, w: [g, h, g + h + t * e],
    "the same twice": lambda t, g, h, k, e, f, w: [g, g + t * e, h],
    "two opposed": lambda t, g, h, k, e, f, w: [g, -2 * g + t * e],
    "two opposed and another": lambda t, g, h, k, e, f, w: [g, -2 * g + t * e, h],
    "another and two opposed": lambda t, g, h, k, e, f, w: [h, g, -2 * g + t * e],
    "parallel": lambda t, g, h, k, e, f, w: [g, 2 * g + t * e, 0.5 * g + t * f],
    "four in a plane": lambda t, g, h, k, e, f, w: [g + t * e, h + t * f, g - h + t * w, -g - h],
    "four in space": lambda t, g, h, k, e, f, w: [g, h, k, t * e - g - h - k],
    "one vanishes": lambda t, g, h, k, e, f, w: [t * g, h, k],
}


def update(name: str, options: dict, jacobian: np.ndarray) -> np.ndarray:
    paddle.seed(1)
    method = METHODS[name](len(jacobian), **options)
    return method.solve(np.ones(len(jacobian)), jacobian @ jacobian.T) @ jacobian


def lengths(jacobian: np.ndarray) -> np.ndarray:
    return np.linalg.norm(jacobian, axis=1)


def shortest(jacobian: np.ndarray) -> float:
    return min(length for length in lengths(jacobian) if length > 0)


def least_common_part(jacobian: np.ndarray) -> float:
    """The smallest singular value that single precision can tell from 0."""
    singular = np.linalg.svd(jacobian, compute_uv=False)
    return singular[singular**2 > 1e-6 * len(jacobian) * singular[0] ** 2].min()


#: How long an update can be, with the reason: of every method whose paper implies a bound.
BOUNDS = {
    # Lengths between those of the gradients, and a projection.
    "AGDA": lambda j: 2 * lengths(j).max(),
    "AlignedMTL": lambda j: len(j) ** 0.5 * least_common_part(j),
    # |d - g0| <= c |g0|, divided by 1 + c^2.
    "CAGrad": lambda j: 1.5 / 1.25 * np.linalg.norm(j.mean(axis=0)),
    # The sum of the gradients' projections onto one direction.
    "ConFIG": lambda j: lengths(j).sum(),
    # At the first step that of MGDA.
    "CRMOGM": lambda j: shortest(j),
    # A projection of the sum.
    "DCGD": lambda j: np.linalg.norm(j.sum(axis=0)),
    # A projection onto a cone.
    "DualProj": lambda j: np.linalg.norm(j.mean(axis=0)),
    # |d|^2 = w^T G w = sum w_i / w_i.
    "FairGrad": lambda j: len(j) ** 0.5,
    # Weights that sum to K.
    "GradNorm": lambda j: len(j) * lengths(j).max(),
    # At the first step the targets are 0: projections as in PCGrad.
    "GradVac": lambda j: lengths(j).sum(),
    "IMTL": lambda j: 10 * lengths(j).max(),
    # Sizes of the weights sum to 10 at most.
    "IMTLG": lambda j: 10 * lengths(j).max(),
    # One of the gradients.
    "Krum": lambda j: lengths(j).max(),
    # The point of the convex hull nearest to 0.
    "MGDA": lambda j: shortest(j),
    "NashMTL": lambda j: 1.0,
    # Each weighted gradient is as long as all together.
    "NTK": lambda j: len(j) * lengths(j).sum(),
    "PCD": lambda j: lengths(j)[0],
    # Projections do not lengthen.
    "PCGrad": lambda j: lengths(j).sum(),
    "SeparateBackward": lambda j: lengths(j).sum(),
    "UPGrad": lambda j: lengths(j).mean(),
}


def test_bound_of_fairgrad_below_proportional_fairness():
    for kind, path in families("FairGrad", seed=0):
        for t in [0, *10.0 ** np.arange(-9, 0.5, 0.5)]:
            found = np.linalg.norm(update("FairGrad", {"alpha": 0.5}, path(t))) ** 1.5
            assert found <= (lengths(path(t)) ** 0.5).sum() * (1 + 1e-6), (kind, t)


def families(name: str, seed: int):
    """The families that have as many gradients as a method takes."""
    method, rows = METHODS[name], rows_of(seed)
    for kind, family in FAMILIES.items():

        def path(t: float, family=family) -> np.ndarray:
            return np.array(family(t, *rows))

        if method.least_losses <= len(path(1.0)) <= method.most_losses:
            yield kind, path


@pytest.mark.parametrize("name", BOUNDS)
def test_no_update_is_longer_than_its_bound(name):
    for seed in range(3):
        for kind, path in families(name, seed):
            for t in [0, *10.0 ** np.arange(-9, 0.5, 0.5)]:
                found = np.linalg.norm(update(name, {}, path(t)))
                assert found <= BOUNDS[name](path(t)) * (1 + 1e-6) + 1e-9, (kind, t)


def largest_jump(along, start: float, end: float) -> float:
    """The difference that stays when the interval with the largest one is halved 25 times."""
    points = np.arange(start, end + 0.1, 0.3)
    updates = [along(p) for p in points]
    size = max(map(np.linalg.norm, updates))
    differences = [np.linalg.norm(b - a) for a, b in zip(updates, updates[1:])]
    i = int(np.argmax(differences))
    (low, high), (below, above) = points[i : i + 2], updates[i : i + 2]
    for _ in range(25):
        middle = (low + high) / 2
        found = along(middle)
        if np.linalg.norm(found - below) > np.linalg.norm(found - above):
            high, above = middle, found
        else:
            low, below = middle, found
    return float(np.linalg.norm(above - below) / size)


def jumps_of(name: str, options: dict) -> dict[str, float]:
    """The largest jump in each family, relative to the longest update."""
    found: dict[str, float] = {}
    for kind, path in families(name, seed=1):
        found[kind] = largest_jump(lambda p, f=path: update(name, options, f(10.0**p)), -9, 0)
        if kind != "one vanishes":  # a direction is lost for good there
            limit, near = (update(name, options, path(t)) for t in (0.0, 1e-9))
            size = np.linalg.norm(update(name, options, path(1.0)))
            found[kind] = max(found[kind], float(np.linalg.norm(limit - near) / size))
    return found


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: str(value))
def test_the_update_does_not_jump_unless_the_docstring_says_so(name, options):
    jumps = {kind: jump for kind, jump in jumps_of(name, options).items() if jump > 1e-4}
    assert bool(jumps) == (name in JUMPS), jumps
    if jumps:
        assert re.search(r"\bd\s+jumps\b", METHODS[name].__doc__)


class TestImpartialNearDependence:
    """Rows g, h and -g - h + eps e, whose weights tend to 1/3 each and whose update to 0."""

    G, H, E = np.eye(3) * [[3.0], [4.0], [2.0]]

    def rows(self, eps: float) -> np.ndarray:
        return np.stack([self.G, self.H, eps * self.E - self.G - self.H])

    @pytest.mark.parametrize("method", [IMTLGWeighting, IMTLWeighting])
    @pytest.mark.parametrize("eps", [0.1, 0.02, 0.005, 1e-3])
    def test_projections_stay_equal_and_positive(self, method, eps):
        jacobian = self.rows(eps)
        found = method(3).solve(np.ones(3), jacobian @ jacobian.T) @ jacobian
        projections = jacobian @ found / lengths(jacobian)
        assert (projections > 0).all()
        np.testing.assert_allclose(projections, projections[0], rtol=0.01)
        np.testing.assert_allclose(found, eps * self.E / 3, rtol=0.02, atol=0.02 * eps)

    @pytest.mark.parametrize("eps", [0.005, 1e-3, 0.0])
    def test_as_single_precision_sees_them(self, eps):
        jacobian = self.rows(eps)
        single = jacobian.astype("float32")
        weights = IMTLGWeighting(3).solve(np.ones(3), (single @ single.T).astype(float))
        np.testing.assert_allclose(weights, 1 / 3, rtol=0.01)

    def test_update_is_bounded_by_the_distance_of_the_plane_through_the_unit_gradients(self):
        for seed in range(5):
            for kind in ("sum to 0", "cancel with other weights", "one is the sum"):
                for t in 10.0 ** np.arange(-3, 0.5, 0.5):
                    jacobian = np.array(FAMILIES[kind](t, *rows_of(seed)))
                    units = jacobian / lengths(jacobian)[:, None]
                    distance = np.linalg.inv(units @ units.T).sum() ** -0.5
                    found = np.linalg.norm(update("IMTLG", {}, jacobian))
                    assert found <= 10 * distance * lengths(jacobian).max() * 1.01, (kind, t)

    def test_nearly_equal_gradients_share_a_weight(self):
        """What rounding makes of the Gramian of equal gradients must not set them apart."""
        random = np.random.default_rng(0)
        row, other = random.standard_normal((2, 5000)).astype("float32")
        rows = np.stack([row, other, row])
        weights = IMTLGWeighting(3).solve(np.ones(3), (rows @ rows.T).astype(float))
        units = np.stack([row, other]) / lengths(np.stack([row, other]))[:, None]
        expected = units.sum(axis=0) / (units.sum(axis=0) @ units[0])
        found = weights @ rows
        np.testing.assert_allclose(weights[0], weights[2], rtol=1e-3)
        cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
        assert cosine == pytest.approx(1, abs=1e-6)
