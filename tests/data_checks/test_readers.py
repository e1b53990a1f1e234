"""Tests of readers that fail: PaddleSeg's loop ends, with the file and the transform."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import paddle
import pytest
from support.data import square, write_config, write_data, write_png_with_few_pixels
from support.processes import ROOT, SCRIPT_HEAD, call, run_tool

from paddleseg_autoloss.data_checks import reader_errors
from paddleseg_autoloss.errors import DataError

#: Each kind of failure in a run of its own, one after the other in one process.
KINDS = """
import faulthandler, json, os, random, signal
from paddleseg.datasets import Dataset
from paddleseg.transforms import Normalize, RandomPaddingCrop, Resize, ResizeByShort
from paddleseg_autoloss.errors import AutoLossError
from support.data import square, write_data, write_png_with_few_pixels

folder, num_workers = Path(sys.argv[1]), int(sys.argv[2])


class Broken:
    def __init__(self, act):
        self.act = act

    def __call__(self, sample):
        self.act(sample)
        return sample


def raises(error):
    def act(sample):
        raise error
    return Broken(act)


def kills(number):
    return Broken(lambda sample: os.kill(os.getpid(), number))


def shrinks_each_label_more():
    heights = iter(range(30, 0, -1))
    def act(sample):
        sample["label"] = sample["label"][:next(heights)]
    return Broken(act)


def turns_into(kind):
    def act(sample):
        sample["img"] = sample["img"].astype(kind)
    return Broken(act)


KINDS = {
    "sizes": [Normalize()],
    "ratio": [ResizeByShort(32), Normalize()],
    "target_size": [Resize([0, 64]), Normalize()],
    "pixels": [Resize([32, 32]), Normalize()],
    "label": [shrinks_each_label_more(), RandomPaddingCrop([48, 48]), Normalize()],
    "raises": [Resize([32, 32]), raises(ValueError("two\\nlines"))],
    "exits": [Resize([32, 32]), raises(SystemExit(3))],
    "stops": [Resize([32, 32]), raises(StopIteration())],
    "memory": [Resize([32, 32]), raises(MemoryError())],
    "objects": [Resize([32, 32]), turns_into(object)],
    "unsigned": [Resize([32, 32]), turns_into("uint32")],
}
if num_workers:
    KINDS |= {
        "killed": [Resize([32, 32]), kills(signal.SIGKILL)],
        "terminated": [Resize([32, 32]), kills(signal.SIGTERM)],
        "crashed": [Resize([32, 32]), kills(signal.SIGSEGV)],
        "left": [Resize([32, 32]), Broken(lambda sample: os._exit(3))],
    }

for kind, transforms in KINDS.items():
    labels = [square()[:20] if kind in ("sizes", "ratio") and i % 2 else square() for i in range(6)]
    root = folder / kind
    path = write_data(root, labels)
    if kind == "pixels":
        write_png_with_few_pixels(root / "3.png")
    dataset = Dataset("train", str(root), transforms, 2, train_path=str(path))
    model = TinyNet()
    faulthandler.dump_traceback_later(60, exit=True)
    since = time.monotonic()
    try:
        paddleseg.core.train(
            model, dataset, optimizer=adam(model), save_dir=str(folder / "out"), iters=20,
            losses={"types": [CrossEntropyLoss()], "coef": [1]}, num_workers=num_workers,
        )
        text = "it went on"
    except AutoLossError as error:
        text = f"{type(error).__name__}: {error}"
    except BaseException as error:
        text = f"another error: {error!r}"
    print(json.dumps([kind, time.monotonic() - since, text]), flush=True)
