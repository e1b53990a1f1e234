"""The methods that need the whole Jacobian: what holds for all of them."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.assertions import assert_same_state, state_of
from support.calls import NAMES, REMEMBERING, every_method, update
from support.samplers import jacobians, steps

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import METHODS


def test_all_of_the_issue_are_there():
    expected = {
        "GradDrop",
        "TrimmedMean",
        "DBMTL",
        "ExcessMTL",
        "MConFIG",
        "MoCo",
        "MoDo",
        "SDMGrad",
    }
    assert expected <= set(NAMES)


@every_method
class TestAnyJacobian:
    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def test_everything_stays_finite(self, name, data):
        least = METHODS[name].least_losses
        count = data.draw(st.integers(least, 5))
        method = METHODS[name](count)
        for _ in range(3):
            jacobian = data.draw(jacobians(least=count, most=count))
            jacobian = np.tile(jacobian, 6)[:, :6]
            losses = data.draw(st.sampled_from([1.0, 1e-8, 1e8, 0.0]))
            found, weights = update(method, jacobian, np.full(len(jacobian), losses))
            assert found.shape == (jacobian.shape[1],)
            assert weights.shape == (len(jacobian),)
            assert np.isfinite(found).all()
            assert np.isfinite(weights).all()
            for value in state_of(method).values():
                assert np.isfinite(value).all()

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_the_scale_of_the_gradients_does_not_matter(self, name, scale):
        paddle.seed(1)
        method, scaled = METHODS[name](3), METHODS[name](3)
        for losses, jacobian in steps():
            (d, weights), (e, others) = (
                update(method, jacobian, losses),
                update(scaled, scale * jacobian, losses),
            )
            np.testing.assert_allclose(others, weights, rtol=2e-3, atol=1e-5)
            factor = 1 if name == "MConFIG" else scale
            np.testing.assert_allclose(e / factor, d, rtol=2e-3, atol=1e-4 * np.abs(d).max())

    def test_state_restores_it_in_mid_course(self, name):
        paddle.seed(1)
        original = METHODS[name](3)
        for losses, jacobian in steps():
            update(original, jacobian, losses)
        paddle.seed(2)
        restored = METHODS[name](3)
        restored.prepare(40)
        restored.set_state_dict({k: v.clone() for k, v in original.state_dict().items()})
        for losses, jacobian in steps(seed=5):
            for one, other in zip(
                update(original, jacobian, losses), update(restored, jacobian, losses)
            ):
                np.testing.assert_array_equal(one, other)

    def test_the_jacobian_is_left_as_it_was(self, name):
        jacobian = paddle.to_tensor(steps()[0][1], dtype="float32")
        before = jacobian.numpy().copy()
        METHODS[name](3).update(paddle.ones([3]), jacobian)
        np.testing.assert_array_equal(jacobian.numpy(), before)


@pytest.mark.parametrize("name", REMEMBERING)
class TestRoom:
    def test_binding_again_keeps_what_was_learned(self, name):
        method = METHODS[name](3)
        for losses, jacobian in steps(number=3):
            update(method, jacobian, losses)
        before = state_of(method)
        buffers = {key: id(value) for key, value in method.named_buffers()}
        method.prepare(40)
        assert_same_state(state_of(method), before)
        assert {key: id(value) for key, value in method.named_buffers()} == buffers

    def test_another_size_is_fine_before_the_first_update_only(self, name):
        method = METHODS[name](3)
        method.prepare(7)
        method.prepare(40)
        ((losses, jacobian),) = steps(number=1)
        update(method, jacobian, losses)
        message = (
            f"{name}: expected gradients of 40 numbers, as at its first step, found 41; "
            "continue with the same network and the same trainable parameters"
        )
        with pytest.raises(ConfigError) as raised:
            method.prepare(41)
        assert str(raised.value) == message

    def test_a_refused_update_changes_nothing(self, name):
        method = METHODS[name](3)
        for losses, jacobian in steps(number=2):
            update(method, jacobian, losses)
        before = state_of(method)
        with pytest.raises(ConfigError, match="found 39"):
            update(method, jacobian[:, 1:], losses)
        assert_same_state(state_of(method), before)

    def test_state_that_came_before_the_room(self, name):
        """Paddle drops the tensors that have no place; going on without them would be wrong."""
        original, restored = METHODS[name](3), METHODS[name](3)
        update(original, steps()[0][1])
        restored.set_state_dict(original.state_dict())
        with pytest.raises(ConfigError, match="expected gradients that bind expects"):
            restored.prepare(40)
