"""The methods that solve a small problem of the Gramian: optimality, golden values, theorems."""

from __future__ import annotations

import importlib.util
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from support import ROOT
from test_gramian_weighting import J, jacobians, solve

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import METHODS as ALL
from paddleseg_autoloss.weighting import (
    DualProjWeighting,
    FairGradWeighting,
    GramianWeighting,
    MGDAWeighting,
    NashMTLWeighting,
    PCDWeighting,
    PCGradWeighting,
    UPGradWeighting,
)

METHODS = [
    DualProjWeighting,
    FairGradWeighting,
    MGDAWeighting,
    NashMTLWeighting,
    PCDWeighting,
    UPGradWeighting,
]
GOLDEN = {
    "MGDA": (MGDAWeighting(2), [0.6, 0.4]),
    "UPGrad": (UPGradWeighting(2), [1.1109, 0.7894]),
    "DualProj": (DualProjWeighting(2), [0.6109, 0.5]),
}
#: Eigenvalues of the cosines below 1e-8 are raised to that, which moves what a gradient of length
#: 1 gains by at most 1e-8 times the weights of such gradients; a little more for rounding.
RAISED = 1.01e-8


def unit(jacobian):
    """The rows with length 1; rows of 0 stay."""
    lengths = np.linalg.norm(jacobian, axis=1, keepdims=True)
    return jacobian / np.where(lengths > 0, lengths, 1)


def well_conditioned(count, seed, conflict=0.3):
    """Gradients with some conflict, far from dependent."""
    random = np.random.default_rng(seed)
    return random.standard_normal((count, 4 * count)) - conflict * random.standard_normal(4 * count)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_weights(name):
    method, expected = GOLDEN[name]
    # The published values are those of a problem with 1e-4 added to its diagonal.
    np.testing.assert_allclose(solve(method, J), expected, atol=3e-4)


@pytest.mark.parametrize("method", METHODS)
class TestAnyGramian:
    @settings(max_examples=40, deadline=None)
    @given(jacobian=jacobians(most=9))
    def test_weights_are_finite_and_not_negative(self, method, jacobian):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            weights = solve(method(len(jacobian)), jacobian)
        assert weights.shape == (len(jacobian),)
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()

    @pytest.mark.parametrize("seed", range(10))
    def test_parallel_gradients_whose_gramian_is_rounded(self, method, seed):
        """Single precision may leave such a Gramian with negative eigenvalues."""
        random = np.random.default_rng(seed)
        rows = np.outer(random.standard_normal(5), random.standard_normal(3000)).astype("float32")
        weights = method(5).solve(np.ones(5), (rows @ rows.T).astype("float64"))
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()

    def test_gradients_too_small_to_square(self, method):
        for gramian in ([[1, -1e-25], [-1e-25, 0]], [[1, -1e-25], [-1e-25, 1e-60]]):
            weights = method(2).solve(np.ones(2), np.array(gramian))
            assert np.isfinite(weights).all()

    def test_a_loss_without_gradient_leaves_the_others_their_update(self, method):
        jacobian = well_conditioned(3, seed=1)
        with_zero = np.insert(jacobian, 2, 0, axis=0)
        expected = solve(method(3), jacobian) @ jacobian
        update = solve(method(4), with_zero) @ with_zero
        if method in (UPGradWeighting, DualProjWeighting):  # the mean over K losses
            update *= 4 / 3
        np.testing.assert_allclose(
            update, expected * np.linalg.norm(update) / np.linalg.norm(expected)
        )
        if method is not NashMTLWeighting:
            np.testing.assert_allclose(update, expected)

    def test_no_loss_has_a_gradient(self, method):
        assert np.isfinite(method(3).solve(np.ones(3), np.zeros((3, 3)))).all()


