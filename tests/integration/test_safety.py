"""Configs, archives and lists of strangers: no code runs, and nothing is written elsewhere."""

from __future__ import annotations

import ast
import io
import os
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import paddle
import paddleseg
import pytest
from paddle import nn
from paddleseg.cvlibs import SegBuilder
from paddleseg.models.backbones import cae, vision_transformer
from paddleseg.utils import download, seg_env, utils
from support import at

from paddleseg_autoloss.checks import build
from paddleseg_autoloss.data_checks import build_dataset
from paddleseg_autoloss.errors import ConfigError, DataError
from paddleseg_autoloss.integration.config import load_config
from paddleseg_autoloss.integration.safety import check_archive, layer_named


class TestNoCode:
    @pytest.mark.parametrize("backbone", ["VisionTransformer", "CAE"])
    def test_norm_layer_is_not_run(self, backbone, config, tmp_path):
        witness = tmp_path / "witness"
        code = f"__import__('pathlib').Path('{witness}').touch() or nn.LayerNorm"
        model = {
            "type": "SegmentationTransformer",
            "num_classes": 2,
            "backbone": {
                "type": backbone, "norm_layer": code, "depth": 1, "embed_dim": 16, "num_heads": 2,
            },
        }  # fmt: skip
        if backbone == "CAE":
            model = {"type": "UPerNetCAE", "num_classes": 2, "backbone_indices": [0]} | {
                "backbone": model["backbone"]
            }
        builder = SegBuilder(load_config(config(at("model", value=model))))
        message = "model: norm_layer: expected a layer of paddle.nn, such as nn.LayerNorm, found"
        with pytest.raises(ConfigError) as caught:
            build("model", lambda: builder.model)
        assert str(caught.value).startswith(message)
        assert not witness.exists()

    @pytest.mark.parametrize(
        "expression",
        [
            "nn.functional", "nn.LayerNorm()", "LayerNorm", "nn.initializer.Constant",
            "xnn.LayerNorm", "nn.", "nn.ClipGradByNorm", "", 5, None, "nn.__doc__",
            "nn.LayerNorm if 1 else 0",
        ],
    )  # fmt: skip
    def test_only_layers_are_named(self, expression):
        with pytest.raises(ConfigError, match=r"norm_layer: expected a layer of paddle\.nn"):
            layer_named(expression)

    @pytest.mark.parametrize("module", [cae, vision_transformer])
    def test_the_default_still_works(self, module):
        block = module.Block(16, 2)
        assert isinstance(block.norm2, nn.LayerNorm)
        assert block.norm2._epsilon == 1e-5

    def test_nothing_else_of_paddleseg_evaluates_what_a_config_says(self):
        """These three evaluate a name that they have found in a module before."""
        harmless = {"models/pp_liteseg.py", "models/mobileseg.py", "models/layers/activation.py"}
        cured = {"models/backbones/vision_transformer.py", "models/backbones/cae.py"}
        root = Path(paddleseg.__file__).parent
        found = {
            str(path.relative_to(root))
            for path in root.rglob("*.py")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("eval", "exec")
        }
        assert found == harmless | cured


