"""UWSO, and UWO, which is UWSO without its softmax."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calls import softmax, value_and_gradient, weights_of
from support.samplers import positive_losses

from paddleseg_autoloss.weighting import UWOWeighting, UWSOWeighting


class TestUWSO:
    @settings(max_examples=60, deadline=None)
    @given(losses=positive_losses, tau=st.sampled_from([0.01, 0.5, 1, 20]))
    def test_softmax_of_the_inverse_losses(self, losses, tau):
        expected = softmax(1 / (tau * np.array(losses)))
        actual = weights_of(UWSOWeighting(len(losses), tau=tau), losses)
        np.testing.assert_allclose(actual, expected, rtol=5e-3, atol=1e-6)

    def test_tiny_losses_do_not_overflow(self):
        np.testing.assert_allclose(
            weights_of(UWSOWeighting(2, tau=1e-3), [1e-7, 1.0]), [1, 0], atol=1e-27
        )

    def test_without_temperature_it_is_inverse_loss(self):
        losses = [0.25, 2.0, 1e-3]
        np.testing.assert_allclose(weights_of(UWOWeighting(3), losses), [4, 0.5, 1e3], rtol=1e-6)
        assert value_and_gradient(UWOWeighting(3), losses)[0] == pytest.approx(3)
