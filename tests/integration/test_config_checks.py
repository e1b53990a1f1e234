"""Keys and values of a config that cannot work: one line that names the key, before anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from paddleseg.cvlibs import Config, SegBuilder, manager
from paddleseg.cvlibs.config import parse_from_yaml
from support import ROOT, at, call

from paddleseg_autoloss.checks import build
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.integration.config import load_config, read_config

SHIPPED = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("configs/**/*.yml"))
MIXED = {
    "type": "MixedLoss",
    "losses": [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}],
    "coef": [0.8, 0.2],
}


def mixed(*keys, value):
    """A change that takes MixedLoss, with a key of it changed."""

    def change(dic):
        loss = yaml.safe_load(yaml.safe_dump(MIXED))
        at(*keys, value=value)(loss)
        dic["loss"]["types"] = [loss]

    return change


def one_cycle(**options):
    schedule = {"type": "OneCycleLR", "max_learning_rate": 0.1}
    return at("lr_scheduler", value={**schedule, **options})


def milestones(values):
    schedule = {"type": "MultiStepDecay", "learning_rate": 0.1, "milestones": values}
    return at("lr_scheduler", value=schedule)


def clip(most, least):
    value = {"name": "ClipGradByValue", "max": most, "min": least}
    return at("optimizer", "grad_clip_cfg", value=value)


def window(crop_size, stride):
    return at("test_config", value={"is_slide": True, "crop_size": crop_size, "stride": stride})


def normalize(section="train_dataset", **numbers):
    return at(section, "transforms", 1, value={"type": "Normalize", **numbers})


def message_of(path: str, **overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, **overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                at("loss_aggregatro", value={"type": "CAGrad"}),
                "loss_aggregatro: there is no such key; did you mean loss_aggregator?",
            ),
            (
                at("on_nonfiniet", value="skip"),
                "on_nonfiniet: there is no such key; did you mean on_nonfinite?",
            ),
            (
                at("test_confgi", value={}),
                "test_confgi: there is no such key; did you mean test_config?",
            ),
            (at("batchsize", value=2), "batchsize: there is no such key; did you mean batch_size?"),
            (at(5, value=2), "5: there is no such key"),
            (
                at("loss", "tpyes", value=[]),
                "loss.tpyes: there is no such key; did you mean types?",
            ),
            (
                at("loss", "loss_aggregator", value={}),
                "loss.loss_aggregator: there is no such key; loss_aggregator is a top-level key",
            ),
            (
                at("distill_loss", value={"types": [MIXED], "coef": [1], "coeff": 1}),
                "distill_loss.coeff: there is no such key; did you mean coef?",
            ),
            (
                at("optimizer", "momentun", value=0.9),
                "optimizer.momentun: Momentum has no such argument; did you mean momentum?",
            ),
            (
                at("optimizer", "custom_cfg", value=[{"name": "a", "lr_mul": 2}]),
                "optimizer.custom_cfg[0].lr_mul: there is no such key; did you mean lr_mult?",
            ),
            (
                at("lr_scheduler", "powr", value=0.9),
                "lr_scheduler.powr: PolynomialDecay has no such argument; did you mean power?",
            ),
            (
                at("lr_scheduler", "type", value="PolyDecay"),
                "lr_scheduler.type: there is no 'PolyDecay'; did you mean PolynomialDecay?",
            ),
            (
                at("train_dataset", "num_trian", value=3),
                "train_dataset.num_trian: SyntheticFundus has no such argument; did you mean",
            ),
            (
                at("train_dataset", "transforms", 1, value={"tyep": "Normalize"}),
                "train_dataset.transforms[1]: expected a 'type', found {'tyep': 'Normalize'}",
            ),
            (
                # Of its own kind: the nearest of all names is a model's.
                at("train_dataset", "transforms", 1, value={"type": "Norm"}),
                "train_dataset.transforms[1].type: there is no 'Norm'; did you mean Normalize?",
            ),
            (
                at("train_dataset", "transforms", 1, value={"type": "DeepLabV3"}),
                "train_dataset.transforms[1].type: there is no 'DeepLabV3'",
            ),
            (
                at("loss_aggregator", value={"type": "CAGrad", "calfa": 1}),
                "loss_aggregator.calfa: CAGrad has no such argument; did you mean calpha?",
            ),
        ],
    )
    def test_named_with_the_nearest(self, change, message, config):
        assert message_of(config(change)).startswith(message)

    def test_in_a_base(self, config, tmp_path):
        base = config(at("itres", value=3))
        path = tmp_path / "own.yml"
        path.write_text(f"_base_: {Path(base).name}\nbatch_size: 4\n")
        assert message_of(str(path)) == "itres: there is no such key; did you mean iters?"

    @pytest.mark.parametrize(
        ("opt", "message"),
        [
            (
                "loss_aggregatro.type=CAGrad",
                "--opts loss_aggregatro.type=CAGrad: the config has no",
            ),
            ("loss_agregator={'type':'CAGrad'}", "loss_agregator: there is no such key; did you"),
            ("los.coef=[2]", "--opts los.coef=[2]: the config has no los; did you mean loss?"),
            ("loss.cof=[2]", "loss.cof: there is no such key; did you mean coef?"),
            ("loss.types.0.type=A", "--opts loss.types.0.type=A: the config has no loss.types.0"),
            ("iters.x=1", "--opts iters.x=1: expected keys below iters, found 2"),
            ("iters", "--opts: expected key=value with a single =, found 'iters'"),
            ("a=b=c", "--opts: expected key=value with a single =, found 'a=b=c'"),
            ("iters=x", "iters: expected a positive integer, found 'x'"),
            ("optimizer.momentum=-1", "optimizer.momentum: expected a number of at least 0"),
        ],
    )
    def test_of_opts(self, opt, message, config):
        assert message_of(config(), opts=[opt]).startswith(message)

    @pytest.mark.parametrize(
        "keys",
        [
            {"to_static_training": False, "print_mem_info": True, "log_ranks": "0"},
            {"uniform_output_enabled": False, "pdx_model_name": "x", "hpi_config_path": "y"},
            {"learning_rate": 0.1, "export": {"a": 1}, "use_ema": True},
            {"distill_loss": {"types": [MIXED], "coef": [1]}},
        ],
    )
    def test_keys_of_paddleseg_are_known(self, keys, config, capfd):
        load_config(config(lambda dic: dic.update(keys)))
        warned = "export: training does not read this key" in capfd.readouterr().out
        assert warned == ("export" in keys)

    def test_anchors_may_be_defined_at_top_level(self, config, tmp_path):
        dic = yaml.safe_load(Path(config()).read_text())
        path = tmp_path / "anchors.yml"
        names = "my_mean: &m [0.5, 0.5, 0.5]\n"
        use = "val_dataset:\n  transforms: [{type: Normalize, mean: *m}]\n"
        path.write_text(f"_base_: {Path(config()).name}\n{names}{use}")
        loaded = load_config(str(path)).dic
        assert loaded["val_dataset"]["transforms"][0]["mean"] == [0.5, 0.5, 0.5]
        assert loaded.keys() == dic.keys()
        path.write_text(f"_base_: {Path(config()).name}\nmy_mean: &m [0.5, 0.5, 0.5]\n")
        assert message_of(str(path)).startswith("my_mean: there is no such key")

    def test_key_given_twice(self, config, tmp_path):
        path = Path(config())
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines, "iters: 77"]))
        first = lines.index("iters: 2") + 1
        assert message_of(str(path)) == (
            f"{path}, line {len(lines) + 1}: iters is given twice, first in line {first}"
        )
        assert load_config(config()).iters == 2


class TestValues:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (mixed("losses", 0, value={"tyep": "DiceLoss"}), "loss.types[0].losses[0]: expected a"),
            (
                mixed("losses", 1, value=None),
                "loss.types[0].losses[1]: expected a 'type', found No",
            ),
            (mixed("losses", 1, value="DiceLoss"), "loss.types[0].losses[1]: expected a 'type'"),
            (mixed("losses", value=None), "loss.types[0].losses: expected a list of components"),
            (mixed("losses", value=[]), "loss.types[0].losses: expected a list of components"),
            (
                mixed("losses", 0, "type", value=["a"]),
                "loss.types[0].losses[0].type: expected a na",
            ),
            (
                mixed("losses", 0, "type", value="Resize"),
                "loss.types[0].losses[0].type: there is no",
            ),
            (
                mixed("coef", value=["0.1", 1]),
                "loss.types[0].coef[0]: expected a number, found '0.1'",
            ),
            (mixed("coef", value=[1]), "loss.types[0].coef: expected 2, one per loss, found 1"),
            (
                mixed("coef", value=None),
                "loss.types[0].coef: expected a list of numbers, found None",
            ),
            (
                mixed("coef", value=[True, 1]),
                "loss.types[0].coef[0]: expected a number, found True",
            ),
            (mixed("coef", value=[float("nan"), 1]), "loss.types[0].coef[0]: expected a number of"),
            (mixed("coef", value=[0, 0]), "loss.types[0].coef: expected a number above 0, found"),
            (
                mixed("names", value=["a", "b"]),
                "loss.types[0].names: MixedLoss has no such argument",
            ),
            (at("loss", value=None), "loss: expected keys and values, found None"),
            (at("loss", value=[1]), "loss: expected keys and values, found [1]"),
            (
                at("loss", "coef", value=[-1]),
                "loss.coef[0]: expected a number of at least 0, found",
            ),
            (at("loss", "coef", value=[0]), "loss.coef: expected a number above 0, found [0]"),
            (at("loss", "coef", value=[True]), "loss.coef[0]: expected a number, found True"),
            (at("loss", "coef", value=1), "loss.coef: expected a list of numbers, found 1"),
            (at("loss", "types", value=[]), "loss.types: expected a list of components, found []"),
            (at("loss", "types", 0, value=None), "loss.types[0]: expected a 'type', found None"),
            (
                at("loss", "types", 0, "losses", 0, "weight", value=[-1, 2]),
                "loss.types[0].losses[0].weight[0]: expected a number of at least 0, found -1",
            ),
            (
                at("loss", "types", 0, "losses", 0, "weight", value="dynamic"),
                "loss.types[0].losses[0].weight: expected a list of numbers, one per class, found",
            ),
            (
                at("loss", "types", 0, "losses", 0, value={"type": "BootstrappedCrossEntropyLoss"}),
                "loss.types[0].losses[0].min_K: BootstrappedCrossEntropyLoss needs this argument",
            ),
            (
                at("loss_aggregator", value={"type": []}),
                "loss_aggregator.type: expected a name, fou",
            ),
            (
                at("loss_aggregator", value="CAGrad"),
                "loss_aggregator: expected a 'type', found 'CAG",
            ),
            (
                at("lr_scheduler", "learning_rate", value=True),
                "lr_scheduler.learning_rate: expected a number, found True",
            ),
            (
                at("lr_scheduler", "learning_rate", value=0),
                "lr_scheduler.learning_rate: expected a number above 0, found 0",
            ),
            (
                at("lr_scheduler", "learning_rate", value=float("nan")),
                "lr_scheduler.learning_rate: expected a number of at least 0, found nan",
            ),
            (
                at("lr_scheduler", "learning_rate", value="1e-4"),
                "lr_scheduler.learning_rate: expected a number, found '1e-4'; it is text: write it",
            ),
            (at("lr_scheduler", "power", value=float("inf")), "lr_scheduler.power: expected a num"),
            (at("lr_scheduler", "warmup_iters", value=1), "lr_scheduler.warmup_iters: expected wa"),
            (at("lr_scheduler", value={"type": "io"}), "lr_scheduler.type: there is no 'io'"),
            (
                one_cycle(total_steps=1),
                "lr_scheduler.total_steps: expected at least the 2 iters, found 1: OneCycleLR has",
            ),
            (
                one_cycle(total_steps="2"),
                "lr_scheduler.total_steps: expected a positive integer",
            ),
            (
                one_cycle(total_steps=2.0),
                "lr_scheduler.total_steps: expected a positive integer",
            ),
            (milestones(["1"]), "lr_scheduler.milestones[0]: expected a number, found '1'"),
            (milestones([1, None]), "lr_scheduler.milestones[1]: expected a number, found None"),
            (
                at(
                    "lr_scheduler",
                    value={"type": "PiecewiseDecay", "boundaries": [1], "values": ["a", 1]},
                ),
                "lr_scheduler.values[0]: expected a number, found 'a'",
            ),
            (clip(1.0, 2.0), "optimizer.grad_clip_cfg.min: expected a number below max 1.0, fou"),
            (clip(1.0, 1.0), "optimizer.grad_clip_cfg.min: expected a number below max 1.0, fou"),
            (clip(1, "0"), "optimizer.grad_clip_cfg.min: expected a number, found '0'"),
            (
                window([32, 32], [33, 32]),
                "test_config.stride: expected at most crop_size [32, 32], found [33, 32]: pixels",
            ),
            (window([64, 32], [64, 64]), "test_config.stride: expected at most crop_size [64, 32]"),
            (window([8, 8], [99, 99]), "test_config.stride: expected at most crop_size [8, 8], f"),
            (normalize(std=[0.5, 0, 0.5]), "train_dataset.transforms[1].std: expected numbers ot"),
            (normalize(std=[0.0]), "train_dataset.transforms[1].std: expected numbers other than"),
            (normalize(std=["0.5"]), "train_dataset.transforms[1].std: expected a number, found"),
            (normalize(mean=0.5), "train_dataset.transforms[1].mean: expected a list of numbers,"),
            (at("iters", value=10**30), "iters: expected an integer from 1 to 9007199254740992, f"),
            (at("optimizer", "weight_decay", value=-0.1), "optimizer.weight_decay: expected a num"),
            (at("optimizer", "type", value="Dataset"), "optimizer.type: there is no 'Dataset'"),
            (
                at("optimizer", "custom_cfg", value=[{"lr_mult": 1}]),
                "optimizer.custom_cfg[0]: expec",
            ),
            (
                at("train_dataset", value=None),
                "train_dataset: expected keys and values, found None",
            ),
            (at("train_dataset", "type", value="DiceLoss"), "train_dataset.type: there is no 'Dic"),
            (
                at("train_dataset", "transforms", value="Resize"),
                "train_dataset.transforms: expected",
            ),
            (
                at("train_dataset", "transforms", 0, value=None),
                "train_dataset.transforms[0]: expect",
            ),
            (at("model", value="FastSCNN"), "model: expected keys and values, found 'FastSCNN'"),
            (at("model", "num_classes", value="2"), "model.num_classes: expected a positive integ"),
            (at("model", "backbone", value="ResNet18_vd"), "model.backbone: FastSCNN has no such"),
            (
                at("model", value={"type": "UNet", "pretrained": 3}),
                "model.pretrained: expected a p",
            ),
            (at("optimizer", "momentum", value="0.9"), "optimizer.momentum: expected a number, fo"),
            (at("optimizer", "use_nesterov", value=1), "optimizer.use_nesterov: expected true or"),
            (
                at("optimizer", "grad_clip_cfg", value={"name": "ClipGradByNorm", "clip_norm": -1}),
                "optimizer.grad_clip_cfg.clip_norm: expected a number of at least",
            ),
            (
                at("test_config", value={"scales": [1, 1000]}),
                "test_config.scales: expected a numbe",
            ),
            (at("iters", value=True), "iters: expected a positive integer, found True"),
            (at("on_nonfinite", value=["skip"]), "on_nonfinite: expected stop or skip, found"),
            (at("to_static_training", value="no"), "to_static_training: expected true or false"),
            (
                at("test_config", value={"scales": "a"}),
                "test_config.scales: expected a number, fou",
            ),
            (
                at("test_config", value={"crop_size": 5}),
                "test_config.crop_size: expected two posit",
            ),
            (
                at("test_config", value={"num_workers": 1}),
                "test_config.num_workers: there is no such",
            ),
        ],
    )
    def test_named_before_anything_is_built(self, change, message, config):
        assert message_of(config(change)).startswith(message)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (at("train_dataset", "train_path", value=3), "train_dataset.train_path: expected text"),
            (at("val_dataset", "mode", value=["val"]), "val_dataset.mode: expected text, found ['"),
            (
                at("val_dataset", "num_classes", value=3),
                "val_dataset.num_classes: expected 2 as in train_dataset, found 3",
            ),
            (
                at("model", "num_classes", value=5),
                "model.num_classes: expected 2 as in train_dataset, found 5",
            ),
            (
                at(
                    "model",
                    value={"type": "DeepLabV3P", "num_classes": 2, "backbone": "ResNet18_vd"},
                ),
                "model.backbone: expected a 'type', found 'ResNet18_vd'",
            ),
        ],
    )
    def test_of_data_sets_of_files(self, change, message, config):
        def files(dic):
            for mode in ("train", "val"):
                dic[f"{mode}_dataset"] = {
                    "type": "Dataset", "mode": mode, f"{mode}_path": "list.txt", "num_classes": 2,
                    "dataset_root": "data", "transforms": [{"type": "Normalize"}],
                }  # fmt: skip
            change(dic)

        assert message_of(config(files)).startswith(message)

    def test_empty_names(self, config):
        builder = SegBuilder(load_config(config(at("loss", "types", 0, "names", value=["", "b"]))))
        with pytest.raises(ConfigError, match=r"loss\.types\[0\]\.names: expected a list of 2"):
            build("loss", lambda: builder.loss)

    def test_long_values_are_cut(self, config):
        change = at("loss", "types", value={"a": list(range(5000))})
        assert len(message_of(config(change))) < 300

    def test_a_loss_for_all_outputs(self, config):
        assert len(load_config(config(at("loss", "coef", value=[1, 0]))).dic["loss"]["types"]) == 2

    @pytest.mark.parametrize(
        "change",
        [
            one_cycle(total_steps=2),
            milestones([1, 900]),
            clip(1.0, -0.5),
            clip(1.0, None),
            window([32, 32], [32, 16]),
            at("test_config", value={"crop_size": [8, 8], "stride": [9, 9]}),
        ],
    )
    def test_at_the_bounds(self, change, config):
        assert load_config(config(change)).iters == 2


class TestWarnings:
    @staticmethod
    def said(path, capfd):
        load_config(path)
        return [line for line in capfd.readouterr().out.splitlines() if "WARNING" in line]

    @pytest.mark.parametrize(
        ("train", "val", "expected", "found"),
        [
            (
                [{"type": "Normalize"}],
                [],
                "Normalize with mean [0.5] and std [0.5]",
                "no Normalize",
            ),
            (
                [],
                [{"type": "Normalize", "mean": [0.1, 0.2, 0.3]}],
                "no Normalize",
                "Normalize with mean [0.1, 0.2, 0.3] and std [0.5]",
            ),
            (
                [{"type": "Normalize", "std": [0.5] * 3}],
                [{"type": "Normalize", "std": [0.5, 0.5, 0.1]}],
                "Normalize with mean [0.5] and std [0.5, 0.5, 0.5]",
                "Normalize with mean [0.5] and std [0.5, 0.5, 0.1]",
            ),
            (
                [{"type": "Normalize"}] * 2,
                [{"type": "Normalize"}],
                "Normalize with mean [0.5] and std [0.5] and Normalize with mean [0.5] and std [0",
                "Normalize with mean [0.5] and std [0.5]",
            ),
        ],
    )
    def test_another_normalization(self, train, val, expected, found, config, capfd):
        def change(dic):
            dic["train_dataset"]["transforms"] = train
            dic["val_dataset"]["transforms"] = val

        (warning,) = self.said(config(change), capfd)
        assert f"val_dataset.transforms: expected {expected}" in warning
        assert f" as in train_dataset.transforms, found {found}: the network was not" in warning

    @pytest.mark.parametrize(
        "change",
        [
            normalize(),
            normalize(mean=[0.5] * 3, std=[0.5]),
            lambda dic: [dic[f"{one}_dataset"].update(transforms=[]) for one in ("train", "val")],
            lambda dic: dic.pop("val_dataset"),
            lambda dic: dic["val_dataset"].pop("transforms"),
        ],
    )
    def test_the_same_normalization(self, change, config, capfd):
        assert self.said(config(change), capfd) == []

    def test_own_transforms_may_normalize(self, config, capfd, monkeypatch):
        own = type("OwnTransform", (), {"__call__": lambda self, sample: sample})
        monkeypatch.setitem(manager.TRANSFORMS.components_dict, "OwnTransform", own)
        path = config(at("val_dataset", "transforms", 1, value={"type": "OwnTransform"}))
        assert self.said(path, capfd) == []

    @pytest.mark.parametrize("warmup", [2, 3, 1500])
    def test_a_warmup_that_does_not_end(self, warmup, config, capfd):
        change = {"warmup_iters": warmup, "warmup_start_lr": 0.0}
        (warning,) = self.said(config(lambda dic: dic["lr_scheduler"].update(change)), capfd)
        assert warning.endswith(
            f"lr_scheduler.warmup_iters: expected fewer than the 2 iters, found {warmup}: the "
            "learning rate never reaches 0.01"
        )

    def test_a_warmup_that_ends(self, config, capfd):
        change = {"warmup_iters": 1, "warmup_start_lr": 0.0}
        assert self.said(config(lambda dic: dic["lr_scheduler"].update(change)), capfd) == []


class TestBases:
    def test_other_files_are_not_shown(self, config, tmp_path):
        secret = tmp_path / "passwd"
        secret.write_text("root:x:0:0:secret\nkey: value\n")
        path = tmp_path / "deep" / "own.yml"
        path.parent.mkdir()
        path.write_text("_base_: ../passwd")
        message = message_of(str(path))
        assert message == f"_base_: {path.parent}/../passwd: expected a .yml file"

    @pytest.mark.parametrize(
        ("base", "own", "message"),
        [
            ("loss: null", "loss: {coef: [1]}", "loss: expected keys and values in the base too"),
            ("loss: {a: [1]}", "loss: {a: {b: 1}}", "loss.a: expected keys and values in the base"),
            ("- 1", "iters: 2", "_base_: "),
            ("_base_: {a: 1}", "iters: 2", "expected a path or a list of paths, found {'a': 1}"),
            (
                "iters: 1",
                'loss: {_inherited_: "false"}',
                "own.yml: loss._inherited_: expected true or false, found 'false'",
            ),
            (
                "a: {b: {_inherited_: 0}}",
                "iters: 2",
                "base.yml: a.b._inherited_: expected true or false, found 0",
            ),
            ("a: 1", "_inherited_: 'no'", "own.yml: _inherited_: expected true or false, found 'n"),
        ],
    )
    def test_what_cannot_be_merged(self, base, own, message, tmp_path):
        (tmp_path / "base.yml").write_text(base)
        path = tmp_path / "own.yml"
        path.write_text(f"_base_: base.yml\n{own}")
        assert message in message_of(str(path))

    @pytest.mark.parametrize("name", SHIPPED)
    def test_the_same_as_paddleseg_reads(self, name):
        path = str(ROOT / name)
        assert read_config(path) == parse_from_yaml(path)

    def test_the_same_with_all_kinds_of_inheritance(self, tmp_path):
        files = {
            "a.yml": "_base_: [b.yml, c.yml]\nx: {p: 1, q: {r: 2}}\ny: {_inherited_: no, s: 1}\n",
            "b.yml": "_base_: d.yml\nx: {p: 3, q: {t: 4}, u: [5]}\ny: {s: 6, v: 7}\nz: 8\n",
            "c.yml": "x: {p: 9, w: 10}\nz: 11\nl: [12]\nn: {_inherited_: true, m: 1}\n",
            "d.yml": "_base_: c.yml\nl: [13, 14]\nx: {_inherited_: false, k: 15}\nn: {o: 2}\n",
        }
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        for name in files:
            path = str(tmp_path / name)
            assert read_config(path) == parse_from_yaml(path)

    def test_paddleseg_does_not_read_the_file_again(self, config, monkeypatch):
        """What it would read another time may be something else."""
        expected = Config(config()).dic

        def refused(*arguments, **keywords):
            raise AssertionError("PaddleSeg read YAML")

        monkeypatch.setattr("paddleseg.cvlibs.config.yaml.load", refused)
        assert load_config(config()).dic == expected


def test_train_says_it_in_one_line(config, tmp_path):
    path = config(at("loss_aggregatro", value={"type": "CAGrad"}))
    result = call("train", "--config", path, "--save_dir", tmp_path / "run")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: loss_aggregatro: there is no such key; did you mean loss_aggregator?"]
