"""The script that measures the noise of a batch: its figures, and that a look changes nothing."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from PIL import Image
from support.processes import ROOT


@pytest.fixture(scope="module")
def script():
    path = ROOT / "tools/benchmarks/measure_batch_noise.py"
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class TwoBatches:
    """Gradients m + n and m - n in turn; a pair gives the products of the mean gradients."""

    MEAN, NOISE = np.array([[3.0, 0], [0, 2]]), np.array([[2.0, 0], [0, 1]])

    def __init__(self):
        self.sign = 1

    def losses(self):
        return []

    def gradients(self, losses):
        self.sign = -self.sign
        return self.MEAN + self.sign * self.NOISE

    def pair(self):
        return self.MEAN @ self.MEAN.T


def test_figures_of_two_batches(script):
    found = script.measure(TwoBatches(), 2)
    # Different batches give 13 - 5, one alone 13 + 5, the pair 13.
    assert found["noise"] == pytest.approx(10 / 18)
    assert found["left"] == pytest.approx(5 / 10)
    # Squared lengths of orthogonal gradients: 5 and 3, 25 and 9 or 1 and 1, 9 and 4.
    assert found["w_exact"] == pytest.approx(3 / 8)
    assert found["w_single"] == pytest.approx((9 / 34 + 1 / 2) / 2)
    assert found["w_pair"] == pytest.approx(4 / 13)


def test_a_pair_leaves_the_training_as_it_was(script, tmp_path, capsys):
    random = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(random.integers(0, 255, (8, 8, 3), "uint8")).save(tmp_path / f"{index}.jpg")
        Image.fromarray(random.integers(0, 2, (8, 8), "uint8")).save(tmp_path / f"{index}.png")
    lines = [f"{index}.jpg {index}.png\n" for index in range(4)]
    (tmp_path / "list.txt").write_text("".join(lines))
    words = ["--root", str(tmp_path), "--list", str(tmp_path / "list.txt"), "--size", "8"]
    words += ["--batch_size", "2", "--optimizer", "Adam", "--looks", "2", "--draws", "2"]
    training = script.Training(script.parse_args(words))
    training.step(training.losses())

    def state():
        layers, moments = training.network.state_dict(), training.optimizer.state_dict()
        tensors = {**layers, **{k: v for k, v in moments.items() if hasattr(v, "numpy")}}
        assert len(tensors) > len(layers)
        return {key: tensor.numpy().copy() for key, tensor in tensors.items()}

    before = state()
    assert np.isfinite(training.pair()).all()
    after = state()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value, err_msg=key)
    assert script.main(words) == 0
    assert "\n| Adam | 0.01 | 2 | " in capsys.readouterr().out
