"""What holds for every method of the first kind that looks at gradients."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calls import methods_of, solve
from support.samplers import J, jacobians

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import (
    METHODS,
    CAGradWeighting,
    GramianWeighting,
    NormBalanceWeighting,
    NTKWeighting,
    PCGradWeighting,
    SeparateBackwardWeighting,
)

GOLDEN = {
    "PCGrad": (PCGradWeighting(2), [2.2222, 1.5789]),
    "CAGrad": (CAGradWeighting(2, calpha=0.5, rescale=0), [0.7041, 0.5]),
}
#: Methods that a Gramian of any K can be given to.
ANY_K = [CAGradWeighting, NTKWeighting, NormBalanceWeighting, PCGradWeighting]
ANY_K += [SeparateBackwardWeighting]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_weights(name):
    method, expected = GOLDEN[name]
    np.testing.assert_allclose(solve(method, J), expected, atol=1e-4)


@pytest.mark.parametrize("name", methods_of(GramianWeighting))
def test_called_as_a_layer_it_returns_a_tensor_of_weights(name):
    count = max(2, METHODS[name].least_losses)
    method = METHODS[name](count)
    gramian = paddle.to_tensor(np.diag(np.arange(1.0, count + 1)), dtype="float32")
    weights = method(paddle.ones([count]), gramian)
    assert weights.shape == [count]
    assert weights.dtype == paddle.float32
    assert weights.stop_gradient
    with pytest.raises(ConfigError, match="expected the Gramian"):
        method(paddle.ones([count]))


@pytest.mark.parametrize("method", ANY_K)
class TestAnyGramian:
    @settings(max_examples=60, deadline=None)
    @given(jacobian=jacobians())
    def test_weights_are_finite_and_not_negative(self, method, jacobian):
        """No auxiliary head can be made to ascend: that takes a negative weight."""
        weights = solve(method(len(jacobian)), jacobian)
        assert weights.shape == (len(jacobian),)
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()

    @settings(max_examples=40, deadline=None)
    @given(jacobian=jacobians(least=2), scale=st.sampled_from([1e-6, 1e6]))
    def test_the_scale_of_the_gradients_does_not_matter(self, method, jacobian, scale):
        expected = jacobian.T @ solve(method(len(jacobian)), jacobian)
        scaled = (scale * jacobian).T @ solve(method(len(jacobian)), scale * jacobian)
        size = np.abs(jacobian).max()
        np.testing.assert_allclose(scaled / scale, expected, rtol=1e-6, atol=1e-6 * size)

    @settings(max_examples=40, deadline=None)
    @given(jacobian=jacobians(least=2, most=2))
    def test_permuting_the_losses_permutes_the_weights(self, method, jacobian):
        """For two losses; PCGrad's random order makes it a matter of chance for more."""
        straight = jacobian.T @ solve(method(2), jacobian)
        swapped = jacobian[::-1].T @ solve(method(2), jacobian[::-1])
        np.testing.assert_allclose(swapped, straight, atol=1e-5 * np.abs(jacobian).max())
