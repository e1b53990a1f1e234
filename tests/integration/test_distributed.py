"""Two ranks over gloo on the loopback; GPUs and NCCL have not been run."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from support.calls import OF_TRAINING
from support.processes import SCRIPT_HEAD, launched, launched_in_turn, run_tool

from paddleseg_autoloss.integration.checkpoint import whole_checkpoints

SCRIPT = (
    SCRIPT_HEAD
    + """
import json

paddle.set_device("cpu")
folder = Path(sys.argv[1])
model, types, _ = run_training(
    folder, 4, model=lambda: TinyNet(), log_iters=1,
    losses=lambda: [paddleseg_autoloss.AutoWeightedLoss(ce_and_dice())],
)
rank = paddle.distributed.get_rank()
state = {"c": types[0].aggregator.weighting.c.numpy().tolist()}
(folder / f"rank{rank}.json").write_text(json.dumps(state))
"""
)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What the scripts below found on two ranks, and their folder."""
    folder = tmp_path_factory.mktemp("two_ranks")
    scripts = {
        "gradients": GRADIENTS,
        "ranks": SCRIPT,
        "every_step": EVERY_STEP.replace("IN_THE_LOOP", repr(IN_THE_LOOP)),
        # It replaces the session, so it is the last one.
        "broken_on_one": BROKEN_ON_ONE.replace("KINDS", repr(KINDS)),
    }
    return folder, launched_in_turn(folder, scripts)


def test_weights_are_the_same_on_both_ranks(two_ranks):
    """The ranks see other images, so their gradients differ before they are averaged."""
    first, second = two_ranks[1]["ranks"]
    assert first == second
    assert (np.array(first["c"]) != 1).all()


def test_only_one_rank_writes(two_ranks):
    with open(two_ranks[0] / "ranks" / "loss_weights.csv") as file:
        iterations = [line.split(",")[0] for line in file][1:]
    assert iterations == ["1", "1", "2", "2", "3", "3", "4", "4"]


def test_the_command_of_the_readme(tmp_path):
    """With data that both ranks want to generate, evaluation, and a resume by name."""
    data = {"dataset_root": tmp_path / "fundus", "num_train": 8, "num_val": 3, "image_size": 64}
    options = [f"{d}.{k}={v}" for d in ("train_dataset", "val_dataset") for k, v in data.items()]
    folder = tmp_path / "run"

    def train(iters, *more):
        result = run_tool(
            "-m", "paddle.distributed.launch", "--nproc_per_node", "2",
            "--log_dir", tmp_path / "log", "tools/train.py", "--config", "auto_ce_dice_demo.yml",
            "--device", "cpu", "--save_dir", folder, "--iters", iters, "--save_interval", 2,
            "--log_iters", 1, "--do_eval", "--use_vdl", *more, "--opts", *options,
        )  # fmt: skip
        logs = [p.read_text() for p in sorted((tmp_path / "log").glob("workerlog.*"))]
        assert result.returncode == 0, "\n".join([result.stderr, *logs])
        return logs

    first, second = train(4)
    assert "iter: 4/4" in first
    assert "iter: 4/4" not in second
    assert [path.name for path in whole_checkpoints(folder)] == ["iter_2", "iter_4"]
    train(6, "--resume_model", "latest")
    with open(folder / "loss_weights.csv") as file:
        iterations = [int(line.split(",")[0]) for line in file.readlines()[1:]]
    assert iterations == sorted([*range(1, 7)] * 2)
    assert len(list(folder.glob("vdlrecords.*"))) == 2
    assert (folder / "equivalent_mixed_loss.yml").is_file()


#: One of each kind: learned, drawn, remembered.
IN_THE_LOOP = ["GradNorm", "PCGrad", "Relobralo"]
EVERY_STEP = (
    SCRIPT_HEAD
    + """
import json
from paddleseg_autoloss.losses import COMPONENTS

paddle.set_device("cpu")
folder, rank = Path(sys.argv[1]), int(paddle.distributed.ParallelEnv().rank)
states = {}
for name in IN_THE_LOOP:
    states[name] = steps = []
    made = []

    def losses():
        paddle.seed(100 + rank)  # as without --seed
        made[:] = [COMPONENTS[name](ce_and_dice())]
        layer = made[0]

        def note(*args):
            state = {k: v.numpy().tolist() for k, v in layer.state_dict().items()}
            state["weights"] = layer.aggregator.last_weights.tolist()
            steps.append(state)

        layer.register_forward_post_hook(note)
        return made

    run_training(folder / name, 3, losses=losses, save_interval=3)
Path(folder, f"rank{rank}.json").write_text(json.dumps(states))
"""
)


