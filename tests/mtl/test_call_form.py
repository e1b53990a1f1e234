"""PaddleScience's call form: its examples, defaults and the errors."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import paddle
import pytest
from paddle import nn
from support.mtl import MAKERS, Plane, Regression, every_method

from paddleseg_autoloss import mtl
from paddleseg_autoloss.errors import ConfigError, TrainingDiverged


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


ATTRIBUTES = {
    "AGDA": {"M": 3, "gamma": 0.5},
    "GradNorm": {"num_losses": 2, "update_freq": 3, "momentum": 0.5, "weight": [1, 1]},
    "NTK": {"num_losses": 2, "update_freq": 3, "weight": [1, 1]},
    "PCGrad": {},
    "Relobralo": {
        **{"num_losses": 2, "alpha": 0.5, "beta": 0.5, "tau": 1.0, "eps": 1e-8},
        **{"losses_init": [3, 4], "losses_prev": [3, 4], "lmbda": [1, 1]},
    },
    "Sum": {},
}


@every_method
def test_public_attributes_are_paddlesciences(name):
    plane = Plane(0, 0)
    aggregator = MAKERS[name](plane)
    with paddle.no_grad() if name in ("GradNorm", "NTK") else nullcontext():
        aggregator(plane.losses([[1, 0], [0, 1]], [3.0, 4.0]))
    found = {attribute: getattr(aggregator, attribute) for attribute in ATTRIBUTES[name]}
    found = {k: v.tolist() if isinstance(v, paddle.Tensor) else v for k, v in found.items()}
    assert found == ATTRIBUTES[name]
    assert aggregator.model is (None if name in ("Relobralo", "Sum") else plane)


def test_an_argument_can_be_changed_later():
    plane = Plane(0, 0)
    aggregator = mtl.Relobralo(2)
    aggregator.alpha = 0.0
    plane.step(aggregator, [[1, 0], [0, 1]], [1.0, 4.0])
    found = plane.step(aggregator, [[1, 0], [0, 1]], [1.0, 8.0])
    np.testing.assert_allclose(found, [0.537883, 1.462117], rtol=1e-5)


@every_method
def test_step_is_that_of_the_latest_call(name):
    plane = Plane(0, 0)
    aggregator = MAKERS[name](plane)
    steps = [aggregator.step]
    for options in ({}, {}, {"step": 7}):
        plane.step(aggregator, [[1, 0], [0, 1]], **options)
        steps.append(aggregator.step)
    assert steps == [0, 0, 1, 7]


class TestBuild:
    @every_method
    def test_from_a_config(self, name):
        plane = Plane(0, 0)
        cfg = {"name": name}
        if name not in ("Relobralo", "Sum"):
            cfg["model"] = plane
        if name in ("GradNorm", "NTK", "Relobralo"):
            cfg["num_losses"] = 2
        aggregator = mtl.build_mtl_aggregator(cfg)
        assert type(aggregator) is getattr(mtl, name)
        assert cfg["name"] == name
        # The network itself is trained, no copy of it.
        found = plane.step(aggregator, [[2, 0], [0, 2]])
        np.testing.assert_allclose(found, [2, 2], rtol=1e-6)

    @pytest.mark.parametrize(
        ("cfg", "message"),
        [
            (
                {"name": "os.remove"},
                "name: expected one of AGDA, GradNorm, NTK, PCGrad, Relobralo, Sum, found "
                "'os.remove'",
            ),
            (
                {"num_losses": 2},
                "name: expected one of AGDA, GradNorm, NTK, PCGrad, Relobralo, Sum, found None",
            ),
            ({"name": "PCGrad"}, "PCGrad: missing a required argument: 'model'"),
            (
                {"name": "Relobralo", "num_losses": 2, "gamma": 1},
                "Relobralo: got an unexpected keyword argument 'gamma'",
            ),
            (
                {"name": "Relobralo", "num_losses": 2, "alpha": 2},
                "alpha: expected a number from 0 to 1, found 2",
            ),
        ],
    )
    def test_errors(self, cfg, message):
        with pytest.raises(ConfigError) as error:
            mtl.build_mtl_aggregator(cfg)
        assert str(error.value) == message
