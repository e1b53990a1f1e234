"""Nash-MTL: the bargaining solution, its golden value and its definition by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from support.calls import RAISED, solve
from support.samplers import J, jacobians, well_conditioned

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import NashMTLWeighting


class TestNashMTL:
    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9))
    def test_the_products_of_weight_and_gain_are_the_same(self, jacobian):
        weights = solve(NashMTLWeighting(len(jacobian), max_norm=0), jacobian)
        some = np.abs(jacobian).sum(axis=1) > 0
        norm = np.linalg.norm(jacobian @ jacobian.T)
        shares = (weights * np.linalg.norm(jacobian, axis=1))[some] / np.sqrt(norm)
        products = (weights * (jacobian @ (weights @ jacobian)))[some] / norm
        bound = RAISED * shares * np.linalg.norm(shares) + 1e-6
        assert (np.abs(products - 1) <= bound).all()
        assert (weights[~some] == 0).all()

    def test_golden_update(self):
        update = solve(NashMTLWeighting(2), J) @ J
        np.testing.assert_allclose(update, [0.0542, 0.7061, 0.7061], atol=1e-4)

    @pytest.mark.parametrize("seed", range(5))
    def test_no_direction_has_a_larger_product_of_gains(self, seed):
        """The definition: the bargaining solution over the ball, by brute force in the plane."""
        random = np.random.default_rng(seed)
        angles = np.linspace(0, 2 * np.pi, 20001)
        jacobian = np.array([[1.0, 0.2], [-0.3, 1], [0.1, 0.5]]) * random.uniform(0.1, 9, (3, 1))
        gains = np.stack([np.cos(angles), np.sin(angles)], 1) @ jacobian.T
        gains = gains[(gains > 0).all(axis=1)]
        update = solve(NashMTLWeighting(3), jacobian) @ jacobian
        own = np.log(jacobian @ update / np.linalg.norm(update)).sum()
        assert own >= np.log(gains).sum(axis=1).max() - 1e-12

    def test_two_losses_in_closed_form(self):
        """On unit gradients both weights are the same: u^2 (1 + cos) = 1."""
        random = np.random.default_rng(0)
        for _ in range(50):
            jacobian = random.standard_normal((2, 3)) * 10.0 ** random.uniform(-3, 3, (2, 1))
            lengths = np.linalg.norm(jacobian, axis=1)
            cosine = jacobian[0] @ jacobian[1] / lengths.prod()
            expected = np.sqrt(np.linalg.norm(jacobian @ jacobian.T) / (1 + cosine)) / lengths
            weights = solve(NashMTLWeighting(2, max_norm=0), jacobian)
            np.testing.assert_allclose(weights, expected, rtol=1e-9)

    def test_equal_gradients_have_the_scale_of_the_sum(self):
        weights = solve(NashMTLWeighting(4, max_norm=0), np.ones((4, 3)))
        np.testing.assert_allclose(weights, np.ones(4), rtol=1e-6)

    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9))
    def test_update_is_never_longer_than_max_norm(self, jacobian):
        update = solve(NashMTLWeighting(len(jacobian), max_norm=0.5), jacobian) @ jacobian
        assert np.linalg.norm(update) <= 0.5 * (1 + 1e-6)

    def test_long_updates_are_capped_and_short_ones_are_not(self):
        jacobian = well_conditioned(4, seed=3)
        free, capped = NashMTLWeighting(4, max_norm=0), NashMTLWeighting(4)
        expected = solve(free, jacobian)
        length = np.sqrt(4 * np.linalg.norm(jacobian @ jacobian.T))
        assert np.linalg.norm(expected @ jacobian) == pytest.approx(length)
        np.testing.assert_allclose(solve(capped, 1e-4 * jacobian), expected)
        np.testing.assert_allclose(solve(capped, jacobian), expected / length)

    def test_bad_arguments(self):
        with pytest.raises(
            ConfigError, match="max_norm: expected a number of at least 0, found -1"
        ):
            NashMTLWeighting(2, max_norm=-1)
