"""Krum against the distances of the gradients themselves."""

from __future__ import annotations

import numpy as np
import pytest
from support.calls import solve
from support.samplers import rounding

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import KrumWeighting


class TestKrum:
    @staticmethod
    def scores(jacobian, n_byzantine):
        scores = []
        for i, row in enumerate(jacobian):
            others = np.delete(jacobian, i, axis=0)
            squares = sorted(((row - others) ** 2).sum(axis=1))
            scores.append(sum(squares[: len(jacobian) - n_byzantine - 2]))
        return np.array(scores)

    @pytest.mark.parametrize(("count", "n_byzantine"), [(3, 0), (4, 0), (4, 1), (7, 2), (7, 4)])
    @pytest.mark.parametrize("n_selected", [1, 3])
    def test_the_chosen_have_the_least_scores(self, count, n_byzantine, n_selected):
        """By the distances of the vectors."""
        random = np.random.default_rng(0)
        method = KrumWeighting(count, n_byzantine=n_byzantine, n_selected=n_selected)
        for _ in range(50):
            jacobian = random.standard_normal((count, 4)) * 10 ** random.uniform(-1, 1, (count, 1))
            weights, scores = solve(method, jacobian), self.scores(jacobian, n_byzantine)
            assert sorted(weights)[-n_selected:] == [1 / n_selected] * n_selected
            assert (weights > 0).sum() == n_selected
            least = np.sort(scores)[:n_selected]
            np.testing.assert_allclose(np.sort(scores[weights > 0]), least, rtol=1e-5)

    def test_distances_are_squared(self):
        """Two neighbours at 1.9 count 7.2, less than those at 0 and 3; unsquared it is more."""
        points = np.array([[-1.9], [0.0], [1.9], [4.9], [4.9]])
        assert solve(KrumWeighting(5, n_byzantine=1), points).tolist() == [0, 1, 0, 0, 0]

    @pytest.mark.parametrize("size", [10.0, 1e6])
    def test_gradients_that_are_far_off_are_left_out(self, size):
        random = np.random.default_rng(1)
        jacobian = random.standard_normal((7, 5))
        jacobian[[1, 4]] = size * random.standard_normal((2, 5))
        weights = solve(KrumWeighting(7, n_byzantine=2, n_selected=5), jacobian)
        np.testing.assert_allclose(weights, np.where(np.isin(range(7), [1, 4]), 0, 0.2))

    def test_of_equal_scores_the_first_wins(self):
        assert solve(KrumWeighting(3), np.array([[9.0], [1.0], [1.5]])).tolist() == [0, 1, 0]
        assert solve(KrumWeighting(4, n_selected=2), np.ones((4, 2))).tolist() == [0.5, 0.5, 0, 0]

    @pytest.mark.parametrize("seed", range(10))
    def test_rounding_does_not_decide_between_equal_gradients(self, seed):
        jacobian = np.array([[5.0, 1], [1, 0], [0, 7], [1, 2], [1, 0]])
        noise = rounding(5, seed)
        found = KrumWeighting(5, n_byzantine=1).solve(np.ones(5), jacobian @ jacobian.T * noise)
        assert found.tolist() == [0, 1, 0, 0, 0]
        found = KrumWeighting(5).solve(np.ones(5), noise)
        assert found.tolist() == [1, 0, 0, 0, 0]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((2,), "losses: Krum expects 3 or more, found 2"),
            ((4, 2), "n_byzantine: expected at most 1 of 4 losses, found 2"),
            ((4, -1), "n_byzantine: expected an integer of at least 0, found -1"),
            ((4, 0, 5), "n_selected: expected at most 4, found 5"),
            ((4, 0, 0), "n_selected: expected a positive integer, found 0"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            KrumWeighting(*arguments)
