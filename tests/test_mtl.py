"""PaddleScience's call form: its examples, the numbers by hand, and its faults, which are gone."""

from __future__ import annotations

import itertools

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_autoloss import mtl
from paddleseg_autoloss.errors import ConfigError, TrainingDiverged

#: How to make each aggregator, with settings under which eight calls show all that it remembers.
MAKERS = {
    "AGDA": lambda model: mtl.AGDA(model, M=3, gamma=0.5),
    "GradNorm": lambda model: mtl.GradNorm(model, num_losses=2, update_freq=3, momentum=0.5),
    "NTK": lambda model: mtl.NTK(model, num_losses=2, update_freq=3),
    "PCGrad": lambda model: mtl.PCGrad(model),
    "Relobralo": lambda model: mtl.Relobralo(num_losses=2, alpha=0.5, beta=0.5),
    "Sum": lambda model: mtl.Sum(),
}
STATE = {
    "AGDA": {"weighting.step", "weighting.smooth", "weighting.smooth_kM"},
    "GradNorm": {"weighting.weight", "next_step"},
    "NTK": {"weighting.weight", "next_step"},
    "PCGrad": {"draws.seed", "draws.step"},
    "Relobralo": {
        *("weighting.losses_init", "weighting.losses_prev", "weighting.lmbda"),
        *("weighting.draws.seed", "weighting.draws.step"),
    },
    "Sum": set(),
}
every_method = pytest.mark.parametrize("name", MAKERS)
by_gradients = pytest.mark.parametrize("name", ["AGDA", "GradNorm", "NTK", "PCGrad"])


class Plane(nn.Layer):
    """A point p; `losses` has the gradients that it is told to have there."""

    def __init__(self, *start: float) -> None:
        super().__init__()
        self.p = self.create_parameter([len(start)])
        self.p.set_value(np.array(start, "float32"))

    def losses(self, gradients, values=None) -> dict[str, paddle.Tensor]:
        values = values or [1.0] * len(gradients)
        slopes = [(self.p * paddle.to_tensor(g, dtype="float32")).sum() for g in gradients]
        return {f"loss{i}": s - s.detach() + v for i, (s, v) in enumerate(zip(slopes, values))}

    def step(self, aggregator, gradients, values=None, **options) -> np.ndarray:
        """Call the aggregator and return the gradient that it leaves."""
        self.clear_gradients()
        aggregator(self.losses(gradients, values), **options).backward()
        return self.p.grad.numpy()


