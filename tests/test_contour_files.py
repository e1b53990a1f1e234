"""The pictures of a prediction, written by PaddleSeg's own function with a known network."""

from __future__ import annotations

import errno
import shutil

import cv2
import numpy as np
import paddle
import pytest
from paddleseg.core import predict
from paddleseg.transforms import Compose, Normalize
from paddleseg.utils import utils
from PIL import Image

from paddleseg_autoloss.contour_files import (
    contours_of_predictions,
    find_masks,
    without_predictions,
    write_picture,
)
from paddleseg_autoloss.contours import classes_in, draw_contours, enlarged
from paddleseg_autoloss.errors import ConfigError, DataError, OutputError
from paddleseg_autoloss.plot_styles import CLASS_COLORS, LINE_COLORS, class_color
from paddleseg_autoloss.seams import replaced

SIDE = 480


class Brightness(paddle.nn.Layer):
    """Predicts class 1 where the image is bright."""

    def forward(self, images):
        bright = images.mean(axis=1, keepdim=True)
        return [paddle.concat([-bright, bright], axis=1)]


def square(left: int, value: int = 1) -> np.ndarray:
    mask = np.zeros([SIDE, SIDE], "uint8")
    mask[100:300, left : left + 200] = value
    return mask


@pytest.fixture
def images(tmp_path):
    """Two images with a bright square, and their masks, which lie 50 pixels to the right."""
    for folder in ("images/sub", "masks/sub"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a", "sub/图 b"):
        gray = 60 + 140 * square(100)
        Image.fromarray(np.stack([gray] * 3, axis=2)).save(tmp_path / f"images/{name}.png")
        Image.fromarray(square(150)).save(tmp_path / f"masks/{name}_mask.png")
    return [str(tmp_path / f"images/{name}.png") for name in ("a", "sub/图 b")]


class TestEarlierPredictions:
    @staticmethod
    def pictures(folder, *kinds):
        """Pictures in the folders of a prediction."""
        for kind in kinds:
            (folder / kind / "sub").mkdir(parents=True)
        return [str(folder / kind / name) for kind in kinds for name in ("a.png", "sub/b.png")]

    @pytest.mark.parametrize("place", ["out", "deep/er/out", "."])
    @pytest.mark.parametrize("kinds", [[], ["contours"]])
    def test_of_another_folder_are_left_out(self, images, tmp_path, capsys, place, kinds):
        folder = tmp_path / "images" / place
        pictures = self.pictures(folder, "added_prediction", "pseudo_color_prediction", *kinds)
        found = without_predictions(
            [*images, *pictures], str(tmp_path / "new"), str(tmp_path / "images")
        )
        assert found == images
        said = f"{len(pictures)} pictures of an earlier prediction in {folder} are left out"
        assert said in capsys.readouterr().out

    @pytest.mark.parametrize("kinds", [["added_prediction"], ["contours", "added_prediction"]])
    def test_other_folders_of_such_a_name(self, images, tmp_path, kinds):
        pictures = self.pictures(tmp_path / "images", *kinds)
        all_images = [*images, *images, *pictures]
        arguments = all_images, str(tmp_path / "new"), str(tmp_path / "images")
        assert without_predictions(*arguments) == all_images

    def test_pictures_that_are_asked_for(self, tmp_path):
        pictures = self.pictures(tmp_path, "added_prediction", "pseudo_color_prediction")[:2]
        for path in (tmp_path / "added_prediction", tmp_path / "list.txt"):
            assert without_predictions(pictures, str(tmp_path / "new"), str(path)) == pictures

    def test_nothing_else(self, tmp_path):
        pictures = self.pictures(tmp_path / "a", "added_prediction", "pseudo_color_prediction")
        with pytest.raises(DataError, match=f"found 4 pictures of an earlier .* in {tmp_path}/a;"):
            without_predictions(pictures, str(tmp_path / "new"), str(tmp_path))


def run(images, folder, masks, num_classes=None):
    model = Brightness()
    transforms = Compose([Normalize()])
    with (
        replaced(utils, "load_entire_model", lambda model, path: None),
        contours_of_predictions(str(folder), masks, num_classes),
    ):
        root = images[0].rpartition("/")[0]
        predict(model, "", transforms, images, root, str(folder))


def pixels(path, *place) -> list[int]:
    return np.asarray(Image.open(path))[place].tolist()


YELLOW = list(bytes.fromhex(class_color(1)[0][1:]))


def test_truth_beside_prediction(images, tmp_path):
    masks = find_masks(str(tmp_path / "masks"), images, {})
    run(images, tmp_path / "out", masks)
    files = sorted(str(p.relative_to(tmp_path / "out")) for p in tmp_path.glob("out/*/**/*.png"))
    kinds = ("added_prediction", "contours", "pseudo_color_prediction")
    assert files == [f"{kind}/{name}.png" for kind in kinds for name in ("a", "sub/图 b")]
    for name in ("a", "sub/图 b"):
        path = tmp_path / f"out/contours/{name}.png"
        width, height = Image.open(path).size
        assert width > 2 * SIDE
        assert SIDE + 20 < height < SIDE + 80
        start = width - SIDE
        assert pixels(path, 200, 150) == pixels(path, 200, start + 100) == YELLOW
        assert pixels(path, 200, 250) == pixels(path, 200, start + 200) == [200] * 3
        assert pixels(path, 200, 50) == pixels(path, 200, start + 50) == [60] * 3
    overlay = np.asarray(Image.open(tmp_path / "out/added_prediction/a.png"))
    assert overlay.shape == (SIDE, SIDE, 3)
    assert cv2.imwrite.__module__ != "paddleseg_autoloss.contour_files"


def test_without_masks_there_is_the_prediction_alone(images, tmp_path):
    run(images[:1], tmp_path / "out", {})
    assert Image.open(tmp_path / "out/contours/a.png").width == SIDE


@pytest.mark.parametrize("root", ["dataset_root", "folder of the list"])
def test_list_of_masks(images, tmp_path, root):
    """Names with blanks, the separator of the config, and paths as for training or beside it."""
    lines = "images/a.png;masks/a_mask.png\nimages/sub/图 b.png;masks/sub/图 b_mask.png\n"
    config = {"separator": ";", "dataset_root": str(tmp_path)}
    path = tmp_path / "lists/val.txt"
    if root != "dataset_root":
        config["dataset_root"] = "somewhere/else"
        path = tmp_path / "val.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(lines, encoding="utf-8")
    found = find_masks(str(path), images, config)
    assert found == {image: image.replace("images", "masks")[:-4] + "_mask.png" for image in images}


def test_images_and_masks_in_one_folder(tmp_path):
    for name in ("001.png", "001_mask.png"):
        Image.fromarray(square(0)).save(tmp_path / name)
    image = str(tmp_path / "001.png")
    assert find_masks(str(tmp_path), [image], {}) == {image: str(tmp_path / "001_mask.png")}


def test_some_masks_are_missing(images, tmp_path, capfd):
    (tmp_path / "masks/a_mask.png").unlink()
    found = find_masks(str(tmp_path / "masks"), images, {})
    assert list(found) == images[1:]
    assert f"--masks: no mask for 1 of 2 images, such as {images[0]}" in capfd.readouterr().out


def test_no_masks(images, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ConfigError, match=r"^--masks: expected masks of .*, found no mask for .*a\.png"
    ):
        find_masks(str(tmp_path / "empty"), images, {})
    with pytest.raises(
        ConfigError, match=r"^--masks: expected a folder or a list, found none at 'no'"
    ):
        find_masks("no", images, {})


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros([SIDE, SIDE, 3], "uint8"), "found a colour mask, expected one number for each"),
        (square(150)[:400], "found a mask of 480 x 400 pixels, expected 480 x 480"),
        (b"no image", "cannot read .*: cannot identify"),
    ],
)
def test_masks_that_do_not_fit(images, tmp_path, mask, message):
    path = tmp_path / "masks/a_mask.png"
    path.write_bytes(mask) if isinstance(mask, bytes) else Image.fromarray(mask).save(path)
    with pytest.raises(DataError, match=f"^--masks: .*{message}"):
        run(images[:1], tmp_path / "out", {images[0]: str(path)})