class TestMGDA:
    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9))
    def test_optimality_conditions(self, jacobian):
        """All gradients in the combination gain |d|^2 along d, all others at least that."""
        weights = solve(MGDAWeighting(len(jacobian)), jacobian)
        assert weights.sum() == pytest.approx(1)
        lengths = np.linalg.norm(jacobian, axis=1)
        some = lengths > 0
        if not some.any():
            return
        update, shares = weights @ jacobian, (weights * lengths)[some]
        excess = unit(jacobian)[some] @ update - update @ update / lengths[some]
        least = shares @ shares / lengths[some] + np.linalg.norm(shares)
        assert (excess >= -RAISED * least).all()
        assert (excess * shares <= RAISED * least * shares).all()

    def test_two_losses_in_closed_form(self):
        random = np.random.default_rng(0)
        for _ in range(100):
            jacobian = random.standard_normal((2, 3)) * 10.0 ** random.uniform(-3, 3, (2, 1))
            (first, inner), (_, second) = jacobian @ jacobian.T
            gamma = np.clip((second - inner) / (first + second - 2 * inner), 0, 1)
            weights = solve(MGDAWeighting(2), jacobian)
            np.testing.assert_allclose(weights, [gamma, 1 - gamma], rtol=1e-6, atol=1e-12)

    @pytest.mark.parametrize("count", [2, 3])
    def test_no_point_of_a_fine_grid_is_shorter(self, count):
        ticks = np.linspace(0, 1, 201)
        grid = np.stack(np.meshgrid(*[ticks] * (count - 1)), -1).reshape(-1, count - 1)
        grid = grid[grid.sum(axis=1) <= 1]
        grid = np.concatenate([grid, 1 - grid.sum(axis=1, keepdims=True)], axis=1)
        for seed in range(20):
            jacobian = np.random.default_rng(seed).standard_normal((count, 4))
            own = np.linalg.norm(solve(MGDAWeighting(count), jacobian) @ jacobian)
            assert own <= np.linalg.norm(grid @ jacobian, axis=1).min() + 1e-9

    @pytest.mark.parametrize("count", [2, 4, 8])
    def test_agrees_with_scipy(self, count):
        jacobian = well_conditioned(count, seed=count)
        gramian = jacobian @ jacobian.T
        found = minimize(
            lambda w: w @ gramian @ w,
            np.full(count, 1 / count),
            jac=lambda w: 2 * gramian @ w,
            method="SLSQP",
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 1000},
        )
        np.testing.assert_allclose(solve(MGDAWeighting(count), jacobian), found.x, atol=1e-6)

    def test_orthogonal_unit_gradients_get_equal_weights(self):
        orthogonal, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((7, 7)))
        np.testing.assert_allclose(solve(MGDAWeighting(5), orthogonal[:5]), np.full(5, 0.2))

    def test_opposed_gradients_cancel(self):
        np.testing.assert_allclose(
            solve(MGDAWeighting(2), [[2.0, 0], [-1, 0]] * np.ones(1)), [1 / 3, 2 / 3]
        )

    def test_the_longer_of_two_parallel_gradients_gets_nothing(self):
        weights = solve(MGDAWeighting(2), np.array([[3.0, 0], [1, 0]]))
        np.testing.assert_allclose(weights, [0, 1], atol=1e-12)

    @pytest.mark.parametrize("normalization", ["none", "l2", "loss", "loss+"])
    def test_normalised_gradients_give_the_weights(self, normalization):
        """By a plain search for the shortest combination of the vectors that Sener's code has."""
        jacobian, losses = np.array([[3.0, 0], [0, 1.0]]), np.array([0.5, 2.0])
        divisors = {"none": 1, "l2": [3, 1], "loss": losses, "loss+": losses * [3, 1]}
        vectors = jacobian / np.reshape(divisors[normalization] * np.ones(2), (2, 1))
        ticks = np.linspace(0, 1, 100001)[:, None]
        best = ticks[np.linalg.norm(ticks * vectors[0] + (1 - ticks) * vectors[1], axis=1).argmin()]
        weights = solve(MGDAWeighting(2, normalization=normalization), jacobian, losses)
        np.testing.assert_allclose(weights, [best[0], 1 - best[0]], atol=1e-5)

    @pytest.mark.parametrize("normalization", ["loss", "loss+"])
    def test_losses_of_0_or_below(self, normalization):
        method = MGDAWeighting(2, normalization=normalization)
        jacobian = well_conditioned(2, seed=0)
        assert solve(method, jacobian, [0.0, 1.0]).tolist() == [0, 1]
        negative = solve(method, jacobian, [-0.5, 1.0])
        np.testing.assert_array_equal(negative, solve(method, jacobian, [0.5, 1.0]))
        assert np.isfinite(solve(method, jacobian, [0.0, 0.0])).all()

    def test_bad_arguments(self):
        with pytest.raises(ConfigError, match="normalization: expected one of none, l2, loss, los"):
            MGDAWeighting(2, normalization="l1")


