"""The frontier of cost and fidelity: a tiny recording, and what is made of it by brute force."""

from __future__ import annotations

import cv2
import measure_fidelity
import numpy as np
import pandas as pd
import pytest
import record_gramians
from support.networks import Branches

from paddleseg_autoloss.weighting import METHODS, MGDAWeighting

STEPS = 6
#: Judged; refused, as its weights can be negative; for two losses only; not from the Gramian.
SOME = ("CAGrad", "SeparateBackward", "AlignedMTL", "AGDA", "Sum")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The recording of a few steps on two images."""
    root = tmp_path_factory.mktemp("data")
    (root / "optic_disc_seg").mkdir()
    random = np.random.default_rng(0)
    for index in range(2):
        image = root / "optic_disc_seg" / f"{index}.png"
        cv2.imwrite(str(image), random.integers(0, 255, (16, 16, 3)))
        cv2.imwrite(str(image.with_suffix(".label.png")), random.integers(0, 2, (16, 16)))
    lines = "".join(f"{index}.png {index}.label.png\n" for index in range(2))
    (root / "optic_disc_seg" / "train_list.txt").write_text(lines)
    flags = [
        "--data_root", str(root), "--data", "optic_disc", "--networks", "pp_liteseg_3_heads",
        "--steps", str(STEPS), "--size", "16", "--batch_size", "2", "--output", str(root / "out"),
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_gramians, "make_network", lambda *_: Branches())
        patch.setattr(record_gramians, "feature_layer", lambda _: "backbone")
        assert record_gramians.main(flags) == 0
        # What is finished isn't made again.
        patch.setattr(record_gramians, "make_network", None)
        assert record_gramians.main(flags) == 0
    return root / "out"


@pytest.fixture(scope="module")
def recording(folder):
    return measure_fidelity.read_recording(folder / "pp_liteseg_3_heads_optic_disc.npz")


def test_the_recording_has_all_levels_of_all_steps(recording):
    assert recording.losses.shape == (STEPS, 4)
    assert set(recording.gramians) == {"parameters", "features", "logits"}
    for gramians in recording.gramians.values():
        assert gramians.shape == (STEPS, 4, 4)
        assert (np.linalg.eigvalsh(gramians) > -1e-6 * np.abs(gramians).max()).all()
    # Losses of different heads share no logits.
    assert not recording.gramians["logits"][:, :2, 2:].any()
    assert recording.gramians["features"][:, :2, 2:].all()
    assert not recording.is_shared


def test_figures_of_every_method_and_scheme(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_fidelity, "METHODS", {name: METHODS[name] for name in SOME})
    costs = tmp_path / "costs.csv"
    levels = {"parameters": 3.0, "features": 2.0, "logits": 1.1}
    lines = [f"PPLiteSeg,3,2,level: {level},{ratio}" for level, ratio in levels.items()]
    costs.write_text("\n".join(["model,heads,losses,variant,ratio", *lines, ""]))
    output = tmp_path / "fidelity.csv"
    flags = ["--recordings", str(folder), "--costs", str(costs), "--output", str(output)]
    assert measure_fidelity.main(flags) == 0
    table = pd.read_csv(output).set_index(["method", "scheme"])
    assert len(table) == 2 * len(measure_fidelity.SCHEMES)
    assert (table["median"] <= 1 + 1e-9).all()
    # Its weights are equal, whatever it sees.
    assert table.loc["SeparateBackward", "median"].to_numpy() == pytest.approx(1)
    assert table.loc[("CAGrad", "equal weights"), "cost"] == 1
    assert table.loc[("CAGrad", "level: features"), "cost"] == 2
    assert table.loc[("CAGrad", "update_interval: 5"), "cost"] == pytest.approx(
        1 + 2 / 6 * 2, abs=1e-4
    )
    lengths = table.loc[("CAGrad", "lengths, every 10 steps"), "cost"]
    assert lengths == pytest.approx(1.1 + 1 / 6 * 2, abs=1e-4)


def _trained(steps: int = 6, count: int = 3) -> tuple[np.ndarray, measure_fidelity.Recording]:
    """Gradients of every step, and the recording of their Gramians."""
    random = np.random.default_rng(0)
    jacobians = random.normal(size=(steps, count, 9)) * random.uniform(0.2, 2, (steps, count, 1))
    gramians = jacobians @ jacobians.transpose(0, 2, 1)
    losses = random.uniform(0.5, 1, (steps, count))
    return jacobians, measure_fidelity.Recording(losses, {"parameters": gramians}, True)


def test_a_stale_interval_against_the_updates_themselves(monkeypatch):
    jacobians, recording = _trained()
    scheme = measure_fidelity.Scheme("", "", lambda r: measure_fidelity._interval(3, r))
    monkeypatch.setattr(measure_fidelity, "SCHEMES", [scheme])
    (found,) = measure_fidelity.judge(recording, "MGDA")
    solve = MGDAWeighting(3).solve
    cosines = []
    for step, jacobian in enumerate(jacobians):
        old = jacobians[step - step % 3]
        stale = jacobian.T @ solve(np.ones(3), old @ old.T)
        exact = jacobian.T @ solve(np.ones(3), jacobian @ jacobian.T)
        cosines.append(stale @ exact / np.linalg.norm(stale) / np.linalg.norm(exact))
    assert found["median"] == pytest.approx(np.median(cosines))
    assert found["tenth_percentile"] == pytest.approx(np.percentile(cosines, 10))


def test_looks_that_become_rarer():
    looks = np.flatnonzero(measure_fidelity.ever_rarer(40, growth=0.5, most=10))
    assert looks.tolist() == [0, 1, 2, 3, 4, 6, 9, 13, 19, 28, 38]


def test_a_look_when_the_proportions_of_losses_move():
    losses = np.array([[1.0, 1.0], [0.5, 0.5], [0.5, 0.4], [0.5, 0.3], [0.5, 0.3]])
    looks = measure_fidelity.when_losses_move(losses, bound=0.2, smoothing=0.0)
    assert looks.tolist() == [True, False, False, True, False]


def test_an_average_counts_every_look_by_its_shape_alone():
    first, second = np.diag([1.0, 3.0]), np.diag([500.0, 500.0])
    found = measure_fidelity.averaged(
        np.stack([first, second, second]), np.array([True, False, True]), momentum=0.5
    )
    np.testing.assert_allclose(found, [first / 4, first / 4, (first / 4 + second / 1000) / 2])


def test_lengths_from_logits_are_exact_if_the_network_only_scales_them():
    """Gradients that keep their angles, each as long as the one for the logits times a constant."""
    random = np.random.default_rng(0)
    directions, constants = random.normal(size=(3, 9)), np.array([2.0, 0.5, 7.0])
    scales = random.uniform(0.1, 3, (5, 3))
    jacobians = directions * (scales * constants)[:, :, None]
    exact = jacobians @ jacobians.transpose(0, 2, 1)
    logits = np.stack([np.diag(row**2) for row in scales])
    for momentum in (0.0, 0.5):
        found = measure_fidelity.with_lengths(exact, np.arange(5) == 0, logits, momentum)
        np.testing.assert_allclose(found, exact)
