"""Tests of what is said about labels before training."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from unittest import mock

import cv2
import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import manager
from paddleseg.datasets import ADE20K, Dataset, PSSLDataset
from paddleseg.transforms import (
    Normalize,
    Padding,
    RandomHorizontalFlip,
    RandomRotation,
    Resize,
)
from PIL import Image
from support.data import SIZE, build, dataset_config, square, write_config, write_data
from support.processes import call

from paddleseg_autoloss.data_checks import build_dataset, check_data
from paddleseg_autoloss.data_checks.image_limit import describe, set_image_limit
from paddleseg_autoloss.data_checks.labels import LabelReader
from paddleseg_autoloss.data_checks.survey import Sample, chosen_samples
from paddleseg_autoloss.datasets import SyntheticFundus
from paddleseg_autoloss.errors import ConfigError, DataError

EXAMINATION = "paddleseg_autoloss.data_checks.examination"


def said(capsys) -> list[str]:
    """The warnings and notes that were logged."""
    lines = capsys.readouterr().out.splitlines()
    return [line.split("\t", 1)[1] for line in lines if "\t" in line]


def error_of(root, **options) -> str:
    with pytest.raises(DataError) as caught:
        build(root, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def transformed(*transforms):
    """PaddleSeg's data set with transforms, in the place of those of its config."""
    return lambda **options: Dataset(**{**options, "transforms": list(transforms)})


