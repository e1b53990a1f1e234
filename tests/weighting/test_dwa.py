"""DWA against the paper, window by window."""

from __future__ import annotations

import numpy as np
import pytest
from support.calls import softmax, tensor, weights_of
from support.samplers import NAN, walk

from paddleseg_autoloss.weighting import DWAWeighting


class TestDWA:
    @staticmethod
    def expected(rows, window, tau) -> np.ndarray:
        """Window by window, as the paper goes epoch by epoch."""
        count = rows.shape[1]
        means = [rows[i : i + window].mean(axis=0) for i in range(0, len(rows), window)]
        weights = []
        for iteration in range(len(rows)):
            t = iteration // window
            rates = means[t - 1] / means[t - 2] if t >= 2 else None
            weights.append(np.ones(count) if t < 2 else count * softmax(rates / tau))
        return np.array(weights)

    @pytest.mark.parametrize("window", [1, 3, 4])
    @pytest.mark.parametrize("tau", [0.5, 2.0])
    def test_against_the_paper(self, window, tau):
        rows = walk(3, 25)
        method = DWAWeighting(3, window=window, tau=tau)
        actual = np.array([weights_of(method, row) for row in rows])
        np.testing.assert_allclose(actual, self.expected(rows, window, tau), rtol=1e-5)
        assert np.ptp(actual[:, 0]) > 0.01

    def test_a_step_that_is_not_finite_does_not_count(self):
        rows = walk(2, 12)
        plain, disturbed = DWAWeighting(2, window=2), DWAWeighting(2, window=2)
        for index, row in enumerate(rows):
            expected = weights_of(plain, row)
            if index in (0, 3, 6, 7):
                np.testing.assert_array_equal(weights_of(disturbed, [NAN, 1.0]), expected)
            np.testing.assert_array_equal(weights_of(disturbed, row), expected)

    def test_a_loss_that_was_0_has_the_rate_1(self):
        method = DWAWeighting(2, window=1)
        for losses in [0.0, 1.0], [5.0, 0.5]:
            method(tensor(losses))
        np.testing.assert_allclose(
            weights_of(method, [1.0, 1.0]), 2 * softmax(np.array([1, 0.5]) / 2), rtol=1e-6
        )

    @pytest.mark.parametrize(("sign", "expected"), [(1, [2, 0]), (-1, [0, 2])])
    def test_a_rate_beyond_the_range_of_floats(self, sign, expected):
        method = DWAWeighting(2, window=1)
        for losses in [1e-7, 1.0], [sign * 1e35, 1.0]:
            method(tensor(losses))
        np.testing.assert_allclose(weights_of(method, [1.0, 1.0]), expected, atol=1e-20)
