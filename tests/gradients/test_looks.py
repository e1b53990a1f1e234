"""Looks at held-out data: the alignments against finite differences of real steps."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_autoloss.errors import ConfigError, TrainingDiverged
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import AutoLambdaWeighting, CoBaWeighting, SumWeighting


class Recording(AutoLambdaWeighting):
    """Keeps the Gramian that it gets."""

    def solve(self, gramian: np.ndarray) -> np.ndarray:
        self.gramian = gramian
        return super().solve(gramian)


class Small:
    """A network with two losses and a target, all smooth, in single precision."""

    def __init__(self) -> None:
        paddle.seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        self.x, self.held = paddle.randn([8, 3]), paddle.randn([8, 3])

    def losses(self) -> dict[str, paddle.Tensor]:
        y = self.model(self.x)
        return {"a": ((y[:, 0] - 1) ** 2).mean(), "b": ((y[:, 1] + y[:, 0]) ** 2).mean()}

    def target(self) -> paddle.Tensor:
        return ((self.model(self.held).sum(axis=1) - self.held[:, 0]) ** 2).mean()

    def aggregator(self, optimizer=None, constant_sum=False, **options) -> LossAggregator:
        method = Recording(2, **options)
        aggregator = LossAggregator(["a", "b"], method, constant_sum=constant_sum)
        aggregator.bind(self.model.parameters(), optimizer)
        return aggregator

    def step(self, optimizer, weights=(1.0, 1.0)) -> None:
        losses = self.losses()
        (losses["a"] * weights[0] + losses["b"] * weights[1]).backward()
        optimizer.step()
        optimizer.clear_grad()

    def slopes(self, optimizer, h: float) -> list[float]:
        """Derivatives of the target after a step with respect to the weights of this step."""
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        of_optimizer = {
            name: value.clone() if isinstance(value, paddle.Tensor) else value
            for name, value in optimizer.state_dict().items()
        }
        found = []
        for direction in np.eye(2):
            after = []
            for sign in (1, -1):
                self.step(optimizer, 1 + sign * h * direction)
                after.append(float(self.target()))
                self.model.set_state_dict(state)
                optimizer.set_state_dict(of_optimizer)
            found.append((after[0] - after[1]) / (2 * h))
        return found


def looked(small: Small, aggregator: LossAggregator) -> np.ndarray:
    """Look and weigh; return the Gramian with the target."""
    aggregator.look(small.target())
    aggregator(small.losses()).backward()
    return aggregator.weighting.gramian


def test_alignments_are_the_effect_of_the_weights_on_the_target():
    """d target(x - lr sum_i w_i g_i) / d w_i = -lr <g_v, g_i>, to first order in lr."""
    small = Small()
    rate = 0.002
    sgd = paddle.optimizer.SGD(rate, parameters=small.model.parameters())
    slopes = small.slopes(sgd, h=0.5)
    products = looked(small, small.aggregator(scaling="none"))[0, 1:]
    np.testing.assert_allclose(slopes, -rate * products, rtol=0.03)
    assert abs(products[0] / products[1] - 1) > 0.2, "the losses differ"


@pytest.mark.parametrize("kind", [paddle.optimizer.Adam, paddle.optimizer.AdamW])
def test_scaled_alignments_are_the_effect_of_a_step_of_adam(kind):
    """With P, and 1 - beta1 for the share of a gradient that its own step takes.

    A beta2 near 1 keeps the moments, and after many steps their bias correction is stable too.
    """
    small, rate = Small(), 0.001
    adam = kind(rate, beta2=0.9999, parameters=small.model.parameters())
    for step in range(400):
        small.step(adam, [1, 1 + step % 2])
    slopes = small.slopes(adam, h=0.5)
    products = looked(small, small.aggregator(adam, scaling="optimizer"))[0, 1:]
    np.testing.assert_allclose(slopes, -rate * (1 - 0.9) * products, rtol=0.1)
    plain = small.aggregator(scaling="none")
    unscaled = looked(small, plain)[0, 1:]
    assert abs(products[0] / products[1] / (unscaled[0] / unscaled[1]) - 1) > 0.3, "P matters"


def test_scaling_with_sgd_is_the_multiplier_of_the_learning_rate():
    small = Small()
    small.model[0].weight.optimize_attr["learning_rate"] = 3.0
    small.model[0].bias.optimize_attr["learning_rate"] = 3.0
    sgd = paddle.optimizer.Momentum(0.01, parameters=small.model.parameters())
    scaled = looked(small, small.aggregator(sgd, scaling="optimizer"))
    plain = looked(small, small.aggregator(scaling="none"))
    first = LossAggregator(["a", "b"], Recording(2, scaling="none"))
    first.bind(small.model[0].parameters())
    of_first = looked(small, first)
    np.testing.assert_allclose(scaled, plain + 2 * of_first, rtol=1e-5)


@pytest.mark.parametrize(("constant_sum", "total_weight"), [(False, 2), (0.5, 0.5)])
def test_a_step_after_a_look_is_the_weighted_sum_and_the_target_leaves_no_gradient(
    constant_sum, total_weight
):
    small = Small()
    aggregator = small.aggregator(scaling="none", lr=2, constant_sum=constant_sum)
    aggregator.look(small.target())
    assert all(p.grad is None for p in small.model.parameters())
    total = aggregator(small.losses())
    total.backward()
    found = [p.grad.numpy() for p in small.model.parameters()]
    weights = aggregator.last_weights
    assert abs(float(weights[0]) - float(weights[1])) > 0.01 * total_weight
    assert float(weights.sum()) == pytest.approx(total_weight, rel=1e-5)
    small.model.clear_gradients()
    losses = small.losses()
    expected = weights[0] * losses["a"] + weights[1] * losses["b"]
    expected.backward()
    assert float(total) == pytest.approx(float(expected))
    for one, p in zip(found, small.model.parameters()):
        np.testing.assert_allclose(one, p.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_looks_are_needed_every_n_steps_and_the_weights_stay_between():
    small = Small()
    aggregator = LossAggregator(["a", "b"], Recording(2, scaling="none", lr=2), update_interval=3)
    aggregator.bind(small.model.parameters())
    needed, weights = [], []
    for _ in range(8):
        needed.append(aggregator.needs_look)
        if aggregator.needs_look:
            aggregator.look(small.target())
        aggregator(small.losses()).backward()
        weights.append(aggregator.last_weights.tolist())
    assert needed == [False, False, False, True, False, False, True, False]
    assert weights[0] == weights[2] == [1, 1]
    assert weights[3] == weights[5] != weights[0]
    assert weights[6] == weights[7] != weights[3]


def test_the_first_steps_have_the_weights_to_begin_with():
    small = Small()
    method = Recording(2, scaling="none", init=[1, 4])
    aggregator = LossAggregator(["a", "b"], method, update_interval=2)
    aggregator.bind(small.model.parameters())
    losses = small.losses()
    total = aggregator(losses)
    np.testing.assert_allclose(float(total), 0.4 * losses["a"] + 1.6 * losses["b"], rtol=1e-6)
    np.testing.assert_allclose(aggregator.last_weights.numpy(), [0.4, 1.6], rtol=1e-6)
    other = LossAggregator(["a", "b"], Recording(2, scaling="none"))
    other.set_state_dict(aggregator.state_dict())
    np.testing.assert_allclose(other.weights.numpy(), [0.4, 1.6], rtol=1e-6)


def test_the_scale_of_a_gradient_scaler_changes_no_weight():
    small = Small()
    found = []
    for scale in (None, paddle.to_tensor([4096.0])):
        aggregator = small.aggregator(scaling="none", lr=2)
        aggregator.loss_scale = None if scale is None else lambda scale=scale: scale
        aggregator.look(small.target())
        aggregator(small.losses())
        found.append(aggregator.last_weights.tolist())
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_target_that_is_not_finite_raises_and_changes_nothing():
    small = Small()
    aggregator = small.aggregator(scaling="none")
    aggregator.look(small.target() * math_nan())
    with pytest.raises(
        TrainingDiverged, match="the gradient of the target on held-out data is NaN"
    ):
        aggregator(small.losses())
    assert aggregator.weights.tolist() == [1, 1]


def math_nan() -> paddle.Tensor:
    return paddle.to_tensor(float("nan"))


def test_without_looks_training_stops_at_the_first_that_is_due():
    small = Small()
    for method in (AutoLambdaWeighting(2, scaling="none"), CoBaWeighting(2)):
        aggregator = LossAggregator(["a", "b"], method, update_interval=2)
        aggregator.bind(small.model.parameters())
        for _ in range(2):
            aggregator(small.losses())
        with pytest.raises(ConfigError, match="expected a look at held-out data every 2 steps"):
            aggregator(small.losses())


def test_coba_looks_at_losses():
    small = Small()
    aggregator = LossAggregator(["a", "b"], CoBaWeighting(2, window=2, warmup=2), update_interval=1)
    aggregator(small.losses())
    for values in ([1.0, 4.0], [0.5, 4.0]):
        aggregator.look(paddle.to_tensor(values))
        aggregator(small.losses())
    assert aggregator.last_weights.tolist() == pytest.approx([0.2384, 1.7616], abs=1e-4)


def test_coba_refuses_a_negative_loss():
    aggregator = LossAggregator(["a", "b"], CoBaWeighting(2))
    with pytest.raises(ConfigError, match=r"b: expected a loss above 0 for CoBa, found -0\.5"):
        aggregator.look(paddle.to_tensor([1.0, -0.5]))


def test_losses_that_are_collected_are_not_weighed():
    small = Small()
    aggregator = small.aggregator(scaling="none")
    with aggregator.collecting() as found:
        total = aggregator(small.losses())
    assert float(total) == pytest.approx(float(found[0].sum()))
    assert int(aggregator.calls) == 0
    assert aggregator.last_weights is None


def test_what_is_refused():
    small = Small()
    with pytest.raises(
        ConfigError, match="level: expected parameters for AutoLambda, found logits"
    ):
        LossAggregator(["a", "b"], AutoLambdaWeighting(2), level="logits")
    with pytest.raises(
        ConfigError, match="scaling: expected the optimizer for scaling: optimizer, found none"
    ):
        small.aggregator(scaling="optimizer")
    rms = paddle.optimizer.RMSProp(0.1, parameters=small.model.parameters())
    with pytest.raises(ConfigError, match=r"expected the optimizer Adam, .* found RMSProp"):
        small.aggregator(rms, scaling="optimizer")
    with pytest.raises(ConfigError, match="look: expected one number, the target, found shape"):
        small.aggregator(scaling="none").look(paddle.ones([2]))
    with pytest.raises(ConfigError, match="look: expected 2 losses, found shape"):
        LossAggregator(["a", "b"], CoBaWeighting(2)).look(paddle.ones([3]))
    with pytest.raises(ConfigError, match="it looks at no held-out data"):
        LossAggregator(["a", "b"], SumWeighting(2)).look(paddle.ones([1]))


class Slopes(AutoLambdaWeighting):
    """Keeps what it learns from."""

    def learn(self, ratings: np.ndarray) -> np.ndarray:
        self.learned_from = ratings
        return super().learn(ratings)


def differing(small: Small, optimizer=None, interval=1, **options) -> LossAggregator:
    form = {"rating": "product", "scaling": "none", "alignment": "differences", "lr": 1}
    options = form | options
    aggregator = LossAggregator(["a", "b"], Slopes(2, **options), update_interval=interval)
    aggregator.bind(small.model.parameters(), optimizer)
    return aggregator


def again(small: Small, aggregator: LossAggregator):
    return lambda: aggregator(small.losses())


@pytest.mark.parametrize("scaling", ["none", "optimizer"])
def test_differences_of_losses_are_the_alignments(scaling):
    """Where the parameters stay, both forms see the same point, so they must agree."""
    small = Small()
    adam = paddle.optimizer.Adam(0.01, parameters=small.model.parameters())
    for _ in range(3):
        small.step(adam)
    products = looked(small, small.aggregator(adam, scaling=scaling))[0, 1:]
    before = [p.numpy() for p in small.model.parameters()]
    aggregator = differing(small, adam, scaling=scaling, lr=0.5)
    aggregator.look(small.target())
    aggregator(small.losses())
    assert aggregator.needs_differences
    aggregator.learn_from_differences(again(small, aggregator))
    np.testing.assert_allclose(aggregator.weighting.learned_from, products, rtol=2e-3)
    for parameter, value in zip(small.model.parameters(), before):
        np.testing.assert_array_equal(parameter.numpy(), value)
    expected = 2 * np.exp(0.5 * products) / np.exp(0.5 * products).sum()
    np.testing.assert_allclose(aggregator.weights.numpy(), expected, rtol=1e-3)
    assert not aggregator.needs_differences
    assert int(aggregator.calls) == 1, "the two evaluations are no steps"


def test_differences_reach_the_weights_of_the_next_step():
    """The step after a look has the weights from before, with gradients that training has."""
    small = Small()
    aggregator = differing(small, interval=2, lr=2)
    weights, needed = [], []
    for _ in range(5):
        if aggregator.needs_look:
            aggregator.look(small.target())
        aggregator(small.losses()).backward()
        weights.append(aggregator.last_weights.tolist())
        needed.append(aggregator.needs_differences)
        if aggregator.needs_differences:
            aggregator.learn_from_differences(again(small, aggregator))
    assert needed == [False, False, True, False, True]
    assert weights[0] == weights[2] == [1, 1]
    assert weights[3] == weights[4] != weights[2]


def test_the_scale_of_a_gradient_scaler_changes_no_difference():
    small, found = Small(), []
    for scale in (None, paddle.to_tensor([4096.0])):
        aggregator = differing(small)
        aggregator.loss_scale = None if scale is None else lambda scale=scale: scale
        aggregator.look(small.target())
        aggregator(small.losses())
        aggregator.learn_from_differences(again(small, aggregator))
        found.append(aggregator.weighting.learned_from.tolist())
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_target_without_slope_moves_no_weight():
    small = Small()
    aggregator = differing(small)
    aggregator.look(small.target() * 0)
    aggregator(small.losses())
    aggregator.learn_from_differences(again(small, aggregator))
    assert aggregator.weights.tolist() == [1, 1]


def test_dropout_is_the_same_at_both_points():
    """Otherwise the difference of two masks, divided by a small distance, hides the slope."""
    small = Small()
    first, *others = small.model
    small.model = nn.Sequential(first, nn.Dropout(0.3), *others)
    found = []
    for _ in range(3):
        aggregator = differing(small)
        paddle.seed(1)
        aggregator.look(small.target())
        aggregator(small.losses())
        paddle.seed(2)
        aggregator.learn_from_differences(again(small, aggregator))
        found.append(aggregator.weighting.learned_from)
    paddle.seed(1)
    aggregator = small.aggregator(scaling="none")
    aggregator.look(small.target())
    paddle.seed(2)
    aggregator(small.losses())
    expected = aggregator.weighting.gramian[0, 1:]
    for slopes in found:
        np.testing.assert_allclose(slopes, expected, rtol=5e-3)


@pytest.mark.parametrize("alignment", ["gradients", "differences"])
def test_numbers_that_no_loss_depends_on_do_not_count(alignment):
    """Divided by Adam's epsilon, the target's gradient there would outweigh all others."""
    small = Small()
    adam = paddle.optimizer.Adam(0.01, parameters=small.model.parameters())
    small.x[:, 2] = 0.0
    for _ in range(3):
        small.step(adam)
    plain = looked(small, small.aggregator(adam, rating="product", lr=1))
    if alignment == "gradients":
        # With this input the target has a gradient, the losses have none.
        small.held[:, 2] = 0.0
        without = looked(small, small.aggregator(adam, rating="product", lr=1))
        assert plain[0, 0] < 100 * without[0, 0]
    else:
        aggregator = differing(small, adam, scaling="optimizer")
        aggregator.look(small.target())
        aggregator(small.losses())
        aggregator.learn_from_differences(again(small, aggregator))
        np.testing.assert_allclose(aggregator.weighting.learned_from, plain[0, 1:], rtol=5e-3)


def test_parameters_that_are_frozen_after_the_step_still_count():
    """The direction is that of the step; its parts stay with their parameters."""
    small = Small()
    products = looked(small, small.aggregator(scaling="none"))[0, 1:]
    aggregator = differing(small)
    aggregator.look(small.target())
    aggregator(small.losses())
    for parameter in small.model[0].parameters():
        parameter.stop_gradient = True
    aggregator.learn_from_differences(again(small, aggregator))
    np.testing.assert_allclose(aggregator.weighting.learned_from, products, rtol=2e-3)


def test_parameters_are_restored_if_the_losses_cannot_be_computed():
    small = Small()
    aggregator = differing(small)
    aggregator.look(small.target())
    aggregator(small.losses())
    before = [parameter.numpy() for parameter in small.model.parameters()]

    def fails():
        moved = [parameter.numpy() for parameter in small.model.parameters()]
        assert not all(np.array_equal(one, other) for one, other in zip(moved, before))
        raise MemoryError

    with pytest.raises(MemoryError):
        aggregator.learn_from_differences(fails)
    for parameter, value in zip(small.model.parameters(), before):
        np.testing.assert_array_equal(parameter.numpy(), value)


def test_a_gradient_scaler_sees_a_target_that_is_not_finite():
    """So it skips the step and lowers its scale, as for a loss."""
    small = Small()
    aggregator = differing(small)
    aggregator.loss_scale = lambda: paddle.to_tensor([4096.0])
    aggregator.look(small.target() * math_nan())
    aggregator(small.losses()).backward()
    assert not np.isfinite(small.model[0].weight.grad.numpy()).any()
    assert not aggregator.needs_differences


def test_losses_that_are_not_finite_beside_the_parameters_change_no_weight(capsys):
    small = Small()
    aggregator = differing(small)
    aggregator.look(small.target())
    aggregator(small.losses())
    aggregator.learn_from_differences(
        lambda: aggregator({"a": paddle.ones([]), "b": paddle.ones([]) * math_nan()})
    )
    assert "AutoLambda: b is not finite beside the parameters" in capsys.readouterr().out
    assert aggregator.weights.tolist() == [1, 1]


def test_differences_that_cannot_be_had_are_refused():
    small = Small()
    with pytest.raises(ConfigError, match="rating: expected product with alignment: differences"):
        AutoLambdaWeighting(2, alignment="differences")
    aggregator = differing(small)
    aggregator.look(small.target() * math_nan())
    with pytest.raises(TrainingDiverged, match="the gradient of the target"):
        aggregator(small.losses())
    aggregator = differing(small)
    with pytest.raises(
        ConfigError, match="learn_from_differences: expected a step with a look before it"
    ):
        aggregator.learn_from_differences(again(small, aggregator))
    aggregator.look(small.target())
    aggregator(small.losses())
    aggregator.look(small.target())
    with pytest.raises(ConfigError, match="expects a call of learn_from_differences after"):
        aggregator(small.losses())
    with pytest.raises(ConfigError, match="it learns from no differences"):
        small.aggregator(scaling="none").learn_from_differences(again(small, aggregator))
    aggregator = differing(small)
    aggregator.look(small.target())
    aggregator(small.losses())
    with pytest.raises(ConfigError, match="expected a function that calls the aggregator"):
        aggregator.learn_from_differences(small.losses)
    half, aggregator = paddle.create_parameter([2], "float16"), differing(small)
    aggregator.bind([half])
    aggregator.look(half.astype("float32").sum())
    with pytest.raises(ConfigError, match="alignment: gradients for parameters in half precision"):
        aggregator(small.losses())
