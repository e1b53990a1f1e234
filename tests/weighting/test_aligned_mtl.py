"""Aligned-MTL against the singular values of the gradients themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calls import solve
from support.samplers import in_single_precision, jacobians

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import AlignedMTLWeighting

#: The singular value of Aligned-MTL, squared, from those of the gradients.
COMMON = {
    "min": lambda squares: squares.min(),
    "median": lambda squares: sorted(squares)[(len(squares) - 1) // 2],
    "rmse": lambda squares: squares.mean(),
}


class TestAlignedMTL:
    @pytest.mark.parametrize("scale_mode", COMMON)
    @settings(max_examples=60, deadline=None)
    @given(jacobian=jacobians(), prefers=st.booleans())
    def test_update_is_the_sum_of_the_aligned_gradients(self, scale_mode, jacobian, prefers):
        """The singular vectors of J with all singular values the same, times the preferences."""
        u = np.arange(len(jacobian)) + 1.0 if prefers else np.ones(len(jacobian))
        method = AlignedMTLWeighting(len(jacobian), scale_mode, u.tolist() if prefers else None)
        update = solve(method, jacobian) @ jacobian
        left, singular, right = np.linalg.svd(jacobian, full_matrices=False)
        if singular[0] == 0:
            np.testing.assert_array_equal(update, 0)
            return
        kept = singular**2 > 1e-6 * len(jacobian) * singular[0] ** 2
        common = np.sqrt(COMMON[scale_mode](singular[kept] ** 2))
        aligned = common * left[:, kept] @ right[kept]
        # The Gramian squares the condition number.
        size = np.abs(jacobian).max()
        np.testing.assert_allclose(update, u / u.mean() @ aligned, rtol=1e-6, atol=1e-6 * size)

    def test_orthogonal_gradients_get_one_length(self):
        jacobian = np.diag([4.0, 1.0, 0.25, 2.0])
        for scale_mode, length in (("min", 0.25), ("median", 1.0)):
            method = AlignedMTLWeighting(4, scale_mode=scale_mode)
            np.testing.assert_allclose(solve(method, jacobian) @ jacobian, [length] * 4)

    @pytest.mark.parametrize("seed", range(10))
    def test_noise_of_single_precision_is_no_gradient(self, seed):
        """``min`` would set all singular values to that of the noise, and nothing would train."""
        random = np.random.default_rng(seed)
        rows = random.standard_normal((3, 50000))
        rows[2] = rows[0]
        gramian = in_single_precision(rows)
        weights = AlignedMTLWeighting(3).solve(np.ones(3), gramian)
        np.testing.assert_allclose(weights, solve(AlignedMTLWeighting(3), rows), rtol=1e-3)
        assert weights.min() > 0.1

    def test_a_loss_without_gradient_gets_no_weight(self):
        assert solve(AlignedMTLWeighting(2), np.array([[2.0, 0], [0, 0]])).tolist() == [1, 0]
        assert solve(AlignedMTLWeighting(2), np.zeros((2, 2))).tolist() == [1, 1]

    def test_bad_arguments(self):
        message = "scale_mode: expected one of min, median, rmse, found 'max'"
        with pytest.raises(ConfigError, match=message):
            AlignedMTLWeighting(2, scale_mode="max")