class TestValues:
    @pytest.mark.parametrize("mode", ["train", "val"])
    def test_0_and_255(self, tmp_path, mode):
        write_data(tmp_path, [square(0), square(255), square(255)])
        assert error_of(tmp_path, mode=mode) == (
            f"{mode}_dataset: {tmp_path}/train.txt, line 2: {tmp_path}/1_label.png: found only the "
            "values 0, 255 in all 3 labels, expected class 1 too; 255 is ignore_index; are these "
            "0/255 masks? Save 255 as 1"
        )

    def test_0_and_255_with_another_ignore_index(self, tmp_path):
        write_data(tmp_path, [square(255)])
        text = error_of(tmp_path, ignore_index=254)
        assert "found the values 0, 255, expected the classes 0 to 1 or ignore_index 254" in text
        assert text.endswith("are these 0/255 masks? Save 255 as 1")

    @pytest.mark.parametrize(
        ("ignored", "count", "advised"), [(0, 2, 255), (2, 3, 255), (7, 300, 300)]
    )
    def test_an_ignored_class(self, tmp_path, capsys, ignored, count, advised):
        write_data(tmp_path, [square(value) for value in range(1, min(count, 4))])
        build(tmp_path, "val", num_classes=count, ignore_index=ignored)
        assert [text for text in said(capsys) if "ignore_index" in text] == [
            f"val_dataset.ignore_index: {ignored} is a class of num_classes {count} too, so its "
            "pixels do not count and its IoU is 0 or undefined; unless that is meant, choose "
            f"another value, such as {advised}"
        ]

    def test_some_labels_of_0_and_255(self, tmp_path, capsys):
        write_data(tmp_path, [square(1), square(255), square(255)])
        build(tmp_path)
        (warning,) = said(capsys)
        assert f"line 2: {tmp_path}/1_label.png: 2 labels contain 255" in warning
        assert warning.endswith("are some of these 0/255 masks?")

    def test_borders_that_are_ignored_are_nothing_to_talk_about(self, tmp_path, capsys):
        label = square(1)
        label[0] = 255
        only_ignored = square(255)
        write_data(tmp_path, [label, only_ignored])
        build(tmp_path)
        assert said(capsys) == []

    @pytest.mark.parametrize(
        ("labels", "num_classes", "found", "remedy"),
        [
            ([square(7)], 2, "0, 7", "is num_classes right, or are these grey levels"),
            ([square(2)], 2, "0, 2", "classes count from 0; is num_classes or ignore_index right?"),
            (
                [np.arange(SIZE * SIZE, dtype="uint8").reshape(SIZE, SIZE)],
                2,
                "0, 1, 2, 3, 4, 5, 6, 7, ... (256 values)",
                "or are these grey levels of a picture?",
            ),
            ([square(-1, 0, dtype="int32")], 2, "-1, 0", "is num_classes right"),
        ],
    )
    def test_values_that_are_no_class(self, tmp_path, labels, num_classes, found, remedy):
        path = write_data(tmp_path, [square()] * 2)
        Image.fromarray(labels[0]).save(tmp_path / "1_label.tiff")
        if labels[0].dtype == np.uint8:
            Image.fromarray(labels[0]).save(tmp_path / "1_label.png")
        else:
            path.write_text(path.read_text().replace("1_label.png", "1_label.tiff"))
        text = error_of(tmp_path, num_classes=num_classes)
        assert "train.txt, line 2: " in text
        assert f"found the values {found}, expected the classes 0 to 1 or ignore_index 255" in text
        assert remedy in text

    def test_jpeg(self, tmp_path):
        path = write_data(tmp_path, [square()])
        Image.fromarray(square(200)).save(tmp_path / "0_label.jpg", quality=30)
        path.write_text("0.png 0_label.jpg\n")
        assert error_of(tmp_path).endswith("JPEG changes the values; save labels as PNG")

    def test_all_errors_are_counted(self, tmp_path):
        write_data(tmp_path, [square(7), square(), square(9), square(8)])
        assert error_of(tmp_path).endswith("(2 more in what autoloss check shows)")

    def test_no_foreground(self, tmp_path, capsys):
        write_data(tmp_path, [square(0), square(0)])
        assert "found only class 0 in all 2 labels, expected class 1 too" in error_of(tmp_path)
        text = error_of(tmp_path, num_classes=4)
        assert "expected classes from 1 to 3 too" in text
        build(tmp_path, "val")
        (warning,) = said(capsys)
        assert warning.startswith(f"val_dataset: {tmp_path}/train.txt, line 1: {tmp_path}/")
        assert "0_label.png: found only class 0 in all 2 labels" in warning

    def test_classes_that_never_occur(self, tmp_path, capsys):
        write_data(tmp_path, [square(2), square(2)])
        build(tmp_path, num_classes=4)
        end = "of the 2 labels; is num_classes right?"
        assert said(capsys) == [f"train_dataset: the classes 1, 3 occur in none {end}"]
        write_data(tmp_path, [square(1, background=2)])
        build(tmp_path, num_classes=3)
        end = "of the 1 labels; is num_classes right?"
        assert said(capsys) == [f"train_dataset: class 0 occurs in none {end}"]

    def test_a_network_with_one_output(self, tmp_path, capsys):
        write_data(tmp_path, [square(1)])
        build(tmp_path, num_classes=1)
        assert said(capsys) == []


