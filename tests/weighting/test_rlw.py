"""RLW: the distributions of its draws."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from support.calls import weights_of

from paddleseg_autoloss.weighting import RLWWeighting


class TestRLW:
    def test_normal_logarithms_are_normal(self):
        """log w_1 - log w_2 ~ N(0, 2); the mean of 3000 is within 4 of its standard deviations."""
        paddle.seed(1)
        method = RLWWeighting(3)
        draws = np.array([weights_of(method, np.ones(3)) for _ in range(3000)])
        np.testing.assert_allclose(draws.sum(axis=1), 1, rtol=1e-5)
        ratio = np.log(draws[:, 0] / draws[:, 1])
        assert abs(ratio.mean()) < 4 * math.sqrt(2 / 3000)
        assert ratio.var() == pytest.approx(2, rel=0.15)

    def test_dirichlet_moments(self):
        """Uniform on the simplex of 3: mean 1/3, variance 1/18, covariance -1/36."""
        paddle.seed(1)
        method = RLWWeighting(3, distribution="dirichlet")
        draws = np.array([weights_of(method, np.ones(3)) for _ in range(3000)])
        np.testing.assert_allclose(draws.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(draws.mean(axis=0), 1 / 3, atol=4 * math.sqrt(1 / 18 / 3000))
        expected = (np.eye(3) - 1 / 3) / 12
        np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.003)

    def test_the_seed_decides(self):
        paddle.seed(3)
        first, second = RLWWeighting(2), RLWWeighting(2)
        paddle.seed(4)
        other = RLWWeighting(2)
        rows = [[weights_of(m, np.ones(2)) for _ in range(3)] for m in (first, second, other)]
        np.testing.assert_array_equal(rows[0], rows[1])
        assert not np.allclose(rows[0], rows[2])
        assert not np.allclose(rows[0][0], rows[0][1])
