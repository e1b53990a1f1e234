"""Show that the learned sigmas of uncertainty weighting find the noise in the data.

Two lines are fitted to 300 samples of

    y1 = -2.0 x + 1 + noise of standard deviation 3.0
    y2 =  1.5 x + 3 + noise of standard deviation 0.5

with one mean squared error per head, weighted by UncertaintyWeighting in its regression form, where
sigma_i = exp(s_i / 2).  The sigmas settle at the root mean square residuals of the fit, which
estimate the noise.  Prints a table; writes demo_uncertainty.png and demo_uncertainty.json.

By default each head is linear and a step sees all samples.  The form with a hidden layer, which
both heads share, and with batches is that of docs/notebooks/uncertainty_regression.ipynb; it takes
1,500 epochs.

Example:
    python tools/demo_uncertainty.py --seed 1
    python tools/demo_uncertainty.py --epochs 1500 --batch_size 16 --hidden 512
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# The package comes before Paddle: Paddle 2.6.2 depends on the order.
from paddleseg_autoloss.checks import checked_integer  # isort: skip
from paddleseg_autoloss.errors import AutoLossError, ConfigError, TrainingDiverged  # isort: skip
from paddleseg_autoloss.files import write_json  # isort: skip
from paddleseg_autoloss.text_tables import align_columns  # isort: skip
from paddleseg_autoloss.weighting import UncertaintyWeighting  # isort: skip

import matplotlib
import numpy as np
import paddle
from paddle import Tensor, nn
from tqdm import tqdm

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

NAME = "demo_uncertainty"
NUM_SAMPLES = 300
X_LIMIT = 5.0
NUM_RECORDS = 1000
TOLERANCE_PERCENT = 10.0
COLORS = ("tab:blue", "tab:orange")


@dataclass(frozen=True)
class Line:
    """The truth behind one head: y = slope x + intercept + Gaussian noise."""

    name: str
    slope: float
    intercept: float
    noise: float


LINES = (Line("y1", -2.0, 1.0, 3.0), Line("y2", 1.5, 3.0, 0.5))


@dataclass(frozen=True)
class Settings:
    """What a run depends on.

    Args:
        iters: number of Adam steps, at least 1.  s and the model parameters move by at most about
            the learning rate in a step; at 3e-4 the sigmas settle after some 20000.
        learning_rate: of the model and of the weighting, positive.
        seed: of the data, of the hidden layer and of the order of the samples.
        epochs: passes through the data, at least 1; if given, they replace iters.
        batch_size: samples in a step, 1 to 300.
        hidden: units of the layer that both heads share, followed by a ReLU; 0 for none.

    Raises:
        ConfigError: a value is out of range.
    """

    iters: int = 22000
    learning_rate: float = 3e-4
    seed: int = 0
    epochs: int | None = None
    batch_size: int = NUM_SAMPLES
    hidden: int = 0

    def __post_init__(self) -> None:
        checked_integer("--iters", self.iters, least=1)
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(
                f"--learning_rate: expected a positive number, found {self.learning_rate}"
            )
        checked_integer("--seed", self.seed, least=0)
        checked_integer("--batch_size", self.batch_size, least=1, most=NUM_SAMPLES)
        checked_integer("--hidden", self.hidden, least=0)
        if self.epochs is not None:
            checked_integer("--epochs", self.epochs, least=1)

    @property
    def steps(self) -> int:
        """The number of Adam steps."""
        if self.epochs is None:
            return self.iters
        return self.epochs * math.ceil(NUM_SAMPLES / self.batch_size)


@dataclass(frozen=True)
class HeadFit:
    """What one head has learned; slope and intercept are of the line nearest to its output."""

    name: str
    true_noise: float
    residual_rms: float
    sigma: float
    slope: float
    intercept: float

    @property
    def difference_percent(self) -> float:
        """The difference of sigma from the residual rms, relative to the rms."""
        return 100 * (self.sigma / self.residual_rms - 1)


@dataclass
class History:
    """The course of a run: total [N], mean squared errors [N, 2] and sigmas [N, 2] at N steps."""

    steps: list[int] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    losses: list[np.ndarray] = field(default_factory=list)
    sigmas: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """A finished run: its settings, its data (x [300], y [2, 300]), its fits and its course.

    ``outputs`` [2, 300] has the outputs of the heads at x.
    """

    settings: Settings
    x: np.ndarray
    y: np.ndarray
    outputs: np.ndarray
    heads: list[HeadFit]
    history: History


def make_model(hidden: int) -> nn.Layer:
    """Return a network with an output for each line: x [N, 1] to [N, 2].

    Args:
        hidden: units of the layer that the heads share; 0 for heads that are linear in x and zero
            at first.
    """
    if hidden == 0:
        zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        return nn.Linear(1, len(LINES), weight_attr=zero)
    return nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, len(LINES)))


def make_data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x [300], uniform in [-5, 5], and the noisy y [2, 300]."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-X_LIMIT, X_LIMIT, NUM_SAMPLES)
    y = [line.slope * x + line.intercept + rng.normal(0, line.noise, x.size) for line in LINES]
    return x, np.stack(y)


def run(settings: Settings) -> Result:
    """Fit both heads and the weighting by Adam.

    Raises:
        TrainingDiverged: the total loss became NaN or infinite.
    """
    x, y = make_data(settings.seed)
    paddle.seed(settings.seed)
    model = make_model(settings.hidden)
    weighting = UncertaintyWeighting(len(LINES), form="regression")
    history = _train(model, weighting, _float32(x[:, None]), _float32(y.T), settings)
    outputs = _outputs(model, x)
    heads = [
        _head_fit(line, x, row, output, float(sigma))
        for line, row, output, sigma in zip(LINES, y, outputs, history.sigmas[-1])
    ]
    return Result(settings, x, y, outputs, heads, history)


def format_table(heads: Sequence[HeadFit]) -> str:
    """Return the table of noise and sigma, one row per head."""
    rows = [["head", "true noise", "residual rms", "sigma", "difference"]]
    for head in heads:
        noises = [head.true_noise, head.residual_rms, head.sigma]
        difference = round(head.difference_percent, 2) + 0.0
        rows.append([head.name, *(f"{noise:.4f}" for noise in noises), f"{difference:.2f} %"])
    return align_columns(rows, numbers=True)


def plot(result: Result, path: Path) -> None:
    """Draw the loss curve, the sigmas and the fits side by side into a PNG."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), dpi=150, constrained_layout=True)
    _plot_losses(axes[0], result.history)
    _plot_sigmas(axes[1], result)
    _plot_fits(axes[2], result)
    settings = result.settings
    figure.suptitle(
        "Learned uncertainty of a two-headed regression "
        f"(Adam, learning rate {settings.learning_rate:g}, seed {settings.seed})"
    )
    figure.savefig(path)
    plt.close(figure)


