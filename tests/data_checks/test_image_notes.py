"""Images that OpenCV reads in another way than their owner sees them are named."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError
from support.data import build, square, write_config, write_data
from support.own_images import write_folders
from support.processes import call

from paddleseg_autoloss.cli.main import main
from paddleseg_autoloss.data_checks import images
from paddleseg_autoloss.data_checks.images import look_at_image

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
    assert look_at_image(Path(path)).note == "16 bits"


@pytest.mark.parametrize(
    ("header", "pixels"), [(b"P5 2 2 4095\n", 4), (b"P6 2 2 65535\n", 12), (b"P6 2 2 4095\n", 12)]
)
def test_images_of_16_bits_without_a_compression(header, pixels, tmp_path):
    path = tmp_path / "a.ppm"
    path.write_bytes(header + b"\x0f\xff" * pixels)
    assert look_at_image(path).note == "16 bits"


def test_images_of_16_bits_that_pil_cannot_read(monkeypatch, tmp_path):
    path = str(tmp_path / "a.tif")
    cv2.imwrite(path, np.full((8, 8, 3), 4095, "uint16"))

    def refuse(path):
        raise UnidentifiedImageError(path)

    monkeypatch.setattr(images.Image, "open", refuse)
    assert look_at_image(Path(path)).note == "16 bits"


def test_16_bits_for_a_pixel_are_8_for_a_channel(tmp_path):
    """A BMP whose colours have 5, 6 and 5 bits."""
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    info = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0)
    start = 14 + len(info) + len(masks)
    header = b"BM" + struct.pack("<IHHI", start + 8, 0, 0, start)
    path = tmp_path / "a.bmp"
    path.write_bytes(header + info + masks + bytes(8))
    assert cv2.imread(str(path)) is not None
    assert look_at_image(path).note == ""


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "CMYK"])
def test_images_of_8_bits(mode, tmp_path):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (32, 32)).save(path)
    assert look_at_image(path).note == ""


@pytest.mark.parametrize(
    ("orientation", "size", "note"),
    [
        (1, (32, 32), ""),
        (3, (32, 16), "an EXIF orientation"),
        (6, (32, 32), "an EXIF orientation"),
        (6, (32, 16), ""),
    ],
)
@pytest.mark.parametrize("ending", [".jpg", ".tif"])
def test_images_that_are_turned(ending, orientation, size, note, tmp_path):
    path = tmp_path / f"a{ending}"
    Image.new("RGB", size).save(path, exif=turned(orientation))
    assert look_at_image(path).note == note


def test_a_webp_is_named_only_if_opencv_turns_it(tmp_path):
    """OpenCV does in some of its versions."""
    path = tmp_path / "a.webp"
    pixels = np.zeros((32, 32, 3), "uint8")
    pixels[:16] = 255
    Image.fromarray(pixels).save(path, exif=turned(3), lossless=True)
    is_turned = cv2.imread(str(path))[0, 0, 0] == 0
    assert (look_at_image(path).note != "") == is_turned


def test_a_data_set_names_them(tmp_path, capfd):
    write_data(tmp_path, [square()] * 3)
    cv2.imwrite(str(tmp_path / "1.png"), np.full((32, 32), 4095, "uint16"))
    for _ in range(2):
        build(tmp_path)
        said = f"train_dataset: 1 images have 16 bits, such as {tmp_path / '1.png'}, of which"
        assert said in capfd.readouterr().out


def test_what_only_pil_decodes(tmp_path):
    """OpenCV reads neither numbers of 32 bits as a colour image nor an animation."""
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.webp", save_all=True, append_images=[second])
    Image.new("F", (8, 8)).save(tmp_path / "a.tif")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.tif", compression="tiff_lzw")
    for name, kind in (("a.webp", "WEBP"), ("a.tif", "TIFF"), ("b.tif", "TIFF")):
        path = str(tmp_path / name)
        assert Image.open(path).format == kind
        assert (look_at_image(Path(path)).error == "") == (cv2.imread(path) is not None), name


def test_a_limit_of_opencv_is_named(monkeypatch, tmp_path):
    def refuse(*_):
        raise cv2.error("too many pixels")

    for name in ("a.ppm", "a.webp"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, exif=turned(3))
    monkeypatch.setattr(images.cv2, "imread", refuse)
    for name in ("a.ppm", "a.webp"):
        assert look_at_image(tmp_path / name, decode=True).error == "too many pixels"
        assert look_at_image(tmp_path / name).note == ""


def test_a_tiff_whose_second_page_is_damaged(tmp_path):
    """Training reads the first page only."""
    path = tmp_path / "a.tif"
    Image.new("RGB", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, start)
    struct.pack_into("<I", content, start + 2 + 12 * entries, 10**6)
    path.write_bytes(content)
    assert cv2.imread(str(path)) is not None
    assert look_at_image(path).error == ""


@pytest.mark.parametrize("command", ["train", "check"])
def test_commands_decode_as_training_does(command, tmp_path):
    """PIL reads these numbers, OpenCV does not as a colour image."""
    write_data(tmp_path, [square()] * 3)
    Image.new("F", (32, 32)).save(tmp_path / "1.tif")
    text = (tmp_path / "train.txt").read_text().replace("1.png", "1.tif")
    (tmp_path / "train.txt").write_text(text)
    folder = ["--save_dir", tmp_path / "run"] if command == "train" else []
    done = call(command, "--config", write_config(tmp_path), *folder)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert f"cannot read {tmp_path / '1.tif'}: OpenCV cannot decode it" in said


class TestOpens:
    """The file of an image is opened once, whatever is asked of it."""

    @pytest.fixture
    def opened(self, monkeypatch):
        """The names of the files that PIL opens."""
        names, stock = [], Image.open

        def noted(path, *args, **kwargs):
            names.append(Path(path).name)
            return stock(path, *args, **kwargs)

        monkeypatch.setattr(Image, "open", noted)
        return names

    def test_before_a_training(self, tmp_path, opened):
        write_data(tmp_path, [square()] * 3)
        build(tmp_path)
        assert [opened.count(f"{index}.png") for index in range(3)] == [1, 1, 1]

    def test_in_init(self, tmp_path, opened, capsys):
        folders = write_folders(tmp_path, count=4)
        assert main(["init", *map(str, folders), "--save_dir", str(tmp_path / "new")]) == 0
        images = sorted(name for name in opened if name.endswith(".jpg"))
        assert images == [f"眼底 {index:02d}.jpg" for index in range(4)]

    def test_size_and_note_together(self, tmp_path, opened):
        Image.new("RGB", (16, 32)).save(tmp_path / "a.jpg", exif=turned(3))
        look = look_at_image(tmp_path / "a.jpg")
        assert (look.size, look.note) == ([32, 16], "an EXIF orientation")
        assert opened == ["a.jpg"]
