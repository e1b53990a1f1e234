"""Bad input: one line that names the key, before training starts."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import SegBuilder, manager
from PIL import Image
from support import ROOT, at, call

from paddleseg_autoloss.checks import build
from paddleseg_autoloss.data_checks import build_dataset, check_files
from paddleseg_autoloss.errors import CheckpointError, ConfigError, DataError
from paddleseg_autoloss.integration.checkpoint import checkpoint_iteration, whole_checkpoints
from paddleseg_autoloss.integration.config import (
    find_config,
    load_config,
)
from paddleseg_autoloss.integration.parts import build_parts

CONFIGS = ROOT / "configs"
SHIPPED = sorted(path.name for path in CONFIGS.glob("*.yml"))


def nested(method: dict) -> dict:
    """A component whose second loss is a component too."""
    method["losses"] = [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}]
    return {"type": "AutoWeightedLoss", "losses": [{"type": "CrossEntropyLoss"}, method]}


class TestComponents:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                at("loss", "types", 0, "type", value="AutoWeightLoss"),
                "loss.types[0].type: there is no 'AutoWeightLoss'; did you mean AutoWeightedLoss?",
            ),
            (
                at("loss", "types", 0, "losses", 1, "type", value="DieceLoss"),
                "loss.types[0].losses[1].type: there is no 'DieceLoss'; did you mean DiceLoss?",
            ),
            (
                at("loss", "types", 0, "lr_multi", value=2),
                "loss.types[0].lr_multi: AutoWeightedLoss has no such argument; "
                "did you mean lr_mult?",
            ),
            (
                at("model", "type", value="FastSCN"),
                "model.type: there is no 'FastSCN'; did you mean FastSCNN?",
            ),
            (
                at("train_dataset", "transforms", 0, "target_sise", value=1),
                "train_dataset.transforms[0].target_sise: Resize has no such argument; "
                "did you mean target_size?",
            ),
            (
                at("loss", "types", 0, "losses", 0, "ignore_index", value=3),
                "loss.types[0].losses[0].ignore_index: expected 255 as in train_dataset, found 3",
            ),
            (at("loss", value={"types": []}), "loss.coef: expected a list"),
            (
                at("loss", "types", value={"type": "DiceLoss"}),
                "loss.types: expected a list of components, found {'type': 'DiceLoss'}",
            ),
            (
                at("loss", "types", 0, value={"losses": []}),
                "loss.types[0]: expected a 'type', found",
            ),
            (at("loss", "types", 0, "type", value=["a"]), "type: expected a name, found ['a']"),
            (at("loss", "coef", value=["one"]), "loss.coef[0]: expected a number, found 'one'"),
            (at("batch_size", value="4"), "batch_size: expected a positive integer, found '4'"),
            (at("iters", value=0), "iters: expected a positive integer, found 0"),
            (
                at("test_config", value={"aug_evl": True}),
                "test_config.aug_evl: there is no such option; did you mean aug_eval?",
            ),
            (at("test_config", value=[1]), "test_config: expected keys and values, found [1]"),
            (
                at("test_config", value={"is_slide": True}),
                "test_config.is_slide: expected crop_size and stride too",
            ),
            (at("loss", "coef", value=[1, 2, 3]), None),
        ],
    )
    def test_checked_before_anything_is_built(self, change, message, config):
        if message is None:
            assert len(load_config(config(change)).dic["loss"]["types"]) == 3
            return
        with pytest.raises(ConfigError) as caught:
            load_config(config(change))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                at("loss", "types", 0, "losses", value=[{"type": "DiceLoss"}]),
                "loss.types[0].losses: AutoWeightedLoss expects a list of two or more, found 1",
            ),
            (
                at("loss", "types", 0, "names", value=["a", "b", "c"]),
                "loss.types[0].names: expected a list of 2, one per loss, found ['a', 'b', 'c']",
            ),
            (
                at("loss", "types", 0, "init", value=0),
                "loss.types[0].init: expected a number other than 0, found 0",
            ),
            (
                at("loss", "types", 0, value=nested({"type": "LDCMTL", "lamda": 2})),
                "loss.types[0].losses[1].lamda: expected a number from 0 to 0.5, found 2",
            ),
            (
                at("loss", "types", 0, value=nested({"type": "CAGrad", "level": "pixel"})),
                "loss.types[0].losses[1].level: expected one of parameters, features, logits, "
                "found 'pixel'",
            ),
        ],
    )
    def test_refused_by_the_component(self, change, message, config):
        builder = SegBuilder(load_config(config(change)))
        with pytest.raises(ConfigError) as caught:
            build("loss", lambda: builder.loss)
        assert str(caught.value) == message

    @pytest.mark.parametrize(
        ("names", "found", "hint"),
        [
            (["bakcbone"], "'bakcbone'", "; did you mean backbone?"),
            (["Head", "decode_head"], "'Head'", "; did you mean head?"),
            (["_mean"], "'_mean'", ""),
            (["backbone", "head", "backbone.1"], "'backbone.1'", None),
            (["", "head"], "'head'", None),
            (["backbone", "head"], None, None),
        ],
    )
    def test_groups_without_parameters(self, names, found, hint, config, capfd, monkeypatch):
        """Only an empty first group makes Paddle fail."""

        class Net(paddle.nn.Layer):
            def __init__(self, num_classes=2, in_channels=3):
                super().__init__()
                self.backbone = paddle.nn.Sequential(*[paddle.nn.Conv2D(3, 3, 1) for _ in "ab"])
                self.head = paddle.nn.BatchNorm2D(3)

        monkeypatch.setitem(manager.MODELS.components_dict, "Net", Net)
        path = config(
            lambda dic: dic.update(
                model={"type": "Net"},
                optimizer={"type": "SGD", "custom_cfg": [{"name": name} for name in names]},
            )
        )
        args = Namespace(seed=None, device="cpu", num_workers=0)
        if hint is None:
            build_parts(load_config(path), args)
            text = capfd.readouterr().out
        else:
            with pytest.raises(ConfigError) as caught:
                build_parts(load_config(path), args)
            text = str(caught.value)
            assert text.startswith("optimizer.custom_cfg[0].name: expected a part of the names of")
            assert text.endswith(f"found {found}; the names begin with backbone, head{hint}")
        assert (f"no earlier group has, found {found};" in text) == (found is not None)
        assert ("no earlier group has" in text) == (found is not None)


class TestFiles:
    def test_bare_name_is_looked_up_in_configs(self):
        assert find_config("auto_ce_dice.yml", CONFIGS) == str(CONFIGS / "auto_ce_dice.yml")

    def test_path_goes_first(self, config):
        assert find_config(config(), CONFIGS) == config()

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("auto_ce_dise.yml", "was not found; did you mean auto_ce_dice.yml?"),
            (None, "--config: expected the path of a config file, found nothing"),
        ],
    )
    def test_missing(self, name, message):
        with pytest.raises(ConfigError) as caught:
            find_config(name, CONFIGS)
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: [1", "while parsing"),
            ("- a\n- b", "expected keys and values"),
            ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
            ("_base_: nowhere.yml", "_base_: .*nowhere.yml was not found"),
            ("batch_size: 4", "iters: expected this key in the config, found none"),
            ("_base_: 5", "_base_: expected a path or a list of paths, found \\[?5"),
            ("_base_: bad.yml", "_base_: .*bad.yml is based on itself"),
        ],
    )
    def test_unreadable(self, text, message, tmp_path):
        path = tmp_path / "bad.yml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=message) as caught:
            load_config(str(path))
        assert "\n" not in str(caught.value)


class TestData:
    def test_folder_without_lists(self, tmp_path):
        config = {"type": "OpticDiscSeg", "dataset_root": str(tmp_path), "transforms": []}
        builder = SegBuilder(config=None)
        with pytest.raises(ConfigError, match=r"train_dataset: .*train_list.txt"):
            build_dataset("train_dataset", config, lambda: builder.build_component(config))

    def test_optic_disc_that_cannot_be_downloaded(self, tmp_path, monkeypatch):
        """The registry of packages is all that CI reaches; elsewhere the download is cut off."""
        import requests

        def refused(*arguments, **keywords):
            raise requests.exceptions.ConnectionError("no network")

        monkeypatch.setattr(requests, "get", refused)
        root = tmp_path / "optic_disc_seg"
        config = {"type": "OpticDiscSeg", "dataset_root": str(root), "transforms": []}
        builder = SegBuilder(config=None)
        with pytest.raises(
            DataError, match=r"train_dataset.dataset_root: .* or start with auto_ce"
        ):
            build_dataset("train_dataset", config, lambda: builder.build_component(config))
        assert not list(tmp_path.glob("*.lock"))

    def test_other_faults_of_optic_disc_are_named(self, tmp_path):
        root = str(tmp_path / "absent")
        config = {"type": "OpticDiscSeg", "dataset_root": root, "transforms": [], "mode": "trian"}
        builder = SegBuilder(config=None)
        with pytest.raises(ConfigError, match="`mode` should be 'train', 'val' or 'test'"):
            build_dataset("train_dataset", config, lambda: builder.build_component(config))

    def test_data_behind_the_end_of_an_image_does_no_harm(self, tmp_path):
        path = tmp_path / "camera.jpg"
        Image.new("RGB", (8, 8)).save(path)
        path.write_bytes(path.read_bytes() + b"\0" * 100_000)

        class Data:
            file_list = ((str(path), None),)

        check_files("train_dataset", Data())

    @pytest.mark.parametrize("kind", ["missing", "garbage", "short.png", "short.jpg", "torn.png"])
    def test_unreadable_image(self, kind, tmp_path):
        good, bad = tmp_path / "good.png", tmp_path / f"bad{Path(kind).suffix or '.png'}"
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype="uint8")
        Image.fromarray(noise).save(good)
        if kind == "garbage":
            bad.write_bytes(b"not an image")
        elif kind != "missing":
            Image.fromarray(noise).save(bad)
            whole = bad.read_bytes()
            torn = whole[:500] + b"\0" * 20 + whole[520:]
            bad.write_bytes(torn if kind == "torn.png" else whole[:-20])

        class Data:
            file_list = ((str(good), str(good)), (str(good), str(bad)))

        with pytest.raises(DataError, match=f"val_dataset: cannot read {bad}: "):
            check_files("val_dataset", Data())


class TestCheckpoints:
    def make(self, folder: Path, *names: str) -> str:
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes(b"")
        return str(folder)

    def test_whole(self, tmp_path):
        folder = self.make(tmp_path / "iter_40", "model.pdparams", "model.pdopt")
        assert checkpoint_iteration(folder) == 40
        assert checkpoint_iteration(folder + "/") == 40

    def test_incomplete_names_the_newest_whole_one(self, tmp_path):
        for iteration in (5, 10):
            self.make(tmp_path / f"iter_{iteration}", "model.pdparams", "model.pdopt")
        folder = self.make(tmp_path / "iter_20", "model.pdparams")
        with pytest.raises(CheckpointError, match=r"model.pdopt missing; .* is .*iter_10$"):
            checkpoint_iteration(folder)
        assert [path.name for path in whole_checkpoints(tmp_path)] == ["iter_5", "iter_10"]

    def test_missing_or_misnamed(self, tmp_path):
        with pytest.raises(CheckpointError, match="is not a folder"):
            checkpoint_iteration(str(tmp_path / "iter_1"))
        folder = self.make(tmp_path / "best_model", "model.pdparams", "model.pdopt")
        with pytest.raises(CheckpointError, match="expected a folder named iter_N"):
            checkpoint_iteration(folder)
        (tmp_path / "latest").symlink_to(tmp_path / "best_model")
        with pytest.raises(CheckpointError, match="expected a folder named iter_N"):
            checkpoint_iteration(str(tmp_path / "latest"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_load(name):
    load_config(str(CONFIGS / name))


@pytest.mark.parametrize("suffix", ["", "_demo"])
def test_shipped_configs_differ_in_the_loss_alone(suffix):
    others = []
    for name in ("auto", "fixed", "kendall", "sum"):
        dic = load_config(str(CONFIGS / f"{name}_ce_dice{suffix}.yml")).dic
        assert [loss["type"] for loss in dic.pop("loss")["types"][0]["losses"]] == [
            "CrossEntropyLoss",
            "DiceLoss",
        ]
        others.append(dic)
    assert all(dic == others[0] for dic in others)


def test_seed_experiment():
    dic = load_config(str(CONFIGS / "auto_ce_dice.yml")).dic
    assert (dic["batch_size"], dic["iters"]) == (4, 10000)
    assert dic["model"]["type"] == "HarDNet"
    assert dic["optimizer"] == {"type": "AdamW"}
    assert dic["lr_scheduler"]["learning_rate"] == 0.001
    assert dic["lr_scheduler"]["end_lr"] == 0
    assert [t["type"] for t in dic["train_dataset"]["transforms"]] == ["Resize", "Normalize"]


@pytest.mark.parametrize("command", ["train", "val", "predict"])
def test_commands_say_it_in_one_line(command, tmp_path):
    weights = tmp_path / "w.pdparams"
    weights.write_bytes(b"")
    extra = ["--model_path", weights, "--image_path", "x.jpg"] if command == "predict" else []
    result = call(command, "--config", "auto_ce_dise_demo.yml", *extra)
    assert result.returncode == 1
    lines = [line for line in result.stderr.split("\n") if line.startswith("error: ")]
    assert lines == [
        "error: --config: auto_ce_dise_demo.yml was not found; did you mean auto_ce_dice_demo.yml?"
    ]
    assert "Traceback" not in result.stderr