def test_masks_with_255_for_1(images, tmp_path, capfd):
    path = tmp_path / "masks/a_mask.png"
    Image.fromarray(square(150, 255)).save(path)
    run(images[:1], tmp_path / "out", {images[0]: str(path)})
    assert "--masks: found only 0 and 255 in all masks" in capfd.readouterr().out


def test_all_masks_are_read_before_the_first_prediction(images, tmp_path):
    masks = find_masks(str(tmp_path / "masks"), images, {})
    Image.fromarray(square(150)[:400]).save(masks[images[1]])
    with pytest.raises(DataError, match=r"图 b_mask\.png: found a mask of 480 x 400 pixels"):
        run(images, tmp_path / "out", masks)
    assert not (tmp_path / "out").exists()


def test_masks_with_values_that_no_prediction_has(images, tmp_path):
    path = tmp_path / "masks/a_mask.png"
    Image.fromarray(square(150, 7)).save(path)
    with pytest.raises(DataError, match=r"a_mask.png: found the values \[7\], expected .* 0 to 1,"):
        run(images[:1], tmp_path / "out", {images[0]: str(path)}, num_classes=2)
    run(images[:1], tmp_path / "out", {images[0]: str(path)}, num_classes=8)
    noise = np.arange(SIDE * SIDE, dtype="int32").reshape(SIDE, SIDE)
    Image.fromarray(noise).save(tmp_path / "masks/a_mask.tif")
    with pytest.raises(DataError, match=r"found the values \[256, 257, 258, "):
        run(images[:1], tmp_path / "out", {images[0]: str(tmp_path / "masks/a_mask.tif")})