"""

FILES = r"\S+/{kind}/\d\.png with \S+/{kind}/\d_label\.png"
SHAPES = r"train_dataset\.transforms: expected images that make a batch, found "
SAMPLE = f"train_dataset: cannot read {FILES}"
DIED = r"train_dataset: a process that loads data {how} at \S+/{kind}/\d.png with .*, in Broken; "
EXPECTED = {
    "sizes": SHAPES + r"'img' of the shapes 3 x \d+ x \d+ and 3 x \d+ x \d+ after Normalize, from "
    rf"{FILES} and {FILES}; add Resize or RandomPaddingCrop, or set batch_size to 1",
    "ratio": SHAPES + r"'img' of the shapes .* after ResizeByShort, Normalize, from ",
    "target_size": rf"{SAMPLE}: Resize failed: OpenCV.*inv_scale_x > 0",
    "pixels": rf"{SAMPLE}: OpenCV cannot decode the image",
    "label": SHAPES + r"'label' of the shapes \d+ x 48 and \d+ x 48 after Broken, "
    rf"RandomPaddingCrop, Normalize, from {FILES} and {FILES}; add ",
    "raises": rf"{SAMPLE}: Broken failed: ValueError: two lines",
    "exits": rf"{SAMPLE}: Broken failed: SystemExit: 3",
    "stops": rf"{SAMPLE}: Broken failed: StopIteration",
    "memory": rf"{SAMPLE}: Broken failed: MemoryError",
    "objects": rf"{SAMPLE} and .*: 'img' has type object, which cannot become a tensor",
    "unsigned": rf"{SAMPLE} and .*: 'img' has type uint32, which cannot become a tensor",
    "killed": DIED.format(kind="{kind}", how="was killed by SIGKILL") + "if memory is short, lower",
    "terminated": DIED.format(kind="{kind}", how="was killed by SIGTERM"),
    "crashed": DIED.format(kind="{kind}", how="was killed by SIGSEGV"),
    "left": DIED.format(kind="{kind}", how="left with 3"),
}


@pytest.fixture(scope="module", params=[0, 2], ids=["thread", "processes"])
def outcomes(request, tmp_path_factory):
    """What came of each kind: seconds and message."""
    folder = tmp_path_factory.mktemp("kinds")
    script = folder / "kinds.py"
    script.write_text(SCRIPT_HEAD + KINDS)
    done = run_tool(script, folder, request.param, PYTHONPATH=str(ROOT))
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    assert done.returncode == 0, done.stderr[-2000:]
    return request.param, {kind: (seconds, text) for kind, seconds, text in lines}


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_loop_ends_and_says_why(kind, outcomes):
    num_workers, found = outcomes
    if kind not in found:
        assert num_workers == 0, "only processes can be killed"
        return
    seconds, text = found[kind]
    assert re.match(f"DataError: {EXPECTED[kind].format(kind=kind)}", text), text
    assert "\n" not in text
    # It takes 1 to 3 seconds; the machine may be busy.
    assert seconds < 15


BETWEEN_STEPS = """
import json, os, signal
from paddleseg_autoloss.data_checks import readers
from paddleseg_autoloss.errors import DataError

losses = CrossEntropyLoss()
# More than the readers read ahead.
Squares.__len__ = lambda self: 60


def act(layer, inputs):
    # Let the process read all that may wait.
    time.sleep(1)
    for worker in made[0]._workers:
        os.kill(worker.pid, signal.SIGKILL)
    hook.remove()


made = []
init = readers._Loader.__init__
readers._Loader.__init__ = lambda self, *a, **k: init(self, *a, **k) or made.append(self)
hook = losses.register_forward_pre_hook(act)
try:
    run_training(Path(sys.argv[1]), 30, lambda: [losses], num_workers=1)
except DataError as error:
    print("DataError:", error)
"""


def test_a_process_that_dies_between_two_samples(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT_HEAD + BETWEEN_STEPS)
    done = run_tool(script, tmp_path / "out", PYTHONPATH=str(ROOT))
    assert (
        "DataError: train_dataset: a process that loads data was killed by SIGKILL; if memory"
        in done.stdout
    ), done.stderr[-2000:]


ONE_AFTER_THE_OTHER = """
import os, signal
from paddleseg.datasets import Dataset
from paddleseg.transforms import Normalize, Resize
from paddleseg_autoloss.errors import DataError
from support.data import square, write_data

folder = Path(sys.argv[1])
notes = folder / "died.txt"


class Dies:
    def __call__(self, sample):
        if paddle.io.get_worker_info().id == 1:
            while not notes.exists():
                time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)


path = write_data(folder, [square()] * 6)
steps = [Resize([32, 32]), Dies(), Normalize()]
dataset = Dataset("train", str(folder), steps, 2, train_path=str(path))
model = TinyNet()
try:
    paddleseg.core.train(
        model, dataset, optimizer=adam(model), save_dir=str(folder / "out"), iters=20,
        losses={"types": [CrossEntropyLoss()], "coef": [1]}, num_workers=2,
    )
except DataError as error:
    print("DataError:", error)
    notes.write_text("")
    # The second process dies now.
    time.sleep(2)
    print("it went on")
