"""Count how a training step runs through the code: calls, moves between files, files.

From one forward pass of the network to the next, every call into this package or into PaddleSeg's
training loop counts as a call, and every change of file from one such call to the next as a move.
Fewer moves make a step easier to follow.

    python tools/benchmarks/follow_step.py --calls
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # isort: skip  before paddle

import paddle
import paddleseg.core
from _noise import Noise
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss, MixedLoss

PACKAGE = Path(paddleseg_autoloss.__file__).parent
LOOP = sys.modules["paddleseg.core.train"].__file__
#: The step to follow: the first ones prepare what later ones reuse.
STEP = 5


class Network(nn.Layer):
    """One convolution; its forward pass begins and ends the record of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 2, 3, padding=1)
        self.passes = 0
        self.calls: list[tuple[str, str]] = []

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """Return one output, and switch the record on and off."""
        self.passes += 1
        if self.passes == STEP:
            sys.setprofile(self._record)
        elif self.passes == STEP + 1:
            sys.setprofile(None)
        return [self.conv(images)]

    def _record(self, frame: FrameType, event: str, argument: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and (path == LOOP or path.startswith(str(PACKAGE))):
            shown = "loop" if path == LOOP else str(Path(path).relative_to(PACKAGE))
            self.calls.append((shown, frame.f_code.co_name))


def follow(losses: dict[str, list[Any]]) -> list[tuple[str, str]]:
    """Train a few steps through PaddleSeg's loop; return file and function of every call of one."""
    model = Network()
    optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        paddleseg.core.train(
            model, Noise(), optimizer=optimizer, save_dir=folder, iters=STEP + 1, batch_size=2,
            losses=losses, log_iters=100, save_interval=100,
        )  # fmt: skip
    return model.calls


def steps() -> dict[str, list[tuple[str, str]]]:
    """Return the calls of a step with a fixed mix, with learned weights and with gradients."""
    both = lambda: [CrossEntropyLoss(), DiceLoss()]  # noqa: E731
    return {
        "MixedLoss": follow({"types": [MixedLoss(both(), [0.8, 0.2])], "coef": [1]}),
        "AutoWeightedLoss": follow(
            {"types": [paddleseg_autoloss.AutoWeightedLoss(both())], "coef": [1]}
        ),
        "loss_aggregator: CAGrad": follow(
            {
                "types": [MixedLoss(both(), [0.8, 0.2])],
                "coef": [1],
                "loss_aggregator": {"type": "CAGrad"},
            }
        ),
    }


def moves(calls: Sequence[tuple[str, str]]) -> int:
    """Return how often the file changes from one call to the next."""
    files = [file for file, _ in calls]
    return sum(a != b for a, b in zip(files, files[1:]))


def counts(calls: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the numbers of calls, moves and files."""
    files = {file for file, _ in calls}
    return {"calls": len(calls), "moves": moves(calls), "files": len(files)}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", action="store_true", help="list every call too")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row for each config."""
    args = parse_args(argv)
    found = steps()
    if args.json:
        print(json.dumps({name: counts(calls) for name, calls in found.items()}))
        return 0
    print(f"{'config':<26}{'calls':>7}{'moves':>7}{'files':>7}")
    for name, calls in found.items():
        print(f"{name:<26}" + "".join(f"{number:>7}" for number in counts(calls).values()))
        for file, function in calls if args.calls else ():
            print(f"    {file:<36}{function}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
