"""Losses of any sign: bounds of the weights, what stays as it is, and what is refused by name."""

from __future__ import annotations

from unittest import mock

import numpy as np
import paddle
import pytest
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss
from support.calls import methods_of
from support.training import adam, learned, resumed, run_training, train_jointly

import paddleseg_autoloss
from paddleseg_autoloss.catalog import entries, table
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients import loss_range
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import (
    METHODS,
    FAMOWeighting,
    JacobianWeighting,
    LossWeighting,
    SoftAdaptWeighting,
)

LEARNED = [name for name, method in METHODS.items() if method.parameter_name]
#: Methods that would switch a negative loss off or make it rise.
REFUSING = [
    name
    for name, m in METHODS.items()
    if m.loss_range != "any" and m.parameter_name is None and not m.uses_held_out
]
HELD_OUT = [name for name, method in METHODS.items() if method.uses_held_out]
OF_LOSSES = methods_of(LossWeighting)
STEPS = 2000
#: The largest sizes of weights that the docstrings state, of `COUNT` losses; see `check_bounds`.
#: A method that is not here is asked for finite weights only.
COUNT = 3
LARGEST = {
    "AutoWeightedLoss": 100.001,
    "GradNorm": COUNT,
    "IMTLL": 1.5 * np.exp(7),
    "IMTL": 10 * 1.5 * np.exp(7),
    # 1 + 2 lambda.
    "LDCMTL": 1.1,
    "RLW": 1,
    "ScheduledLoss": 1,
    "SoftAdapt": 1,
    "Sum": 1,
    "UncertaintyWeightedLoss": 1.5 * np.exp(7),
}
SMALLEST = {"IMTLL": np.exp(-7), "UncertaintyWeightedLoss": np.exp(-7), "Sum": 1}


def usual_count(name: str) -> int:
    return int(min(METHODS[name].most_losses, COUNT))


def wild(count: int, steps: int):
    """Losses from -1000 to 1000: large and small, slow and sudden, of both signs."""
    random = np.random.default_rng(0)
    phases = random.uniform(0, 6, count)
    for step in range(steps):
        slow = 1e3 * np.sin(step / 60 + phases)
        sudden = random.choice([-1, 1], count) * 10 ** random.uniform(-5, 3, count)
        yield np.where(step % 500 < 250, slow, sudden)


def aggregator_of(name: str, count: int, **options) -> tuple[LossAggregator, paddle.Tensor]:
    paddle.seed(1)
    aggregator = LossAggregator([f"loss{i}" for i in range(count)], METHODS[name](count, **options))
    x = paddle.ones([4])
    x.stop_gradient = False
    aggregator.bind([x])
    return aggregator, x


def step_of(aggregator, x, values, optimizer=None) -> np.ndarray:
    """The weights of one step, whose losses have the given values."""
    directions = np.random.default_rng(1).standard_normal((len(values), 4))
    losses = {
        name: (x.detach() * 0 + (x - x.detach()) * paddle.to_tensor(row, dtype="float32")).sum()
        + float(value)
        for name, row, value in zip(aggregator.names, directions, values)
    }
    aggregator(losses).backward()
    if optimizer is not None:
        optimizer.step()
        optimizer.clear_grad()
    x.clear_gradient(False)
    return aggregator.last_weights.numpy()


def optimizer_of(kind: str, parameters) -> paddle.optimizer.Optimizer:
    made = {
        "SGD": lambda: paddle.optimizer.SGD(0.1, parameters=parameters),
        "Adam": lambda: paddle.optimizer.Adam(0.05, parameters=parameters),
    }
    return made[kind]()


def check_bounds(name: str, weights: np.ndarray) -> None:
    assert np.isfinite(weights).all()
    assert np.abs(weights).max() <= LARGEST.get(name, np.inf) * (1 + 1e-5)
    if not METHODS[name].may_be_negative:
        assert weights.min() >= 0
        assert weights.min() > 0 or name == "SoftAdapt" or name not in LARGEST
        assert weights.min() >= SMALLEST.get(name, 0) * (1 - 1e-5)
    if METHODS[name].sums_to in ("1", "K"):
        total = {"1": 1, "K": COUNT}[METHODS[name].sums_to]
        assert weights.sum() == pytest.approx(total, rel=1e-4)


def gradients_of(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 4))


