"""Flags and keys that would have no effect, or the wrong one, are named."""

from __future__ import annotations

import cv2
import numpy as np
import paddle
import pytest
from paddleseg.models import BiSeNetV2
from PIL import Image
from support.processes import call

from paddleseg_autoloss.cli.main import parse_args
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.integration.config import load_config


def test_every_opts_counts(config):
    opts = parse_args(
        ["check", "--config", "c", "--opts", "iters=3", "--opts", "batch_size=4"]
    ).opts
    loaded = load_config(config(), opts=opts)
    assert (loaded.iters, loaded.batch_size) == (3, 4)


def test_a_list_with_words_of_yaml_in_opts(config):
    entry = "train_dataset.transforms=[{'type': 'Resize', 'keep_ratio': true}]"
    loaded = load_config(config(), opts=[entry, "iters=3"])
    assert loaded.dic["train_dataset"]["transforms"] == [{"type": "Resize", "keep_ratio": True}]


def test_numbers_and_texts_beside_words_of_yaml_in_opts(config):
    schedule = "{'type': 'PolynomialDecay', 'learning_rate': 1e-3, 'cycle': true}"
    opts = [f"lr_scheduler={schedule}", "train_dataset.dataset_root=a true story"]
    dic = load_config(config(), opts=opts).dic
    expected = {"type": "PolynomialDecay", "learning_rate": 0.001, "cycle": True}
    assert dic["lr_scheduler"] == expected
    assert dic["train_dataset"]["dataset_root"] == "a true story"


@pytest.mark.parametrize("word", ["false", "False"])
def test_words_of_yaml_in_opts(word, config):
    loaded = load_config(config(), opts=[f"model.enable_auxiliary_loss={word}"])
    assert loaded.dic["model"]["enable_auxiliary_loss"] is False


def test_a_flag_that_is_a_text_is_refused(config):
    def change(dic):
        dic["train_dataset"]["transforms"][0]["keep_ratio"] = "false"

    message = r"transforms\[0\]\.keep_ratio: expected true or false, found 'false'"
    with pytest.raises(ConfigError, match=message):
        load_config(config(change))


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("val_dataset", {"mode": "train"}, r"val_dataset\.mode: expected val, found train$"),
        ("val_dataset", {"mode": "Train"}, r"val_dataset\.mode: expected val, found Train$"),
        ("train_dataset", {"mode": "val"}, r"train_dataset\.mode: expected train, found val$"),
        (
            "val_dataset",
            {"type": "OpticDiscSeg"},
            r"val_dataset\.mode: expected val, found train, the default of OpticDiscSeg$",
        ),
    ],
)
def test_images_that_are_read_in_the_wrong_way(section, change, message, config):
    def changed(dic):
        if "type" in change:
            dic[section] = {"type": change["type"], "dataset_root": "x", "transforms": []}
        else:
            dic[section] |= change

    with pytest.raises(ConfigError, match=message):
        load_config(config(changed))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--is_slide", "--crop_size", "32", "32", "--stride", "0", "0"],
            "expected a positive int",
        ),
        (["--aug_eval", "--scales", "0"], "expected a number above 0, found 0"),
        (["--aug_eval", "--scales", "20"], "expected a number from 0.1 to 10, found 20"),
        (["--crop_size", "32", "32"], "--crop_size, --stride: expected --is_slide too"),
        (
            ["--is_slide", "--crop_size", "32", "32", "--stride", "16", "33"],
            "--stride: expected at most crop_size [32, 32], found [16, 33]: pixels between two",
        ),
        (["--flip_vertical"], "--flip_vertical: expected --aug_eval too"),
        (["--json", "."], "--json: expected a file, found the folder ."),
    ],
)
def test_flags_of_val(flags, message, config):
    done = call("val", "--config", config(), *flags)
    assert done.returncode in (1, 2)
    assert message in done.stderr


