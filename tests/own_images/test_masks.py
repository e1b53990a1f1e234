"""Masks of every form are read as they are, or refused: never as other classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.own_images import save

from paddleseg_autoloss.errors import DataError
from paddleseg_autoloss.own_images.mask_files import look_at
from paddleseg_autoloss.own_images.masks import Classes, classes_of, convert, parse_palette

RED, WHITE = (255, 0, 0), (255, 255, 255)


def halves(first, second, dtype="uint8") -> np.ndarray:
    """A mask of 32 x 32 whose left half differs from its right half; numbers, or colours."""
    return np.array([[first] * 16 + [second] * 16] * 32, dtype)


def classes(*paths: Path, palette: str = "") -> Classes:
    entries = parse_palette(palette.split()) if palette else None
    return classes_of([look_at(path) for path in paths], list(paths), entries)


def converted(path: Path, palette: str) -> list[int]:
    """The classes of both halves, away from their border."""
    label = convert(path, classes(path, palette=palette))
    assert label.dtype == np.uint8
    found = [np.unique(label[:, :8]), np.unique(label[:, 24:])]
    assert [part.size for part in found] == [1, 1]
    return [int(part[0]) for part in found]


LOSSY = {
    "a.jpg": {"quality": 30},
    "a.jpeg": {"quality": 95},
    "a.webp": {"quality": 50},
    "a.tif": {"compression": "jpeg"},
    "JPEG named.png": {"format": "JPEG"},
}


def save_lossy(folder: Path, name: str, mask: np.ndarray) -> Path:
    image = Image.fromarray(mask)
    image = image.convert("RGB") if name.endswith(".tif") else image
    image.save(folder / name, **LOSSY[name])
    return folder / name


@pytest.mark.parametrize("name", LOSSY)
class TestLossyFormats:
    @pytest.mark.parametrize(
        ("level", "palette", "expected"),
        [
            (255, "0 127", 255),
            (255, "0 90", 255),
            (255, "0 60 120 180", 255),
            (127, "0 127", 1),
            (255, "0 255", 1),
            # The two levels cannot be told apart.
            (254, "0 254", 1),
        ],
    )
    def test_255_is_ignored_as_in_png(self, tmp_path, name, level, palette, expected):
        mask = halves(0, level)
        assert converted(save_lossy(tmp_path, name, mask), palette) == [0, expected]
        png = save(tmp_path / "b.png", mask)
        assert converted(png, palette) == [0, expected]

    @pytest.mark.parametrize(
        ("entry", "palette", "found"),
        [
            (RED, "0 76", "colour 25"),
            (WHITE, "0,0,0 255,0,0", "colour 255,255,255"),
            ((200, 200, 200), "0 127", "colour "),
            ((0, 0, 255), "0,0,0 255,0,0", "colour "),
        ],
    )
    def test_what_the_palette_does_not_name_is_refused(self, tmp_path, name, entry, palette, found):
        path = save_lossy(tmp_path, name, halves((0, 0, 0), entry))
        with pytest.raises(DataError, match=rf"^{path}: found the {found}.* does not name; a cla"):
            converted(path, palette)

    def test_they_need_a_palette(self, tmp_path, name):
        path = save_lossy(tmp_path, name, halves(0, 255))
        kind = "WebP" if name.endswith("webp") else "JPEG"
        with pytest.raises(DataError, match=rf"^MASKS: {path} is {kind}, which changes the valu"):
            classes(path)


@pytest.mark.parametrize("alpha", [(), (255,)], ids=["RGB", "RGBA"])
@pytest.mark.parametrize(
    ("colour", "palette"), [(RED, "0 76"), ((0, 255, 0), "0 150"), ((0, 0, 255), "0 29")]
)
def test_colours_are_no_grey_levels(tmp_path, colour, palette, alpha):
    """PIL makes red the grey level 76."""
    path = save(tmp_path / "a.png", halves((0, 0, 0, *alpha), (*colour, *alpha)))
    shown = ",".join(map(str, colour))
    with pytest.raises(DataError, match=rf"found the colour {shown}, which --palette does not nam"):
        converted(path, palette)


def test_a_lossless_file_may_have_any_ending(tmp_path):
    picture = Image.fromarray(halves(0, 1), "P")
    picture.putpalette([0, 0, 0, *RED])
    picture.save(tmp_path / "a.jpg", format="PNG")
    assert converted(tmp_path / "a.jpg", "1 0") == [1, 0]
    Image.fromarray(halves(0, 255)).save(tmp_path / "a.webp", lossless=True)
    assert converted(tmp_path / "a.webp", "0 255") == [0, 1]
    assert classes(tmp_path / "a.webp").entries == ((0,), (255,))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.ppm"])
def test_colours_of_16_bits_are_refused(tmp_path, name):
    """Pillow drops the lower 8 bits, and classes from 0 to 255 have only those."""
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / name), halves((0, 0, 0), (1, 1, 1), "uint16"))
    with pytest.raises(OSError, match="expected 8 bits for each channel, found 16"):
        look_at(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_numbers_of_16_bits_are_read(tmp_path, name):
    path = save(tmp_path / name, halves(0, 1000, "uint16"))
    assert set(look_at(path).values) == {0, 1000}
    assert np.unique(convert(path, classes(path))).tolist() == [0, 1]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 0.5, 1e30])
def test_numbers_that_are_no_integers_are_refused(tmp_path, value):
    path = save(tmp_path / "a.tif", halves(0, value, "float32"))
    with pytest.raises(OSError, match="expected whole numbers, found "):
        look_at(path)


def test_palettes_with_alpha_count_by_their_numbers(tmp_path):
    """As palettes without do."""
    plain = Image.fromarray(halves(1, 0), "P")
    plain.putpalette([0, 0, 0, *RED])
    for mode in ("P", "PA"):
        plain.convert(mode).save(tmp_path / f"{mode}.tif")
        assert look_at(tmp_path / f"{mode}.tif").values == {0: 512, 1: 512}
        assert converted(tmp_path / f"{mode}.tif", "0 1") == [1, 0]


class TestWhiteOfSeveralNumbers:
    """White of a mask with 1 bit is 1, so 255 of the others would have been ignored."""

    def one_bit(self, folder):
        return save(folder / "bit.png", halves(False, True, "bool"))

    def with_palette(self, folder):
        picture = Image.fromarray(halves(0, 1), "P")
        picture.putpalette([0, 0, 0, *WHITE])
        picture.save(folder / "palette.png")
        return folder / "palette.png"

    def reversed_palette(self, folder):
        picture = Image.fromarray(halves(0, 1), "P")
        picture.putpalette([*WHITE, 0, 0, 0])
        picture.save(folder / "reversed.png")
        return folder / "reversed.png"

    @pytest.mark.parametrize("kind", ["one_bit", "with_palette", "reversed_palette"])
    @pytest.mark.parametrize("colour", [255, WHITE, (*WHITE, 9)], ids=["L", "RGB", "RGBA"])
    def test_it_is_refused(self, tmp_path, kind, colour):
        other = getattr(self, kind)(tmp_path)
        black = 0 if colour == 255 else (0,) * len(colour)
        grey = save(tmp_path / "grey.png", halves(black, colour))
        message = rf"^MASKS: white is 255 in {grey}, but another number in {other}, which has 1 bi"
        with pytest.raises(DataError, match=message):
            classes(grey, other)

    @pytest.mark.parametrize("kind", ["one_bit", "with_palette", "reversed_palette"])
    def test_masks_of_one_form_and_ignored_pixels_are_fine(self, tmp_path, kind):
        other = getattr(self, kind)(tmp_path)
        assert len(classes(other, other)) == 2
        ignored = save(tmp_path / "ignored.png", halves(1, 255))
        assert classes(other, ignored).has_ignored