class TestAnyLosses:
    @pytest.mark.parametrize("kind", ["SGD", "Adam"])
    @pytest.mark.parametrize("name", LEARNED)
    def test_learned_weights_stay_within_their_bounds(self, name, kind):
        method = METHODS[name](COUNT)
        optimizer = optimizer_of(kind, [method.learned()])
        rows = gradients_of(COUNT)
        gramian = paddle.to_tensor(rows @ rows.T, dtype="float32")
        others = [] if isinstance(method, LossWeighting) else [gramian]
        for values in wild(COUNT, STEPS):
            losses = paddle.to_tensor(values, dtype="float32")
            weights = method(losses, *others)
            check_bounds(name, weights.numpy())
            method.total(losses, weights).backward()
            optimizer.step()
            optimizer.clear_grad()

    @pytest.mark.parametrize("name", [n for n in OF_LOSSES if n not in {*LEARNED, *REFUSING}])
    def test_weights_that_take_any_losses_stay_within_their_bounds(self, name):
        method = METHODS[name](COUNT)
        for values in wild(COUNT, STEPS):
            check_bounds(name, method(paddle.to_tensor(values, dtype="float32")).numpy())

    @pytest.mark.parametrize(
        "name", [n for n in METHODS if n not in {*OF_LOSSES, *LEARNED, *REFUSING, *HELD_OUT}]
    )
    def test_methods_that_look_at_gradients_give_what_they_give_for_other_losses(self, name):
        """So their bounds are those of the gradients; AGDA's rates are from 0 to 1."""
        count = usual_count(name)
        rows = gradients_of(count)
        lengths = np.linalg.norm(rows, axis=1)
        found, expected = (list(self.weights(name, rows, kind)) for kind in ("wild", "ones"))
        if name == "AGDA":
            assert np.min(found) > 0
            assert np.max(found) < 1 + lengths.mean() / lengths.min()
        else:
            np.testing.assert_array_equal(found, expected)

    @staticmethod
    def weights(name, rows, kind):
        paddle.seed(1)
        method, count = METHODS[name](len(rows)), len(rows)
        is_jacobian = isinstance(method, JacobianWeighting)
        # Those of this kind never look at the losses, and take ten times as long.
        for values in wild(count, 200 if is_jacobian else STEPS):
            losses = values if kind == "wild" else np.ones(count)
            if is_jacobian:
                update, weights = method.update(
                    *(paddle.to_tensor(array, dtype="float32") for array in (losses, rows))
                )
                yield np.concatenate([update.numpy(), weights.numpy()])
            else:
                yield method.solve(losses, rows @ rows.T)

    @pytest.mark.parametrize("name", REFUSING)
    def test_others_refuse_the_first_negative_value(self, name):
        count = usual_count(name)
        aggregator, x = aggregator_of(name, count)
        for values in wild(count, STEPS):
            if values.min() >= -1e-6:
                weights = step_of(aggregator, x, values)
                assert np.isfinite(weights).all()
                continue
            bad = int(np.argmax(values < -1e-6))
            with pytest.raises(ConfigError) as caught:
                step_of(aggregator, x, values)
            break
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(f"loss{bad}: expected a loss ")
        assert f"for {name}, found {values[bad]:.4g}; " in message
        kinds = {"DBMTL": "MoCo"}
        assert f"{kinds.get(name, 'Sum')}" in message.split(";")[1]

    def test_every_method_is_of_one_of_the_three(self):
        assert len(LARGEST) + len(REFUSING) < len(METHODS)
        assert not set(LARGEST) & set(REFUSING)


@pytest.mark.parametrize("name", REFUSING)
class TestRefused:
    @pytest.mark.parametrize("value", [0.0, -5e-8])
    def test_0_and_its_rounding_are_no_error(self, name, value):
        count = usual_count(name)
        aggregator, x = aggregator_of(name, count)
        for _ in range(3):
            assert np.isfinite(step_of(aggregator, x, [value, *[1.0] * (count - 1)])).all()

    def test_evaluation_is_not_looked_at(self, name):
        aggregator, _ = aggregator_of(name, usual_count(name))
        aggregator.eval()
        aggregator({name: paddle.to_tensor(-1.0) for name in aggregator.names})

    def test_a_loss_that_is_not_finite_is_not_called_negative(self, name):
        aggregator, x = aggregator_of(name, usual_count(name))
        aggregator.in_session = True
        step_of(aggregator, x, [-np.inf, *[1.0] * (usual_count(name) - 1)])
        aggregator.loss_range.check()


