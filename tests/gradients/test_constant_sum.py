"""``constant_sum``: the network gets the proportion of the weights, the method learns as before."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from support.calls import after_a_step

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import (
    METHODS,
    AutoWeighting,
    CAGradWeighting,
    COSMOSWeighting,
    DBMTLWeighting,
    IMTLLWeighting,
    MoCoWeighting,
    ScheduledWeighting,
    SeparateBackwardWeighting,
    UWOWeighting,
)

#: What each learned method's parameter gets, from the paper's total: losses L, parameter p.
GRADIENTS = {
    "AutoWeightedLoss": lambda p, loss: -loss / p**3 + 2 * p / (1 + p**2),
    "UncertaintyWeightedLoss": lambda p, loss: -np.exp(-p) * loss + 0.5,
    "IMTLL": lambda p, loss: np.exp(p) * loss - 1,
    "IMTL": lambda p, loss: np.exp(p) * loss - 1,
}
WEIGHTS = {
    "AutoWeightedLoss": lambda p: 0.5 / p**2,
    "UncertaintyWeightedLoss": lambda p: np.exp(-p),
    "IMTLL": np.exp,
}
LOSSES = np.array([2.0, 0.25])


def step(weighting, losses=LOSSES, rows=((1, 2), (-3, 1)), **options):
    """One step of losses with given values and gradients; total, aggregator, gradient of x."""
    x = paddle.zeros([2])
    x.stop_gradient = False
    aggregator = LossAggregator([f"loss{i}" for i in range(len(losses))], weighting, **options)
    aggregator.held_by_optimizer = True
    aggregator.bind([x])
    values = {
        name: float(value) + (x * paddle.to_tensor(row, dtype="float32")).sum()
        for name, value, row in zip(aggregator.names, losses, rows)
    }
    total = aggregator(values, [x])
    total.backward()
    return total, aggregator, x.grad.numpy()


class TestLearnedWeights:
    @pytest.mark.parametrize(("option", "constant"), [(True, 2), (1, 1), (0.3, 0.3)])
    @pytest.mark.parametrize("name", WEIGHTS)
    def test_closed_forms_of_both_gradients(self, name, option, constant):
        weighting = METHODS[name](2)
        p = np.array([0.5, 2.0])
        weighting.learned().set_value(p.astype("float32"))
        total, aggregator, gradient = step(weighting, constant_sum=option)
        weights = WEIGHTS[name](p)
        expected = constant * weights / weights.sum()
        np.testing.assert_allclose(aggregator.last_weights.numpy(), expected, rtol=1e-5)
        np.testing.assert_allclose(gradient, expected @ [[1, 2], [-3, 1]], rtol=1e-5)
        assert float(total) == pytest.approx(expected @ LOSSES, rel=1e-5)
        learned = weighting.learned().grad.numpy()
        np.testing.assert_allclose(learned, GRADIENTS[name](p, LOSSES), rtol=1e-4)

    @pytest.mark.parametrize("name", GRADIENTS)
    def test_parameters_go_the_papers_way_under_adam(self, name):
        """Given the same losses, bit for bit."""
        trajectories = []
        for constant_sum in (False, 0.1):
            weighting = METHODS[name](2)
            optimizer = paddle.optimizer.Adam(0.05, parameters=weighting.parameters())
            trajectory = []
            for index in range(8):
                step(weighting, LOSSES / (1 + index), constant_sum=constant_sum)
                optimizer.step()
                optimizer.clear_grad()
                trajectory.append(weighting.learned().numpy().copy())
            trajectories.append(np.stack(trajectory))
        assert (trajectories[0][0] != trajectories[0][-1]).all()
        np.testing.assert_array_equal(trajectories[1], trajectories[0])

    def test_a_negative_loss_keeps_its_weight_and_changes_its_share(self):
        """The parameter is frozen; the shares change with the other loss's weight."""
        weighting = IMTLLWeighting(2)
        optimizer = paddle.optimizer.SGD(0.5, parameters=weighting.parameters())
        shares = []
        for _ in range(3):
            _, aggregator, gradient = step(weighting, [-1.0, 0.5], constant_sum=True)
            optimizer.step()
            optimizer.clear_grad()
            shares.append(aggregator.last_weights.numpy())
            np.testing.assert_allclose(gradient, shares[-1] @ [[1, 2], [-3, 1]], rtol=1e-5)
        assert weighting.learned()[0] == 0
        s, expected = 0.0, []
        for _ in range(3):
            expected.append(2 * np.array([1, np.exp(s)]) / (1 + np.exp(s)))
            s -= 0.5 * (np.exp(s) * 0.5 - 1)
        np.testing.assert_allclose(shares, expected, rtol=1e-5)

    def test_no_gradient_without_training(self):
        aggregator = LossAggregator(["a", "b"], AutoWeighting(2), constant_sum=1)
        aggregator.eval()
        with paddle.no_grad():
            total = aggregator({"a": paddle.to_tensor(2.0), "b": paddle.to_tensor(0.25)})
        assert float(total) == 1.125
        assert aggregator.last_weights.tolist() == [0.5, 0.5]