@pytest.mark.parametrize("name", IN_THE_LOOP)
def test_paddleseg_loop_keeps_both_ranks_alike_at_every_step(two_ranks, name):
    """The ranks see other images and were seeded differently."""
    first, second = (ranks[name] for ranks in two_ranks[1]["every_step"])
    assert len(first) == 3
    assert first == second


#: These are tried with a constant sum too.
OF_EACH_KIND = ["AutoWeightedLoss", "PCGrad", "MoCo"]
GRADIENTS = (
    SCRIPT_HEAD
    + f"OF_EACH_KIND = {OF_EACH_KIND}"
    + """
import json
from paddleseg_autoloss.gradients import jacobian
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import METHODS, JacobianWeighting
from support.calls import OF_TRAINING, weigh

paddle.set_device("cpu")
paddle.distributed.init_parallel_env()
rank, count_of_ranks = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
random = np.random.default_rng(0)
images = paddle.to_tensor(random.standard_normal((2 * count_of_ranks, 6)), dtype="float32")
wanted = paddle.to_tensor(random.standard_normal((2 * count_of_ranks, 3)), dtype="float32")
# Parameters have 30, 5, 15 and 3 numbers: one is larger than a bucket, others share one.
usual_bucket, jacobian._BUCKET = jacobian._BUCKET, 21


NAMES = ["a", "b", "c", "d"]


def losses(model, x, y, count=2):
    outputs = model(x)
    wishes = [y, -2 * y, 3 * y, 1 - y]
    return {name: ((outputs - wish) ** 2).mean() for name, wish in zip(NAMES[:count], wishes)}


def flat(gradients):
    return np.concatenate([g.numpy().ravel() for g in gradients])


found = {}
cases = {name: (METHODS[name], {}) for name in OF_TRAINING}
cases |= {f"{name}, constant sum": (METHODS[name], {"constant_sum": 0.7}) for name in OF_EACH_KIND}
for name, (method, options) in cases.items():
    paddle.seed(3)
    count = max(2, method.least_losses)
    model = paddle.DataParallel(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))
    aggregator = LossAggregator(NAMES[:count], method(count), **options)
    aggregator.bind(model.parameters())
    aggregator.held_by_optimizer = True
    paddle.seed(3)
    alone = LossAggregator(NAMES[:count], method(count))
    alone.bind(model.parameters())
    half = slice(2 * rank, 2 * rank + 2)
    found[name] = steps = []
    for _ in range(3):
        aggregator(losses(model, images[half], wanted[half], count)).backward()
        gradient = flat(p.grad for p in model.parameters())
        model.clear_gradients()
        whole = losses(model._layers, images, wanted, count)
        values = paddle.concat([x.reshape([1]) for x in whole.values()]).detach()
        rows = [paddle.grad(x, model.parameters(), retain_graph=True) for x in whole.values()]
        matrix = paddle.to_tensor(np.stack([flat(row) for row in rows]))
        if issubclass(method, JacobianWeighting):
            expected, weights = alone.weighting.update(values, matrix)
        else:
            weights = weigh(alone.weighting, values, matrix @ matrix.T)
            expected = weights.detach() @ matrix
        if options:
            factor = 0.7 / float(weights.sum())
            expected, weights = factor * expected, factor * weights
        steps.append({
            "weights": aggregator.last_weights.tolist(), "expected_weights": weights.tolist(),
            "gradient": gradient.tolist(), "expected_gradient": expected.tolist(),
            "state": {k: v.numpy().tolist() for k, v in aggregator.state_dict().items()},
        })
        with paddle.no_grad():
            for p, row in zip(model.parameters(), matrix.mean(axis=0).split(
                [p.size for p in model.parameters()]
            )):
                p.set_value(p - 0.05 * row.reshape(p.shape))

differences = {"scaling": "none", "lr": 2, "rating": "product", "alignment": "differences"}
for case, name, options in (
    ("AutoLambda", "AutoLambda", {"scaling": "none", "lr": 2}),
    ("differences", "AutoLambda", differences),
    ("CoBa", "CoBa", {"warmup": 2}),
):
    half = slice(2 * rank, 2 * rank + 2)
    found[case] = steps = []
    paddle.seed(3)
    linear = nn.Linear(6, 3)
    ranks, alone = (
        LossAggregator(NAMES[:2], METHODS[name](2, **options), update_interval=1) for _ in range(2)
    )
    for step in range(4):
        for aggregator, part in ((ranks, half), (alone, slice(None))):
            aggregator.bind(linear.parameters())
            if step:
                held = losses(linear, images[part], wanted[part] ** 2)
                values = paddle.stack(list(held.values()))
                aggregator.look(values[0] if name == "AutoLambda" else values.detach())
            aggregator(losses(linear, images[part], wanted[part]))
            if aggregator.needs_differences:
                aggregator.learn_from_differences(
                    lambda: aggregator(losses(linear, images[part], wanted[part]))
                )
        steps.append([ranks.weights.tolist(), alone.weights.tolist()])
        linear.weight.set_value(0.9 * linear.weight)

rows = {}
for bucket in (21, usual_bucket):
    jacobian._BUCKET = bucket
    each = losses(model._layers, images[half], wanted[half]).values()
    found_rows = jacobian.Jacobian(list(each), model.parameters())
    rows[bucket] = [flat(found_rows.row(i)).tolist() for i in range(2)]
found["buckets"] = [rows[21], rows[usual_bucket]]

core = paddle.base.core
if hasattr(core, "host_memory_stat_reset_peak_value"):
    jacobian._BUCKET = 2**18
    large = nn.Sequential(*[nn.Linear(500, 500, bias_attr=False) for _ in range(12)])
    outputs = large(paddle.rand([1, 500]))
    before = core.host_memory_stat_current_value("Allocated", 0)
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    kept = jacobian.Jacobian([outputs.mean(), (outputs**2).mean()], large.parameters())
    peak = core.host_memory_stat_peak_value("Allocated", 0) - before
    found["memory"] = peak / sum(4 * p.size for p in large.parameters())
jacobian._BUCKET = usual_bucket

calls = []
stock = paddle.distributed.all_reduce
paddle.distributed.all_reduce = lambda x, *args, **kwargs: (calls.append(x.size), stock(x))[1]
# The second loss does not depend on the network on rank 1.
model = nn.Linear(6, 3)
aggregator = LossAggregator(["a", "b"], METHODS["PCGrad"](2))
aggregator.bind(model.parameters())
one_sided = losses(model, images, wanted)
if rank == 1:
    one_sided["b"] = paddle.to_tensor(2.0)
aggregator(one_sided).backward()
found["one sided"] = {"gradient": model.weight.grad.numpy().tolist(), "calls": calls}
Path(sys.argv[1], f"rank{rank}.json").write_text(json.dumps(found))
"""
)


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.once)])
def gradients(request, tmp_path_factory):
    if request.param == 2:
        return request.getfixturevalue("two_ranks")[1]["gradients"]
    return launched(tmp_path_factory.mktemp("gradients"), GRADIENTS, request.param)


