"""The fidelity of cheap weights is a cosine, whatever the size of the gradients."""

import math

import numpy as np
import pytest

from paddleseg_autoloss.gradients.fidelity import fidelity


@pytest.mark.parametrize("scale", [1e-40, 1.0, 1e40])
def test_it_is_the_cosine_of_the_updates(scale):
    generator = np.random.default_rng(0)
    jacobian = generator.normal(size=(3, 50)) * scale
    weights, exact = generator.normal(size=3), generator.normal(size=3)
    one, other = jacobian.T @ weights, jacobian.T @ exact
    expected = (one / scale) @ (other / scale)
    expected /= np.linalg.norm(one / scale) * np.linalg.norm(other / scale)
    assert fidelity(jacobian @ jacobian.T, weights, exact) == pytest.approx(expected, rel=1e-9)


def test_no_direction_has_no_fidelity():
    gramian = np.diag([1.0, 1.0])
    assert math.isnan(fidelity(gramian, np.zeros(2), np.ones(2)))
    assert math.isnan(fidelity(np.zeros((2, 2)), np.ones(2), np.ones(2)))