class TestForms:
    """One number for each pixel, as many pixels as the image has."""

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
    @pytest.mark.parametrize("dataset_mode", ["train", "val"])
    def test_colour_masks(self, tmp_path, mode, dataset_mode):
        write_data(tmp_path, [square(), square()])
        Image.fromarray(square(1)).convert(mode).save(tmp_path / "1_label.png")
        text = error_of(tmp_path, mode=dataset_mode)
        name = {"LA": "grey with transparency"}.get(mode, mode)
        assert f"line 2: {tmp_path}/1_label.png: found a colour mask ({name}), expected" in text

    def test_a_palette_is_no_colour(self, tmp_path, capsys):
        write_data(tmp_path, [square()])
        image = Image.fromarray(square(1)).convert("P")
        image.putdata(square(1).reshape(-1).tolist())
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(tmp_path / "0_label.png")
        assert Image.open(tmp_path / "0_label.png").mode == "P"
        build(tmp_path)
        assert said(capsys) == []

    def test_one_bit(self, tmp_path):
        write_data(tmp_path, [square()])
        Image.fromarray(square(255)).convert("1").save(tmp_path / "0_label.png")
        build(tmp_path)
        build(tmp_path, kind=transformed(Normalize(), RandomHorizontalFlip()))
        build(tmp_path, "val", kind=transformed(Resize([64, 64])))

    @pytest.mark.parametrize("transform", [Resize([64, 64]), RandomRotation(), Padding([64, 64])])
    def test_one_bit_for_opencv(self, tmp_path, transform):
        kind = transformed(transform)
        write_data(tmp_path, [square()])
        assert build(tmp_path, kind=kind)[0]["label"].any()
        Image.fromarray(square(255)).convert("1").save(tmp_path / "0_label.png")
        text = error_of(tmp_path, kind=kind)
        assert f"found a mask of 1 bit, with which {type(transform).__name__} fails; exp" in text

    def test_16_bits_reach_paddle_as_another_type(self, tmp_path):
        write_data(tmp_path, [square(1, dtype="uint16")])
        assert "found numbers of type uint16, which Paddle cannot use as classes" in error_of(
            tmp_path
        )
        assert paddle.to_tensor(np.asarray(Image.open(tmp_path / "0_label.png"))).dtype in (
            paddle.bfloat16,
            paddle.base.core.VarDesc.VarType.BF16,
        )

    def test_floats(self, tmp_path):
        path = write_data(tmp_path, [square()])
        Image.fromarray(square(1, dtype="float32")).save(tmp_path / "0_label.tiff")
        path.write_text("0.png 0_label.tiff\n")
        assert "found numbers of type float32" in error_of(tmp_path)

    def test_another_size_than_the_image(self, tmp_path):
        write_data(tmp_path, [square(), square()])
        Image.fromarray(square()[:20]).save(tmp_path / "1_label.png")
        text = error_of(tmp_path)
        assert (
            f"line 2: {tmp_path}/1_label.png: found a label of 32 x 20 pixels, expected 32 x 32 as "
            f"its image {tmp_path}/1.png has; do the two belong together?" in text
        )

    def test_a_photograph_that_opencv_turns(self, tmp_path):
        """A camera that was held upright writes a wide image and a note to turn it."""
        path = write_data(tmp_path, [square()])
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (40, 24)).save(tmp_path / "0.jpg", exif=exif)
        path.write_text("0.jpg 0_label.png\n")
        label = np.zeros((40, 24), "uint8")
        label[5:9] = 1
        Image.fromarray(label).save(tmp_path / "0_label.png")
        build(tmp_path)
        Image.fromarray(np.ascontiguousarray(label.T)).save(tmp_path / "0_label.png")
        assert "found a label of 40 x 24 pixels, expected 24 x 40" in error_of(tmp_path)


