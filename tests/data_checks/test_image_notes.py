"""Images that OpenCV reads in another way than their owner sees them are named."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image
from support.data import build, square, write_config, write_data
from support.processes import call

from paddleseg_autoloss.data_checks.labels import image_note

pytestmark = pytest.mark.once


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_images_of_16_bits(channels, ending, tmp_path):
    shape = (32, 32, 3) if channels == 3 else (32, 32)
    path = str(tmp_path / f"a{ending}")
    cv2.imwrite(path, np.full(shape, 4095, "uint16"))
    assert cv2.imread(path).max() in (15, 16)
    if (channels, ending) != (3, ".tif"):
        # PIL does not read this form.
        assert image_note(path) == "16 bits"


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "CMYK"])
def test_images_of_8_bits(mode, tmp_path):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (32, 32)).save(path)
    assert image_note(str(path)) == ""


@pytest.mark.parametrize(
    ("orientation", "size", "note"),
    [
        (1, (32, 32), ""),
        (3, (32, 16), "an EXIF orientation"),
        (6, (32, 32), "an EXIF orientation"),
        (6, (32, 16), ""),
    ],
)
def test_images_that_are_turned(orientation, size, note, tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", size).save(path, exif=turned(orientation))
    assert image_note(str(path)) == note


def test_a_data_set_names_them(tmp_path, capfd):
    write_data(tmp_path, [square()] * 3)
    cv2.imwrite(str(tmp_path / "1.png"), np.full((32, 32), 4095, "uint16"))
    for _ in range(2):
        build(tmp_path)
        said = f"train_dataset: 1 images have 16 bits, such as {tmp_path / '1.png'}, of which"
        assert said in capfd.readouterr().out


def test_check_decodes_as_training_does(tmp_path):
    """PIL reads these numbers, OpenCV does not as a colour image."""
    write_data(tmp_path, [square()] * 3)
    Image.new("F", (32, 32)).save(tmp_path / "1.tif")
    text = (tmp_path / "train.txt").read_text().replace("1.png", "1.tif")
    (tmp_path / "train.txt").write_text(text)
    done = call("check", "--config", write_config(tmp_path))
    assert done.returncode == 1
    assert f"cannot read {tmp_path / '1.tif'}: OpenCV cannot decode it" in done.stdout
