"""A run that is resumed with another config than its checkpoint names what has changed."""

from __future__ import annotations

import yaml
from support.processes import call

from paddleseg_autoloss.integration.run_config import changed_keys, config_as_text

SAID = "The config differs from the one that the checkpoint was written with: "
NORMALIZE = {"type": "Normalize"}


def train(path, folder, *flags):
    words = ("train", "--config", path, "--save_dir", folder, "--device", "cpu", "--seed", 1)
    done = call(*words, "--save_interval", 2, "--num_workers", 0, *flags)
    assert done.returncode == 0, done.stderr
    return [line.partition(SAID)[2] for line in done.stdout.splitlines() if SAID in line]


def test_changed_keys_of_the_file_and_flags_are_said(config, tmp_path):
    folder = tmp_path / "run"
    assert train(config(), folder) == []

    def change(dic):
        dic["optimizer"]["momentum"] = 0.5
        smaller = {"type": "Resize", "target_size": [40, 40]}
        dic["train_dataset"]["transforms"] = [smaller, NORMALIZE]
        dic["lr_scheduler"]["power"] = 2

    (line,) = train(
        config(change), folder, "--iters", 4, "--resume_model", "latest", "--batch_size", 4
    )
    assert line == (
        "batch_size is 4, was 2; lr_scheduler.power is 2, was not set; "
        "optimizer.momentum is 0.5, was 0.9; "
        "train_dataset.transforms[0].target_size is [40, 40], was [32, 32]"
    )
    assert train(config(change), folder, "--iters", 6, "--resume_model", "latest") == [
        "batch_size is 2, was 4"
    ]


def test_more_iterations_and_another_loss_are_no_change_of_the_config(config, tmp_path):
    folder = tmp_path / "run"
    train(config(), folder)

    def change(dic):
        dic["loss"]["types"][0]["losses"][0]["weight"] = [1, 2]

    assert train(config(change), folder, "--iters", 4, "--resume_model", "latest") == []


def test_added_and_removed_values():
    own = config_as_text({"a": {"b": 1}, "list": [1, 2, 3], "loss": 1})
    saved = config_as_text({"a": {"c": 2}, "list": [1, 2], "loss": 2})
    assert changed_keys(own, saved) == [
        "a.b is 1, was not set",
        "a.c is not set, was 2",
        "list is [1, 2, 3], was [1, 2]",
    ]


def test_a_config_with_a_date_can_be_stored():
    config = yaml.safe_load("train_dataset: {dataset_root: 2026-01-02}")
    assert config_as_text(config) == '{"train_dataset": {"dataset_root": "2026-01-02"}}'