def tar(path: Path, *members: tuple[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            info.size = len(content) if isinstance(content, bytes) else 0
            archive.addfile(info, io.BytesIO(content if isinstance(content, bytes) else b""))
    return path


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


HOSTILE = {
    "above": [("pack/a", b"1"), ("../../x", b"2")],
    "first_above": [("../x", b"2")],
    "within_above": [("pack/../../x", b"2")],
    "absolute": [("{outside}/x", b"2")],
    "symbolic_link": [("pack/l", link(tarfile.SYMTYPE, "{outside}")), ("pack/l/x", b"2")],
    "hard_link": [("pack/l", link(tarfile.LNKTYPE, "{outside}/kept"))],
    "device": [("pack/l", link(tarfile.FIFOTYPE, ""))],
    "nothing": [("./", link(tarfile.DIRTYPE, ""))],
}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder that is served over HTTP, and PaddleSeg's folders beside it."""
    served, home = tmp_path / "served", tmp_path / "home"
    for folder in (served, home / "pretrained_model", home / "tmp", tmp_path / "outside"):
        folder.mkdir(parents=True)
    (tmp_path / "outside" / "kept").write_text("kept")
    monkeypatch.setattr(seg_env, "PRETRAINED_MODEL_HOME", str(home / "pretrained_model"))
    monkeypatch.setattr(seg_env, "TMP_HOME", str(home / "tmp"))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield SimpleNamespace(
            folder=served, home=home, url=f"http://127.0.0.1:{http.server_port}", root=tmp_path
        )
        http.shutdown()
        thread.join()


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


class TestArchives:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_nothing_is_written_outside(self, name, server):
        outside = server.root / "outside"
        members = []
        for member, content in HOSTILE[name]:
            if isinstance(content, tarfile.TarInfo):
                content = link(content.type, content.linkname.format(outside=outside))
            members.append((member.format(outside=outside), content))
        tar(server.folder / "weights.tar.gz", *members)
        before = files_in(server.root)
        with pytest.raises(ConfigError, match=r"weights.tar.gz: expected an archive of plain f"):
            utils.load_pretrained_model(nn.Linear(1, 1), f"{server.url}/weights.tar.gz")
        assert files_in(server.root) == before
        assert (outside / "kept").read_text() == "kept"

    @pytest.mark.parametrize("member", ["../../x", "/x", "pack/../../x", "..\\x"])
    def test_zip(self, member, tmp_path):
        path = tmp_path / "weights.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, "2")
        with pytest.raises(ConfigError, match="expected an archive of plain files and folders"):
            download._uncompress_file(str(path), str(tmp_path / "out"), False, False)
        assert files_in(tmp_path) == {"weights.zip"}

    def test_cut_short(self, tmp_path):
        path = tar(tmp_path / "weights.tgz", ("pack/a", os.urandom(100_000)))
        path.write_bytes(path.read_bytes()[:50_000])
        with pytest.raises(ConfigError, match=r"weights.tgz: it is not an archive, or is inc"):
            check_archive(path)

    def test_an_archive_of_weights_is_loaded(self, server):
        model = nn.Linear(2, 3)
        expected = paddle.full([2, 3], 4.0)
        weights = server.root / "model.pdparams"
        paddle.save({"weight": expected, "bias": paddle.zeros([3])}, str(weights))
        folder = link(tarfile.DIRTYPE, "")
        content = weights.read_bytes()
        tar(server.folder / "weights.tar.gz", ("pack", folder), ("pack/model.pdparams", content))
        utils.load_pretrained_model(model, f"{server.url}/weights.tar.gz")
        assert (model.weight == expected).all()
        assert files_in(server.home) == {"pretrained_model/weights/model.pdparams"}

    @pytest.mark.parametrize(
        "address", ["/a/../x.pdparams", "/../x", "/%2e%2e/x", "/a/..%2fx", "/a/", "/..", "/a/."]
    )
    def test_addresses(self, address, server):
        (server.folder / "x").write_text("x")
        before = files_in(server.root)
        with pytest.raises(ConfigError, match="pretrained: expected the address of a file, wi"):
            utils.load_pretrained_model(nn.Linear(1, 1), server.url + address)
        assert files_in(server.root) == before

    def test_a_failed_download_leaves_no_lock(self, server):
        """Other cards wait for as long as there is one."""
        tar(server.folder / "weights.tar.gz", ("../x", b"1"))
        with pytest.raises(ConfigError):
            utils.download_pretrained_model(f"{server.url}/weights.tar.gz")
        assert not list(server.home.rglob("*.lock"))


class TestLinksInDataSets:
    def make(self, root: Path, fundus: Path) -> dict:
        root.mkdir()
        for folder in ("JPEGImages", "Annotations"):
            (root / folder).mkdir()
            for path in (fundus / folder).glob("train_*"):
                (root / folder / path.name).write_bytes(path.read_bytes())
        (root / "list.txt").write_text((fundus / "train_list.txt").read_text())
        return {
            "type": "Dataset", "mode": "train", "dataset_root": str(root), "num_classes": 2,
            "train_path": str(root / "list.txt"), "transforms": [{"type": "Normalize"}],
        }  # fmt: skip

    def built(self, config):
        builder = SegBuilder(config=None)
        return build_dataset("train_dataset", config, lambda: builder.build_component(config))

    def test_links_to_elsewhere(self, tmp_path, fundus, monkeypatch):
        config = self.make(tmp_path / "data", fundus)
        assert len(self.built(config)) == 8
        image = sorted((tmp_path / "data" / "JPEGImages").iterdir())[3]
        outside = tmp_path / image.name
        image.rename(outside)
        image.symlink_to(outside)
        with pytest.raises(DataError, match=rf"its list names .*{image.name}, which is outside of"):
            self.built(config)
        monkeypatch.setenv("AUTOLOSS_OUTSIDE_ROOT", "1")
        assert len(self.built(config)) == 8

    def test_a_linked_folder(self, tmp_path, fundus):
        config = self.make(tmp_path / "data", fundus)
        folder = tmp_path / "data" / "Annotations"
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(DataError, match="outside of dataset_root"):
            self.built(config)

    def test_links_within_and_of_the_root_itself(self, tmp_path, fundus):
        config = self.make(tmp_path / "data", fundus)
        folder = tmp_path / "data" / "Annotations"
        folder.rename(tmp_path / "data" / "labels")
        folder.symlink_to("labels")
        (tmp_path / "link").symlink_to(tmp_path / "data")
        config["dataset_root"] = str(tmp_path / "link")
        assert len(self.built(config)) == 8