"""


def test_a_process_that_dies_after_the_run_raises_nothing(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT_HEAD + ONE_AFTER_THE_OTHER)
    done = run_tool(script, tmp_path, PYTHONPATH=str(ROOT))
    assert "was killed by SIGTERM" in done.stdout, done.stderr[-2000:]
    assert done.stdout.endswith("it went on\n"), done.stderr[-2000:]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("command", ["train", "val", "diagnose", "compare"])
def test_commands_end_with_one_line(command, num_workers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path, [square()] * 6)
    resize = {"type": "Resize", "target_size": [0, 64]}
    config = write_config(tmp_path, [resize, {"type": "Normalize"}])
    words = [command, "--config", config, "--device", "cpu"]
    words += ["--num_workers", num_workers]
    if command in ("train", "compare"):
        words += ["--save_dir", "out"]
    if command == "compare":
        words += ["--methods", "PCGrad,CAGrad"]
    done = call(*words)
    assert done.returncode == 1
    last = done.stderr.rstrip().splitlines()[-1]
    key = "val_dataset" if command == "val" else "train_dataset"
    files = r"\S+/\d.png with \S+"
    assert re.match(rf"error: {key}: cannot read {files}: Resize failed: OpenCV", last)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out/runs/**/train.log")), "a comparison started a run"


def test_a_comparison_ends_at_the_first_run_that_cannot_read_its_images(tmp_path):
    write_data(tmp_path, [square()] * 8)
    write_png_with_few_pixels(tmp_path / "7.png")
    config = write_config(tmp_path)
    words = ["compare", "--config", config, "--methods", "PCGrad,CAGrad", "--validation", "0"]
    words += ["--device", "cpu", "--save_dir", "out"]
    done = run_tool("-m", "paddleseg_autoloss", *words, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    last = done.stderr.rstrip().splitlines()[-1]
    assert re.match(r"error: \S+, lr 0.01, seed 0: .* cannot read \S+/7.png with", last)
    assert len(list(tmp_path.glob("out/runs/**/train.log"))) == 1


def test_a_broken_image_at_the_end_of_an_evaluation(tmp_path):
    write_data(tmp_path, [square()] * 3)
    config = write_config(tmp_path)
    write_png_with_few_pixels(tmp_path / "2.png")
    done = call("val", "--config", config)
    last = done.stderr.rstrip().splitlines()[-1]
    files = f"{tmp_path}/2.png with {tmp_path}/2_label.png"
    assert last == f"error: val_dataset: cannot read {files}: OpenCV cannot decode the image"
    done = call("check", "--config", config)
    for key in ("train_dataset", "val_dataset"):
        assert re.search(rf"{key}: \S+train.txt, line 3: cannot read \S+/2.png: ", done.stdout)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ({"type": "Normalize"}, r"train_dataset\.transforms: expected a list"),
        (
            [{"type": "Normalize"}, {"tyep": "Resize"}],
            r"train_dataset\.transforms\[1\]: expected a",
        ),
        ([{"type": "Normalise"}], r"train_dataset\.transforms\[0\].*did you mean Normalize\?"),
    ],
)
def test_transforms_that_cannot_be_built_are_named_before(transforms, message, tmp_path):
    write_data(tmp_path, [square()])
    config = write_config(tmp_path, transforms)
    done = call("train", "--config", config)
    assert re.match(f"error: {message}", done.stderr.rstrip().splitlines()[-1])


class Numbers(paddle.io.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index == 3:
            raise ValueError("it is three")
        return [index]


class TestLoader:
    """What is not PaddleSeg's loop."""

    def read(self, dataset, **options) -> list:
        with reader_errors():
            return [batch for batch in paddle.io.DataLoader(dataset, **options)]

    def test_a_data_set_without_files(self):
        with pytest.raises(DataError, match="cannot read sample 3: reading failed: ValueError: it"):
            self.read(Numbers(), batch_size=1)

    def test_streams_and_single_samples_are_left_alone(self):
        class Stream(paddle.io.IterableDataset):
            def __iter__(self):
                yield from (paddle.to_tensor([float(i)]) for i in range(3))

        assert [float(batch) for (batch,) in self.read(Stream(), batch_size=1)] == [0, 1, 2]

    def test_another_error_stays_what_it_is(self):
        with pytest.raises(KeyError), reader_errors():
            raise KeyError("Blocking queue is killed")

    def test_the_loader_is_given_back(self):
        stock = paddle.io.DataLoader
        with reader_errors():
            assert issubclass(paddle.io.DataLoader, stock)
            assert paddle.io.DataLoader is not stock
        assert paddle.io.DataLoader is stock

    def test_the_batches_are_those_of_paddle(self):
        class Squares(Numbers):
            def __getitem__(self, index):
                return {
                    "img": paddle.full([2], index).numpy(),
                    "name": f"{index}",
                    "other": [index],
                }

        options = {"batch_size": 2, "drop_last": False}
        stock, ours = (
            list(paddle.io.DataLoader(Squares(), **options)),
            self.read(Squares(), **options),
        )
        assert str(stock) == str(ours)

    def test_a_collate_function_of_ones_own(self):
        def collate(samples):
            return {"sum": paddle.to_tensor(float(sum(sample[0] for sample in samples))).numpy()}

        class Fine(Numbers):
            def __getitem__(self, index):
                return [index]

        batches = self.read(Fine(), batch_size=5, collate_fn=collate)
        assert [float(batch["sum"]) for batch in batches] == [10]


def test_ctrl_c_still_stops_a_run(tmp_path):
    write_data(tmp_path, [square()] * 6)
    config = write_config(tmp_path, iters=100_000)
    words = ["-m", "paddleseg_autoloss", "train", "--config", str(config), "--num_workers", "2"]
    with subprocess.Popen(
        [sys.executable, *words, "--save_dir", "out", "--log_iters", "1"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
        # A shell that runs the tests in the background has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        for line in process.stdout:
            if "iter: 2/" in line:
                break
        since = time.monotonic()
        process.send_signal(signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 130, output
    assert "Traceback" not in output
    assert time.monotonic() - since < 30