@pytest.mark.parametrize(
    "name", [*OF_TRAINING, *(f"{name}, constant sum" for name in OF_EACH_KIND)]
)
def test_gradient_is_that_of_one_rank_with_the_whole_batch(gradients, name):
    """And weights and state are the same on all ranks, at every step."""
    for first, *others in zip(*(ranks[name] for ranks in gradients)):
        for other in others:
            assert first["weights"] == other["weights"]
            assert first["state"] == other["state"]
        np.testing.assert_allclose(first["weights"], first["expected_weights"], rtol=2e-4)
        for rank in (first, *others):
            np.testing.assert_allclose(
                rank["gradient"], rank["expected_gradient"], rtol=2e-4, atol=1e-6
            )


@pytest.mark.parametrize("name", ["AutoLambda", "differences", "CoBa"])
def test_looks_of_all_ranks_are_those_of_one_rank_with_all_batches(gradients, name):
    for steps in zip(*(ranks[name] for ranks in gradients)):
        found, expected = zip(*steps)
        assert all(weights == found[0] for weights in found)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    assert found[0] != [1, 1]


def test_gradients_are_averaged_in_one_call_also_where_a_loss_has_none(gradients):
    """The values of the losses, what their gradients reach, then K gradients."""
    first, *others = (ranks["one sided"] for ranks in gradients)
    for other in others:
        assert first["calls"] == other["calls"] == [2, 2 * 2, 2 * 21]
        np.testing.assert_allclose(first["gradient"], other["gradient"])