class Regression:
    """Two losses of a Linear(3, 4) on random data, and their gradients by hand."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.model = nn.Linear(3, 4)
        self.model.weight.set_value(self._normal(3, 4))
        self.model.bias.set_value(self._normal(4))

    def _normal(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape).astype("float32")

    def new_batch(self):
        """Return the losses, their values, and a row of gradients for each."""
        x1, x2 = self._normal(8, 3), self._normal(8, 3)
        # Sometimes the two losses pull the same way, sometimes not.
        target = self._normal(8, 4) + 6 * self._normal()
        y1, y2 = (self.model(paddle.to_tensor(x)) for x in (x1, x2))
        losses = {
            "pde": ((y1 - paddle.to_tensor(target)) ** 2).mean(),
            "bc": ((y2 - 2) ** 2).sum(),
        }
        w, b = self.model.weight.numpy(), self.model.bias.numpy()
        residuals = [x1 @ w + b - target, x2 @ w + b - 2]
        values = [(residuals[0] ** 2).mean(), (residuals[1] ** 2).sum()]
        slopes = [2 * residuals[0] / residuals[0].size, 2 * residuals[1]]
        rows = [
            np.concatenate([(x.T @ slope).ravel(), slope.sum(axis=0)])
            for x, slope in zip((x1, x2), slopes)
        ]
        return losses, np.array(values, "float64"), np.array(rows, "float64")

    def gradient(self) -> np.ndarray:
        model = self.model
        found = np.concatenate([model.weight.grad.numpy().ravel(), model.bias.grad.numpy()])
        model.clear_gradients()
        return found


def docstring_losses(model) -> dict[str, paddle.Tensor]:
    x1, x2 = paddle.randn([8, 3]), paddle.randn([8, 3])
    y1, y2 = model(x1), model(x2)
    return {"loss1": paddle.sum(y1), "loss2": paddle.sum((y2 - 2) ** 2)}


@pytest.mark.parametrize("passes_step", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AGDA", {}),
        ("GradNorm", {"num_losses": 2}),
        ("NTK", {"num_losses": 2}),
        ("PCGrad", {}),
        ("Relobralo", {"num_losses": 2}),
        ("Sum", {}),
    ],
)
def test_paddlescience_examples(name, options, passes_step):
    paddle.seed(1)
    model = nn.Linear(3, 4)
    needs_model = name not in ("Relobralo", "Sum")
    aggregator = getattr(mtl, name)(*([model] if needs_model else []), **options)
    assert isinstance(aggregator, mtl.LossAggregator)
    before = None
    for i in range(5):
        losses = docstring_losses(model)
        arguments = (losses, i) if passes_step else (losses,)
        total = aggregator(*arguments)
        assert total.shape == []
        assert np.isfinite(float(total))
        total.backward()
        gradient = model.weight.grad.numpy()
        assert np.isfinite(gradient).all()
        assert before is None or (gradient != before).any()
        before = gradient.copy()


def test_defaults_are_paddlesciences():
    model = nn.Linear(3, 4)
    agda, balance = mtl.AGDA(model).weighting, mtl.GradNorm(model)
    relobralo = mtl.Relobralo(2).weighting
    assert (agda.M, agda.gamma) == (100, 0.999)
    assert (balance.weighting.num_losses, balance.update_freq) == (1, 1000)
    assert balance.weighting.momentum == 0.9
    assert (mtl.NTK(model).weighting.num_losses, mtl.NTK(model).update_freq) == (1, 1000)
    settings = (relobralo.alpha, relobralo.beta, relobralo.tau, relobralo.eps)
    assert settings == (0.95, 0.99, 1.0, 1e-8)


def test_arguments_by_position_are_in_paddlesciences_order():
    model = nn.Linear(3, 4)
    agda, balance = mtl.AGDA(model, 5, 0.5).weighting, mtl.GradNorm(model, 2, 5, 0.5, [3, 4])
    relobralo = mtl.Relobralo(2, 0.1, 0.2, 0.3, 0.4).weighting
    assert (agda.M, agda.gamma) == (5, 0.5)
    assert (balance.update_freq, balance.weighting.momentum) == (5, 0.5)
    assert balance.weighting.weight.tolist() == [3, 4]
    assert mtl.NTK(model, 2, 5).update_freq == 5
    settings = (relobralo.alpha, relobralo.beta, relobralo.tau, relobralo.eps)
    assert settings == (0.1, 0.2, 0.3, 0.4)


# Numbers by hand


def test_sum_is_the_sum():
    task = Regression()
    losses, values, rows = task.new_batch()
    total = mtl.Sum()(losses)
    total.backward()
    assert float(total) == pytest.approx(values.sum(), rel=1e-6)
    np.testing.assert_allclose(task.gradient(), rows.sum(axis=0), rtol=1e-5, atol=1e-5)


def pcgrad_by_hand(g1, g2) -> np.ndarray:
    inner = min(g1 @ g2, 0)
    return (g1 - inner / (g2 @ g2) * g2) + (g2 - inner / (g1 @ g1) * g1)


def test_pcgrad_projects_conflicting_gradients():
    task = Regression()
    aggregator = mtl.PCGrad(task.model)
    conflicts = set()
    for _ in range(8):
        losses, _, (g1, g2) = task.new_batch()
        aggregator(losses).backward()
        np.testing.assert_allclose(task.gradient(), pcgrad_by_hand(g1, g2), rtol=1e-4, atol=1e-4)
        conflicts.add(bool(g1 @ g2 < 0))
    assert conflicts == {True, False}


def test_pcgrad_of_three_losses_draws_an_order_for_each():
    g = np.array([[1.0, 0.2, 0.0], [-1.0, 0.5, 0.3], [-0.5, -1.0, 0.4]])
    choices = []
    for i in range(3):
        results = []
        for order in itertools.permutations(set(range(3)) - {i}):
            projected = g[i].copy()
            for j in order:
                projected -= min(projected @ g[j], 0) / (g[j] @ g[j]) * g[j]
            results.append(projected)
        choices.append(results)
    possible = [sum(rows) for rows in itertools.product(*choices)]
    plane = Plane(0, 0, 0)
    aggregator = mtl.PCGrad(plane)
    drawn = set()
    for _ in range(40):
        found = plane.step(aggregator, g)
        distances = [np.abs(found - p).max() for p in possible]
        assert min(distances) < 1e-5
        drawn.add(tuple(found.round(4)))
    # One common order for all three would allow six at most.
    assert len(drawn) == len({tuple(p.round(4)) for p in possible}) == 8


def agda_by_hand(values, rows, steps, M, gamma):
    """Return the expected gradient of every step."""
    smooth, reference, expected = values[0], values[0], []
    for value, (gf, gu), step in zip(values, rows, steps):
        smooth = gamma * smooth + (1 - gamma) * value
        if step % M == 0:
            reference = smooth
        rates = smooth / reference
        rates = rates / rates.sum()
        nf, nu = np.linalg.norm(gf), np.linalg.norm(gu)
        mean = (nf + nu) / 2
        gf = (rates[0] * (mean - nf) + nf) / nf * gf
        gu = (rates[1] * (mean - nu) + nu) / nu * gu
        if gf @ gu < 0:
            gu = gu - (gf @ gu) / (gf @ gf) * gf
        expected.append(gf + gu)
    return expected


@pytest.mark.parametrize("steps", [None, range(7), range(50, 57), [9, 9, 9, 0, 0, 1, 2]])
def test_agda_balances_and_projects(steps):
    task = Regression()
    aggregator = mtl.AGDA(task.model, M=3, gamma=0.5)
    found, values, rows = [], [], []
    for i in range(7):
        losses, value, row = task.new_batch()
        aggregator(losses, *([] if steps is None else [steps[i]])).backward()
        found.append(task.gradient())
        values.append(value)
        rows.append(row)
    assert {bool(gf @ gu < 0) for gf, gu in rows} == {True, False}
    expected = agda_by_hand(values, rows, steps or range(7), M=3, gamma=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def balanced_by_hand(rows, steps, update_freq, renew):
    """Return the expected gradient of every step: the weights are renewed for later ones."""
    weights, expected = np.ones(2), []
    for row, step in zip(rows, steps):
        expected.append(weights @ row)
        if step % update_freq == 0:
            weights = renew(weights, np.linalg.norm(row, axis=1))
    return expected


@pytest.mark.parametrize("steps", [None, range(7), [5, 6, 6, 8, 9, 10, 11]])
@pytest.mark.parametrize(
    ("name", "renew"),
    [
        ("GradNorm", lambda weights, norms: 0.5 * weights + 0.5 * norms.mean() / norms),
        ("NTK", lambda weights, norms: norms.sum() / norms),
    ],
)
def test_weights_by_the_lengths_of_the_gradients(name, renew, steps):
    task = Regression()
    aggregator = MAKERS[name](task.model)
    found, rows = [], []
    for i in range(7):
        losses, _, row = task.new_batch()
        aggregator(losses, *([] if steps is None else [steps[i]])).backward()
        found.append(task.gradient())
        rows.append(row)
    expected = balanced_by_hand(rows, steps or range(7), 3, renew)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_gradnorm_starts_with_init_weights():
    plane = Plane(0, 0)
    aggregator = mtl.GradNorm(plane, 2, update_freq=1, momentum=0.75, init_weights=[4, 2])
    assert plane.step(aggregator, [[3, 0], [0, 1]]).tolist() == [12, 2]
    # 0.75 * 4 + 0.25 * 2/3 and 0.75 * 2 + 0.25 * 2/1
    np.testing.assert_allclose(plane.step(aggregator, [[3, 0], [0, 1]]), [9.5, 2.0], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_and_gradient_of_a_total_have_the_same_weights(dtype):
    plane = Plane(0, 0)
    aggregator = mtl.GradNorm(plane, 2, update_freq=1, momentum=0.0)
    losses = plane.losses([[3, 0], [0, 1]], [5.0, 7.0])
    total = aggregator({name: loss.astype(dtype) for name, loss in losses.items()})
    total.backward()
    assert float(total) == 12
    assert plane.p.grad.tolist() == [3, 1]


def relobralo_by_hand(values, alpha, looks_back):
    def balance(value, reference):
        powers = np.exp(value / (reference + 1e-8))
        return len(value) * powers / powers.sum()

    weights, result = np.ones_like(values[0]), [np.ones_like(values[0])]
    for before, value in zip(values, values[1:]):
        hist = balance(value, values[0]) if looks_back else weights
        weights = alpha * hist + (1 - alpha) * balance(value, before)
        result.append(weights)
    return np.array(result)


@pytest.mark.parametrize("looks_back", [False, True])
@pytest.mark.parametrize("steps", [None, [0, 1, 2, 3]])
def test_relobralo(looks_back, steps):
    values = np.array([[1.0, 4.0], [0.5, 3.0], [0.6, 1.0], [0.1, 0.9]])
    expected = relobralo_by_hand(values, 0.5, looks_back)
    plane = Plane(0, 0)
    aggregator = mtl.Relobralo(2, alpha=0.5, beta=0.0 if looks_back else 1.0)
    for i in range(4):
        options = {} if steps is None else {"step": steps[i]}
        found = plane.step(aggregator, [[1, 0], [0, 1]], list(values[i]), **options)
        np.testing.assert_allclose(found, expected[i], rtol=1e-5)


# Faults of PaddleScience, by their numbers in the survey


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


# State


def conflicting_run(name, calls, state=None, seed=1, skip=0):
    """Train on three conflicting losses where the method allows; return the gradients it saw."""
    paddle.seed(seed)
    count = 3 if name in ("PCGrad", "Sum") else 2
    plane = Plane(0, 0, 0)
    aggregator = MAKERS[name](plane)
    if state is not None:
        aggregator.set_state_dict(state)
    random = np.random.default_rng(0)
    gradients = random.standard_normal((8, count, 3))
    values = random.uniform(0.5, 2.0, (8, count))
    steps = slice(skip, skip + calls)
    found = [plane.step(aggregator, g, list(v)) for g, v in zip(gradients[steps], values[steps])]
    return found, aggregator.state_dict()


@every_method
def test_a_resumed_run_is_the_uninterrupted_one(name, tmp_path):
    whole, _ = conflicting_run(name, 8)
    first, state = conflicting_run(name, 4)
    paddle.save(state, str(tmp_path / "model.pdagg"))
    loaded = paddle.load(str(tmp_path / "model.pdagg"))
    second, _ = conflicting_run(name, 4, loaded, seed=2, skip=4)
    assert np.array_equal(first + second, whole)
    if name != "Sum":
        forgetful, _ = conflicting_run(name, 4, seed=2, skip=4)
        assert not np.array_equal(forgetful, second)


def test_an_explicit_step_counts_as_given():
    plane = Plane(0, 0)
    aggregator = mtl.GradNorm(plane, 2, update_freq=10)
    plane.step(aggregator, [[3, 0], [0, 1]], step=8)
    plane.step(aggregator, [[3, 0], [0, 1]])
    assert aggregator.weighting.weight.tolist() == [1, 1]
    plane.step(aggregator, [[3, 0], [0, 1]])
    assert aggregator.weighting.weight.tolist() != [1, 1]


# Losses of other numbers, names, kinds


@pytest.mark.parametrize("name", ["AGDA", "GradNorm", "NTK", "Relobralo"])
def test_a_wrong_number_of_losses(name):
    plane = Plane(0, 0)
    with pytest.raises(ConfigError) as error:
        MAKERS[name](plane)(plane.losses([[1, 0]] * 3))
    assert str(error.value) == "losses: expected 2, found 3: loss0, loss1, loss2"


@every_method
def test_no_losses(name):
    with pytest.raises(ConfigError, match="losses: expected at least one, found none"):
        MAKERS[name](Plane(0))({})


@pytest.mark.parametrize("name", ["AGDA", "GradNorm", "NTK", "Relobralo"])
def test_other_losses_than_in_the_first_call(name):
    plane = Plane(0, 0)
    aggregator = MAKERS[name](plane)
    losses = plane.losses([[1, 0], [0, 1]])
    aggregator(losses)
    with pytest.raises(ConfigError) as error:
        aggregator({"loss0": losses["loss0"], "other": losses["loss1"]})
    assert str(error.value) == (
        "losses: expected loss0, loss1 as in the first call, found loss0, other"
    )


@pytest.mark.parametrize("name", ["PCGrad", "Sum"])
def test_other_losses_where_nothing_is_remembered_of_them(name):
    plane = Plane(0, 0)
    aggregator = MAKERS[name](plane)
    assert plane.step(aggregator, [[1, 0]]).tolist() == [1, 0]
    assert plane.step(aggregator, [[1, 0], [0, 1], [1, 1]]).tolist() == [2, 2]


@every_method
def test_the_order_of_later_dicts_does_not_matter(name):
    def gradients(swaps):
        task = Regression()
        aggregator = MAKERS[name](task.model)
        found = []
        for i in range(4):
            losses, _, _ = task.new_batch()
            if swaps and i:
                losses = dict(reversed(losses.items()))
            aggregator(losses).backward()
            found.append(task.gradient())
        return found

    np.testing.assert_allclose(gradients(True), gradients(False), rtol=1e-5, atol=1e-5)


def test_agda_is_led_by_its_first_loss():
    plane = Plane(0, 0)
    found = plane.step(mtl.AGDA(plane), [[2, 0], [-1, np.sqrt(3)]])
    # Lengths are equal: the second gradient loses its part against the first.
    np.testing.assert_allclose(found, [2, np.sqrt(3)], rtol=1e-6)


def infinitely_steep(plane) -> dict[str, paddle.Tensor]:
    return {"loss0": plane.p[0].sqrt(), "loss1": plane.p[1]}


@pytest.mark.parametrize("name", ["GradNorm", "NTK"])
def test_gradients_that_are_not_finite_leave_the_weights(name):
    plane = Plane(0, 0)
    aggregator = MAKERS[name](plane)
    plane.step(aggregator, [[3, 0], [0, 1]], step=0)
    weights = aggregator.weighting.weight.tolist()
    aggregator(infinitely_steep(plane), step=3).backward()
    assert plane.p.grad.tolist()[0] == np.inf
    assert aggregator.weighting.weight.tolist() == weights != [1, 1]


@pytest.mark.parametrize("name", ["AGDA", "PCGrad"])
def test_gradients_that_cannot_be_projected(name):
    plane = Plane(0, 0)
    with pytest.raises(TrainingDiverged, match="gradient of loss0"):
        MAKERS[name](plane)(infinitely_steep(plane))


@pytest.mark.parametrize("name", ["GradNorm", "NTK"])
def test_evaluation_does_not_count(name):
    plane = Plane(0, 0)
    aggregator = MAKERS[name](plane)
    with paddle.no_grad():
        assert float(aggregator(plane.losses([[3, 0], [0, 1]], [1.0, 2.0]))) == 3
    assert int(aggregator.next_step) == 0
    assert aggregator.weighting.weight.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: mtl.AGDA(m, M=0), "M: expected a positive integer, found 0"),
        (lambda m: mtl.GradNorm(m, 2, 0), "update_freq: expected a positive integer, found 0"),
        (lambda m: mtl.NTK(m, 0), "num_losses: expected a positive integer, found 0"),
        (
            lambda m: mtl.GradNorm(m, 2, init_weights=[1.0]),
            "init_weights: expected one for each of 2 losses, found 1",
        ),
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises(ConfigError) as error:
        make(nn.Linear(3, 4))
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["GradNorm", "NTK", "Relobralo", "Sum"])
@pytest.mark.parametrize(("dtype", "expected"), [("float64", "float64"), ("float16", "float32")])
def test_precision_of_the_total(name, dtype, expected):
    aggregator = MAKERS[name](nn.Linear(3, 4))
    losses = {"a": paddle.ones([], dtype), "b": paddle.ones([1], dtype)}
    total = aggregator(losses)
    assert total.dtype == getattr(paddle, expected)
    assert (total.shape, float(total)) == ([], 2)


@every_method
def test_a_network_in_double_precision(name):
    task = Regression()
    task.model.to(dtype="float64")
    aggregator = MAKERS[name](task.model)
    x = paddle.ones([8, 3], "float64")
    for _ in range(2):
        y = task.model(x)
        aggregator({"a": y.mean(), "b": (y**2).mean()}).backward()
    assert task.model.weight.grad.dtype == paddle.float64
    assert np.isfinite(task.model.weight.grad.numpy()).all()


@every_method
@pytest.mark.parametrize("boundary", [-1.0, 1.0])
def test_losses_that_contain_derivatives(name, boundary):
    """The residual of an equation, as PaddleScience has it."""
    paddle.seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    x = paddle.linspace(-1, 1, 8).reshape([8, 1])
    x.stop_gradient = False

    def losses():
        u = model(x)
        slope = paddle.grad(u, x, create_graph=True)[0]
        return {"pde": ((slope - u - 1) ** 2).mean(), "bc": ((u[0] - boundary) ** 2).sum()}

    def gradient_of(loss):
        loss.backward()
        parts = [
            np.zeros(p.shape) if p.grad is None else p.grad.numpy() for p in model.parameters()
        ]
        model.clear_gradients()
        return np.concatenate([part.ravel() for part in parts]).astype("float64")

    rows = [gradient_of(losses()[key]) for key in ("pde", "bc")]
    assert (rows[0] @ rows[1] < 0) == (boundary > 0)
    expected = sum(rows)
    if name == "PCGrad":
        expected = pcgrad_by_hand(*rows)
    elif name == "AGDA":
        (expected,) = agda_by_hand([np.ones(2)], [rows], [0], 3, 0.5)
    found = gradient_of(MAKERS[name](model)(losses()))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_subclass_in_paddlesciences_form():
    class Last(mtl.LossAggregator):
        def __init__(self, model):
            super().__init__(model)
            self.register_buffer("memory", paddle.zeros([1]))

        def backward(self):
            list(self.losses.values())[self.loss_num - 1].backward()
            self.memory.set_value(np.array([self.step], "float32"))

    plane = Plane(0, 0)
    aggregator = Last(plane)
    assert (aggregator.model, aggregator.param_num) == (plane, 1)
    assert plane.step(aggregator, [[3, 0], [0, 1]], step=4).tolist() == [0, 1]
    assert {key: value.tolist() for key, value in aggregator.state_dict().items()} == {
        "memory": [4]
    }


def test_the_base_class_alone_cannot_aggregate():
    plane = Plane(0)
    with pytest.raises(NotImplementedError, match="LossAggregator: define forward or backward"):
        mtl.LossAggregator(plane)(plane.losses([[1]])).backward()
