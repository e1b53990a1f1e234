"""A resumed run with PaddleScience's call form is the uninterrupted one."""

from __future__ import annotations

import numpy as np
import paddle
from support.mtl import MAKERS, Plane, every_method

from paddleseg_autoloss import mtl


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
