"""A resumed run with PaddleScience's call form is the uninterrupted one."""

from __future__ import annotations

import warnings

import numpy as np
import paddle
import pytest
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


class TestStateOfPaddleScience:
    """A `.pdagg` file that its solver wrote."""

    @staticmethod
    def loaded(aggregator, tmp_path, **state):
        file = str(tmp_path / "latest.pdagg")
        tensors = {name: paddle.to_tensor(value, "float32") for name, value in state.items()}
        paddle.save(tensors, file)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert aggregator.set_state_dict(paddle.load(file)) == ([], [])
        return aggregator

    @pytest.mark.parametrize(("beta", "reference"), [(1.0, [0.5, 2.0]), (0.0, [1.0, 4.0])])
    def test_relobralo_goes_on(self, tmp_path, beta, reference):
        aggregator = self.loaded(
            mtl.Relobralo(2, alpha=0.75, beta=beta),
            tmp_path,
            losses_init=[1.0, 4.0],
            losses_prev=[0.5, 2.0],
            lmbda=[0.8, 1.2],
        )
        plane = Plane(0, 0)
        found = plane.step(aggregator, [[1, 0], [0, 1]], [0.4, 1.8], step=100)

        def balance(losses):
            rates = np.exp(np.array([0.4, 1.8]) / losses)
            return 2 * rates / rates.sum()

        past = np.array([0.8, 1.2]) if beta else balance(np.array(reference))
        expected = 0.75 * past + 0.25 * balance(np.array([0.5, 2.0]))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_allclose(aggregator.losses_init.numpy(), [1, 4])

    def test_relobralo_before_its_first_call(self, tmp_path):
        zeros = [0.0, 0.0]
        aggregator = self.loaded(
            mtl.Relobralo(2), tmp_path, losses_init=zeros, losses_prev=zeros, lmbda=[1.0, 1.0]
        )
        plane = Plane(0, 0)
        assert plane.step(aggregator, [[1, 0], [0, 1]], [3.0, 4.0]).tolist() == [1, 1]
        assert aggregator.losses_init.tolist() == [3, 4]

    @pytest.mark.parametrize("name", ["GradNorm", "NTK"])
    def test_weights_go_on(self, tmp_path, name):
        plane = Plane(0, 0)
        # The file has the model too.
        state = {"model.p": [5.0, 5.0], "weight": [0.5, 2.0]}
        aggregator = self.loaded(MAKERS[name](plane), tmp_path, **state)
        assert plane.step(aggregator, [[1, 0], [0, 1]], step=1).tolist() == [0.5, 2]

    def test_a_file_of_numpy_arrays(self):
        aggregator = mtl.NTK(Plane(0, 0), 2)
        aggregator.load_dict({"weight": np.array([0.5, 2.0], "float32")})
        assert aggregator.weight.tolist() == [0.5, 2]