class TestDualCone:
    """UPGrad and DualProj."""

    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9))
    def test_no_loss_gets_worse(self, jacobian):
        for method in (UPGradWeighting, DualProjWeighting):
            weights = solve(method(len(jacobian)), jacobian)
            shares = weights * np.linalg.norm(jacobian, axis=1)
            assert (unit(jacobian) @ (weights @ jacobian) >= -RAISED * shares.sum()).all()

    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9))
    def test_dualproj_is_the_projection(self, jacobian):
        """KKT: what was added to the mean comes from losses that now neither gain nor lose."""
        count, lengths = len(jacobian), np.linalg.norm(jacobian, axis=1)
        weights = solve(DualProjWeighting(count), jacobian)
        added = (weights - 1 / count) * lengths
        assert (added >= -1e-12 * lengths).all()
        gains = unit(jacobian) @ (weights @ jacobian)
        bound = RAISED * (weights @ lengths) * (np.abs(added) + 1e-8 * lengths.max())
        assert (np.abs(added * gains) <= bound).all()

    @pytest.mark.parametrize("method", [UPGradWeighting, DualProjWeighting])
    @pytest.mark.parametrize("count", [2, 3, 6])
    def test_agrees_with_projecting_the_vectors(self, method, count):
        """By alternating projections onto half-spaces (Dykstra), which needs no dual."""
        for seed in range(5):
            jacobian = well_conditioned(count, seed, conflict=1.5)
            starts = jacobian if method is UPGradWeighting else jacobian.mean(axis=0, keepdims=True)
            expected = np.mean([dykstra(jacobian, start) for start in starts], axis=0)
            update = solve(method(count), jacobian) @ jacobian
            np.testing.assert_allclose(update, expected, atol=1e-6)

    @pytest.mark.parametrize("method", [UPGradWeighting, DualProjWeighting])
    def test_without_conflict_it_is_the_mean(self, method):
        jacobian = np.array([[1.0, 0], [1, 1], [0, 1]])
        np.testing.assert_array_equal(solve(method(3), jacobian), np.full(3, 1 / 3))

    def test_pcgrad_is_upgrad_in_sum_for_two_losses(self):
        random = np.random.default_rng(5)
        for _ in range(100):
            jacobian = random.standard_normal((2, 3)) * 10.0 ** random.uniform(-3, 3, (2, 1))
            pcgrad = solve(PCGradWeighting(2), jacobian)
            np.testing.assert_allclose(2 * solve(UPGradWeighting(2), jacobian), pcgrad, rtol=1e-6)


def dykstra(jacobian, point, rounds=400):
    """The point nearest to the given one among those that conflict with no row."""
    normals = unit(jacobian)
    corrections = np.zeros_like(jacobian)
    for _ in range(rounds):
        for i, normal in enumerate(normals):
            shifted = point + corrections[i]
            point = shifted - min(normal @ shifted, 0) * normal
            corrections[i] = shifted - point
    return point


