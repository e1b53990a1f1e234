"""Images that are in both data sets are named."""

from __future__ import annotations

import pytest
from support.data import square, write_config, write_data
from support.processes import call

pytestmark = pytest.mark.once
SAID = "images are in train_dataset too, such as"


@pytest.mark.parametrize("command", [["check"], ["train", "--do_eval", "--iters", 1]])
def test_shared_images_are_named(command, tmp_path):
    write_data(tmp_path, [square()] * 4)
    path = write_config(tmp_path)
    folder = ["--save_dir", tmp_path / "run"] if command[0] == "train" else []
    done = call(*command, "--config", path, *folder)
    assert done.returncode == 0, done.stderr
    assert f"val_dataset: 4 of its 4 {SAID} {tmp_path / '0.png'}" in done.stdout
    (tmp_path / "val.txt").write_text("3.png 3_label.png\n")
    (tmp_path / "train.txt").write_text("".join(f"{i}.png {i}_label.png\n" for i in range(3)))
    change = ["--opts", f"val_dataset.val_path={tmp_path / 'val.txt'}"]
    done = call(*command, "--config", path, *folder, *change)
    assert done.returncode == 0, done.stderr
    assert SAID not in done.stdout
