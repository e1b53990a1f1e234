"""``autoloss init``: from folders of images and masks to lists, classes and a config."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.own_images import disc, photograph, save, write_folders
from support.processes import call

from paddleseg_autoloss.cli.main import main, parse_args

COLOURS = {0: (0, 0, 0), 1: (0, 128, 0), 2: (255, 0, 0)}


@pytest.fixture
def init(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder: exit status, output, errors."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*words) -> tuple[int, str, str]:
        status = main(["init", *map(str, words)])
        return status, *capsys.readouterr()

    return run


def made(init, *words) -> str:
    status, output, errors = init(*words)
    assert (status, errors) == (0, "")
    return output


def error(init, *words) -> str:
    status, output, errors = init(*words)
    assert (status, output) == (1, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not Path("my_data").exists()
    return errors.removeprefix("error: ")


def config(folder="my_data") -> dict:
    return yaml.safe_load(Path(folder, "config.yml").read_text(encoding="utf-8"))


def pairs(part: str, folder="my_data") -> list[tuple[Path, Path]]:
    """The files that a list names, by what the config says of it."""
    data = config(folder)["train_dataset"]
    lines = Path(folder, f"{part}.txt").read_text(encoding="utf-8").splitlines()
    split = [line.split(data["separator"]) for line in lines]
    assert all(len(fields) == 2 for fields in split)
    root = Path(data["dataset_root"])
    return [(root / image, root / mask) for image, mask in split]


def all_pairs() -> list[tuple[Path, Path]]:
    return [*pairs("train"), *pairs("val")]


def contents(*folders: Path) -> dict[Path, bytes]:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files}


def check(config_file="my_data/config.yml") -> str:
    """What ``autoloss check`` says of all files."""
    done = call("check", "--config", config_file)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_blanks_chinese_names_nested_folders_and_0_255_masks(init, tmp_path):
    images, masks = write_folders(tmp_path, count=10)
    before = contents(images, masks)
    output = made(init, images, masks)
    assert "10 images with masks: 8 to train on, 2 to validate on (seed 0)" in output
    assert contents(images, masks) == before
    assert config()["train_dataset"]["separator"] == "\t"
    for image, mask in all_pairs():
        number = int(image.stem.split()[1])
        assert image.is_file()
        np.testing.assert_array_equal(np.asarray(Image.open(mask)), disc(number))
    assert len(set(all_pairs())) == 10
    assert "train_dataset: 8 images and labels, no errors found" in check()


def test_table_of_pixel_shares(init, tmp_path):
    output = made(init, *write_folders(tmp_path))
    for part, column in (("train", 2), ("val", 3)):
        labels = [np.asarray(Image.open(mask)) for _, mask in pairs(part)]
        share = np.mean([label == 1 for label in labels])
        row = re.split(r"\s{2,}", re.search(r"^1 .*$", output, flags=re.MULTILINE)[0])
        assert row[:2] == ["1", "255"]
        assert row[column] == f"{share:.2%}"
        assert row[column + 2] == str(len(labels))


def test_split_is_seeded(init, tmp_path):
    folders = write_folders(tmp_path)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        made(init, *folders, "--save_dir", name, "--seed", seed, "--val", 0.25, "--test", 0.25)
    first, again, other = (Path(name, "val.txt").read_text() for name in "abc")
    assert first.replace("a/masks", "b/masks") == again
    assert first.replace("a/masks", "c/masks") != other
    sizes = [len(pairs(part, "a")) for part in ("train", "val", "test")]
    assert sizes == [4, 2, 2]
    assert len({pair for part in ("train", "val", "test") for pair in pairs(part, "a")}) == 8


@pytest.mark.parametrize("name", ["scan{0}_slice{1}.png", "patient {0}/{1}.png", "{0}_{1}.png"])
def test_images_that_belong_together_stay_in_one_list(init, tmp_path, name):
    images, masks = write_named(tmp_path, [name.format(n // 3, n % 3) for n in range(24)])
    output = made(init, images, masks, "--val", 0.25, "--test", 0.25)
    assert "Images whose names begin alike stay in one list, such as those of " in output
    series = {}
    for part in ("train", "val", "test"):
        names = [image.relative_to(images).as_posix() for image, _ in pairs(part)]
        series[part] = {re.search(r"\d", one)[0] for one in names}
        assert len(names) == 3 * len(series[part]) == (12 if part == "train" else 6)
    assert set.union(*series.values()) == set("01234567")


def write_named(root: Path, names: list[str]) -> tuple[Path, Path]:
    images, masks = root / "images", root / "masks"
    for number, name in enumerate(names):
        mask = disc(number)
        save(images / name, photograph(mask, number))
        save(masks / name, mask * np.uint8(255))
    return images, masks


def test_a_small_test_list_takes_a_whole_group(init, tmp_path):
    folders = write_named(tmp_path, [f"{n // 5}_{n % 5}.png" for n in range(40)])
    output = made(init, *folders, "--val", 0.25, "--test", 0.025)
    assert "stay in one list" in output
    assert "in several lists" not in output
    assert len(pairs("test")) == 5


def test_groups_that_no_list_can_take_are_named(init, tmp_path):
    folders = write_named(tmp_path, [f"film{n // 10}_{n % 10}.png" for n in range(30)])
    output = made(init, *folders)
    assert "stay in one list" not in output
    assert "Images of film0 are in several lists" in output


@pytest.mark.parametrize("count", [4, 5, 6, 9])
@pytest.mark.parametrize("shares", [("0.01", "0.01"), ("0.9", "0.05"), ("0.45", "0.45")])
def test_no_list_is_empty_and_two_images_are_trained_on(init, tmp_path, count, shares):
    val, test = shares
    made(init, *write_folders(tmp_path, count=count), "--val", val, "--test", test)
    assert len(pairs("train")) >= 2
    assert len(pairs("val")) >= 1
    assert len(pairs("test")) >= 1


def test_masks_that_hold_classes_are_used_as_they_are(init, tmp_path):
    images, masks = write_folders(tmp_path, foreground=1)
    output = made(init, images, masks)
    assert "used as they are" in output
    assert not Path("my_data/masks").exists()
    assert all(masks in mask.parents for _, mask in all_pairs())


@pytest.mark.parametrize(
    ("values", "expected", "num_classes"),
    [
        ([0, 127, 254], [0, 1, 2], 3),
        ([0, 255, 0], [0, 1, 0], 2),
        ([0, 2, 255], [0, 2, 255], 3),
        ([1, 2, 3], [0, 1, 2], 3),
        ([0, 128, 255], [0, 1, 2], 3),
    ],
)
def test_values_and_the_classes_that_they_become(init, tmp_path, values, expected, num_classes):
    for number in range(4):
        mask = disc(number)
        mask[:4] = 2
        save(tmp_path / f"images/{number}.png", photograph(mask, number))
        save(tmp_path / f"masks/{number}.png", np.array(values, "uint8")[mask])
    made(init, tmp_path / "images", tmp_path / "masks")
    assert config()["model"]["num_classes"] == num_classes
    for image, path in all_pairs():
        mask = disc(int(image.stem))
        mask[:4] = 2
        found = np.asarray(Image.open(path))
        np.testing.assert_array_equal(found, np.array(expected)[mask])


def write_coloured(root: Path, colours, ending: str = ".png") -> None:
    for number in range(4):
        mask = disc(number)
        mask[:4] = 2
        save(root / f"images/{number}.png", photograph(mask, number))
        palette = np.array([colours[one] for one in range(3)], "uint8")
        save(root / f"masks/{number}{ending}", palette[mask])


def test_colours_in_ascending_order(init, tmp_path):
    write_coloured(tmp_path, COLOURS)
    output = made(init, tmp_path / "images", tmp_path / "masks")
    assert re.search(r"^1 +0,128,0 ", output, flags=re.MULTILINE)
    for image, path in all_pairs():
        mask = disc(int(image.stem))
        mask[:4] = 2
        np.testing.assert_array_equal(np.asarray(Image.open(path)), mask)


def test_palette_sets_the_order_and_names_a_class_that_does_not_occur(init, tmp_path):
    write_coloured(tmp_path, COLOURS)
    palette = ["--palette", "255,0,0", "9,9,9", "0,0,0", "0,128,0"]
    output = made(init, tmp_path / "images", tmp_path / "masks", *palette)
    assert "warning: no mask has class 1, but the network predicts 4 classes\n" in output
    image, path = pairs("train")[0]
    mask = disc(int(image.stem))
    mask[:4] = 2
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.array([2, 3, 0])[mask])


def test_jpeg_masks_need_a_palette_and_take_the_nearest_entry(init, tmp_path):
    write_coloured(tmp_path, COLOURS, ".jpg")
    folders = [tmp_path / "images", tmp_path / "masks"]
    message = error(init, *folders)
    assert "JPEG" in message
    assert "--palette 0,0,0 255,0,0" in message
    made(init, *folders, "--palette", "0,0,0", "0,128,0", "255,0,0")
    image, path = pairs("train")[0]
    mask = disc(int(image.stem))
    mask[:4] = 2
    assert (np.asarray(Image.open(path)) == mask).mean() > 0.97


@pytest.mark.parametrize("level", [1, 255])
def test_jpeg_masks_of_two_values_need_a_palette_too(init, tmp_path, level):
    images, masks = write_folders(tmp_path, foreground=level)
    for path in masks.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    assert ".jpg is JPEG, which changes the values" in error(init, images, masks)
    made(init, images, masks, "--palette", 0, level)
    assert config()["model"]["num_classes"] == 2


@pytest.mark.parametrize(
    ("values", "num_classes", "ignored", "are_numbers"),
    [
        ([*range(36), 255], 36, True, True),
        ([v for v in range(36) if v != 10], 36, False, True),
        ([*range(64), 255], 64, True, True),
        ([0, 20, 40, 60], 4, False, False),
        ([*range(0, 63, 2)], 32, False, False),
    ],
)
def test_many_numbers_of_classes(init, tmp_path, values, num_classes, ignored, are_numbers):
    mask = np.resize(np.array(values, "uint8"), (48, 64))
    for number in range(4):
        save(tmp_path / f"images/{number}.png", photograph(disc(number), number))
        save(tmp_path / f"masks/{number}.png", mask)
    output = made(init, tmp_path / "images", tmp_path / "masks")
    assert config()["model"]["num_classes"] == num_classes
    assert ("ignored" in output) == ignored
    assert ("used as they are" in output) == are_numbers


def test_classes_that_no_mask_has(init, tmp_path):
    output = made(init, *write_folders(tmp_path, foreground=7))
    assert (
        "warning: no mask has classes 1, 2, 3, 4, 5, 6, but the network predicts 8 classes; for 2 "
        "classes give --palette 0 7"
    ) in output
    assert "another --seed" not in output


@pytest.mark.parametrize(("red", "shown"), [(0, "0"), (255, "255,0,0")])
def test_masks_that_differ_in_the_alpha_channel_only(init, tmp_path, red, shown):
    for number in range(4):
        save(tmp_path / f"images/{number}.png", photograph(disc(number), number))
        alpha = disc(number)[..., None] * np.uint8(255)
        colour = np.zeros([*alpha.shape[:2], 3], "uint8") + np.array([red, 0, 0], "uint8")
        save(tmp_path / f"masks/{number}.png", np.concatenate([colour, alpha], axis=2))
    message = error(init, tmp_path / "images", tmp_path / "masks")
    assert f"found only {shown} in all masks, whose alpha channel does not count" in message


def test_one_jpeg_among_the_masks_leaves_ignored_pixels_of_the_others(init, tmp_path):
    mask = np.resize(np.array([0, 1, 255], "uint8"), (48, 64))
    for number in range(4):
        save(tmp_path / f"images/{number}.png", photograph(disc(number), number))
        save(tmp_path / f"masks/{number}.png", mask)
    save(tmp_path / "masks/0.jpg", disc(0))
    (tmp_path / "masks/0.png").unlink()
    output = made(init, tmp_path / "images", tmp_path / "masks", "--palette", 0, 1)
    assert "ignored" in output
    for image, path in all_pairs():
        if image.stem != "0":
            np.testing.assert_array_equal(np.asarray(Image.open(path)), mask)


def test_palette_masks_whose_numbers_have_several_colours_go_by_colour(init, tmp_path):
    """Programs that save few colours number them in the order in which they find them."""
    for number in range(4):
        mask = disc(number)
        save(tmp_path / f"images/{number}.png", photograph(mask, number))
        flipped = number % 2
        picture = Image.fromarray(1 - mask if flipped else mask, "P")
        black, red = [0, 0, 0], [255, 0, 0]
        picture.putpalette(red + black if flipped else black + red)
        (tmp_path / "masks").mkdir(exist_ok=True)
        picture.save(tmp_path / f"masks/{number}.png")
    made(init, tmp_path / "images", tmp_path / "masks")
    for image, path in all_pairs():
        np.testing.assert_array_equal(np.asarray(Image.open(path)), disc(int(image.stem)))


@pytest.mark.parametrize("kind", ["bool", "uint16", "rgb", "rgba", "palette"])
def test_every_form_of_the_same_mask(init, tmp_path, kind):
    for number in range(4):
        mask = disc(number)
        save(tmp_path / f"images/{number}.bmp", photograph(mask, number))
        grey = np.repeat(mask[..., None] * np.uint8(255), 3, axis=-1)
        alpha = np.full((*mask.shape, 1), 200, "uint8")
        form = {
            "bool": mask.astype(bool),
            "uint16": mask.astype("uint16"),
            "rgb": grey,
            "rgba": np.concatenate([grey, alpha], axis=-1),
            "palette": mask,
        }[kind]
        save(tmp_path / f"masks/{number}.tif", form, "P" if kind == "palette" else None)
    made(init, tmp_path / "images", tmp_path / "masks")
    assert config()["model"]["num_classes"] == 2
    for image, path in all_pairs():
        label = np.asarray(Image.open(path))
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, disc(int(image.stem)))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a b.jpg", "a b.png"),
        ("a.tif", "a_mask.bmp"),
        ("A.JPG", "a-label.PNG"),
        ("a.webp", "gt_a.gif"),
        ("图1_原图.jpg", "图1_标注.png"),
        ("x/a.jpg", "y/z/a.png"),
        ("case/image.png", "case/mask.png"),
        ("city_leftImg8bit.png", "city_gtFine_labelIds.png"),
        ("Cafe\u0301.png", "Caf\u00e9.png"),
    ],
)
def test_names_of_a_pair(init, tmp_path, image, mask):
    for number in range(3):
        save(tmp_path / f"images/{number}.png", photograph(disc(number)))
        save(tmp_path / f"masks/{number}.png", disc(number))
    save(tmp_path / "images" / image, photograph(disc(3)))
    save(tmp_path / "masks" / mask, disc(3))
    made(init, tmp_path / "images", tmp_path / "masks")
    assert tmp_path / "images" / image in dict(all_pairs())
    assert not Path("my_data/left_out.txt").exists()


def test_images_and_masks_in_one_folder(init, tmp_path):
    for number in range(4):
        save(tmp_path / f"all/{number}.png", photograph(disc(number)))
        save(tmp_path / f"all/{number}_mask.png", disc(number))
    made(init, tmp_path / "all", tmp_path / "all")
    assert len(all_pairs()) == 4
    assert all(mask.stem == f"{image.stem}_mask" for image, mask in all_pairs())


def test_one_folder_without_names_of_masks(init, tmp_path):
    for number in range(4):
        save(tmp_path / f"all/{number}.jpg", photograph(disc(number)))
        save(tmp_path / f"all/{number}.png", disc(number))
    message = error(init, tmp_path / "all", tmp_path / "all")
    assert "expected names with a word such as _mask for the masks in one folder" in message


def test_names_that_differ_in_capital_letters_only(init, tmp_path):
    names = ["P1_0P.png", "p1_0p.png", "P1_1P.png", "p1_1p.png"]
    images, masks = write_named(tmp_path, names)
    made(init, images, masks)
    assert sorted(image.name for image, _ in all_pairs()) == sorted(names)
    for image, mask in all_pairs():
        number = names.index(image.name)
        np.testing.assert_array_equal(np.asarray(Image.open(mask)), disc(number))


def test_a_file_in_the_place_of_a_folder(init, tmp_path):
    _, masks = write_folders(tmp_path)
    file = save(tmp_path / "a.png", disc(0))
    assert f"IMAGES: expected a folder, found a file at {file}" in error(init, file, masks)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("/proc/foo", "--save_dir: no folder can be made at /proc/foo"),
        ("x" * 300, "--save_dir: expected names of at most 255 bytes, found 'xxx"),
        ("图" * 100, "--save_dir: expected names of at most 255 bytes, found '图图图"),
        ("/".join(["x" * 200] * 25), "--save_dir: expected a path of at most 3800 bytes, found "),
    ],
    ids=["proc", "long", "long in bytes", "long path"],
)
def test_folders_that_cannot_be_made(init, tmp_path, folder, message):
    assert message in error(init, *write_folders(tmp_path), "--save_dir", folder)


def test_all_that_is_left_out_is_listed(init, tmp_path):
    images, masks = write_folders(tmp_path, count=6)
    save(images / "alone.jpg", photograph(disc(0)))
    save(masks / "lonely.png", disc(0))
    save(images / "small.png", photograph(disc(0)))
    save(masks / "small.png", disc(0, 40, 40))
    save(images / "broken.png", photograph(disc(0)))
    save(masks / "broken.png", disc(0)).write_bytes(b"no image")
    for name in ("x/twice.png", "y/twice.png"):
        save(images / name, photograph(disc(0)))
        save(masks / f"z/{name}", disc(0))
    (images / "notes.txt").write_text("a")
    (images / ".hidden").write_text("a")
    output = made(init, images, masks)
    assert "6 images with masks" in output
    reasons = dict(
        line.split(": ", 1) for line in Path("my_data/left_out.txt").read_text().splitlines()
    )
    assert reasons[f"{images}/alone.jpg"] == "no mask of this name"
    assert reasons[f"{masks}/lonely.png"] == "no image of this name"
    assert reasons[f"{masks}/small.png"] == (
        f"40 x 40 pixels, but its image {images}/small.png has 64 x 48"
    )
    assert reasons[f"{masks}/broken.png"].startswith("cannot be read: ")
    assert reasons[f"{images}/notes.txt"] == "no image, by its ending '.txt'"
    assert reasons[f"{images}/x/twice.png"].startswith("several files of this name")
    assert len(reasons) == 9
    assert "9 files are left out; my_data/left_out.txt has the list:" in output
    assert f"  {images}/alone.jpg: no mask of this name" in output


@pytest.mark.parametrize(
    ("separator", "stem"), [(" ", "a"), ("\t", "a b"), (",", "a b\tc"), (";", "a b\tc,d")]
)
def test_separator_fits_the_names(init, tmp_path, separator, stem):
    for number in range(3):
        save(tmp_path / f"images/{stem}{number}.png", photograph(disc(number)))
        save(tmp_path / f"masks/{stem}{number}.png", disc(number))
    made(init, tmp_path / "images", tmp_path / "masks")
    assert config()["train_dataset"]["separator"] == separator
    assert len(all_pairs()) == 3


def test_files_that_links_lead_to(init, tmp_path):
    """A data set may be a folder of links to files on another disk."""
    images, masks = write_folders(tmp_path / "disk")
    for folder, name in ((images, "images"), (masks, "masks")):
        (tmp_path / "links" / name).mkdir(parents=True)
        for path in folder.rglob("*.*"):
            (tmp_path / "links" / name / path.name).symlink_to(path)
    made(init, tmp_path / "links/images", tmp_path / "links/masks")
    assert "train_dataset: 6 images and labels, no errors found" in check()


class TestErrors:
    """One line each, and no folder is left behind."""

    def test_folder_is_missing(self, init, tmp_path):
        images, masks = write_folders(tmp_path)
        missing = tmp_path / "no"
        assert (
            error(init, missing, masks) == f"IMAGES: expected a folder, found none at {missing}\n"
        )
        assert (
            error(init, images, missing) == f"MASKS: expected a folder, found none at {missing}\n"
        )

    def test_nothing_is_overwritten(self, init, tmp_path):
        folders = write_folders(tmp_path)
        made(init, *folders)
        before = contents(Path("my_data"))
        status, _, errors = init(*folders)
        assert status == 1
        assert errors == (
            "error: --save_dir: there is something at my_data, which is not overwritten; give "
            "another folder\n"
        )
        assert contents(Path("my_data")) == before

    def test_a_save_dir_below_a_file(self, init, tmp_path):
        Path("notes").write_text("a")
        message = error(init, *write_folders(tmp_path), "--save_dir", "notes/new")
        assert message.startswith("--save_dir: expected a folder, found the file ")

    def test_folder_within_the_images(self, init, tmp_path):
        images, masks = write_folders(tmp_path)
        message = error(init, images, masks, "--save_dir", images / "new")
        assert message.startswith("--save_dir: expected a folder outside of IMAGES")
        assert not (images / "new").exists()

    @pytest.mark.parametrize("shares", [["--val", 0], ["--val", 0.5, "--test", 0.5]])
    def test_shares(self, init, tmp_path, shares):
        assert error(init, *write_folders(tmp_path), *shares).startswith("--val, --test: expected")

    @pytest.mark.parametrize(
        ("words", "found"),
        [
            (["0", "x"], "found 'x'"),
            (["0", "256"], "found '256'"),
            (["0,0", "1,1"], "found '0,0'"),
            (["0"], "two classes or more"),
            (["0", "1,2,3"], "all grey or all coloured"),
            (["7", "7"], "each grey level or colour once"),
        ],
    )
    def test_palette_cannot_be_read(self, init, tmp_path, words, found):
        assert found in error(init, *write_folders(tmp_path), "--palette", *words)

    def test_palette_lacks_a_value(self, init, tmp_path):
        message = error(init, *write_folders(tmp_path, foreground=7), "--palette", "0", "8")
        assert "found the value 7, which --palette does not name" in message

    def test_masks_of_one_value(self, init, tmp_path):
        message = error(init, *write_folders(tmp_path, foreground=0))
        assert message.startswith("MASKS: expected two values or more, found only 0 in all masks")

    def test_photographs_as_masks(self, init, tmp_path):
        images, _ = write_folders(tmp_path)
        shutil.copytree(images, tmp_path / "masks")
        assert "are these photographs" in error(init, images, tmp_path / "masks")

    def test_too_few(self, init, tmp_path):
        images, masks = write_folders(tmp_path, count=2)
        save(images / "alone.jpg", photograph(disc(0)))
        message = error(init, images, masks)
        assert message.startswith("IMAGES, MASKS: expected at least 3 images with masks that fit, ")
        assert message.endswith(f"{images}/alone.jpg: no mask of this name\n")

    def test_too_few_that_all_fit(self, init, tmp_path):
        message = error(init, *write_folders(tmp_path, count=2))
        assert message.endswith("expected at least 3 images with masks that fit, found 2\n")

    def test_names_with_every_separator(self, init, tmp_path):
        for number in range(3):
            save(tmp_path / f"images/a b\tc,d;e|{number}.png", photograph(disc(number)))
            save(tmp_path / f"masks/a b\tc,d;e|{number}.png", disc(number))
        assert "rename some" in error(init, tmp_path / "images", tmp_path / "masks")


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (3, (48, 64), {"batch_size": 2, "iters": 300, "target_size": [64, 64]}),
        (10, (300, 600), {"batch_size": 4, "iters": 300, "target_size": [256, 128]}),
        (60, (64, 64), {"batch_size": 4, "iters": 500, "target_size": [64, 64]}),
    ],
)
def test_sizes_in_the_config(init, tmp_path, count, size, expected):
    for number in range(count):
        mask = disc(number, *size)
        save(tmp_path / f"images/{number}.png", photograph(mask))
        save(tmp_path / f"masks/{number}.png", mask)
    made(init, tmp_path / "images", tmp_path / "masks")
    found = config()
    assert found["batch_size"] == expected["batch_size"]
    assert found["iters"] == expected["iters"]
    for part in ("train_dataset", "val_dataset"):
        assert found[part]["transforms"][0]["target_size"] == expected["target_size"]


def test_images_of_16_bits_are_named(init, tmp_path):
    images, masks = write_folders(tmp_path)
    first = sorted(path for path in images.rglob("*") if path.is_file())[0]
    height, width = np.asarray(Image.open(first)).shape[:2]
    deep = first.with_suffix(".png")
    first.unlink()
    Image.fromarray(np.full((height, width), 4095, "uint16")).save(deep)
    output = made(init, images, masks)
    assert f"warning: 1 images have 16 bits, such as {deep}, of which OpenCV reads" in output


def test_printed_commands_suit_a_folder_whose_name_needs_quotes(init, tmp_path):
    """The tests of README run them."""
    folder = "my data's"
    images, masks = write_folders(tmp_path)
    output = made(init, images, masks, "--save_dir", folder)
    printed = [shlex.split(line) for line in output.splitlines() if line.startswith("  autoloss")]
    assert [words[1] for words in printed] == ["diagnose", "train", "val", "predict"]
    flags = [vars(parse_args(words[1:])) for words in printed]
    assert {one["config"] for one in flags} == {f"{folder}/config.yml"}
    assert flags[1]["save_dir"] == f"{folder}/run"
    assert flags[3]["model_path"] == f"{folder}/run/best_model/model.pdparams"
    assert flags[3]["image_path"] == flags[3]["masks"] == f"{folder}/val.txt"