class TestNashMTL:
    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9))
    def test_the_products_of_weight_and_gain_are_the_same(self, jacobian):
        weights = solve(NashMTLWeighting(len(jacobian), max_norm=0), jacobian)
        some = np.abs(jacobian).sum(axis=1) > 0
        norm = np.linalg.norm(jacobian @ jacobian.T)
        shares = (weights * np.linalg.norm(jacobian, axis=1))[some] / np.sqrt(norm)
        products = (weights * (jacobian @ (weights @ jacobian)))[some] / norm
        bound = RAISED * shares * np.linalg.norm(shares) + 1e-6
        assert (np.abs(products - 1) <= bound).all()
        assert (weights[~some] == 0).all()

    def test_golden_update(self):
        update = solve(NashMTLWeighting(2), J) @ J
        np.testing.assert_allclose(update, [0.0542, 0.7061, 0.7061], atol=1e-4)

    @pytest.mark.parametrize("seed", range(5))
    def test_no_direction_has_a_larger_product_of_gains(self, seed):
        """The definition: the bargaining solution over the ball, by brute force in the plane."""
        random = np.random.default_rng(seed)
        angles = np.linspace(0, 2 * np.pi, 20001)
        jacobian = np.array([[1.0, 0.2], [-0.3, 1], [0.1, 0.5]]) * random.uniform(0.1, 9, (3, 1))
        gains = np.stack([np.cos(angles), np.sin(angles)], 1) @ jacobian.T
        gains = gains[(gains > 0).all(axis=1)]
        update = solve(NashMTLWeighting(3), jacobian) @ jacobian
        own = np.log(jacobian @ update / np.linalg.norm(update)).sum()
        assert own >= np.log(gains).sum(axis=1).max() - 1e-12

    def test_two_losses_in_closed_form(self):
        """On unit gradients both weights are the same: u^2 (1 + cos) = 1."""
        random = np.random.default_rng(0)
        for _ in range(50):
            jacobian = random.standard_normal((2, 3)) * 10.0 ** random.uniform(-3, 3, (2, 1))
            lengths = np.linalg.norm(jacobian, axis=1)
            cosine = jacobian[0] @ jacobian[1] / lengths.prod()
            expected = np.sqrt(np.linalg.norm(jacobian @ jacobian.T) / (1 + cosine)) / lengths
            weights = solve(NashMTLWeighting(2, max_norm=0), jacobian)
            np.testing.assert_allclose(weights, expected, rtol=1e-9)

    def test_equal_gradients_have_the_scale_of_the_sum(self):
        weights = solve(NashMTLWeighting(4, max_norm=0), np.ones((4, 3)))
        np.testing.assert_allclose(weights, np.ones(4), rtol=1e-6)

    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9))
    def test_update_is_never_longer_than_max_norm(self, jacobian):
        update = solve(NashMTLWeighting(len(jacobian), max_norm=0.5), jacobian) @ jacobian
        assert np.linalg.norm(update) <= 0.5 * (1 + 1e-6)

    def test_long_updates_are_capped_and_short_ones_are_not(self):
        jacobian = well_conditioned(4, seed=3)
        free, capped = NashMTLWeighting(4, max_norm=0), NashMTLWeighting(4)
        expected = solve(free, jacobian)
        length = np.sqrt(4 * np.linalg.norm(jacobian @ jacobian.T))
        assert np.linalg.norm(expected @ jacobian) == pytest.approx(length)
        np.testing.assert_allclose(solve(capped, 1e-4 * jacobian), expected)
        np.testing.assert_allclose(solve(capped, jacobian), expected / length)

    def test_bad_arguments(self):
        with pytest.raises(
            ConfigError, match="max_norm: expected a number of at least 0, found -1"
        ):
            NashMTLWeighting(2, max_norm=-1)


