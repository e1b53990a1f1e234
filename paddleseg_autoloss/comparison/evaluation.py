"""Evaluates one finished run in a process of its own, so that its memory is freed at the end.

``python -m paddleseg_autoloss.comparison.evaluation --folder RUN`` writes ``evaluation.json`` and,
with ``--samples``, ``samples.npz`` into the folder of the run.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
from paddle import nn
from paddleseg.core import evaluate
from paddleseg.core.infer import inference
from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.utils import utils

from paddleseg_autoloss.checks import build
from paddleseg_autoloss.data_checks import build_dataset, reader_errors
from paddleseg_autoloss.errors import CheckpointError
from paddleseg_autoloss.files import replace_file, write_json
from paddleseg_autoloss.flags import non_negative_int, run_command
from paddleseg_autoloss.integration.config import load_config
from paddleseg_autoloss.integration.evaluation import capture_figures
from paddleseg_autoloss.integration.loading import load_weights

__all__ = ["evaluate_run", "main"]

#: Longer side of a sample, in pixels.
_SAMPLE_SIZE = 256


def evaluate_run(folder: Path, device: str, num_workers: int, samples: int) -> None:
    """Evaluate the final model of a run on the validation and on the test images.

    Args:
        folder: folder of the run, with ``config.yml``, ``config_test.yml`` and ``model.pdparams``.
        device: the device of the evaluation.
        num_workers: number of processes that load data.
        samples: number of test images to store with their predictions.

    Raises:
        CheckpointError: the model cannot be read, or belongs to another network.
    """
    utils.set_device(device)
    validation, test = (
        load_config(str(folder / f"{name}.yml")) for name in ("config", "config_test")
    )
    model = build("model", lambda: SegBuilder(test).model)
    path, total = str(folder / "model.pdparams"), len(model.state_dict())
    missing = load_weights(model, path, "run")
    if missing:
        raise CheckpointError(
            f"run: expected all {total} tensors of the network in {path}, found "
            f"{total - len(missing)}"
        )
    test_data = _val_dataset(test)
    figures = {"test": _figures(model, test, test_data, num_workers)}
    if validation.val_dataset_cfg == test.val_dataset_cfg:
        figures["validation"] = figures["test"]
    else:
        figures["validation"] = _figures(model, validation, _val_dataset(validation), num_workers)
    if samples:
        _write_samples(folder / "samples.npz", model, test, test_data, samples)
    write_json(folder / "evaluation.json", figures)


def _val_dataset(config: Config) -> Any:
    builder = SegBuilder(config)
    return build_dataset("val_dataset", config.val_dataset_cfg, lambda: builder.val_dataset)


def _figures(model: nn.Layer, config: Config, dataset: Any, num_workers: int) -> dict[str, Any]:
    with reader_errors(), capture_figures() as figures:
        evaluate(model, dataset, num_workers=num_workers, **config.test_config)
    return figures().to_dict()


def _write_samples(path: Path, model: nn.Layer, config: Config, dataset: Any, count: int) -> None:
    """Write a few small images from all over the list, with ground truth and prediction."""
    model.eval()
    options = {key: config.test_config.get(key) for key in ("is_slide", "crop_size", "stride")}
    kept: dict[str, np.ndarray] = {}
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    for number, index in enumerate(indices.tolist()):
        image = cv2.imread(str(dataset.file_list[index][0]), cv2.IMREAD_COLOR)
        item = dataset[index]
        batch = paddle.to_tensor(item["img"])[None]
        with paddle.no_grad():
            predicted, _ = inference(model, batch, trans_info=item["trans_info"], **options)
        if image is not None:
            kept[f"image{number}"] = _small(image[:, :, ::-1], cv2.INTER_AREA)
            masks = {"truth": item["label"][0], "prediction": predicted.numpy()[0, 0]}
            for name, mask in masks.items():
                kept[f"{name}{number}"] = _small(mask.astype("uint8"), cv2.INTER_NEAREST)
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **kept)


def _small(picture: np.ndarray, interpolation: int) -> np.ndarray:
    scale = min(1.0, _SAMPLE_SIZE / max(picture.shape[:2]))
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=interpolation)


def _parse_args(argv: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the run")
    parser.add_argument("--device", default="cpu", help="device to evaluate on")
    parser.add_argument(
        "--num_workers", type=non_negative_int, default=0, help="processes that load data"
    )
    parser.add_argument("--samples", type=non_negative_int, default=0, help="test images to store")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = _parse_args(argv)
    return run_command(
        lambda: evaluate_run(args.folder, args.device, args.num_workers, args.samples)
    )


if __name__ == "__main__":
    sys.exit(main())