class TestNegativeWeights:
    """The absolute values sum to S, so no sum near 0 turns the update round or blows it up."""

    def test_cosmos(self):
        """Its weights are (0.5, 0.5 - sqrt(0.5)) for the losses (1, 0)."""
        _, aggregator, gradient = step(
            COSMOSWeighting(2, lamda=1), [1.0, 0.0], [[1, 0], [0, 1]], constant_sum=3
        )
        weights = np.array([0.5, 0.5 - np.sqrt(0.5)])
        expected = 3 * weights / np.sqrt(0.5)
        np.testing.assert_allclose(aggregator.last_weights.numpy(), expected, rtol=1e-5)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5)

    @pytest.mark.parametrize("lamda", [3.0, 5.0])
    def test_a_sum_of_less_than_nothing(self, lamda):
        """The signs stay."""
        plain = step(COSMOSWeighting(2, lamda=lamda), [1.0, 0.0])[1].last_weights.numpy()
        assert plain.sum() < 0
        found = step(COSMOSWeighting(2, lamda=lamda), [1.0, 0.0], constant_sum=True)[1].last_weights
        np.testing.assert_allclose(found.numpy(), 2 * plain / np.abs(plain).sum(), rtol=1e-5)


class Layers(nn.Layer):
    """A network of two layers and one output."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(paddle.tanh(self.backbone(x)))


def losses_of(output) -> dict[str, paddle.Tensor]:
    return {"a": (output**2).mean(), "b": 5 * output[0].exp().mean(), "c": (output - 1).abs().sum()}


def rows_of(model, images) -> np.ndarray:
    return np.stack(
        [
            np.concatenate([g.numpy().ravel() for g in paddle.grad(loss, model.parameters())])
            for loss in (losses_of(model(images))[name] for name in "abc")
        ]
    )


class TestGradientMethods:
    @pytest.mark.parametrize(
        "options",
        [{}, {"update_interval": 2}, {"level": "features"}, {"level": "logits"}],
        ids=lambda options: "".join(map(str, options.values())) or "parameters",
    )
    def test_gradient_is_the_sum_with_the_shown_weights(self, options):
        """In the steps between two updates too; the method's own weights do not sum to 1."""
        paddle.seed(0)
        model, images = Layers(), paddle.randn([4, 3])
        aggregators = [
            LossAggregator(list("abc"), CAGradWeighting(3, rescale=0), constant_sum=s, **options)
            for s in (False, 0.5)
        ]
        optimizer = paddle.optimizer.SGD(0.05, parameters=model.parameters())
        for _ in range(3):
            rows, seen = rows_of(model, images), []
            for aggregator in aggregators:
                optimizer.clear_grad()
                aggregator.bind(model.parameters(), model=model)
                output = model(images)
                aggregator(losses_of(output), output).backward()
                aggregator.unbind()
                seen.append(aggregator.last_weights.numpy())
            plain, weights = seen
            assert abs(plain.sum() - 0.5) > 0.1
            np.testing.assert_allclose(weights, 0.5 * plain / plain.sum(), rtol=1e-6)
            found = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
            np.testing.assert_allclose(found, weights @ rows, rtol=1e-4, atol=1e-6)
            optimizer.step()
        found, expected = (aggregator.weights.numpy() for aggregator in reversed(aggregators))
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("scale", [None, 64.0])
    @pytest.mark.parametrize("mode", ["joint", "each"])
    def test_separate_steps_get_the_factor_too(self, mode, scale):
        """Plain gradient descent: x moves by the rate times the sum with the weights."""
        weighting = SeparateBackwardWeighting(3, lr_mult=[1, 0.5, 2.5], step=mode)
        aggregator = LossAggregator(["a", "b", "c"], weighting, constant_sum=1)
        x = after_a_step(aggregator, scale)
        weights = np.array([0.25, 0.125, 0.625])
        np.testing.assert_allclose(aggregator.last_weights.numpy(), weights)
        moved = 0.1 * weights @ [[1, 0], [0, 4], [3, 3]]
        np.testing.assert_allclose(x, [1, 2] - moved, rtol=1e-5)

    def test_moco(self):
        """Its first weights are (0.46, 0.54) and its update their combination (1.38, 0.54)."""
        _, aggregator, gradient = step(
            MoCoWeighting(2), [1.0, 1.0], [[3, 0], [0, 1]], constant_sum=True
        )
        np.testing.assert_allclose(aggregator.last_weights.numpy(), [0.92, 1.08], rtol=1e-5)
        np.testing.assert_allclose(gradient, [2.76, 1.08], rtol=1e-5)

    def test_dbmtl(self):
        """Its weights are (1, 6) and its update (3, 3) here."""
        rows = [[3, 0], [0, 0.5]]
        _, aggregator, gradient = step(DBMTLWeighting(2), [1.0, 0.5], rows, constant_sum=7)
        np.testing.assert_allclose(aggregator.last_weights.numpy(), [1, 6], rtol=1e-5)
        np.testing.assert_allclose(gradient, [3, 3], rtol=1e-5)
        _, _, gradient = step(DBMTLWeighting(2), [1.0, 0.5], rows, constant_sum=1)
        np.testing.assert_allclose(gradient, [3 / 7, 3 / 7], rtol=1e-5)