def test_buckets_change_nothing(gradients):
    first, *others = (ranks["buckets"] for ranks in gradients)
    assert all(other == first for other in others)
    for in_buckets, at_once in zip(*first):
        # More than two numbers are added in an order that depends on their place in the bucket.
        np.testing.assert_allclose(in_buckets, at_once, rtol=1e-6 * (len(gradients) > 2), atol=1e-8)


@pytest.mark.skipif(
    not hasattr(paddle.base.core, "host_memory_stat_reset_peak_value"),
    reason="this Paddle cannot reset its peak of memory",
)
def test_several_cards_need_no_more_memory_than_one(gradients):
    """K = 2 gradients, and a bucket that is sent, in sizes of the model."""
    for ranks in gradients:
        assert ranks["memory"] < 2.4


BROKEN_ON_ONE = (
    SCRIPT_HEAD
    + """
import json
from paddleseg.models.losses import MixedLoss
from paddleseg_autoloss.errors import TrainingDiverged
from paddleseg_autoloss.integration import training

paddle.set_device("cpu")
folder, rank = Path(sys.argv[1]), int(paddle.distributed.ParallelEnv().rank)
stock, policy = training.TrainingSession, None


class Broken(CrossEntropyLoss):
    # At the second step: a loss on the second card alone, one with a gradient that is finite, or
    # the gradient.
    def forward(self, logit, label, semantic_weights=None):
        if models[0].passes != 2:
            return super().forward(logit, label, semantic_weights)
        if VALUE == "gradient":
            logit = logit * 1.0
            if not logit.stop_gradient:
                logit.register_hook(lambda g: g * float("nan"))
        loss = super().forward(logit, label, semantic_weights)
        if rank == 0 or VALUE == "gradient":
            return loss
        return loss * float("nan") if VALUE == "nan" else loss + float("inf")


class Counting(TinyNet):
    passes = 0

    def forward(self, x):
        if paddle.is_grad_enabled():
            self.passes += 1
        return super().forward(x)


def session(**arguments):
    arguments["losses"]["on_nonfinite"] = policy
    return stock(**arguments)


training.TrainingSession = session
found = {}
for VALUE in ("nan", "inf", "gradient"):
    for policy in ("skip", "stop"):
        for name in KINDS:
            def losses():
                inner = [Broken(), DiceLoss()]
                if name == "MixedLoss":
                    return [MixedLoss(inner, [0.8, 0.2])]
                options = {"exact": True} if name == "FAMO" else {}
                return [getattr(paddleseg_autoloss, name)(inner, **options)]

            models, what = [], ""

            def model():
                models.append(Counting())
                return models[0]

            try:
                run_training(folder / f"{VALUE} {policy} {name}", 4, losses, model)
            except TrainingDiverged as error:
                what = error.what
            state = {k: v.numpy().tolist() for k, v in models[0].state_dict().items()
                     if "_mean" not in k and "_variance" not in k}  # those of each card's images
            found[f"{VALUE} {policy} {name}"] = {"what": what, "state": state}
Path(folder, f"rank{rank}.json").write_text(json.dumps(found))
"""
)
KINDS = ["MixedLoss", "AutoWeightedLoss", "PCGrad", "FAMO"]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("policy", ["skip", "stop"])
@pytest.mark.parametrize("value", ["nan", "inf", "gradient"])
def test_what_breaks_on_one_rank_does_so_for_all(two_ranks, value, policy, name):
    first, second = (ranks[f"{value} {policy} {name}"] for ranks in two_ranks[1]["broken_on_one"])
    assert first["state"] == second["state"]
    for numbers in first["state"].values():
        assert np.isfinite(numbers).all()
    if policy == "skip":
        assert first["what"] == second["what"] == ""
    elif value == "gradient":
        assert first["what"] == "iteration 2: the gradient of Broken is NaN"
        assert second["what"] == first["what"]
    else:
        assert second["what"].startswith(f"iteration 2: Broken is {value}")
        if name != "PCGrad":  # which looks at the means over the cards
            assert first["what"] == "iteration 2: a loss on another card is NaN or infinite"
