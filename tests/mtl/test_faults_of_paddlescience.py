"""Faults of PaddleScience, by their numbers in the survey: they are gone."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from support.mtl import MAKERS, STATE, Plane, Regression, by_gradients, every_method

from paddleseg_autoloss import mtl


def test_x1_agda_goes_on_after_its_first_step():
    plane = Plane(0, 0)
    aggregator = mtl.AGDA(plane, gamma=0.0)
    plane.step(aggregator, [[3, 0], [0, 1]], [1.0, 1.0], step=0)
    # Rates 1/4 and 3/4 of the losses at step 0, lengths 3 and 1, their mean 2.
    found = plane.step(aggregator, [[3, 0], [0, 1]], [1.0, 3.0], step=1)
    np.testing.assert_allclose(found, [2.75, 1.75], rtol=1e-6)


def test_x1_agda_begins_at_any_step():
    plane = Plane(0, 0)
    found = plane.step(mtl.AGDA(plane), [[3, 0], [0, 1]], [1.0, 5.0], step=1042)
    np.testing.assert_allclose(found, [2.5, 1.5], rtol=1e-6)


def test_x1_agda_goes_on_balancing():
    plane = Plane(0, 0)
    aggregator = mtl.AGDA(plane)
    for _ in range(30):
        found = plane.step(aggregator, [[3, 0], [0, 1]])
    np.testing.assert_allclose(found, [2.5, 1.5], rtol=1e-6)


@every_method
def test_x2_losses_share_a_graph(name):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    aggregator = MAKERS[name](model)
    x = paddle.randn([8, 3])
    for _ in range(4):
        features = model(x)
        aggregator({"a": features.mean(), "b": (features**2).mean()}).backward()
    assert all(np.isfinite(p.grad.numpy()).all() for p in model.parameters())


@every_method
def test_x2_frozen_parameters_stay_without_gradient(name):
    task = Regression()
    everything = MAKERS[name](task.model)
    losses, _, _ = task.new_batch()
    everything(losses).backward()
    assert task.model.weight.grad is not None

    task = Regression()
    task.model.weight.stop_gradient = True
    aggregator = MAKERS[name](task.model)
    assert aggregator.param_num == (0 if name in ("Relobralo", "Sum") else 1)
    for _ in range(2):
        losses, _, _ = task.new_batch()
        aggregator(losses).backward()
        assert task.model.weight.grad is None
        assert np.isfinite(task.model.bias.grad.numpy()).all()


def test_x2_gradients_of_frozen_parameters_do_not_count():
    task = Regression()
    task.model.weight.stop_gradient = True
    aggregator = mtl.NTK(task.model, num_losses=2, update_freq=1)
    losses, _, rows = task.new_batch()
    aggregator(losses).backward()
    norms = np.linalg.norm(rows[:, 12:], axis=1)
    np.testing.assert_allclose(aggregator.weighting.weight.numpy(), norms.sum() / norms, rtol=1e-5)


@by_gradients
@pytest.mark.parametrize("reaches", [False, True])
def test_x2_x3_x4_a_loss_without_gradient(name, reaches):
    plane = Plane(0, 0)
    aggregator = MAKERS[name](plane)
    for _ in range(5):
        losses = plane.losses([[3, 0], [0, 0]])
        if not reaches:
            losses["loss1"] = paddle.to_tensor(1.0)
        plane.clear_gradients()
        aggregator(losses).backward()
        # NTK and GradNorm give the only gradient the weight 1 as well.
        assert plane.p.grad.tolist() == [3, 0]
    assert all(np.isfinite(value.numpy()).all() for value in aggregator.state_dict().values())


@every_method
def test_x3_gradients_accumulate(name):
    def gradients(accumulates):
        task = Regression()
        aggregator = MAKERS[name](task.model)
        found = []
        for _ in range(4):
            losses, _, _ = task.new_batch()
            aggregator(losses).backward()
            if not accumulates:
                found.append(task.gradient())
        return task.gradient() if accumulates else sum(found)

    np.testing.assert_allclose(gradients(True), gradients(False), rtol=1e-4, atol=1e-4)


@every_method
def test_x3_a_call_alone_leaves_gradients_alone(name):
    task = Regression()
    aggregator = MAKERS[name](task.model)
    losses, _, _ = task.new_batch()
    task.model.bias.grad = paddle.ones([4])
    aggregator(losses)
    assert task.model.bias.grad.tolist() == [1, 1, 1, 1]
    assert task.model.weight.grad is None


@pytest.mark.parametrize("name", ["GradNorm", "NTK"])
def test_x3_without_step_weights_are_not_renewed_at_every_call(name):
    task = Regression()
    aggregator = MAKERS[name](task.model)
    seen = []
    for _ in range(7):
        aggregator(task.new_batch()[0]).backward()
        seen.append(aggregator.weighting.weight.tolist())
    assert seen[0] == seen[1] == seen[2] != seen[3]
    assert seen[3] == seen[4] == seen[5] != seen[6]


@pytest.mark.parametrize("form", [dict, list])
def test_x4_ntk_takes_each_gradient_by_itself(form):
    plane = Plane(0, 0)
    # Lengths 7 and 13; that of their sum, which PaddleScience takes for the second, is 16.2.
    gradients = np.array([[7.0, 0.0], [22 / 7, np.sqrt(169 - (22 / 7) ** 2)]])
    aggregator = mtl.NTK(plane, num_losses=2, update_freq=1)
    losses = plane.losses(gradients)
    aggregator(losses if form is dict else list(losses.values())).backward()
    weights = aggregator.weighting.weight.numpy()
    assert weights.round(2).tolist() == [2.86, 1.54]
    # Nothing of the search for the weights is left in the step.
    np.testing.assert_allclose(plane.p.grad.numpy(), gradients.sum(axis=0), rtol=1e-6)
    losses = plane.losses(gradients)
    plane.clear_gradients()
    aggregator(losses if form is dict else list(losses.values())).backward()
    np.testing.assert_allclose(plane.p.grad.numpy(), [20 / 7, 20 / 13] @ gradients, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"step": 0}, {"step": 10}])
def test_x5_relobralo_knows_its_first_call(options):
    plane = Plane(0, 0)
    aggregator = mtl.Relobralo(2, alpha=0.0)
    assert plane.step(aggregator, [[1, 0], [0, 1]], [1.0, 4.0], **options).tolist() == [1, 1]
    # 2 softmax(1/1, 8/4)
    found = plane.step(aggregator, [[1, 0], [0, 1]], [1.0, 8.0], **options)
    np.testing.assert_allclose(found, [0.537883, 1.462117], rtol=1e-5)


class Clashing(nn.Layer):
    """A network whose keys are those of the aggregators."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.create_parameter([2])
        self.register_buffer("next_step", paddle.to_tensor(5))
        self.weighting = nn.Linear(2, 2)
        self.weighting.register_buffer("lmbda", paddle.zeros([2]))
        self.draws = nn.Linear(2, 2)
        self.draws.register_buffer("seed", paddle.to_tensor(5))


@every_method
@pytest.mark.parametrize("network", [lambda: nn.Linear(3, 4), Clashing])
def test_x6_the_state_is_the_aggregators_own(name, network):
    aggregator = MAKERS[name](network())
    assert set(aggregator.state_dict()) == STATE[name]
    assert aggregator.should_persist is bool(STATE[name])
    assert type(aggregator).should_persist is bool(STATE[name])
    assert not aggregator.parameters()


@every_method
def test_x6_calls_do_not_add_to_the_state(name):
    task = Regression()
    aggregator = MAKERS[name](task.model)
    aggregator(task.new_batch()[0]).backward()
    assert set(aggregator.state_dict()) == STATE[name]
