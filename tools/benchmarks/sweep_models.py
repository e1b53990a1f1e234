"""Train every model of PaddleSeg for one step, with PaddleSeg's own mix and with this package.

Each model gets a process of its own and three steps on random images through PaddleSeg's own loop:
with MixedLoss as PaddleSeg trains it, with AutoWeightedLoss on every output, and with
loss_aggregator: PCGrad over every term of every output. Nothing is downloaded; sweep_models.yml
has the arguments. Give the same command again to continue.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

import numpy as np
import paddle
import paddleseg.core
import yaml
from _processes import emit, run_each
from paddle import nn
from paddleseg.cvlibs import manager
from paddleseg.transforms import GenerateInstanceTargets
from paddleseg.transforms.functional import mask_to_binary_edge
from paddleseg.utils import utils

from paddleseg_autoloss.seams import replaced

RECIPES: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_suffix(".yml").read_text("utf-8")
)
WORKS = "works"
#: The three steps, by the names of their columns.
STEPS = ("PaddleSeg itself", "AutoWeightedLoss", "PCGrad")
SEGMENTATION = [{"type": "CrossEntropyLoss"}, {"type": "DiceLoss"}]
CLASSES, BATCH = 2, 2
PAGE = """\
# Every model of PaddleSeg

One training step of every model that PaddleSeg registers, through PaddleSeg's own loop on a CPU,
with Paddle {paddle} and PaddleSeg {paddleseg}: batch 2, random images of 64 x 64
pixels, two classes (19 for ESPNetV1), nothing downloaded.

```bash
python tools/benchmarks/sweep_models.py --page docs/models.md
```

- **Losses** of each output: *seg* is cross-entropy and Dice. Outputs of another kind, edges or
  points say, have the loss of PaddleSeg's own config by itself.
- **PaddleSeg itself**: PaddleSeg's training function with the losses in `MixedLoss`, without any
  weighting. PaddleSeg's faults that [compat.py](../paddleseg_autoloss/compat.py) lists are cured;
  without that, no model with cross-entropy trains with these versions.
- **AutoWeightedLoss** in the place of `MixedLoss`, weights of its own for every output. A loss that
  is alone on its output stays as it is: there is nothing to weigh.
- **PCGrad**: `loss_aggregator: {{type: PCGrad}}` over all losses of all outputs.

MaskFormer's own `loss_computation` takes no `MixedLoss`: it has `MaskFormerLoss` as one loss, and
for `AutoWeightedLoss` that of the classes and that of the masks.

*works* means that the step ended, that the network's parameters moved and are finite, and that the
network predicts a batch then. It does not say that the model trains well. What PaddleSeg's loop
does at its end belongs to the step: it saves a checkpoint and counts operations. An
error is PaddleSeg's or Paddle's own where it stands under *PaddleSeg itself*; nothing else is tried
then. Not tried were distillation, whose losses compare two networks, and the models of PaddleSeg's
separate projects, such as matting, which it does not register. Backbones are small ones of the kind
that PaddleSeg's configs have; [sweep_models.yml](../tools/benchmarks/sweep_models.yml) has the
arguments of each.

{summary}

