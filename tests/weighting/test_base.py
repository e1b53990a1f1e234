"""What the methods have in common: exact inner products, the nearest weights."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_autoloss.weighting.base import inner_products, nearest_weights


@pytest.mark.parametrize("count", [1, 2, 5])
def test_inner_products_are_exact_for_long_rows(count):
    random = np.random.default_rng(0)
    rows = np.exp(2 * random.standard_normal((count, 2**20))).astype("float32")
    exact = rows.astype("float64") @ rows.astype("float64").T
    np.testing.assert_allclose(inner_products(paddle.to_tensor(rows)), exact, rtol=1e-5)


def test_nearest_weights_find_a_combination_and_least_squares():
    random = np.random.default_rng(1)
    jacobian = random.standard_normal((3, 50))
    for target in (np.array([2.0, -1.0, 0.5]) @ jacobian, random.standard_normal(50)):
        expected = np.linalg.lstsq(jacobian.T, target, rcond=None)[0]
        found = nearest_weights(
            paddle.to_tensor(jacobian, dtype="float32"), paddle.to_tensor(target, dtype="float32")
        )
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
