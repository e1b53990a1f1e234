"""DB-MTL against Algorithm 1 of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from support.calls import update
from support.samplers import J, steps

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import DBMTLWeighting


class TestDBMTL:
    @staticmethod
    def by_hand(run, beta, sigma):
        average, updates = None, []
        for t, (losses, jacobian) in enumerate(run, start=1):
            slopes = jacobian / losses[:, None]
            decay = beta / t**sigma
            average = slopes if average is None else decay * average + (1 - decay) * slopes
            lengths = np.linalg.norm(average, axis=1)
            alpha = lengths.max() / lengths
            updates.append((alpha @ average, alpha / losses))
        return updates

    @pytest.mark.parametrize(("beta", "sigma"), [(0.9, 0.0), (0.5, 0.5), (0.0, 0.0), (1.0, 0.0)])
    def test_update_is_that_of_the_paper(self, beta, sigma):
        method, run = DBMTLWeighting(3, beta=beta, sigma=sigma), steps()
        for (losses, jacobian), (expected, shown) in zip(run, self.by_hand(run, beta, sigma)):
            found, weights = update(method, jacobian, losses)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(weights, shown, rtol=1e-4)

    def test_a_loss_may_be_multiplied_by_anything(self):
        method, other, factors = DBMTLWeighting(3), DBMTLWeighting(3), np.array([1e-3, 1, 1e4])
        for losses, jacobian in steps():
            one, _ = update(method, jacobian, losses)
            two, _ = update(other, jacobian * factors[:, None], losses * factors)
            np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)

    def test_gradients_that_stand_still_count_by_the_weights_shown(self):
        method, (losses, jacobian) = DBMTLWeighting(3), steps()[0]
        for _ in range(5):
            found, weights = update(method, jacobian, losses)
        np.testing.assert_allclose(weights @ jacobian, found, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("value", [0.0, -2.0, 1e-38, 1e-45])
    @pytest.mark.parametrize("at", [0, 3])
    def test_a_loss_that_has_no_logarithm_leaves_no_trace(self, value, at):
        method, without, run = DBMTLWeighting(3), DBMTLWeighting(3), steps()
        for step, (losses, jacobian) in enumerate(run):
            if step == at:
                rest = DBMTLWeighting(2)
                if step:
                    rest.prepare(40)
                    rest.set_state_dict(
                        {
                            "average": method.average[:2],
                            "started": method.started[:2],
                            "step": method.step,
                        }
                    )
                losses = [*losses[:2], value]
                before = method.average[2].numpy() if step else np.zeros(40)
                found, weights = update(method, jacobian, losses)
                np.testing.assert_array_equal(method.average[2].numpy(), before)
                expected, shown = update(rest, jacobian[:2], losses[:2])
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(weights, [*shown, 0], rtol=1e-5)
            else:
                found, _ = update(method, jacobian, losses)
                assert np.isfinite(found).all()
        if at == 0:
            for losses, jacobian in run[1:]:
                update(without, jacobian, losses)
            np.testing.assert_allclose(method.average[2], without.average[2], rtol=1e-5, atol=1e-6)

    def test_a_loss_without_gradient_leaves_no_trace(self):
        method = DBMTLWeighting(2)
        update(method, [[3.0, 0.0], [0.0, 1.0]])
        found, weights = update(method, [[3.0, 0.0], [0.0, 0.0]])
        np.testing.assert_allclose(found, [3, 0], rtol=1e-6)
        np.testing.assert_allclose(weights, [1, 0], rtol=1e-6)
        np.testing.assert_array_equal(method.average[1].numpy(), [0, 1])

    def test_no_loss_at_all_moves_nothing(self):
        found, weights = update(DBMTLWeighting(2), J, [0.0, -1.0])
        assert not found.any()
        assert not weights.any()

    def test_bad_arguments(self):
        with pytest.raises(ConfigError, match="beta: expected a number from 0 to 1, found 2"):
            DBMTLWeighting(2, beta=2)
        with pytest.raises(ConfigError, match="sigma: expected a number of at least 0, found -1"):
            DBMTLWeighting(2, sigma=-1)
