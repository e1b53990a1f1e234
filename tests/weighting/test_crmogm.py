"""CR-MOGM around another method."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from support.calls import weigh
from support.samplers import J

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import (
    METHODS,
    CRMOGMWeighting,
    GramianWeighting,
    LossWeighting,
    SumWeighting,
)
from paddleseg_autoloss.weighting.crmogm import _why_not


class TestCRMOGM:
    @staticmethod
    def gramians(count, steps=6):
        random = np.random.default_rng(0)
        rows = [random.standard_normal((count, 5)) for _ in range(steps)]
        return [paddle.to_tensor(r @ r.T, dtype="float32") for r in rows]

    @pytest.mark.parametrize("name", ["CAGrad", "IMTLG", "GradVac", "Relobralo", "Sum", "NTK"])
    @pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
    def test_weights_are_the_average_of_those_of_the_method(self, name, alpha):
        paddle.seed(3)
        method, alone = CRMOGMWeighting(3, method=name, alpha=alpha), METHODS[name](3)
        average = None
        for step, gramian in enumerate(self.gramians(3)):
            losses = paddle.to_tensor([1.0, 0.5 + step, 2.0])
            found = weigh(alone, losses, gramian).numpy().astype("float64")
            average = found if average is None else alpha * average + (1 - alpha) * found
            weights = weigh(method, losses, gramian)
            np.testing.assert_allclose(weights.numpy(), average, rtol=1e-5, atol=1e-6)
            assert weights.stop_gradient

    def test_options_are_those_of_the_method(self):
        method = CRMOGMWeighting(2, "CAGrad", {"calpha": 0.0, "rescale": 0})
        gramian = paddle.to_tensor(J @ J.T, dtype="float32")
        assert method(paddle.ones([2]), gramian).tolist() == [0.5, 0.5]
        assert "calpha=0.0" in repr(method.averaged)
        assert repr(method).endswith("options={'calpha': 0.0, 'rescale': 0}, alpha=0.9)")

    @pytest.mark.parametrize("name", ["Relobralo", "GradVac"])
    def test_state_holds_that_of_the_method(self, name):
        steps = [paddle.to_tensor([1.0, 2.0, 0.1 + step]) for step in range(6)]
        paddle.seed(1)
        original = CRMOGMWeighting(3, method=name)
        weights = [weigh(original, x, g).tolist() for x, g in zip(steps[:3], self.gramians(3)[:3])]
        paddle.seed(2)
        restored = CRMOGMWeighting(3, method=name)
        restored.set_state_dict({k: v.clone() for k, v in original.state_dict().items()})
        for losses, gramian in zip(steps[3:], self.gramians(3)[3:]):
            weights = weigh(original, losses, gramian).tolist()
            assert weigh(restored, losses, gramian).tolist() == weights

    @pytest.mark.parametrize("at", [0, 3])
    def test_a_loss_that_is_not_finite_leaves_no_trace(self, at):
        method = CRMOGMWeighting(2, method="Relobralo", options={"beta": 0.0})
        for step in range(6):
            losses = [float("nan"), 1.0] if step == at else [1.0 + step, 2.0]
            before = {k: v.numpy() for k, v in method.state_dict().items() if "step" not in k}
            weights = method(paddle.to_tensor(losses)).numpy()
            assert np.isfinite(weights).all()
            if step == at:
                for key, value in before.items():
                    np.testing.assert_array_equal(method.state_dict()[key].numpy(), value)

    def test_what_is_true_of_the_method_is_true_of_its_average(self):
        smoothed = CRMOGMWeighting(2, method="Relobralo")
        found = smoothed.sums_to, smoothed.scale, smoothed.may_be_negative
        assert found == ("K", "sum", False)
        assert isinstance(smoothed, LossWeighting)
        smoothed = CRMOGMWeighting(2, method="IMTLG")
        found = smoothed.sums_to, smoothed.scale, smoothed.may_be_negative
        assert found == ("1 or less", "mean", True)
        assert isinstance(smoothed, GramianWeighting)

    @pytest.mark.parametrize("name", ["Relobralo", "IMTLG"])
    def test_gradient_is_the_weighted_sum(self, name):
        x = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
        aggregator = LossAggregator(["a", "b"], CRMOGMWeighting(2, method=name, alpha=0.5))
        aggregator.bind([x])
        for step in range(3):
            x.clear_gradient()
            aggregator({"a": x[0] ** 2 * (step + 1), "b": x[1] * 0.5}).backward()
            weights = aggregator.last_weights.numpy()
            np.testing.assert_allclose(x.grad.numpy(), weights * [2 * (step + 1), 0.5], rtol=1e-6)
        assert aggregator.last_weights.tolist() != [1, 1]

    def test_a_second_evaluation_is_the_methods(self, monkeypatch):
        class Watching(SumWeighting):
            needs_losses_after_step = True

            def observe_after_step(self, losses):
                self.seen = losses.tolist()

        monkeypatch.setitem(METHODS, "Watching", Watching)
        method = CRMOGMWeighting(2, method="Watching")
        assert method.needs_losses_after_step
        method.observe_after_step(paddle.to_tensor([1.0, 2.0]))
        assert method.averaged.seen == [1.0, 2.0]
        assert not CRMOGMWeighting(2).needs_losses_after_step

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"alpha": 1.1}, "alpha: expected a number from 0 to 1, found 1.1"),
            ({"method": "CAgrad"}, "method: there is no 'CAgrad'; did you mean CAGrad?"),
            ({"method": "?"}, "method: there is no '?'"),
            ({"method": 3}, "method: expected a name, found 3"),
            ({"method": ["MGDA"]}, "method: expected a name, found ['MGDA']"),
            ({"method": {"type": "MGDA"}}, "method: expected a name, found {'type': 'MGDA'}"),
            ({"method": "CRMOGM"}, "method: CRMOGM cannot average CRMOGM, which averages already"),
            (
                {"method": "AutoLambda"},
                "method: CRMOGM cannot average AutoLambda, which learns from held-out images",
            ),
            (
                {"method": "CoBa"},
                "method: CRMOGM cannot average CoBa, which learns from held-out images",
            ),
            ({"method": "IMTL"}, "method: CRMOGM cannot average IMTL, which learns its weights"),
            (
                {"method": "SeparateBackward"},
                "method: CRMOGM cannot average SeparateBackward, which has constant weights",
            ),
            (
                {"method": "CAGrad", "options": {"alpha": 1}},
                "options: CAGrad has no 'alpha'; did you mean calpha?",
            ),
            (
                {"method": "CAGrad", "options": {"calpha": -1}},
                "calpha: expected a number of at least 0, found -1",
            ),
            ({"options": [1]}, "options: expected names and values, found [1]"),
            ({"method": "Krum"}, "losses: Krum expects 3 or more, found 2"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError) as error:
            CRMOGMWeighting(2, **arguments)
        assert str(error.value) == message

    def test_a_method_that_needs_the_jacobian_is_refused(self):
        with pytest.raises(ConfigError, match="cannot average MoCo, which needs the whole"):
            CRMOGMWeighting(2, method="MoCo")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_averaged_or_refused(name):
    count = max(2, METHODS[name].least_losses)
    if _why_not(name, METHODS[name]) is not None:
        with pytest.raises(ConfigError, match="CRMOGM cannot average"):
            CRMOGMWeighting(count, method=name)
        return
    method = CRMOGMWeighting(count, method=name)
    losses = paddle.arange(1, count + 1, dtype="float32")
    inputs = [losses, paddle.eye(count)] if isinstance(method, GramianWeighting) else [losses]
    assert bool(method(*inputs).isfinite().all())


def test_crmogm_hands_the_names_on():
    averaged = CRMOGMWeighting(2, method="PCD", options={"primary": "b"})
    aggregator = LossAggregator(["a", "b"], averaged)
    weights = aggregator.weighting(paddle.ones([2]), paddle.eye(2))
    assert weights.tolist()[1] == pytest.approx(1, rel=1e-3)
    assert weights.tolist()[0] < 0.1