class TestUnreadable:
    @pytest.mark.parametrize("part", [0.3, 0.95])
    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_pixel_data_of_a_label_that_end_too_early(self, tmp_path, part, suffix):
        path = write_data(tmp_path, [square(), square()])
        noise = np.random.default_rng(0).integers(0, 2, (SIZE, SIZE), dtype="uint8")
        label = tmp_path / f"1_label.{suffix}"
        Image.fromarray(noise).save(label)
        content = label.read_bytes()
        label.write_bytes(content[: int(part * len(content))])
        path.write_text(f"0.png 0_label.png\n1.png {label.name}\n")
        assert f"train.txt, line 2: cannot read {label}: " in error_of(tmp_path)

    def test_an_image_that_is_cut_short_behind_its_thumbnail(self, tmp_path):
        """The thumbnail has an end marker too."""
        path = write_data(tmp_path, [square()])
        inner = tmp_path / "inner.jpg"
        Image.new("RGB", (8, 8)).save(inner)
        noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype="uint8")
        image = tmp_path / "0.jpg"
        Image.fromarray(noise).save(image)
        content = image.read_bytes()
        thumbnail = b"\xff\xe1" + (inner.stat().st_size + 2).to_bytes(2, "big")
        content = content[:2] + thumbnail + inner.read_bytes() + content[2:]
        path.write_text("0.jpg 0_label.png\n")
        image.write_bytes(content)
        build(tmp_path)
        image.write_bytes(content[:-100])
        assert f"cannot read {image}: the file is incomplete" in error_of(tmp_path)

    @pytest.mark.parametrize("name", ["0.png", "0_label.png"])
    @pytest.mark.parametrize("content", [b"", b"no image"])
    def test_no_image_at_all(self, tmp_path, name, content):
        write_data(tmp_path, [square()])
        (tmp_path / name).write_bytes(content)
        assert f"line 1: cannot read {tmp_path}/{name}: " in error_of(tmp_path)

    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_whatever_is_damaged_is_found_or_harmless(self, tmp_path, suffix):
        path = write_data(tmp_path, [square()])
        noise = np.random.default_rng(0).integers(0, 2, (SIZE, SIZE), dtype="uint8")
        for name in ("image", "label"):
            Image.fromarray(255 * noise).convert("RGB").save(tmp_path / f"{name}.{suffix}")
        path.write_text(f"image.{suffix} 0_label.png\n0.png label.{suffix}\n")
        reader = LabelReader(Dataset("train", str(tmp_path), [], 2, train_path=str(path)))
        wholes = [(tmp_path / f"{name}.{suffix}").read_bytes() for name in ("image", "label")]
        random_bytes = np.random.default_rng(1)
        found = 0
        for trial in range(200):
            for index, name in enumerate(["image", "label"]):
                content = bytearray(wholes[index])
                for place in random_bytes.integers(0, len(content), 1 + trial % 5):
                    content[place] = random_bytes.integers(0, 256)
                (tmp_path / f"{name}.{suffix}").write_bytes(content)
                facts = reader.facts(index, decode=bool(trial % 2))
                assert "\n" not in facts.image_error + facts.label_error
                found += bool(facts.image_error or facts.label_error)
        assert found > 50

    def test_an_image_that_is_too_large_for_pil(self, tmp_path, monkeypatch):
        write_data(tmp_path, [square()])
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert "cannot read" in error_of(tmp_path)
        assert "0_label.png: Image size (1024 pixels) exceeds limit" in error_of(tmp_path)
        assert "set the environment variable AUTOLOSS_MAX_IMAGE_PIXELS to" in error_of(tmp_path)
        monkeypatch.setenv("AUTOLOSS_MAX_IMAGE_PIXELS", "1024")
        set_image_limit()
        assert Image.MAX_IMAGE_PIXELS == 512
        build(tmp_path)

    def test_an_image_that_is_too_large_for_opencv(self, tmp_path):
        """OpenCV reads its limit when it is imported, so a process of its own finds the error."""
        write_data(tmp_path, [square()])
        code = "import cv2, sys; cv2.imread(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "0.png")],
            env=os.environ | {"OPENCV_IO_MAX_IMAGE_PIXELS": "100"},
            capture_output=True,
            text=True,
        )
        error = cv2.error(done.stderr[done.stderr.index("OpenCV(") :])
        assert describe(error).endswith(
            "; to read it, set the environment variable OPENCV_IO_MAX_IMAGE_PIXELS to its number "
            "of pixels"
        )

    @pytest.mark.parametrize("value", ["0", "-1", "1e9", ""])
    def test_a_limit_that_is_no_number_of_pixels(self, monkeypatch, value):
        monkeypatch.setenv("AUTOLOSS_MAX_IMAGE_PIXELS", value)
        with pytest.raises(ConfigError, match="AUTOLOSS_MAX_IMAGE_PIXELS: expected a positive int"):
            set_image_limit()


