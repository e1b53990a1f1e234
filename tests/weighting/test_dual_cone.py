"""UPGrad and DualProj: projections onto the dual cone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from support.calls import RAISED, solve
from support.samplers import jacobians, unit, well_conditioned

from paddleseg_autoloss.weighting import DualProjWeighting, PCGradWeighting, UPGradWeighting


class TestDualCone:
    """UPGrad and DualProj."""

    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9))
    def test_no_loss_gets_worse(self, jacobian):
        for method in (UPGradWeighting, DualProjWeighting):
            weights = solve(method(len(jacobian)), jacobian)
            shares = weights * np.linalg.norm(jacobian, axis=1)
            assert (unit(jacobian) @ (weights @ jacobian) >= -RAISED * shares.sum()).all()

    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9))
    def test_dualproj_is_the_projection(self, jacobian):
        """KKT: what was added to the mean comes from losses that now neither gain nor lose."""
        count, lengths = len(jacobian), np.linalg.norm(jacobian, axis=1)
        weights = solve(DualProjWeighting(count), jacobian)
        added = (weights - 1 / count) * lengths
        assert (added >= -1e-12 * lengths).all()
        gains = unit(jacobian) @ (weights @ jacobian)
        bound = RAISED * (weights @ lengths) * (np.abs(added) + 1e-8 * lengths.max())
        assert (np.abs(added * gains) <= bound).all()

    @pytest.mark.parametrize("method", [UPGradWeighting, DualProjWeighting])
    @pytest.mark.parametrize("count", [2, 3, 6])
    def test_agrees_with_projecting_the_vectors(self, method, count):
        """By alternating projections onto half-spaces (Dykstra), which needs no dual."""
        for seed in range(5):
            jacobian = well_conditioned(count, seed, conflict=0)
            starts = jacobian if method is UPGradWeighting else jacobian.mean(axis=0, keepdims=True)
            expected = np.mean([dykstra(jacobian, start) for start in starts], axis=0)
            update = solve(method(count), jacobian) @ jacobian
            np.testing.assert_allclose(update, expected, atol=1e-6)

    @pytest.mark.parametrize("count", [2, 3, 6])
    def test_preferences_weigh_what_is_projected(self, count):
        """As TorchJD defines them: sum u_i pi(g_i), and pi(sum u_i g_i)."""
        conflicts = 0
        for seed in range(5):
            jacobian = well_conditioned(count, seed, conflict=0)
            preference = np.random.default_rng(seed).uniform(0, 1, count)
            preference[seed % count] = 0
            arguments = {"pref_vector": preference.tolist()}
            shares = preference / preference.sum()
            expected = shares @ [dykstra(jacobian, row) for row in jacobian]
            update = solve(UPGradWeighting(count, **arguments), jacobian) @ jacobian
            np.testing.assert_allclose(update, expected, atol=1e-6)
            weights = solve(DualProjWeighting(count, **arguments), jacobian)
            expected = dykstra(jacobian, shares @ jacobian)
            np.testing.assert_allclose(weights @ jacobian, expected, atol=1e-6)
            assert (weights >= shares - 1e-12).all()
            conflicts += (weights > shares + 1e-3).any()
        assert conflicts > 1

    @pytest.mark.parametrize("method", [UPGradWeighting, DualProjWeighting])
    def test_without_conflict_it_is_the_mean(self, method):
        jacobian = np.array([[1.0, 0], [1, 1], [0, 1]])
        np.testing.assert_array_equal(solve(method(3), jacobian), np.full(3, 1 / 3))
        preferred = method(3, pref_vector=[3, 0, 1])
        np.testing.assert_allclose(solve(preferred, jacobian), [3 / 4, 0, 1 / 4])

    def test_pcgrad_is_upgrad_in_sum_for_two_losses(self):
        random = np.random.default_rng(5)
        for _ in range(100):
            jacobian = random.standard_normal((2, 3)) * 10.0 ** random.uniform(-3, 3, (2, 1))
            pcgrad = solve(PCGradWeighting(2), jacobian)
            np.testing.assert_allclose(2 * solve(UPGradWeighting(2), jacobian), pcgrad, rtol=1e-6)


def dykstra(jacobian, point, rounds=400):
    """The point nearest to the given one among those that conflict with no row."""
    normals = unit(jacobian)
    corrections = np.zeros_like(jacobian)
    for _ in range(rounds):
        for i, normal in enumerate(normals):
            shifted = point + corrections[i]
            point = shifted - min(normal @ shifted, 0) * normal
            corrections[i] = shifted - point
    return point
