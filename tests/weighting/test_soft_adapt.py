"""SoftAdapt and its variants against the paper."""

from __future__ import annotations

import numpy as np
import pytest
from support.calls import softmax, tensor, weights_of
from support.samplers import INF, NAN, walk

from paddleseg_autoloss.weighting import SoftAdaptWeighting


class TestSoftAdapt:
    @staticmethod
    def expected(now, before, beta, variant) -> np.ndarray:
        slopes = now - before
        if variant == "normalized":
            slopes = slopes / np.abs(slopes).sum()
        weights = np.exp(beta * slopes) * (now if variant == "loss_weighted" else 1)
        return weights / weights.sum()

    @pytest.mark.parametrize("variant", ["original", "normalized", "loss_weighted"])
    @pytest.mark.parametrize("beta", [0.1, -2, 3])
    def test_against_the_formula(self, variant, beta):
        rows = walk(3, 15)
        method = SoftAdaptWeighting(3, beta=beta, variant=variant)
        np.testing.assert_allclose(weights_of(method, rows[0]), 1 / 3)
        for before, now in zip(rows, rows[1:]):
            expected = self.expected(now, before, beta, variant)
            np.testing.assert_allclose(weights_of(method, [NAN, 1.0, INF]), 1 / 3)
            np.testing.assert_allclose(weights_of(method, now), expected, rtol=1e-5)

    @pytest.mark.parametrize("variant", ["original", "normalized", "loss_weighted"])
    def test_losses_that_stand_still_at_0(self, variant):
        method = SoftAdaptWeighting(2, variant=variant)
        for _ in range(3):
            np.testing.assert_allclose(weights_of(method, [0.0, 0.0]), 0.5)

    def test_slopes_that_cancel(self):
        """Their sum, by which the authors' code divides, is 0."""
        method = SoftAdaptWeighting(2, beta=1, variant="normalized")
        method(tensor([1.0, 1.0]))
        actual = weights_of(method, [1.5, 0.5])
        np.testing.assert_allclose(actual, softmax(np.array([0.5, -0.5])), rtol=1e-6)

    def test_a_negative_loss_has_no_weight_among_loss_weighted(self):
        method = SoftAdaptWeighting(2, variant="loss_weighted")
        method(tensor([1.0, 1.0]))
        np.testing.assert_allclose(weights_of(method, [1.0, -1.0]), [1, 0])