class TestWhatReachesTheLoss:
    """Data sets and transforms may change labels."""

    @pytest.mark.parametrize("mode", ["train", "val"])
    def test_ade20k_counts_from_1_in_its_files(self, tmp_path, mode, capsys):
        name = {"train": "training", "val": "validation"}[mode]
        images, labels = tmp_path / "images" / name, tmp_path / "annotations" / name
        for folder in (images, labels):
            folder.mkdir(parents=True)
        Image.new("RGB", (SIZE, SIZE)).save(images / "0.jpg")
        config = {"type": "ADE20K", "dataset_root": str(tmp_path), "mode": mode, "transforms": []}

        def make():
            return ADE20K([], str(tmp_path), mode)

        # In the files, 0 is what is ignored and 150 is the last class.
        Image.fromarray(square(150, background=0)).save(labels / "0.png")
        build_dataset(f"{mode}_dataset", config, make)
        assert "the classes 0, 1, 2, 3, 4, 5, 6, 7, ... (149 values) occur" in said(capsys)[0]
        Image.fromarray(square(151, background=1)).save(labels / "0.png")
        with pytest.raises(DataError, match="the values 0, 150, expected the classes 0 to 149"):
            build_dataset(f"{mode}_dataset", config, make)

    def test_a_data_set_of_the_users_own(self, tmp_path, capsys):
        class Halves(Dataset):
            def __getitem__(self, index):
                random.random()
                np.random.random()
                image, label = self.file_list[index]
                label = (np.asarray(Image.open(label)) > 127).astype("uint8")
                return self.transforms({"img": image, "label": label, "gt_fields": ["label"]})

        write_data(tmp_path, [square(255)])
        states = random.getstate(), np.random.get_state()[1].tolist()
        build(tmp_path, kind=Halves)
        assert said(capsys) == []
        assert (random.getstate(), np.random.get_state()[1].tolist()) == states
        write_data(tmp_path, [square(100)])
        with pytest.raises(DataError, match="found only class 0"):
            build(tmp_path, kind=Halves)

    def test_a_data_set_with_other_transforms(self, tmp_path, capsys):
        class Shrinking(Dataset):
            def __getitem__(self, index):
                random.random()
                return {"img": np.zeros([3, 9, 9]), "label": np.full([8, 8], 7)}

        write_data(tmp_path, [square()])
        states = random.getstate()
        build(tmp_path, kind=Shrinking)
        assert random.getstate() == states
        assert said(capsys) == [
            "train_dataset: labels are not checked, because Shrinking reads them in its own way"
        ]

    def test_pssl_makes_labels_of_its_own_files(self, tmp_path):
        name = "n04118776_1.JPEG"
        for folder in ("pssl/train/n04118776", "imagenet/train/n04118776"):
            (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (SIZE, SIZE)).save(tmp_path / f"imagenet/train/n04118776/{name}", "JPEG")
        np.savez(tmp_path / f"pssl/train/n04118776/{name}_eiseg.npz", square())
        (tmp_path / "pssl/train.txt").write_text(f"train/n04118776/{name}_eiseg.npz\n")
        (tmp_path / "pssl/imagenet_lsvrc_2015_synsets.txt").write_text("n0\nn04118776\n")
        arguments = {f"{part}_root": str(tmp_path / part) for part in ("imagenet", "pssl")}
        config = {"type": "PSSLDataset", **arguments, "transforms": []}
        made = build_dataset("train_dataset", config, lambda: PSSLDataset([], **arguments))
        assert made[0]["label"].max() == 1000

    def test_a_transform_of_the_users_own_may_mend_it(self, tmp_path, capsys):
        class Binary:
            def __call__(self, sample):
                sample["label"] = (sample["label"] > 127).astype("uint8")
                return sample

        with mock.patch.dict(manager.TRANSFORMS.components_dict, {"Binary": Binary}):
            write_data(tmp_path, [square(255)])
            config = dataset_config(tmp_path, transforms=[{"type": "Binary"}])
            arguments = {k: v for k, v in config.items() if k not in ("type", "transforms")}
            build_dataset(
                "train_dataset", config, lambda: Dataset(transforms=[Binary()], **arguments)
            )
            assert "are these 0/255 masks?" in said(capsys)[0]
            write_data(tmp_path, [square(200)])
            dataset = Dataset(transforms=[Binary()], **arguments)
            check_data("train_dataset", dataset)
            assert said(capsys)[0].endswith("; does Binary correct that?")

    def test_a_data_set_made_in_another_way(self):
        class Numbers(paddle.io.Dataset):
            def __getitem__(self, index):
                raise AssertionError("it is not read before training")

            def __len__(self):
                return 3

        check_data("train_dataset", Numbers())