class TestFairGrad:
    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9), alpha=st.sampled_from([0.5, 1.0, 2.0, 5.0]))
    def test_gains_are_the_power_of_the_weights(self, jacobian, alpha):
        weights = solve(FairGradWeighting(len(jacobian), alpha=alpha), jacobian)
        lengths = np.linalg.norm(jacobian, axis=1)
        some = lengths > 0
        if not some.any():
            return
        gains = (unit(jacobian) @ (weights @ jacobian))[some]
        wanted = weights[some] ** (-1 / alpha) / lengths[some]
        norm = np.linalg.norm((weights * lengths)[some])
        assert (np.abs(gains - wanted) <= RAISED * norm + 1e-6 * wanted).all()

    @pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 2.0, 10.0])
    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
    @pytest.mark.parametrize("count", [2, 8])
    def test_equation_is_solved_at_any_scale(self, alpha, scale, count):
        jacobian = scale * well_conditioned(count, seed=count)
        weights = solve(FairGradWeighting(count, alpha=alpha), jacobian)
        gains = jacobian @ (weights @ jacobian)
        np.testing.assert_allclose(gains, weights ** (-1 / alpha), rtol=1e-9)

    @pytest.mark.parametrize("alpha", [0.5, 2.0, 8.0])
    def test_no_direction_has_a_larger_utility(self, alpha):
        """The definition, by brute force in the plane."""
        angles = np.linspace(0, 2 * np.pi, 20001)
        jacobian = np.array([[3.0, 0.6], [-0.3, 1], [0.2, 0.5]])
        gains = np.stack([np.cos(angles), np.sin(angles)], 1) @ jacobian.T
        gains = gains[(gains > 0).all(axis=1)]
        update = solve(FairGradWeighting(3, alpha=alpha), jacobian) @ jacobian
        own = jacobian @ update / np.linalg.norm(update)
        utilities = (gains ** (1 - alpha) / (1 - alpha)).sum(axis=1)
        best = (own ** (1 - alpha) / (1 - alpha)).sum()
        assert best >= utilities.max() - 1e-9 * abs(best)

    @pytest.mark.parametrize("count", [2, 5])
    def test_alpha_1_is_nash_up_to_scale(self, count):
        jacobian = well_conditioned(count, seed=7)
        fair = solve(FairGradWeighting(count), jacobian)
        nash = solve(NashMTLWeighting(count), jacobian)
        np.testing.assert_allclose(fair / fair.sum(), nash / nash.sum(), rtol=1e-9)

    @settings(max_examples=40, deadline=None)
    @given(jacobian=jacobians(most=9), alpha=st.sampled_from([0.1, 10.0]))
    def test_extreme_alpha_gives_finite_weights(self, jacobian, alpha):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            weights = solve(FairGradWeighting(len(jacobian), alpha=alpha), jacobian)
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()

    def test_golden_weights_of_alpha_1(self):
        np.testing.assert_allclose(solve(FairGradWeighting(2), J), [0.59146, 0.40707], atol=1e-5)

    def test_small_alpha_comes_near_the_sum(self):
        weights = solve(FairGradWeighting(3, alpha=0.1), unit(well_conditioned(3, seed=2)))
        np.testing.assert_allclose(weights, np.ones(3), atol=0.1)

    @pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
    def test_scale_of_the_gradients_has_the_stated_power(self, alpha):
        jacobian = well_conditioned(3, seed=4)
        method = FairGradWeighting(3, alpha=alpha)
        once = np.linalg.norm(solve(method, jacobian) @ jacobian)
        scaled = np.linalg.norm(solve(method, 100 * jacobian) @ (100 * jacobian))
        assert scaled / once == pytest.approx(100 ** ((1 - alpha) / (1 + alpha)))

    @pytest.mark.parametrize("alpha", [0, 0.01, 20])
    def test_bad_arguments(self, alpha):
        with pytest.raises(ConfigError, match=r"alpha: expected a number from 0\.1 to 10, found"):
            FairGradWeighting(2, alpha=alpha)