def write_figures(result: Result, path: Path) -> None:
    """Write the settings and the figures of each head."""
    heads = [
        {**asdict(head), "difference_percent": head.difference_percent} for head in result.heads
    ]
    figures = {**asdict(result.settings), "heads": heads}
    write_json(path, figures)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    args = _parser().parse_args(argv)
    try:
        settings = Settings(
            args.iters, args.learning_rate, args.seed, args.epochs, args.batch_size, args.hidden
        )
        args.save_dir.mkdir(parents=True, exist_ok=True)
        result = run(settings)
        plot(result, args.save_dir / f"{NAME}.png")
        write_figures(result, args.save_dir / f"{NAME}.json")
    except (AutoLossError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(format_table(result.heads))
    if max(abs(head.difference_percent) for head in result.heads) > TOLERANCE_PERCENT:
        print("The sigmas have not settled yet: raise --iters or --epochs.")
    print(f"Wrote {NAME}.png and {NAME}.json to {args.save_dir}")
    return 0


def _float32(values: np.ndarray) -> Tensor:
    return paddle.to_tensor(values.astype("float32"))


@paddle.no_grad()
def _outputs(model: nn.Layer, x: np.ndarray) -> np.ndarray:
    """Return the outputs of the heads at x [N], shape [2, N]."""
    return model(_float32(x[:, None])).numpy().T.astype("float64")


def _train(
    model: nn.Layer, weighting: UncertaintyWeighting, x: Tensor, y: Tensor, settings: Settings
) -> History:
    optimizer = paddle.optimizer.Adam(
        settings.learning_rate, parameters=model.parameters() + weighting.parameters()
    )
    history = History()
    every = max(1, settings.steps // NUM_RECORDS)
    batches = _batches(x, y, settings)
    for step in tqdm(range(settings.steps), desc=NAME, unit="it"):
        losses, total = _forward(model, weighting, *next(batches))
        if step % every == 0:
            _record(history, step, losses, total, weighting)
        total.backward()
        optimizer.step()
        optimizer.clear_grad()
    _record(history, settings.steps, *_forward(model, weighting, x, y), weighting)
    return history


def _batches(x: Tensor, y: Tensor, settings: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end; every pass through the data has an order of its own."""
    if settings.batch_size == NUM_SAMPLES:
        yield from itertools.repeat((x, y))
    rng = np.random.default_rng(settings.seed)
    while True:
        order = rng.permutation(NUM_SAMPLES)
        for first in range(0, NUM_SAMPLES, settings.batch_size):
            chosen = paddle.to_tensor(order[first : first + settings.batch_size])
            yield x[chosen], y[chosen]


def _forward(
    model: nn.Layer, weighting: UncertaintyWeighting, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    losses = nn.functional.mse_loss(model(x), y, reduction="none").mean(axis=0)
    return losses, weighting.total(losses, weighting(losses))


def _record(
    history: History, step: int, losses: Tensor, total: Tensor, weighting: UncertaintyWeighting
) -> None:
    value = float(total)
    if not math.isfinite(value):
        raise TrainingDiverged(f"the loss became {value} by step {step}: lower --learning_rate")
    history.steps.append(step)
    history.totals.append(value)
    history.losses.append(losses.numpy())
    history.sigmas.append(np.exp(weighting.s.numpy() / 2))


def _head_fit(
    line: Line, x: np.ndarray, y: np.ndarray, output: np.ndarray, sigma: float
) -> HeadFit:
    slope, intercept = map(float, np.polyfit(x, output, 1))
    rms = float(np.sqrt(np.mean((y - output) ** 2)))
    return HeadFit(line.name, line.noise, rms, sigma, slope, intercept)


def _plot_losses(axes: Axes, history: History) -> None:
    axes.plot(history.steps, history.totals, color="black", label="weighted total")
    for line, color, loss in zip(LINES, COLORS, np.transpose(history.losses)):
        axes.plot(history.steps, loss, color=color, label=f"MSE of {line.name}")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _finish(axes, "Loss curve", "step", "loss (MSE in squared units of y)")


def _plot_sigmas(axes: Axes, result: Result) -> None:
    history = result.history
    for head, color, sigma in zip(result.heads, COLORS, np.transpose(history.sigmas)):
        axes.plot(history.steps, sigma, color=color, label=f"sigma of {head.name}")
        axes.axhline(
            head.true_noise, color=color, linestyle="--", label=f"true noise of {head.name}"
        )
        axes.plot(history.steps[-1], head.residual_rms, "o", color=color, markersize=5)
    axes.plot([], [], "o", color="gray", markersize=5, label="residual rms of the fit")
    axes.set_ylim(bottom=0)
    _finish(axes, "Learned sigma", "step", "sigma (units of y)")


def _plot_fits(axes: Axes, result: Result) -> None:
    order = np.argsort(result.x)
    relation = "~" if result.settings.hidden else "="
    for head, color, y, output in zip(result.heads, COLORS, result.y, result.outputs):
        axes.scatter(result.x, y, s=6, color=color, alpha=0.4, linewidths=0)
        sign = "+" if head.intercept >= 0 else "-"
        label = f"{head.name} {relation} {head.slope:.2f} x {sign} {abs(head.intercept):.2f}"
        axes.plot(result.x[order], output[order], color=color, label=label)
    _finish(axes, "Data and fits", "x (arbitrary units)", "y (arbitrary units)")


def _finish(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        description="Show that the learned sigmas of uncertainty weighting find the noise.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--iters", type=int, default=default.iters, help="Adam steps")
    length.add_argument("--epochs", type=int, help="passes through the data, instead of --iters")
    parser.add_argument(
        "--learning_rate",
        type=float,
        default=default.learning_rate,
        help="learning rate of the model and of the sigmas",
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="seed of all that is random")
    parser.add_argument(
        "--batch_size", type=int, default=default.batch_size, help="samples in a step"
    )
    parser.add_argument(
        "--hidden",
        type=int,
        default=default.hidden,
        help="units of a layer that the heads share, 0 for none",
    )
    parser.add_argument(
        "--save_dir", type=Path, default=Path("output") / NAME, help="folder for PNG and JSON"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