class TestMany:
    def test_of_more_than_the_limit_an_even_sample(self, tmp_path, capsys):
        write_data(tmp_path, [square()] * 10)
        with mock.patch(f"{EXAMINATION}.MOST_FILES", 4):
            build(tmp_path)
        (line,) = said(capsys)
        assert line.startswith("train_dataset: 4 of 10 labels, evenly spread over the list, are")
        samples = [Sample(i, "", "") for i in range(2001)]
        assert len(chosen_samples(samples[:2000], 2000)) == 2000
        chosen = [sample.index for sample in chosen_samples(samples * 2, 2000)]
        assert len(chosen) == 2000
        assert chosen[:3] == [0, 2, 4]
        assert chosen_samples(samples, None) == samples

    def test_what_a_sample_cannot_tell(self, tmp_path, capsys):
        write_data(tmp_path, [square(0)] * 10)
        with mock.patch(f"{EXAMINATION}.MOST_FILES", 4):
            build(tmp_path)
            assert "found only class 0 in the 4 labels checked" in said(capsys)[1]
            write_data(tmp_path, [square(255)] * 10)
            assert "are these 0/255 masks?" in error_of(tmp_path)

    def test_a_missing_file_is_found_among_all(self, tmp_path):
        write_data(tmp_path, [square()] * 10)
        (tmp_path / "5_label.png").unlink()
        with mock.patch(f"{EXAMINATION}.MOST_FILES", 2):
            assert "5_label.png: it is missing" in error_of(tmp_path)

    def test_a_sample_that_is_listed_twice_is_looked_at_once(self, tmp_path):
        path = write_data(tmp_path, [square()])
        path.write_text(path.read_text() * 5)
        with mock.patch(f"{EXAMINATION}.survey", return_value=[]) as survey:
            build(tmp_path)
        assert len(survey.call_args[0][2]) == 1


def test_the_generated_data_are_fine(fundus, capsys):
    check_data(
        "train_dataset", SyntheticFundus(str(fundus), [], num_train=8, num_val=3, image_size=64)
    )
    assert not [line for line in said(capsys) if "label" in line]


def test_no_random_number_is_drawn(tmp_path):
    write_data(tmp_path, [square()] * 3)
    before = random.getstate(), np.random.get_state()[1].tolist(), paddle.get_rng_state()
    build(tmp_path)
    after = random.getstate(), np.random.get_state()[1].tolist(), paddle.get_rng_state()
    assert before[:2] == after[:2]
    assert re.sub("0x.*? ", "", str(before[2][0])) == re.sub("0x.*? ", "", str(after[2][0]))


def test_500_labels_take_the_time_that_is_allowed(tmp_path):
    blocks = np.random.default_rng(0).integers(0, 2, (64, 64), dtype="uint8")
    path = write_data(tmp_path, [np.kron(blocks, np.ones((8, 8), "uint8"))])
    for index in range(1, 500):
        shutil.copy(tmp_path / "0.png", tmp_path / f"{index}.png")
        shutil.copy(tmp_path / "0_label.png", tmp_path / f"{index}_label.png")
    path.write_text("".join(f"{i}.png {i}_label.png\n" for i in range(500)))
    used = []
    for _ in range(2):
        start = time.process_time()
        build(tmp_path)
        used.append(time.process_time() - start)
    # Seconds of one core; other programs may be at work meanwhile.
    assert used[0] < 5
    assert used[1] < 0.3


@pytest.mark.parametrize("command", ["train", "val", "diagnose", "compare", "check"])
def test_every_command_looks_at_the_labels(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path, [square(255)] * 4)
    config = write_config(tmp_path)
    arguments = {
        "train": ["--save_dir", "out"],
        "compare": ["--methods", "PCGrad,CAGrad", "--save_dir", "out"],
    }.get(command, [])
    done = call(command, "--config", config, *arguments)
    assert done.returncode == 1
    assert "255 is ignore_index; are these 0/255 masks?" in done.stdout + done.stderr
    last = "in the data, shown above" if command == "check" else "masks? Save 255 as 1"
    assert re.match(rf"error: .*{re.escape(last)}$", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
