"""How a run is started, continued, and given a card."""

from __future__ import annotations

import os
import sys
from argparse import Namespace

import pytest
import yaml
from support.comparison import comparison_file
from support.processes import ROOT

from paddleseg_autoloss.comparison.engines import LocalEngine
from paddleseg_autoloss.comparison.folders import prepare
from paddleseg_autoloss.comparison.job import Commands, Job
from paddleseg_autoloss.comparison.runner import Runner
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.installation import package_command


def test_learned_frozen_retrained(parse, tmp_path, base):
    variants = [{"retrain_of": "Sum"}, {"method": "Sum"}]
    plan = parse(comparison_file(tmp_path, base=str(base), variants=variants, seeds=2))
    runs = [(run.variant.name, run.seed) for run in plan.runs()]
    assert runs == [("Sum", 0), ("Sum, retrained", 0), ("Sum", 1), ("Sum, retrained", 1)]
    source, retrained, *_ = prepare(plan, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"loss.yml from Sum, lr 0.002, seed 0, found none"):
        retrained.use_learned_loss(source)
    learned = {"types": [{"type": "DiceLoss"}], "coef": [1]}
    (source.path / "equivalent_mixed_loss.yml").write_text(yaml.safe_dump({"loss": learned}))
    retrained.use_learned_loss(source)
    assert yaml.safe_load((retrained.path / "config.yml").read_text())["loss"] == learned
    prepare(plan, tmp_path / "out")


@pytest.fixture
def started(parse, tmp_path, base, monkeypatch):
    """Return a function that starts a run in its folder, and says with which command."""
    (tmp_path / "own.py").write_text("")
    variants = [{"coef": [1, 1]}, {"script": "own.py"}]
    plan = parse(comparison_file(tmp_path, base=str(base), variants=variants, seeds=1))
    folders = prepare(plan, tmp_path / "out")
    flags = {"device": "cpu", "num_workers": 0, "log_iters": 10, "samples": 0, "jobs": 1}
    job_commands = Commands(plan, Namespace(**flags))
    commands = []

    def start_process(command, environment, log):
        commands.append(command)
        return Namespace(poll=lambda: None)

    monkeypatch.setattr("paddleseg_autoloss.comparison.job.start_process", start_process)

    def start_run(index, *checkpoints):
        folder = folders[index]
        for name in checkpoints:
            (folder.path / name).mkdir()
            for file in ("model.pdparams", "model.pdopt"):
                # An empty dict, as paddle.save writes it.
                (folder.path / name / file).write_bytes(b"\x80\x04}.")
        Job(folder, None, {}, job_commands)
        return folder, commands.pop() if commands else None

    return start_run


def test_a_fresh_run_is_trained(started):
    folder, command = started(0)
    assert command[: command.index("train")] == package_command("paddleseg_autoloss")
    assert command[command.index("--save_dir") + 1] == str(folder.path)
    assert "--resume_model" not in command
    assert command[command.index("--log_iters") + 1] == "4"


def test_an_interrupted_run_goes_on_from_its_last_whole_checkpoint(started):
    folder, command = started(0, "iter_1", "iter_2")
    assert command[command.index("--resume_model") + 1] == str(folder.path / "iter_2")
    (folder.path / "iter_2" / "model.pdopt").unlink()
    _, command = started(0)
    assert command[command.index("--resume_model") + 1] == str(folder.path / "iter_1")


def test_a_damaged_checkpoint_is_passed_over(started):
    folder, _ = started(0, "iter_1", "iter_2")
    (folder.path / "iter_2" / "model.pdopt").write_bytes(b"damaged")
    _, command = started(0)
    assert command[command.index("--resume_model") + 1] == str(folder.path / "iter_1")


def test_a_failed_run_starts_afresh(started):
    folder, _ = started(0, "iter_2")
    folder.write_error("exit status 1", folder.log_path)
    _, command = started(0)
    assert "--resume_model" not in command
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.yml", "config_test.yml"]


EVALUATION = package_command("paddleseg_autoloss.comparison.evaluation")


@pytest.mark.parametrize("index", [0, 1], ids=["train.py", "a script of one's own"])
def test_a_failed_evaluation_does_not_cost_the_training(started, index):
    folder, _ = started(index, "iter_4")
    # A script starts afresh, so its checkpoint comes later.
    (folder.path / "iter_4").mkdir(exist_ok=True)
    (folder.path / "iter_4" / "model.pdparams").write_bytes(b"trained")
    assert folder.keep_model()
    (folder.path / "samples.npz").write_bytes(b"half")
    folder.write_error("exit status 1: cannot write samples.npz: no space left", folder.log_path)
    _, command = started(index)
    assert command[: len(EVALUATION)] == EVALUATION
    assert folder.model_path.read_bytes() == b"trained"
    assert not folder.error_path.exists()
    assert not (folder.path / "samples.npz").exists()


def test_a_damaged_evaluation_is_made_again(started):
    """It is there, but the result cannot be written from it."""
    folder, _ = started(0, "iter_4")
    assert folder.keep_model()
    folder.log_path.write_text("iter: 4/4, loss: 1, batch_cost: 1, x")
    folder.evaluation_path.write_text("{")
    assert started(0)[1] is None
    assert "evaluation.json" in folder.error()
    _, command = started(0)
    assert command[: len(EVALUATION)] == EVALUATION
    assert folder.model_path.is_file()


def test_a_script_of_ones_own_is_never_resumed(started, tmp_path):
    """What its checkpoints leave out cannot be known."""
    _, command = started(1, "iter_2")
    assert command[:2] == [sys.executable, str(tmp_path / "own.py")]
    assert "--resume_model" not in command


def test_a_run_that_was_killed_after_its_last_checkpoint_is_finished(started):
    """Else a run to retrain would find no equivalent_mixed_loss.yml."""
    folder, command = started(0, "iter_4")
    assert command[command.index("--resume_model") + 1] == str(folder.path / "iter_4")


def test_a_trained_run_is_evaluated(started):
    folder, _ = started(0, "iter_4", "best_model")
    assert folder.keep_model()
    _, command = started(0)
    assert command[: len(EVALUATION)] == EVALUATION
    assert folder.model_path.is_file()
    assert not list(folder.path.glob("iter_*"))
    assert not (folder.path / "best_model").exists()


@pytest.mark.parametrize("broken", [{0}, {1}, {0, 1, 2}])
def test_all_jobs_are_stopped_although_some_cannot_be(broken):
    stopped = []

    def job(number):
        def stop():
            stopped.append(number)
            if number in broken:
                raise OSError(f"job {number}")

        return Namespace(stop=stop, is_over=lambda: False, iteration=lambda: 0)

    def start(folder, source):
        if folder.number == 3:
            raise RuntimeError("the comparison breaks off")
        return job(folder.number)

    runs = [Namespace(key=i, source=None, config={"iters": 1}) for i in range(4)]
    folders = [Namespace(number=i, run=run, is_done=False) for i, run in enumerate(runs)]
    with pytest.raises(OSError, match="job"):
        Runner(folders, Namespace(start=start, most_jobs=4, poll=0)).run()
    assert sorted(stopped) == [0, 1, 2]


def test_cards_are_shared_out(parse, tmp_path, base, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    plan = parse(comparison_file(tmp_path, base=str(base)))
    engine = LocalEngine(Commands(plan, Namespace(device="gpu", jobs=3)))
    for expected in ("2", "5", "2"):
        environment = engine._environment()
        assert environment["CUDA_VISIBLE_DEVICES"] == expected
        assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
        engine._jobs.append(Namespace(environment=environment))