def test_only_the_images_that_are_given_are_paired(images, tmp_path):
    """Not all files below the folder that they have in common."""
    (tmp_path / "other").mkdir()
    shutil.copy(images[0], tmp_path / "other/a.png")
    assert list(find_masks(str(tmp_path / "masks"), images, {})) == images


def test_a_mask_in_the_place_of_a_folder(images, tmp_path):
    with pytest.raises(ConfigError, match=r"found a picture: .*a_mask.png; give its folder"):
        find_masks(str(tmp_path / "masks/a_mask.png"), images, {})


@pytest.mark.parametrize("size", [(1, 1), (40, 1), (1, 40)])
def test_images_with_a_side_of_one_pixel(size, tmp_path):
    path = tmp_path / "thin.png"
    Image.fromarray(np.full([*size, 3], 200, "uint8")).save(path)
    run([str(path)], tmp_path / "out", {})
    found = np.asarray(Image.open(tmp_path / "out/pseudo_color_prediction/thin.png"))
    assert found.shape == size
    assert (found == 1).all()


def test_a_picture_that_cannot_be_written(images, tmp_path, monkeypatch):
    """OpenCV returns False and says nothing."""
    out = tmp_path / "out"

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(
            OutputError, match=r"^cannot write .*a\.png: No space left on device; free"
        ):
            run(images[:1], out, {})
    assert not list(out.rglob("*.*"))
    for ending in ("gif3", "nothing"):
        with pytest.raises(OutputError, match=f"cannot write x.{ending}: "):
            write_picture(f"x.{ending}", np.zeros([2, 2, 3], "uint8"))


def test_contours_of_each_class():
    """On the outermost pixels of regions and of holes; not for class 0 and ignored pixels."""
    mask = square(100)
    mask[150:250, 150:250] = 0
    mask[350:400, 20:100] = 255
    mask[350:400, 200:300] = 9
    image = np.full([SIDE, SIDE, 3], 100, "uint8")
    drawn = draw_contours(image, mask)
    assert classes_in(mask) == [1, 9]
    assert (image == 100).all()
    for place in ((200, 100), (200, 299), (200, 149), (100, 200)):
        assert drawn[place].tolist() == YELLOW
    assert (drawn[345:405, 10:110] == 100).all()
    # Class 9 has the colour of class 2, dotted: about half of its contour is black.
    top = drawn[350, 210:290]
    sky = (top == list(bytes.fromhex(class_color(2)[0][1:]))).all(axis=1)
    assert 0.3 < sky.mean() < 0.9
    assert (top[~sky] == 0).all()


def test_small_images_are_enlarged():
    image = np.arange(100 * 64 * 3, dtype="uint8").reshape(100, 64, 3)
    assert enlarged(image).shape == (400, 256, 3)
    assert (enlarged(image)[2::4, 3::4] == image).all()
    assert enlarged(np.zeros([SIDE, 10])).shape == (SIDE, 10)


#: Simulations of red-green blindness by Machado, Oliveira and Fernandes (2009), severity 1, for
#: linear RGB.
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]


def smallest_distance(colors, blindness) -> float:
    """The smallest distance of two colours in CIELAB, as a red-green blind person sees them."""
    codes = np.array([list(bytes.fromhex(color[1:])) for color in colors]) / 255
    linear = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(blindness).T, 0, 1)
    coded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(coded[None].astype("float32"), cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    return distances[~np.eye(len(lab), dtype=bool)].min()


@pytest.mark.parametrize("blindness", [PROTANOPIA, DEUTERANOPIA], ids=["protan", "deutan"])
def test_red_green_blind_people_can_tell_the_colours(blindness):
    """Matplotlib's usual colours, of which two look alike, show that this can fail."""
    assert smallest_distance(CLASS_COLORS, blindness) > 15
    assert smallest_distance(LINE_COLORS, blindness) > 15
    tab10 = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2"]
    assert smallest_distance(tab10, blindness) < 10