def test_where_the_range_depends_on_an_argument():
    assert SoftAdaptWeighting(2).loss_range == "any"
    aggregator, x = aggregator_of("SoftAdapt", 2, variant="loss_weighted")
    with pytest.raises(ConfigError, match="loss1: expected a loss of at least 0 for SoftAdapt"):
        step_of(aggregator, x, [1.0, -1.0])
    aggregator, x = aggregator_of("CRMOGM", 2, method="UWO")
    with pytest.raises(ConfigError, match="loss0: expected a loss above 0 for CRMOGM"):
        step_of(aggregator, x, [-1.0, 1.0])


def test_famo_takes_losses_above_their_lower_bounds():
    aggregator, x = aggregator_of("FAMO", 2)
    assert isinstance(aggregator.weighting, FAMOWeighting)
    aggregator.weighting.min_losses.set_value(np.array([-2.0, 0.5], "float32"))
    step_of(aggregator, x, [-1.0, 1.0])
    with pytest.raises(
        ConfigError, match=r"loss1: expected a loss above 0\.5 for FAMO, found 0\.25"
    ):
        step_of(aggregator, x, [-1.0, 0.25])


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("PBI", {"reference": [-2.0, 0.5]}, "of at least 0.5 for PBI"),
        ("STCH", {"reference": [-2.0, 0.5]}, "above 0.5 for STCH"),
        (
            "CRMOGM",
            {"method": "PBI", "options": {"reference": [-2, 0.5]}},
            "of at least 0.5 for CRMOGM",
        ),
    ],
)
def test_losses_above_a_reference_point(name, options, expected):
    aggregator, x = aggregator_of(name, 2, **options)
    step_of(aggregator, x, [-1.0, 1.0])
    with pytest.raises(ConfigError, match=rf"loss1: expected a loss {expected}, found 0\.25"):
        step_of(aggregator, x, [-1.0, 0.25])


def test_the_table_says_for_which_losses_a_method_is_made():
    header, *rows = table()
    column = header.index("Losses")
    for entry, row in zip(entries(), rows):
        assert row[column].split(" ")[0] == entry.method.loss_range
        assert ("stays" in row[column]) == (entry.name in LEARNED)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", LEARNED)
class TestLearned:
    def train(self, name, kind):
        aggregator, x = aggregator_of(name, COUNT)
        learned_parameter = aggregator.weighting.learned()
        optimizer = optimizer_of(kind, [learned_parameter])

        def train(values, steps):
            found = []
            for _ in range(steps):
                step_of(aggregator, x, values, optimizer)
                aggregator.weighting.undo_drift()
                found.append(learned_parameter.numpy())
            return found

        return train

    def test_a_negative_loss_keeps_its_weight_and_the_others_go_on(self, name, kind):
        train = self.train(name, kind)
        before = train([3.0, 0.3, 2.0], 6)
        during = train([-1.0, 0.3, 2.0], 6)
        # GradNorm brings the weights to their sum at the next call.
        start = during[0][0] if name == "GradNorm" else before[-1][0]
        assert all(value[0] == start for value in during)
        assert during[-1][1] != during[0][1]
        after = train([3.0, 0.3, 2.0], 3)
        assert after[-1][0] != start

    def test_all_negative(self, name, kind):
        train = self.train(name, kind)
        train([3.0, 0.3, 2.0], 3)
        during = train([-1.0, -30.0, -1e-3], 4)
        for value in during:
            np.testing.assert_array_equal(value, during[0])


