"""A checkpoint proves that it is as it was saved, and a run that is done is finished."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time

import numpy as np
import paddle
import paddleseg.utils
import pytest
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss
from support import Squares, TinyNet, adam, call, run_tool, run_training

import paddleseg_autoloss
from paddleseg_autoloss.errors import CheckpointError, ConfigError
from paddleseg_autoloss.integration.checkpoint import (
    CheckpointWriter,
    fault_of,
    latest_checkpoint,
    newest_good_checkpoint,
    whole_checkpoints,
)
from paddleseg_autoloss.integration.loading import load_weights
from paddleseg_autoloss.integration.monitor import TermMonitor
from paddleseg_autoloss.integration.proof import PROOF, write_proof

FILES = ["model.pdparams", "model.pdopt"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with checkpoints at 4 and 8; do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    run_training(folder, 8)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def hole(content):
    return content[:200] + bytes(64) + content[264:]


DAMAGE = {
    "flipped bit": flip,
    "hole of zeros": hole,
    "cut short": lambda content: content[:-9],
    "longer": lambda content: content + b"\0",
    "all zeros": lambda content: bytes(len(content)),
}


class TestDamage:
    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("kind", DAMAGE)
    def test_is_an_error_and_not_a_resume(self, run, kind, name):
        path = run / "iter_8" / name
        path.write_bytes(DAMAGE[kind](path.read_bytes()))
        message = rf"--resume_model: cannot read .*{name}: it has changed since it was saved"
        with pytest.raises(CheckpointError, match=message):
            run_training(run, 12, resume_model=str(run / "iter_8"))

    @pytest.mark.parametrize("name", FILES)
    def test_file_of_another_iteration(self, run, name):
        shutil.copy(run / "iter_4" / name, run / "iter_8" / name)
        with pytest.raises(CheckpointError, match=f"{name}: it has changed"):
            run_training(run, 12, resume_model=str(run / "iter_8"))

    def test_renamed_folder(self, run):
        (run / "iter_4").rename(run / "iter_6")
        message = r"iter_6: the name says iteration 6, but its proof.json says iteration 4"
        with pytest.raises(CheckpointError, match=message):
            run_training(run, 12, resume_model=str(run / "iter_6"))
        model = TinyNet()
        optimizer = adam(model)
        with pytest.raises(CheckpointError, match=message):
            paddleseg.utils.resume(model, optimizer, str(run / "iter_6"))

    def test_weights_are_proven_wherever_they_are_loaded(self, run):
        path = run / "iter_8/model.pdparams"
        assert load_weights(TinyNet(), str(path)) == {}
        path.write_bytes(flip(path.read_bytes()))
        with pytest.raises(CheckpointError, match=r"pretrained: .* it has changed"):
            load_weights(TinyNet(), str(path))

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "[]",
            "{",
            '{"iteration": 8}',
            '{"iteration": true, "files": {}}',
            '{"iteration": 8, "files": [1]}',
            "[" * 9999,
        ],
    )
    def test_damaged_proof(self, run, content):
        (run / "iter_8" / PROOF).write_text(content)
        with pytest.raises(CheckpointError, match=r"iter_8/proof.json is damaged; delete it"):
            run_training(run, 12, resume_model=str(run / "iter_8"))


class TestBestModel:
    def test_is_proven(self, tmp_path):
        run_training(tmp_path, 4, val_dataset=Squares())
        path = tmp_path / "best_model" / "model.pdparams"
        assert load_weights(TinyNet(), str(path)) == {}
        path.write_bytes(flip(path.read_bytes()))
        with pytest.raises(CheckpointError, match=r"changed .* replaced it yourself, delete proof"):
            load_weights(TinyNet(), str(path))

    def test_a_kill_before_the_proof_leaves_it_unproven(self, tmp_path):
        writer = CheckpointWriter(tmp_path)
        path = tmp_path / "best_model" / "model.pdparams"
        path.parent.mkdir()
        writer.save(paddle.save, TinyNet().state_dict(), str(path))
        assert (path.parent / PROOF).is_file()

        def dies(*_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            writer.save(dies, TinyNet().state_dict(), str(path))
        assert not (path.parent / PROOF).exists()
        assert load_weights(TinyNet(), str(path)) == {}


class TestLatest:
    @pytest.mark.parametrize("kind", ["flipped bit", "hole of zeros"])
    def test_falls_back_to_the_newest_good_one(self, run, kind, capfd):
        path = run / "iter_8/model.pdopt"
        path.write_bytes(DAMAGE[kind](path.read_bytes()))
        run_training(run, 12, resume_model="latest")
        shown = "".join(capfd.readouterr())
        assert f"The checkpoint {run}/iter_8 is not used: cannot read" in shown
        assert f"Resume model from {run}/iter_4" in shown

    def test_names_what_is_incomplete(self, run, capfd):
        (run / "iter_8/model.pdopt").unlink()
        assert latest_checkpoint(run) == str(run / "iter_4")
        shown = "".join(capfd.readouterr())
        assert f"{run}/iter_8 is not used: model.pdopt missing" in shown

    def test_none_is_good(self, run):
        for path in run.glob("iter_*/model.pdparams"):
            path.write_bytes(hole(path.read_bytes()))
        message = r"there is no whole checkpoint in .*run; .*iter_8: cannot read .* it has changed"
        with pytest.raises(CheckpointError, match=message):
            run_training(run, 12, resume_model="latest")

    @pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
    def test_nan_is_never_good(self, run, kind, capfd):
        """PaddleSeg alone saves what it has; such a checkpoint has no proof."""
        (run / "iter_8" / PROOF).unlink()
        state = paddle.load(str(run / "iter_8/model.pdparams"))
        state["heads.0.bias"][1] = float("nan")
        state["heads.0.bias"] = state["heads.0.bias"].astype(kind)
        paddle.save(state, str(run / "iter_8/model.pdparams"))
        assert newest_good_checkpoint(run) == run / "iter_4"
        shown = "".join(capfd.readouterr())
        assert "iter_8 is not used: heads.0.bias in model.pdparams is NaN or infinite" in shown

    def test_the_last_good_one_is_named_when_training_diverges(self, run):
        class Poisoned(CrossEntropyLoss):
            def forward(self, logit, label, semantic_weights=None):
                return super().forward(logit, label) * float("nan")

        Poisoned.__name__ = "CrossEntropyLoss"
        path = run / "iter_8/model.pdopt"
        path.write_bytes(flip(path.read_bytes()))
        poisoned = [paddleseg_autoloss.AutoWeightedLoss([Poisoned(), DiceLoss()])]
        with pytest.raises(ArithmeticError, match=r"the last good checkpoint is .*iter_4"):
            run_training(run, 12, losses=lambda: poisoned, resume_model=str(run / "iter_4"))


class TestProof:
    def test_plain_paddleseg_loads_the_network_without_a_warning(self, run):
        """In a process without this package."""
        code = f"""
