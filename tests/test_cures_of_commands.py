"""Faults of PaddleSeg that its flags --auc_roc and --profiler_options run into."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddleseg.core import evaluate
from sklearn.metrics import roc_auc_score
from support import run_tool


class Sizes(paddle.io.Dataset):
    """Images of different sizes, with ignored pixels."""

    num_classes = 2
    ignore_index = 255

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict:
        random = np.random.default_rng(index)
        height, width = 8 + index, 12 - index
        label = random.integers(0, 2, [1, height, width])
        label[:, 0] = 255
        image = random.standard_normal([3, height, width]).astype("float32")
        return {"img": image, "label": label, "trans_info": [("resize", (height, width))]}


class Pixelwise(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 2, 1)

    def forward(self, images):
        return [self.conv(images)]


def test_auc_over_images_of_different_sizes(capfd):
    paddle.seed(0)
    model, data = Pixelwise(), Sizes()
    evaluate(model, data, auc_roc=True, num_workers=0)
    shown = float(capfd.readouterr().out.split("Auc_roc: ")[1].split()[0])
    scores, labels = [], []
    for sample in map(data.__getitem__, range(len(data))):
        logits = model(paddle.to_tensor(sample["img"][None]))[0]
        probability = nn.functional.softmax(logits, axis=1).numpy()[0, 1]
        valid = sample["label"][0] != 255
        scores.append(probability[valid])
        labels.append(sample["label"][0][valid])
    expected = roc_auc_score(np.concatenate(labels), np.concatenate(scores))
    assert abs(shown - expected) < 1e-4


def test_profiler_writes_its_file(tmp_path, fundus):
    config = "auto_ce_dice_demo.yml"
    path = tmp_path / "profile.json"
    done = run_tool(
        "-m", "paddleseg_autoloss", "train", "--config", config, "--iters", "6",
        "--profiler_options", f"batch_range=[2, 4]; profile_path={path}; exit_on_finished=False",
        "--save_dir", tmp_path / "out",
        "--opts", f"train_dataset.dataset_root={fundus}", "train_dataset.image_size=64",
        "train_dataset.num_train=8", "train_dataset.num_val=3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size > 1000