class TestPCD:
    @staticmethod
    def by_hand(jacobians_of_steps, tau, beta, eps):
        """Two losses, on the vectors, with the closed form of the projection."""
        v, updates = np.zeros(2), []
        for step, jacobian in enumerate(jacobians_of_steps, start=1):
            v = beta * v + (1 - beta) * (jacobian**2).sum(axis=1)
            unbiased = v / (1 - beta**step)
            scales = 1 / np.sqrt(unbiased + eps * unbiased.mean())
            first, second = jacobian * scales[:, None]
            lacking = tau * second @ second - first @ second
            direction = first + max(lacking, 0) / (second @ second) * second
            length = np.linalg.norm(jacobian[0]) / np.linalg.norm(direction)
            updates.append(length * direction)
        return updates

    @pytest.mark.parametrize("tau", [0.0, 0.02, 0.5])
    @pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
    def test_two_losses_over_many_steps(self, tau, beta):
        random = np.random.default_rng(3)
        steps = [random.standard_normal((2, 3)) * [[5.0], [0.1]] for _ in range(20)]
        method = PCDWeighting(2, tau=tau, beta=beta, eps=1e-3)
        for jacobian, update in zip(steps, self.by_hand(steps, tau, beta, 1e-3)):
            np.testing.assert_allclose(solve(method, jacobian) @ jacobian, update, rtol=1e-7)

    @pytest.mark.parametrize("primary", [0, 2])
    @pytest.mark.parametrize("seed", range(6))
    def test_agrees_with_scipy_on_the_vectors(self, primary, seed):
        jacobian = well_conditioned(4, seed, conflict=1.5)
        units = unit(jacobian)
        secondary = np.delete(units, primary, axis=0)
        found = minimize(
            lambda d: 0.5 * (d - units[primary]) @ (d - units[primary]),
            units[primary],
            jac=lambda d: d - units[primary],
            method="SLSQP",
            constraints={
                "type": "ineq",
                "fun": lambda d: secondary @ d - 0.3,
                "jac": lambda d: secondary,
            },
            options={"ftol": 1e-15, "maxiter": 1000},
        ).x
        expected = found * np.linalg.norm(jacobian[primary]) / np.linalg.norm(found)
        method = PCDWeighting(4, primary=primary, tau=0.3, eps=0)
        np.testing.assert_allclose(solve(method, jacobian) @ jacobian, expected, atol=1e-5)

    @settings(max_examples=100, deadline=None)
    @given(jacobian=jacobians(most=9), tau=st.sampled_from([0.0, 0.02, 0.4]))
    def test_every_secondary_loss_makes_its_progress_or_constraints_are_dropped(
        self, jacobian, tau
    ):
        weights = solve(PCDWeighting(len(jacobian), tau=tau, eps=0), jacobian)
        lengths = np.linalg.norm(jacobian, axis=1)
        shares = weights * lengths
        assert shares.max() <= 2e6 * lengths[0]
        if not shares[1:].any():
            return
        # The direction in the scale of the primary's normalised gradient, which has length 1.
        shares /= shares[0]
        slack = unit(jacobian) @ (shares @ unit(jacobian)) - tau
        some = lengths > 0
        some[0] = False
        near = RAISED * shares.sum() + 1e-9
        assert (slack[some] >= -near).all()
        assert (np.abs(slack * shares)[some] <= near * (shares[some] + 1e-6)).all()

    def test_primary_loss_can_be_named(self):
        """In the aggregator, which knows the names."""
        names = ["head0/CrossEntropyLoss", "head1/CrossEntropyLoss", "head1/DiceLoss"]
        named, numbered = PCDWeighting(3, primary=names[1]), PCDWeighting(3, primary=1)
        LossAggregator(names, named)
        jacobian = well_conditioned(3, seed=2, conflict=1.5)
        np.testing.assert_array_equal(solve(named, jacobian), solve(numbered, jacobian))
        with pytest.raises(ConfigError, match=r"primary: expected one of a, b, c, found 'head1"):
            LossAggregator(["a", "b", "c"], PCDWeighting(3, primary="head1/DiceLoss"))
        with pytest.raises(ConfigError, match="primary: expected an index without names"):
            solve(PCDWeighting(3, primary="a"), jacobian)

    def test_update_is_as_long_as_the_primary_gradient(self):
        jacobian = well_conditioned(5, seed=1, conflict=1.5)
        update = solve(PCDWeighting(5, tau=0.1), jacobian) @ jacobian
        assert np.linalg.norm(update) == pytest.approx(np.linalg.norm(jacobian[0]))

    def test_without_conflict_it_is_the_primary_gradient(self):
        jacobian = np.array([[1.0, 0], [5, 3], [1, -1]])
        np.testing.assert_allclose(solve(PCDWeighting(3), jacobian), [1, 0, 0])
        weights = solve(PCDWeighting(3, primary=1, tau=0.0), jacobian)
        np.testing.assert_allclose(weights, [0, 1, 0])

    def test_constraints_that_cannot_be_met_are_dropped(self):
        jacobian = np.array([[1.0, 0], [0, 1], [0, -3]])
        assert solve(PCDWeighting(3), jacobian).tolist() == [1, 0, 0]
        rows = np.array([[1.0, 0], [0.1, 1], [-0.3, -3]]) @ np.random.default_rng(0).random(
            (2, 999)
        )
        rows = rows.astype("float32")
        weights = PCDWeighting(3).solve(np.ones(3), (rows @ rows.T).astype("float64"))
        assert weights.tolist() == [1, 0, 0]

    def test_a_secondary_loss_opposed_to_the_primary_wins(self):
        """d = g_1 + mu g_2 with <g_2, d> = tau: the little of g_2 that is asked for is left."""
        jacobian = np.array([[2.0, 0], [-0.5, 0]])
        update = solve(PCDWeighting(2, tau=0.02), jacobian) @ jacobian
        np.testing.assert_allclose(update, [-2, 0])

    def test_opposed_losses_without_tau_stop(self):
        weights = solve(PCDWeighting(2, tau=0), np.array([[2.0, 0], [-0.5, 0]]))
        assert np.isfinite(weights).all()
        np.testing.assert_allclose(weights @ [2.0, -0.5], 0, atol=1e-7)

    def test_a_constant_factor_of_a_secondary_loss_does_not_matter(self):
        random = np.random.default_rng(6)
        method, scaled = PCDWeighting(3, eps=0), PCDWeighting(3, eps=0)
        factors = np.array([[1.0], [1e-3], [50]])
        for _ in range(5):
            jacobian = random.standard_normal((3, 4))
            update = solve(scaled, factors * jacobian) @ (factors * jacobian)
            np.testing.assert_allclose(update, solve(method, jacobian) @ jacobian, rtol=1e-6)

    def test_without_gradient_of_the_primary_there_is_no_update(self):
        jacobian = np.array([[0.0, 0], [1, 2]])
        assert (solve(PCDWeighting(2), jacobian) @ jacobian == 0).all()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"primary": 2}, "primary: expected an index below 2, found 2"),
            ({"primary": -1}, "primary: expected an integer of at least 0, found -1"),
            ({"tau": 1.1}, "tau: expected a number from 0 to 1, found 1.1"),
            ({"beta": 1}, "beta: expected a number below 1, found 1"),
            ({"eps": -1}, "eps: expected a number of at least 0, found -1"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            PCDWeighting(2, **arguments)


def test_benchmark_runs(capsys):
    """Every row is printed: our solvers against scipy's for each K, and the time of each method."""
    specification = importlib.util.spec_from_file_location(
        "benchmark_solvers", ROOT / "tools/benchmarks/benchmark_solvers.py"
    )
    benchmark = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(benchmark)
    assert benchmark.main(["--gramians", "2", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    for name in benchmark.PROBLEMS:
        for count in (2, 4, 8):
            row = re.search(rf"^\| {name} \| {count} \| (.*) \|$", printed, flags=re.MULTILINE)
            ours = float(row[1].split(" | ")[3])
            assert ours < 1e-6
    for name, method in ALL.items():
        assert (f"\n| {name} | " in printed) == issubclass(method, GramianWeighting)