import zlib, sys, paddle, paddleseg.utils
sys.path.insert(0, "tests")
assert "paddleseg_autoloss" not in sys.modules
class TinyNet(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        nn = paddle.nn
        self.body = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8), nn.ReLU())
        self.heads = nn.LayerList([nn.Conv2D(8, 2, 1)])
paddleseg.utils.load_entire_model(TinyNet(), "{run}/iter_8/model.pdparams")
"""
        done = run_tool("-c", code)
        assert done.returncode == 0, done.stderr
        assert "variables loaded into TinyNet" in done.stdout + done.stderr
        assert "WARNING" not in done.stdout + done.stderr

    def test_what_it_says(self, run):
        proof = json.loads((run / "iter_8" / PROOF).read_text())
        assert proof["iteration"] == 8
        for name in FILES:
            path = run / "iter_8" / name
            assert proof["files"][name]["bytes"] == path.stat().st_size

    def test_checkpoint_of_an_older_version_resumes(self, run, capfd):
        (run / "iter_8" / PROOF).unlink()
        run_training(run, 12, resume_model="latest")
        lines = "".join(capfd.readouterr()).splitlines()
        assert sum(f"{run}/iter_8 has no proof.json" in line for line in lines) == 1
        assert fault_of(run / "iter_12") is None

    def test_kill_at_any_moment_of_a_save_leaves_it_incomplete_or_proven(self, tmp_path):
        """Every step of a save over an older checkpoint, as a kill before it would leave it."""
        folder, steps = tmp_path / "iter_4", []
        model = TinyNet()

        def save(value):
            writer = CheckpointWriter(tmp_path)
            for name in FILES:
                state = {"w": paddle.full([50], float(value))}
                writer.save(paddle.save, state, str(folder / name))

        save(1)
        assert fault_of(folder) is None
        before = {path.name: path.read_bytes() for path in folder.iterdir()}

        def note(frame, event, argument):
            if event == "c_call" and argument.__name__ in ("replace", "unlink", "rename"):
                steps.append({path.name: path.read_bytes() for path in folder.iterdir()})

        sys.setprofile(note)
        try:
            save(2)
        finally:
            sys.setprofile(None)
        assert len(steps) >= 5
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        for step in steps:
            shutil.rmtree(folder)
            folder.mkdir()
            for name, content in step.items():
                (folder / name).write_bytes(content)
            is_whole = fault_of(folder) is None
            kept = {name: step[name] for name in step if not name.endswith(".part")}
            assert is_whole == (kept in (before, after)), kept.keys()
        assert model is not None

    def test_checksums_cost_little(self, tmp_path):
        (tmp_path / "model.pdparams").write_bytes(np.random.default_rng(0).bytes(100 * 2**20))
        begun = time.process_time()
        write_proof(tmp_path, 4, {"model.pdparams": tmp_path / "model.pdparams"})
        assert time.process_time() - begun < 1


class TestKeep:
    def test_checkpoints_of_before_a_resume_are_counted(self, tmp_path):
        run_training(tmp_path, 12, keep_checkpoint_max=2)
        assert sorted(path.name for path in tmp_path.glob("iter_*")) == ["iter_12", "iter_8"]
        run_training(tmp_path, 16, keep_checkpoint_max=2, resume_model="latest")
        assert sorted(path.name for path in tmp_path.glob("iter_*")) == ["iter_12", "iter_16"]
        run_training(tmp_path, 28, keep_checkpoint_max=2, resume_model="latest")
        assert sorted(path.name for path in tmp_path.glob("iter_*")) == ["iter_24", "iter_28"]

    def test_resumed_from_an_earlier_one(self, tmp_path):
        """Those of the part that is trained anew are written again."""
        run_training(tmp_path, 16, keep_checkpoint_max=4)
        run_training(tmp_path, 12, keep_checkpoint_max=2, resume_model=str(tmp_path / "iter_4"))
        assert fault_of(tmp_path / "iter_12") is None
        assert len(list(tmp_path.glob("iter_*"))) == 2

    def test_all_are_kept_with_zero(self, tmp_path):
        run_training(tmp_path, 8, keep_checkpoint_max=0)
        run_training(tmp_path, 12, keep_checkpoint_max=0, resume_model="latest")
        assert len(list(tmp_path.glob("iter_*"))) == 3


class TestFinish:
    @pytest.mark.parametrize("method", ["AutoWeightedLoss", "DWA"])
    def test_picture_mix_and_best_model(self, tmp_path, method, capfd):
        def losses():
            return [getattr(paddleseg_autoloss, method)([CrossEntropyLoss(), DiceLoss()])]

        options = {"losses": losses, "val_dataset": Squares("val")}
        run_training(tmp_path, 8, **options)
        (mix,) = re.findall("equivalent MixedLoss coef: .*", "".join(capfd.readouterr()))
        shutil.rmtree(tmp_path / "best_model")
        run_training(tmp_path, 8, resume_model="latest", pictures=True, **options)
        assert re.findall("equivalent MixedLoss coef: .*", "".join(capfd.readouterr())) == [mix]
        assert (tmp_path / "loss_weights.png").is_file()
        found = paddle.load(str(tmp_path / "best_model/model.pdparams"))
        for name, value in paddle.load(str(tmp_path / "iter_8/model.pdparams")).items():
            np.testing.assert_array_equal(found[name].numpy(), value.numpy())

    def test_better_model_of_before_is_kept(self, tmp_path):
        run_training(tmp_path, 40, val_dataset=Squares("val"), save_interval=40)
        path = tmp_path / "best_model/model.pdparams"
        good = path.read_bytes()
        # A network that was not trained is worse.
        worse = tmp_path / "worse"
        model, _, optimizer = run_training(worse, 1, val_dataset=Squares("val"), save_interval=1)
        paddle.save(model.state_dict(), str(worse / "iter_1/model.pdparams"))
        (worse / "best_model/model.pdparams").write_bytes(good)
        (worse / "best_model" / PROOF).unlink()
        state = {name: paddle.zeros_like(x) for name, x in model.state_dict().items()}
        writer = CheckpointWriter(worse)
        writer.save(paddle.save, state, str(worse / "iter_1/model.pdparams"))
        writer.save(paddle.save, optimizer.state_dict(), str(worse / "iter_1/model.pdopt"))
        run_training(worse, 1, val_dataset=Squares("val"), resume_model="latest")
        assert (worse / "best_model/model.pdparams").read_bytes() == good

    def test_curve_has_the_last_point(self, tmp_path):
        from visualdl import LogReader

        run_training(tmp_path, 8)
        run_training(tmp_path, 8, val_dataset=Squares("val"), use_vdl=True, resume_model="latest")
        records = [
            record.id
            for path in tmp_path.glob("vdlrecords.*.log")
            for record in LogReader(file_path=str(path)).get_data("scalar", "Evaluate/mIoU")
        ]
        assert records == [8]

    def test_fewer_iterations_than_there_are(self, tmp_path):
        run_training(tmp_path, 8)
        with pytest.raises(ConfigError, match="iters: expected at least 8"):
            run_training(tmp_path, 4, resume_model="latest")


KILLED = """
import os, signal, sys
from paddleseg_autoloss.cli.main import main
from paddleseg_autoloss.integration.checkpoint import CheckpointWriter

