"""A seed is the same for all variants."""

from __future__ import annotations

import paddleseg_autoloss  # isort: skip

import random
from pathlib import Path

import numpy as np
import paddleseg.core
import pandas as pd
import pytest
from paddleseg.models.losses import MixedLoss
from support.processes import ROOT, run_tool
from support.training import Squares, ce_and_dice, run_training


def drawn_by(losses, folder: Path) -> tuple[list, list[float], list[str]]:
    """Train with a seed; return the images' order with augmentation's draws, and the first loss."""
    seen: list[tuple[int, float, float]] = []

    class Watched(Squares):
        def __getitem__(self, index):
            seen.append((index, random.random(), np.random.rand()))
            return super().__getitem__(index)

    random.seed(3)
    np.random.seed(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.training.Squares", Watched)
        run_training(folder, iters=7, losses=losses, save_interval=4, log_iters=1)
    first = pd.read_csv(folder / "loss_weights.csv").query("iteration == 1")
    return seen, first.raw.tolist(), first.term.tolist()


def test_a_seed_is_the_same_for_all_variants(tmp_path):
    """Order and augmentation over all iterations, network and losses at the first."""
    methods = [
        getattr(paddleseg_autoloss, name) for name in ("AutoWeightedLoss", "PCGrad", "CAGrad")
    ]
    makers = {method.__name__: lambda m=method: [m(ce_and_dice())] for method in methods}
    makers["MixedLoss"] = lambda: [MixedLoss(ce_and_dice(), [0.8, 0.2])]
    expected = drawn_by(makers.pop("MixedLoss"), tmp_path / "MixedLoss")
    assert len(expected[0]) >= 7 * 2
    for name, losses in makers.items():
        assert drawn_by(losses, tmp_path / name) == expected, name


@pytest.mark.parametrize("naive", [True, False])
def test_naive_recipe_adds_gradients_up(naive, tmp_path, monkeypatch):
    """Those of the loss parameters, over the whole run; the package clears them at every step."""
    monkeypatch.syspath_prepend(ROOT / "configs" / "compare")
    recipe = __import__("naive_recipe")
    if naive:
        monkeypatch.setattr(paddleseg.core, "train", recipe.naive_train)
    steps, before = [], []

    def losses():
        loss = paddleseg_autoloss.AutoWeightedLoss(ce_and_dice())
        (learned,) = loss.parameters()

        def note(gradient):
            before.append(0 * gradient.numpy() if learned.grad is None else learned.grad.numpy())
            steps.append(gradient.numpy())

        learned.register_hook(note)
        return [loss]

    run_training(tmp_path, iters=4, losses=losses, log_iters=2)
    assert len(steps) == 4
    sums = np.cumsum([0 * steps[0], *steps[:-1]], axis=0)
    np.testing.assert_allclose(before, sums if naive else 0 * sums, rtol=1e-5)
    history = pd.read_csv(tmp_path / "loss_weights.csv")
    assert history.iteration.unique().tolist() == [2, 4]


def test_the_script_of_the_naive_recipe_takes_the_flags_of_the_command(config, tmp_path):
    result = run_tool(
        ROOT / "configs/compare/naive_recipe.py",
        *("--config", config(), "--save_dir", tmp_path / "run", "--device", "cpu", "--iters", "2"),
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run/iter_2/model.pdparams").is_file()
    assert pd.read_csv(tmp_path / "run/loss_weights.csv").iteration.tolist() == [2, 2]