@pytest.fixture
def predict(config, tmp_path):
    """Predict images with a network that was not trained."""

    def run(images, *flags, channels=3):
        def change(dic):
            transform = {"type": "Normalize", "mean": [0.5] * channels, "std": [0.5] * channels}
            dic["model"] = {"type": "BiSeNetV2", "num_classes": 2, "in_channels": channels}
            dic["loss"] = {"types": [{"type": "CrossEntropyLoss"}], "coef": [1] * 5}
            dic["val_dataset"] |= {"transforms": [transform]}
            if channels == 1:
                own = {"type": "Dataset", "dataset_root": str(tmp_path), "num_classes": 2}
                own |= {"img_channels": 1, "transforms": [transform]}
                for mode in ("train", "val"):
                    lists = {"mode": mode, f"{mode}_path": str(tmp_path / "list.txt")}
                    dic[f"{mode}_dataset"] = own | lists

        paddle.save(BiSeNetV2(2, in_channels=channels).state_dict(), str(tmp_path / "w.pdparams"))
        words = ["--model_path", tmp_path / "w.pdparams", "--image_path", images]
        return call("predict", "--config", config(change), *words, *flags)

    return run


def write_image(path, channels=3):
    path.parent.mkdir(exist_ok=True)
    shape = (64, 64, 3) if channels == 3 else (64, 64)
    Image.fromarray(np.full(shape, 90, "uint8")).save(path)


def test_pictures_of_an_earlier_prediction_are_no_images(predict, tmp_path):
    images = tmp_path / "images"
    write_image(images / "a.png")
    for _ in range(2):
        done = predict(images, "--save_dir", images / "../images/out")
        assert done.returncode == 0, done.stderr
        assert "The number of images: 1\n" in done.stdout
    assert f"pictures of an earlier prediction in {images / 'out'} are left out" in done.stdout
    done = predict(images / "out/added_prediction", "--save_dir", images / "out")
    assert done.returncode == 1
    assert "--image_path: expected images, found 1 pictures" in done.stderr


def test_predictions_of_one_name_are_refused(predict, tmp_path):
    for name in ("a.png", "a.jpg"):
        write_image(tmp_path / "images" / name)
    done = predict(tmp_path / "images", "--save_dir", tmp_path / "out")
    assert done.returncode == 1
    assert "a.jpg and " in done.stderr
    assert "the second prediction would replace the first" in done.stderr


def test_images_of_one_channel(predict, tmp_path):
    write_image(tmp_path / "images/a.png", channels=1)
    done = predict(tmp_path / "images", "--save_dir", tmp_path / "out", channels=1)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/pseudo_color_prediction/a.png").is_file()


def test_images_of_16_bits_are_named(predict, tmp_path):
    write_image(tmp_path / "images/a.png")
    cv2.imwrite(str(tmp_path / "images/b.png"), np.full((64, 64), 4095, "uint16"))
    done = predict(tmp_path / "images", "--save_dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "--image_path: 1 images have 16 bits, such as" in done.stdout


@pytest.mark.parametrize(("name", "mode"), [("b.tif", "F"), ("b.png", "P")])
def test_images_that_opencv_cannot_decode_are_named(name, mode, predict, tmp_path):
    """Numbers with fractions, or a GIF under another name."""
    write_image(tmp_path / "images/a.png")
    path = tmp_path / "images" / name
    Image.new(mode, (64, 64)).save(path, "TIFF" if mode == "F" else "GIF")
    done = predict(tmp_path / "images", "--save_dir", tmp_path / "out")
    if cv2.imread(str(path)) is None:
        assert done.stderr == f"error: --image_path: cannot read {path}: OpenCV cannot decode it\n"
    else:
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("numbers", [[255, 0], [999, 0, 0]])
def test_colours_that_are_none(numbers, predict, tmp_path):
    write_image(tmp_path / "images/a.png")
    done = predict(tmp_path / "images", "--custom_color", *numbers)
    assert done.returncode == 1
    assert "--custom_color: expected R G B from 0 to 255 per class, found" in done.stderr
