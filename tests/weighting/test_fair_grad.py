"""FairGrad: its equation, its utility by brute force, its golden value."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calls import RAISED, solve
from support.samplers import J, jacobians, unit, well_conditioned

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import FairGradWeighting, NashMTLWeighting


class TestFairGrad:
    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9), alpha=st.sampled_from([0.5, 1.0, 2.0, 5.0]))
    def test_gains_are_the_power_of_the_weights(self, jacobian, alpha):
        weights = solve(FairGradWeighting(len(jacobian), alpha=alpha), jacobian)
        lengths = np.linalg.norm(jacobian, axis=1)
        some = lengths > 0
        if not some.any():
            return
        gains = (unit(jacobian) @ (weights @ jacobian))[some]
        wanted = weights[some] ** (-1 / alpha) / lengths[some]
        norm = np.linalg.norm((weights * lengths)[some])
        assert (np.abs(gains - wanted) <= RAISED * norm + 1e-6 * wanted).all()

    @pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 2.0, 10.0])
    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
    @pytest.mark.parametrize("count", [2, 8])
    def test_equation_is_solved_at_any_scale(self, alpha, scale, count):
        jacobian = scale * well_conditioned(count, seed=count)
        weights = solve(FairGradWeighting(count, alpha=alpha), jacobian)
        gains = jacobian @ (weights @ jacobian)
        np.testing.assert_allclose(gains, weights ** (-1 / alpha), rtol=1e-9)

    @pytest.mark.parametrize("alpha", [0.5, 2.0, 8.0])
    def test_no_direction_has_a_larger_utility(self, alpha):
        """The definition, by brute force in the plane."""
        angles = np.linspace(0, 2 * np.pi, 20001)
        jacobian = np.array([[3.0, 0.6], [-0.3, 1], [0.2, 0.5]])
        gains = np.stack([np.cos(angles), np.sin(angles)], 1) @ jacobian.T
        gains = gains[(gains > 0).all(axis=1)]
        update = solve(FairGradWeighting(3, alpha=alpha), jacobian) @ jacobian
        own = jacobian @ update / np.linalg.norm(update)
        utilities = (gains ** (1 - alpha) / (1 - alpha)).sum(axis=1)
        best = (own ** (1 - alpha) / (1 - alpha)).sum()
        assert best >= utilities.max() - 1e-9 * abs(best)

    @pytest.mark.parametrize("count", [2, 5])
    def test_alpha_1_is_nash_up_to_scale(self, count):
        jacobian = well_conditioned(count, seed=7)
        fair = solve(FairGradWeighting(count), jacobian)
        nash = solve(NashMTLWeighting(count), jacobian)
        np.testing.assert_allclose(fair / fair.sum(), nash / nash.sum(), rtol=1e-9)

    @settings(max_examples=40, deadline=None)
    @given(jacobian=jacobians(most=9), alpha=st.sampled_from([0.1, 10.0]))
    def test_extreme_alpha_gives_finite_weights(self, jacobian, alpha):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            weights = solve(FairGradWeighting(len(jacobian), alpha=alpha), jacobian)
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()

    def test_golden_weights_of_alpha_1(self):
        np.testing.assert_allclose(solve(FairGradWeighting(2), J), [0.59146, 0.40707], atol=1e-5)

    def test_small_alpha_comes_near_the_sum(self):
        weights = solve(FairGradWeighting(3, alpha=0.1), unit(well_conditioned(3, seed=2)))
        np.testing.assert_allclose(weights, np.ones(3), atol=0.1)

    @pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
    def test_scale_of_the_gradients_has_the_stated_power(self, alpha):
        jacobian = well_conditioned(3, seed=4)
        method = FairGradWeighting(3, alpha=alpha)
        once = np.linalg.norm(solve(method, jacobian) @ jacobian)
        scaled = np.linalg.norm(solve(method, 100 * jacobian) @ (100 * jacobian))
        assert scaled / once == pytest.approx(100 ** ((1 - alpha) / (1 + alpha)))

    @pytest.mark.parametrize("alpha", [0, 0.01, 20])
    def test_bad_arguments(self, alpha):
        with pytest.raises(ConfigError, match=r"alpha: expected a number from 0\.1 to 10, found"):
            FairGradWeighting(2, alpha=alpha)