save = CheckpointWriter.save


def save_and_die(self, stock, obj, path, *args, **kwargs):
    save(self, stock, obj, path, *args, **kwargs)
    if path.endswith("iter_4/model.pdopt"):
        os.kill(os.getpid(), signal.SIGKILL)


CheckpointWriter.save = save_and_die
main(sys.argv[1:])
"""

CONFIG = """
batch_size: 2
iters: 4
train_dataset: &data
  type: SyntheticFundus
  dataset_root: {root}
  mode: train
  num_train: 8
  num_val: 3
  image_size: 64
  transforms: [{{type: Resize, target_size: [32, 32]}}, {{type: Normalize}}]
val_dataset: {{<<: *data, mode: val}}
model: {{type: FastSCNN, num_classes: 2, enable_auxiliary_loss: false}}
optimizer: {{type: AdamW}}
lr_scheduler: {{type: PolynomialDecay, learning_rate: 0.01, end_lr: 0.0, power: 0.9}}
loss:
  types:
    - type: AutoWeightedLoss
      losses: [{{type: CrossEntropyLoss}}, {{type: DiceLoss}}]
  coef: [1]
"""


@pytest.mark.once
def test_run_that_was_killed_after_its_last_checkpoint(tmp_path, fundus):
    """The same command finishes it as the run that was left alone."""
    (tmp_path / "c.yml").write_text(CONFIG.format(root=fundus), encoding="utf-8")
    (tmp_path / "killed.py").write_text(KILLED, encoding="utf-8")
    killed, alone = tmp_path / "killed", tmp_path / "alone"

    def flags(folder, *more):
        own = ["--config", tmp_path / "c.yml", "--save_dir", folder, "--device", "cpu"]
        return [*own, "--do_eval", "--log_iters", "1", "--seed", "1", "--save_interval", "4", *more]

    done = run_tool(tmp_path / "killed.py", "train", *flags(killed))
    assert done.returncode == -signal.SIGKILL
    assert not (killed / "equivalent_mixed_loss.yml").exists()
    assert not (killed / "best_model").exists()
    done = call("train", *flags(killed, "--resume_model", "latest"))
    assert done.returncode == 0, done.stderr
    assert "[EVAL] The model with the best validation mIoU" in done.stdout + done.stderr
    assert call("train", *flags(alone)).returncode == 0
    for name in ("equivalent_mixed_loss.yml", "loss_weights.csv"):
        assert (killed / name).read_bytes() == (alone / name).read_bytes(), name
    assert (killed / "loss_weights.png").is_file()
    assert (killed / "best_model/model.pdparams").is_file()


class TestAnOlderRunInTheFolder:
    """A new run has fewer iterations than an older one in the same folder."""

    @pytest.fixture
    def folder(self, run, capfd):
        run_training(run, 5, save_interval=5)
        self.output = capfd.readouterr().out
        return run

    def test_the_log_names_it(self, folder):
        assert (
            f"--save_dir: {folder} has checkpoints of an earlier run, such as iter_8."
            in self.output
        )

    def test_the_latest_checkpoint_is_the_one_that_was_written_last(self, folder, tmp_path):
        assert latest_checkpoint(folder) == str(folder / "iter_5")
        shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
        assert latest_checkpoint(tmp_path / "copy") == str(tmp_path / "copy" / "iter_5")

    def test_the_oldest_checkpoints_are_those_of_the_older_run(self, folder):
        CheckpointWriter(folder, keep=2).delete_oldest()
        assert sorted(path.name for path in folder.glob("iter_*")) == ["iter_5", "iter_8"]

    def test_a_run_that_ends_early_does_not_advise_to_go_on_with_the_older_one(self, folder):
        assert TermMonitor([], folder, start_iter=0).newest_checkpoint() is None
        resumed = TermMonitor([], folder, start_iter=5)
        resumed.resumed = folder / "iter_4"
        assert resumed.newest_checkpoint() == folder / "iter_4"

    def test_an_incomplete_one_does_not_change_the_order_of_a_copy(self, folder):
        for age, name in enumerate(("iter_5", "iter_8")):
            for file in FILES:
                os.utime(folder / name / file, (time.time() - 99 + age, time.time() - 99 + age))
        (folder / "iter_9").mkdir()
        (folder / "iter_9/model.pdparams").touch()
        assert latest_checkpoint(folder) == str(folder / "iter_5")

    @pytest.mark.parametrize(("age", "place"), [(3600, 0), (-3600, -1)])
    def test_if_one_has_no_proof_the_times_of_files_decide(self, age, place, folder):
        """Checkpoints of version 0.2 and of plain PaddleSeg have none."""
        (folder / "iter_6").mkdir()
        for name in FILES:
            file = folder / "iter_6" / name
            shutil.copy(folder / "iter_5" / name, file)
            os.utime(file, (time.time() - age, time.time() - age))
        assert whole_checkpoints(folder)[place].name == "iter_6"

    def test_what_is_no_checkpoint_is_passed_over(self, folder):
        (folder / "iter_9").touch()
        (folder / "iter_10").symlink_to(folder / "gone")
        (folder / "iter_11").mkdir()
        (folder / "iter_11" / PROOF).write_text('{"files": {}, "iteration": 11, "written": 1e999}')
        big = '{"files": {}, "iteration": 12, "written": 1' + "0" * 400 + "}"
        (folder / "iter_12").mkdir()
        (folder / "iter_12" / PROOF).write_text(big)
        assert latest_checkpoint(folder) == str(folder / "iter_5")

    def test_a_new_run_in_an_empty_folder_is_silent(self, tmp_path, capfd):
        run_training(tmp_path / "new", 4)
        assert "earlier run" not in capfd.readouterr().out
