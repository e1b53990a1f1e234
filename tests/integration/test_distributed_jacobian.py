"""The methods that need the whole Jacobian, on two ranks over gloo."""

from __future__ import annotations

import numpy as np
from support.calls import NAMES
from support.processes import RANK_HEAD, launched

RANKS = (
    RANK_HEAD
    + """
import copy
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.weighting import METHODS, JacobianWeighting

paddle.distributed.init_parallel_env()
random = np.random.default_rng(0)
images = paddle.to_tensor(random.standard_normal((4, 6)), dtype="float32")
wanted = paddle.to_tensor(random.standard_normal((4, 3)), dtype="float32")


def losses(model, x, y):
    outputs = model(x)
    scaled = [((outputs + factor * y) ** 2).mean() for factor in (-1, 2, 0.5)]
    return dict(zip("abc", scaled))


found = {}
for name, method in METHODS.items():
    if not issubclass(method, JacobianWeighting):
        continue
    paddle.seed(3)
    model = paddle.DataParallel(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))
    weighting = method(3)
    plain = copy.deepcopy(weighting)
    aggregator = LossAggregator(list("abc"), weighting)
    aggregator.bind(model.parameters())
    half = slice(2 * rank, 2 * rank + 2)
    aggregator(losses(model, images[half], wanted[half])).backward()
    whole = losses(model._layers, images, wanted)
    rows = [paddle.grad(x, model.parameters(), retain_graph=True) for x in whole.values()]
    jacobian = np.stack([np.concatenate([g.numpy().ravel() for g in row]) for row in rows])
    values = paddle.to_tensor([float(x) for x in whole.values()])
    update, _ = plain.update(values, paddle.to_tensor(jacobian))
    gradient = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
    found[name] = {
        "weights": aggregator.last_weights.tolist(),
        "gradient": gradient.tolist(), "expected": update.tolist(),
    }
report(found)
"""
)


def test_gradient_is_that_of_one_rank_with_the_whole_batch(tmp_path):
    first, second = launched(tmp_path, RANKS)
    assert first.keys() == set(NAMES)
    for name, found in first.items():
        assert found["weights"] == second[name]["weights"]
        for rank in (found, second[name]):
            np.testing.assert_allclose(
                rank["gradient"], rank["expected"], rtol=1e-3, atol=1e-5, err_msg=name
            )
