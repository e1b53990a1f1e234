"""NormBalance: the lengths it moves to."""

from __future__ import annotations

import numpy as np
import pytest
from support.calls import solve

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import NormBalanceWeighting


class TestNormBalance:
    def test_moves_to_equal_lengths(self):
        jacobian = np.diag([4.0, 1.0, 0.25])
        method = NormBalanceWeighting(3, momentum=0.5)
        for _ in range(60):
            weights = solve(method, jacobian)
        np.testing.assert_allclose(weights * [4, 1, 0.25], [1.75] * 3, rtol=1e-6)

    def test_a_loss_without_gradient_keeps_its_weight(self):
        method = NormBalanceWeighting(2, momentum=0.5, init_weights=[1.0, 3.0])
        assert solve(method, np.array([[2.0], [0.0]])).tolist() == [1.0, 3.0]

    def test_bad_arguments(self):
        with pytest.raises(ConfigError, match="init_weights: expected one for each of 2 losses"):
            NormBalanceWeighting(2, init_weights=[1.0])