{table}
"""


class RandomImages(paddle.io.Dataset):
    """Random images with all that PaddleSeg's losses ask for: labels, edges and instances."""

    num_classes, ignore_index = CLASSES, 255

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return BATCH

    def __getitem__(self, index: int) -> dict[str, Any]:
        random = np.random.default_rng(index)
        label = np.zeros((self.size, self.size), "int64")
        label[self.size // 4 : -self.size // 4, self.size // 3 :] = 1
        image = label + random.standard_normal((3, self.size, self.size))
        sample = {"img": image.astype("float32"), "label": label, "trans_info": []}
        sample["edge"] = mask_to_binary_edge(label, radius=2, num_classes=CLASSES)
        return GenerateInstanceTargets(CLASSES)(sample)


def build(config: Any) -> Any:
    """Build the components of PaddleSeg that stand in a config, the innermost first."""
    if isinstance(config, dict):
        arguments = {key: build(value) for key, value in config.items() if key != "type"}
        return component(config["type"])(**arguments) if "type" in config else arguments
    if config == "EMPTY":
        return empty_weights()
    return [build(value) for value in config] if isinstance(config, list) else config


def empty_weights() -> str:
    """Return the path of a file of weights that has none."""
    path = Path(_folder().name) / "empty.pdparams"
    paddle.save({}, str(path))
    return str(path)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    # Removed when the process ends.
    return tempfile.TemporaryDirectory()


def component(name: str) -> Callable[..., Any]:
    """Find a component of PaddleSeg by its name."""
    for kind in (manager.MODELS, manager.BACKBONES, manager.LOSSES):
        if name in kind.components_dict:
            return kind[name]
    raise KeyError(f"PaddleSeg has no component {name}")


def build_model(name: str) -> nn.Layer:
    """Build a model for two classes."""
    paddle.seed(0)
    arguments = RECIPES[name].get("model", {})
    # Some models do not do without a file of weights, and find nothing in the empty one.
    nothing = replaced(utils, "load_pretrained_model", lambda model, path: None)
    with nothing, paddle.utils.unique_name.guard():
        return build({"type": name, "num_classes": CLASSES, **arguments})


def output_losses(name: str, model: nn.Layer) -> list[list[dict[str, Any]]]:
    """Return the configs of the losses of every output."""
    if "losses" in RECIPES[name]:
        return RECIPES[name]["losses"]
    size = image_size(name)
    model.train()
    return [SEGMENTATION] * len(model(paddle.rand([BATCH, 3, size, size])))


def image_size(name: str) -> int:
    """Return the height and width of a model's images."""
    return RECIPES[name].get("size", 64)


def make_losses(outputs: list[list[dict[str, Any]]], mix: str) -> dict[str, Any]:
    """Return PaddleSeg's loss dict.

    Args:
        outputs: the losses of every output.
        mix: the component for outputs with several losses.
    """
    types = []
    for losses in outputs:
        parts = [build(loss) for loss in losses]
        coefficients = {"coef": [1.0] * len(parts)} if mix == "MixedLoss" else {}
        mixed = len(parts) > 1
        types.append(manager.LOSSES[mix](losses=parts, **coefficients) if mixed else parts[0])
    return {"types": types, "coef": [1] * len(types)}


def take_step(name: str, step: str, model: nn.Layer, outputs: list[list[dict[str, Any]]]) -> None:
    """Train for one iteration through PaddleSeg's loop.

    Raises:
        ValueError: the parameters did not move or are not finite.
    """
    # What PaddleSeg has for a training function before this package takes its place.
    train = paddleseg.core.train if step != STEPS[0] else paddleseg.core.train.__wrapped__
    if step != STEPS[1]:
        outputs = RECIPES[name].get("unmixed", outputs)
    losses = make_losses(outputs, "AutoWeightedLoss" if step == STEPS[1] else "MixedLoss")
    if step == STEPS[2]:
        losses["loss_aggregator"] = {"type": "PCGrad"}
    before = [parameter.numpy() for parameter in _trainable(model)]
    optimizer = paddle.optimizer.SGD(0.01, parameters=model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        train(
            model, RandomImages(image_size(name)), optimizer=optimizer, losses=losses, iters=1,
            batch_size=BATCH, save_dir=folder, log_iters=1,
        )  # fmt: skip
    after = [parameter.numpy() for parameter in _trainable(model)]
    if not all(np.isfinite(values).all() for values in after):
        raise ValueError("parameters are not finite after the step")
    if all(np.array_equal(old, new) for old, new in zip(before, after)):
        raise ValueError("no parameter moved")
    if step == STEPS[0]:
        predict(name, model)


def predict(name: str, model: nn.Layer) -> None:
    """Predict a batch, as an evaluation does."""
    size = image_size(name)
    model.eval()
    with paddle.no_grad():
        model(paddle.rand([BATCH, 3, size, size]))


def _trainable(model: nn.Layer) -> Iterator[paddle.Tensor]:
    return (parameter for parameter in model.parameters() if not parameter.stop_gradient)


def sweep(name: str) -> Iterator[dict[str, Any]]:
    """Try one model, and yield the result so far after every step.

    The ``status`` maps each step to ``"works"`` or to the first line of its error.  Where PaddleSeg
    cannot train the model, the others are not tried.
    """
    result: dict[str, Any] = {"name": name, "status": {}, "traceback": {}}
    try:
        outputs = output_losses(name, build_model(name))
        result["outputs"] = [[loss["type"] for loss in losses] for losses in outputs]
    except Exception as error:
        _note(result, STEPS[0], error)
        yield result
        return
    for step in STEPS:
        try:
            take_step(name, step, build_model(name), outputs)
            result["status"][step] = WORKS
        except Exception as error:
            _note(result, step, error)
        yield result
        if result["status"][STEPS[0]] != WORKS:
            return


def _note(result: dict[str, Any], step: str, error: Exception) -> None:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
    result["status"][step] = reason
    result["traceback"][step] = traceback.format_exc()


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the results as a markdown table."""
    lines = [f"| Model | Losses | {' | '.join(STEPS)} |", "|---" * (2 + len(STEPS)) + "|"]
    for name, result in results.items():
        cells = [_cell(result, step) for step in STEPS]
        lines.append(f"| {name} | {_losses(result)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(result: dict[str, Any], step: str) -> str:
    status = result.get("status", {})
    # What ended the process did so in the first step that has no status.
    ended = STEPS.index(step) == len(status)
    text = status.get(step, result.get("error", "") if ended else "")
    text = text if len(text) <= 160 else text[:157] + "..."
    return text.replace("|", "\\|").replace("<", "&lt;")


def _losses(result: dict[str, Any]) -> str:
    short = [
        "seg" if losses == ["CrossEntropyLoss", "DiceLoss"] else " + ".join(losses)
        for losses in result.get("outputs", [])
    ]
    if len(short) > 1 and len(set(short)) == 1:
        return f"{len(short)} x {short[0]}"
    return ", ".join(short)


def summary(results: dict[str, dict[str, Any]]) -> str:
    """Say in a sentence how many models work."""
    status = [result.get("status", {}) for result in results.values()]
    trained = [steps for steps in status if steps.get(STEPS[0]) == WORKS]
    counts = [sum(steps.get(step) == WORKS for steps in trained) for step in STEPS[1:]]
    return (
        f"Of {len(manager.MODELS.components_dict)} models {len(results)} were tried; PaddleSeg "
        f"itself trains {len(trained)} of them here, {counts[0]} of those train with "
        f"`AutoWeightedLoss` and {counts[1]} with `PCGrad`."
    )


def page(results: dict[str, dict[str, Any]]) -> str:
    """Return the page of the docs."""
    versions = {"paddle": paddle.__version__, "paddleseg": paddleseg.__version__}
    return PAGE.format(**versions, summary=summary(results), table=table(results))


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=RECIPES, default=list(RECIPES), help="default: all")
    add("--timeout", type=float, default=600, help="seconds for each model")
    add("--results", type=Path, default=Path("output/sweep.jsonl"), help="file of results")
    add("--page", type=Path, help="write the page of the docs to this file")
    add("--only", choices=RECIPES, help="try this one here, without a process of its own")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a model that PaddleSeg trains does not train with ours."""
    args = parse_args(argv)
    if args.only:
        for result in sweep(args.only):
            emit(result)
        return 0
    results = run_each(__file__, args.models, args.results, args.timeout)
    print(table(results), summary(results), sep="\n\n")
    if args.page:
        args.page.write_text(page(results), encoding="utf-8")
    return 1 if any(map(ours_fails, results.values())) else 0


def ours_fails(result: dict[str, Any]) -> bool:
    """Whether PaddleSeg trains the model itself and this package does not."""
    status = result.get("status", {})
    if status.get(STEPS[0]) != WORKS:
        return False
    return any(status.get(step) != WORKS for step in STEPS)


if __name__ == "__main__":
    sys.exit(main())
