"""TrimmedMean against scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import trim_mean
from support.calls import update
from support.samplers import steps

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import TrimmedMeanWeighting


class TestTrimmedMean:
    @pytest.mark.parametrize(("count", "trim"), [(3, 1), (4, 1), (5, 2), (8, 3), (3, 0)])
    def test_is_scipys(self, count, trim):
        for _, jacobian in steps(count):
            expected = trim_mean(jacobian, trim / count + 1e-9, axis=0)
            found, _ = update(TrimmedMeanWeighting(count, trim=trim), jacobian)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    def test_one_loss_cannot_drag_it_anywhere(self):
        jacobian = steps(5)[0][1]
        honest, rank = np.sort(jacobian[:4], axis=0), np.ones(40)
        for sign in (1, -1):
            jacobian[4] = sign * 1e30
            found, _ = update(TrimmedMeanWeighting(5), jacobian)
            assert (found >= honest[0] - 1e-4 * rank).all()
            assert (found <= honest[-1] + 1e-4 * rank).all()

    @pytest.mark.parametrize(
        ("column", "trim", "expected"),
        [
            ([4, 0, 0, 0, 0], 1, 4 / 5),
            ([4, 0, -2, 0, 0], 1, (4 - 2) / 5),
            ([4, 0, -2, 1, 0], 1, 1 * 3 / 5),
            ([-1, 0, -2, -9, -3], 1, -2.5 * 4 / 5),
            ([1, 0, 2, 9, 3], 2, 2.5 * 4 / 5),
            ([1, -5, 2, 9, 3], 2, 2),
            ([0, 0, 0, 0, 0], 1, 0),
        ],
    )
    def test_losses_without_a_gradient_have_no_say(self, column, trim, expected):
        for order in itertools.islice(itertools.permutations(column), 0, 120, 17):
            found, _ = update(TrimmedMeanWeighting(5, trim=trim), np.array([order], float).T)
            assert found[0] == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("count", "trim", "message"),
        [
            (2, 1, "losses: TrimmedMean expects 3 or more, found 2"),
            (4, 2, "trim: expected at most 1 with 4 losses, found 2"),
            (4, -1, "trim: expected an integer of at least 0, found -1"),
            (4, 0.5, "trim: expected an integer of at least 0, found 0.5"),
        ],
    )
    def test_bad_arguments(self, count, trim, message):
        with pytest.raises(ConfigError, match=message):
            TrimmedMeanWeighting(count, trim=trim)
