"""What is deployed is the network alone: checkpoints, PaddleSeg's export, Paddle's inference."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.inference import Config, create_predictor
from paddleseg.models import FastSCNN
from support import run_tool
from support.training import Squares, TinyNet, ce_and_dice, run_training

from paddleseg_autoloss.losses import COMPONENTS

#: What PaddleSeg's tools/export.py does, in short.
EXPORT = """
import argparse
import os

import paddle
from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.deploy.export import WrappedModel

parser = argparse.ArgumentParser()
parser.add_argument("--config")
parser.add_argument("--model_path")
parser.add_argument("--save_dir")
args = parser.parse_args()
model = SegBuilder(Config(args.config)).model
os.environ["PADDLESEG_EXPORT_STAGE"] = "True"
model.set_dict(paddle.load(args.model_path))
model = WrappedModel(model, "softmax")
model.eval()
spec = [paddle.static.InputSpec(shape=[None, 3, None, None], dtype="float32")]
paddle.jit.save(paddle.jit.to_static(model, input_spec=spec), os.path.join(args.save_dir, "model"))
"""


def predict(folder: Path, images: np.ndarray) -> np.ndarray:
    """Run an exported network on the CPU, without PaddleSeg and without this package."""
    # Paddle 3 writes another kind of file, and its oneDNN cannot run all networks.
    (program,) = [path for path in folder.iterdir() if path.suffix in (".json", ".pdmodel")]
    config = Config(str(program), str(folder / "model.pdiparams"))
    config.disable_gpu()
    config.disable_glog_info()
    if program.suffix == ".json":
        config.disable_mkldnn()
    predictor = create_predictor(config)
    handle = predictor.get_input_handle(predictor.get_input_names()[0])
    handle.reshape(images.shape)
    handle.copy_from_cpu(images)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()


@pytest.mark.parametrize("method", ["AutoWeightedLoss", "MoCo"])
def test_checkpoints_hold_the_network_alone(tmp_path, method):
    """The weights that are learned and remembered are in model.pdopt; read by pickle."""
    options = {"val_dataset": Squares("val", 2), "use_ema": True}
    run_training(tmp_path, 4, lambda: [COMPONENTS[method](ce_and_dice())], **options)
    expected = {name: tuple(value.shape) for name, value in TinyNet().state_dict().items()}
    files = sorted(tmp_path.rglob("*.pdparams"))
    assert len(files) == 4
    for path in files:
        state = pickle.loads(path.read_bytes())
        names = state.pop("StructuredToParameterName@@", {})
        assert {name: np.shape(value) for name, value in state.items()} == expected
        assert names.keys() <= expected.keys()


def test_exported_by_a_script_of_paddleseg(tmp_path):
    model, *_ = run_training(tmp_path, 2, model=lambda: FastSCNN(2, enable_auxiliary_loss=False))
    weights = tmp_path / "iter_2/model.pdparams"
    script = tmp_path / "export.py"
    script.write_text(EXPORT)
    done = run_tool(
        "-m", "paddleseg_autoloss", "run", script, "--config", "configs/auto_ce_dice_demo.yml",
        "--model_path", weights, "--save_dir", tmp_path / "exported",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    model.eval()
    images = np.random.RandomState(0).standard_normal((2, 3, 64, 96)).astype("float32")
    with paddle.no_grad():
        expected = paddle.nn.functional.softmax(model(paddle.to_tensor(images))[0], axis=1).numpy()
    found = predict(tmp_path / "exported", images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected[:, 1]) > 1e-3

    numbers = sum(value.size for value in model.state_dict().values())
    size = (tmp_path / "exported/model.pdiparams").stat().st_size
    assert 0 <= size - 4 * numbers < 100 * len(model.state_dict())