def test_weights_that_are_all_0_stay_0():
    total, aggregator, gradient = step(UWOWeighting(2), [0.0, 0.0], constant_sum=True)
    assert [*aggregator.last_weights.tolist(), *gradient.tolist(), float(total)] == [0] * 5


@pytest.mark.parametrize("losses", [[1e25, 3e25], [2e-8, 6e-8]])
def test_huge_and_tiny_weights(losses):
    _, aggregator, _ = step(UWOWeighting(2), losses, constant_sum=True)
    np.testing.assert_allclose(aggregator.last_weights.numpy(), [1.5, 0.5], rtol=1e-5)


def test_a_schedule_of_the_proportion_alone():
    weighting = ScheduledWeighting(2, [1, 1], [6, 0], schedule="linear", end_iter=2)
    found = [step(weighting, constant_sum=1)[1].last_weights.tolist() for _ in range(3)]
    np.testing.assert_allclose(found, [[1 / 2, 1 / 2], [7 / 8, 1 / 8], [1, 0]], rtol=1e-6)


class TestRefused:
    @pytest.mark.parametrize("value", [0, 5e-324, 1e308, -1, "K", None, float("nan"), [1, 1]])
    def test_values(self, value):
        message = "^constant_sum: expected true, false or a number from 1e-06 to 1e\\+06, found "
        with pytest.raises(ConfigError, match=message):
            LossAggregator(["a", "b"], AutoWeighting(2), constant_sum=value)

    def test_text_that_looks_like_a_number(self):
        with pytest.raises(ConfigError, match="; it is text: write it without quotes"):
            LossAggregator(["a", "b"], AutoWeighting(2), constant_sum="1e-1")

    @pytest.mark.parametrize("reduction", ["sum", "mean"])
    def test_beside_reduction(self, reduction):
        message = rf"^reduction: expected none with constant_sum, .* found {reduction}; remove one"
        with pytest.raises(ConfigError, match=message):
            LossAggregator(["a", "b"], AutoWeighting(2), reduction=reduction, constant_sum=True)