class Shifted(nn.Layer):
    """Cross-entropy that becomes negative after some calls, as RMILoss does when it is small."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls
        self.stock = CrossEntropyLoss()
        self.register_buffer("count", paddle.zeros([1]))

    def forward(self, logits, labels):
        self.count += float(self.training)
        return self.stock(logits, labels) - 10 * (self.count > self.calls).astype("float32").sum()


def warnings_of(run) -> list[str]:
    with mock.patch.object(loss_range.logger, "warning") as warning:
        run()
    return [call.args[0] for call in warning.call_args_list]


def test_one_warning_in_a_loop_of_ones_own():
    aggregator, x = aggregator_of("AutoWeightedLoss", 2)
    optimizer = optimizer_of("SGD", [aggregator.weighting.learned()])

    def run():
        for values in ([1, 1], [-0.5, 1], [-0.25, 1], [1, 1], [-1, 1], [1, 1]):
            step_of(aggregator, x, values, optimizer)

    (warning,) = warnings_of(run)
    assert warning.startswith("loss0 is negative: AutoWeightedLoss ")


class TestInPaddleSegsLoop:
    @pytest.mark.parametrize("method", ["AutoWeightedLoss", "UncertaintyWeightedLoss", "IMTL"])
    def test_learned_weights_stay_and_one_warning_names_the_term(self, tmp_path, method):
        def losses():
            return [getattr(paddleseg_autoloss, method)([CrossEntropyLoss(), Shifted(3)])]

        ends = []
        for iters in (3, 6):
            (warning,) = warnings_of(
                lambda iters=iters: ends.append(
                    learned(run_training(tmp_path / str(iters), iters, losses)[1])
                )
            ) or [""]
            assert warning.startswith("Shifted is negative: " if iters == 6 else "")
        assert ends[0][1] == ends[1][1]
        assert ends[0][0] != ends[1][0]

    @pytest.mark.parametrize("calls", [2, 3, 5])
    def test_a_resumed_run_is_the_whole_one(self, tmp_path, calls):
        """Adam's momentum would move what is frozen, also over the end of a run."""
        kept = {}

        def train(folder, iters, **options):
            def losses():
                return [paddleseg_autoloss.AutoWeightedLoss([CrossEntropyLoss(), Shifted(calls)])]

            found = run_training(folder, iters, losses, optimizer=adam, **options)
            kept[folder.name] = learned(found[1])
            return found

        whole, parts = resumed(train, tmp_path)
        np.testing.assert_array_equal(kept["whole"], kept["parts"])
        for one, other in zip(whole.parameters(), parts.parameters()):
            np.testing.assert_array_equal(one.numpy(), other.numpy())

    @pytest.mark.parametrize("name", ["GLS", "DBMTL", "PBI"])
    def test_the_step_of_a_refused_loss_is_not_taken(self, tmp_path, name):
        models = []

        def model():
            models.append(TinyNetWithCount())
            return models[0]

        def losses():
            return [getattr(paddleseg_autoloss, name)([CrossEntropyLoss(), Shifted(2)])]

        with pytest.raises(ConfigError, match=rf"^Shifted: expected a loss .* for {name}, found -"):
            run_training(tmp_path, 6, losses, model, optimizer=counted_sgd)
        assert models[0].steps == 2

    def test_the_head_is_named(self, tmp_path):
        def two_heads():
            return [
                paddleseg_autoloss.UWO([CrossEntropyLoss(), CrossEntropyLoss()], names=["a", "b"]),
                paddleseg_autoloss.UWO([CrossEntropyLoss(), Shifted(1)], names=["a", "b"]),
            ]

        with pytest.raises(ConfigError, match=r"^head1/b: expected a loss above 0 for UWO"):
            run_training(tmp_path / "parts", 3, two_heads, lambda: TinyNetWithCount(2))

        def plain():
            return [CrossEntropyLoss(), Shifted(1)]

        with pytest.raises(ConfigError, match=r"^head1/Shifted: expected a loss above 0 for UWSO"):
            train_jointly(
                tmp_path / "joint", 3, {"type": "UWSO"}, plain, [1, 1], lambda: TinyNetWithCount(2)
            )


class TinyNetWithCount(paddle.nn.Layer):
    """Counts the steps that its optimizer takes."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.heads = nn.LayerList([nn.Conv2D(3, 2, 1) for _ in range(outputs)])
        self.steps = 0

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        return [head(x) for head in self.heads]


def counted_sgd(model: TinyNetWithCount) -> paddle.optimizer.Optimizer:
    class Counted(paddle.optimizer.SGD):
        def step(self) -> None:
            model.steps += 1
            super().step()

    return Counted(0.01, parameters=model.parameters())


@pytest.mark.parametrize("name", [n for n in REFUSING if issubclass(METHODS[n], LossWeighting)])
def test_nothing_waits_for_the_device_in_paddlesegs_loop(name):
    """The aggregator leaves the look at the losses to who reads them anyway."""
    aggregator, x = aggregator_of(name, COUNT)
    aggregator.in_session = True
    with mock.patch.object(loss_range.LossRange, "judge") as judge:
        aggregator({n: (x * 0).sum() - 1 for n in aggregator.names}).backward()
    judge.assert_not_called()
    assert aggregator.loss_range.noted.tolist() == [-1] * COUNT
