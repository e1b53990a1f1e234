r"""What each loss of a config does to the network, over a few steps, and what to make of it.

With :math:`c_i` the product of a loss's fixed coefficients, :math:`g_i` the gradient of the loss
itself over all trainable parameters, and :math:`d = \sum_j c_j g_j` the update before the
optimizer:

- size: the value of the loss, any number (median);
- gradient norm: :math:`|g_i|`, at least 0 (median);
- share of the update: :math:`\langle c_i g_i, d \rangle / |d|^2` (mean).  The shares sum to 1; a
  negative one says that the update works against that loss;
- cosine of two losses: that of the angle between :math:`c_i g_i` and :math:`c_j g_j`, -1 to 1
  (mean);
- conflict rate: the share of the steps in which it is negative, 0 to 1;
- shortening: by how much those conflicts make the update shorter than it were with the two at
  right angles, :math:`1 - |d| / \sqrt{|d|^2 - 2 c_i c_j \langle g_i, g_j \rangle}`, 0 to 1
  (median of those steps);
- balanced coefficients: proportional to 1 / gradient norm within a head, and scaled so that the
  median length of the head's gradient stays what it is.  The heads keep their relation, and the
  learning rate stays right.

Losses and gradients may fall by an order of magnitude in the first steps.  So the first tenth of
the steps, at most 5, does not count, and where falling values would carry a mean it is the median
that does: over 50 steps of the demo config with three seeds, the first 5 change the ratio of the
two mean gradient norms by a factor of 1.6 to 1.8, that of the medians by 9 % at most.
"""

from __future__ import annotations

import json
import math
import tempfile
import textwrap
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddleseg.core
import yaml
from paddleseg.models.losses import MixedLoss
from paddleseg.utils import logger
from tqdm import tqdm

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.integration.config import find_config, load_config
from paddleseg_autoloss.integration.gradient_statistics import conflict_rate, cosines
from paddleseg_autoloss.integration.mix import Mix
from paddleseg_autoloss.integration.parts import Parts, build_parts
from paddleseg_autoloss.integration.terms import Term, terms_of
from paddleseg_autoloss.weighting import SeparateBackwardWeighting

__all__ = ["Diagnosis", "LossFigures", "PairFigures", "Spread", "as_fixed_mix", "diagnose_from"]

#: Share of the steps with a conflict below which gradient surgery is not worth its cost.
_RARE = 0.05
#: Cosine above which a conflict counts as nearly a right angle: projecting a gradient takes away
#: as much of it as the cosine says.
_RIGHT_ANGLE = -0.1
#: Pairs to print and to draw, those with the lowest cosines; and to name in words.
_MOST_PAIRS = 12
_MOST_NAMED = 3
_WIDTH = 100

_LEGEND = {
    "coef": "the config's coefficients of the loss, multiplied",
    "size": "value of the loss, without its coefficient; median",
    "gradient norm": "length of its gradient over all trainable parameters, without its "
    "coefficient; median",
    "share": "mean of its part of the update d, the sum of coef x gradient before the optimizer: "
    "<coef x gradient, d> / |d|^2. They sum to 100 %; negative: the update works against the loss",
    "balanced coef": "makes the losses of a head pull with gradients of equal length, and the head "
    "as hard as now; in brackets, what single steps would give",
    "cosine": "mean, of the angle between two gradients: 1 the same direction, below 0 a conflict",
    "conflicts": "share of the steps in which the cosine is negative",
    "shortening": "of the update by these conflicts; median of those steps",
}


@dataclass(frozen=True)
class Spread:
    """A figure and how it varies from step to step.

    Args:
        value: the figure; NaN where there is none.
        low: lower quartile of the steps.
        high: upper quartile.
    """

    value: float
    low: float
    high: float

    def show(self, scale: float = 1.0) -> str:
        """Return it as text, every number times ``scale``."""
        if math.isnan(self.value):
            return "-"
        value, low, high = (x * scale for x in (self.value, self.low, self.high))
        return f"{value:.3g} ({low:.2g}..{high:.2g})"


@dataclass(frozen=True)
class LossFigures:
    """The figures of one loss, as the module's docstring defines them.

    Args:
        name: its name.
        head: index of the model output.
        coef: its present coefficient, with that of the head.
        size: value of the loss.
        gradient_norm: length of its gradient.
        share: of the update, as a fraction.
        balanced_coef: the coefficient that balances it, with that of the head; the quartiles are
            of the coefficients that single steps would give.
        has_gradient: whether the norm of its weighted gradient is not zero.
    """

    name: str
    head: int
    coef: float
    size: Spread
    gradient_norm: Spread
    share: Spread
    balanced_coef: Spread
    has_gradient: bool


@dataclass(frozen=True)
class PairFigures:
    """The figures of two losses, as the module's docstring defines them.

    Args:
        first: name of one loss.
        second: name of the other.
        cosine: of their gradients; NaN if one was always zero.
        conflict_rate: share of the steps.
        shortening: of the update in those steps, as a fraction; 0 if there are none.
    """

    first: str
    second: str
    cosine: Spread
    conflict_rate: float
    shortening: float

    @property
    def names(self) -> str:
        """Both names."""
        return f"{self.first}, {self.second}"


class Diagnosis:
    """The figures of a run of N steps with K losses.

    Args:
        terms: the K losses, with their fixed coefficients.
        values: what the losses returned times their coefficients, shape [N, K].
        gramians: the inner products of the gradients of those, shape [N, K, K].
        skipped: how many steps came before, which do not count.

    Attributes:
        losses: the figures of each loss.
        pairs: the figures of each pair, those with the lowest cosine first.
        conflict_rate: share of the steps in which at least one pair conflicts.
        mix: the balanced coefficients.  A loss without a gradient is left out of it, unless no
            loss of its head has one: such a head stays as it is.

    Examples:
        >>> import numpy as np
        >>> from paddle import nn
        >>> terms = [Term("a", 0, nn.Identity(), 1.0), Term("b", 0, nn.Identity(), 1.0)]
        >>> gramian = [[9.0, 0.0], [0.0, 1.0]]  # lengths 3 and 1, at right angles
        >>> found = Diagnosis(terms, np.array([[0.5, 0.5]]), np.array([gramian]))
        >>> [loss.share.value for loss in found.losses]
        [0.9, 0.1]
        >>> found.mix.coefs
        [[0.25, 0.75]]
    """

    def __init__(
        self, terms: Sequence[Term], values: np.ndarray, gramians: np.ndarray, skipped: int = 0
    ) -> None:
        self.terms = list(terms)
        self.skipped = skipped
        self._coefs = np.array([term.coef for term in terms])
        self._sizes = _quotient(values, self._coefs)
        self._raw = _quotient(gramians, np.outer(self._coefs, self._coefs))
        self._norms = np.sqrt(np.diagonal(self._raw, axis1=1, axis2=2))
        self._has_gradient = np.median(self._norms, axis=0) > 0
        self._cosines = cosines(gramians)
        squares = gramians.sum(axis=(1, 2))
        self._shares = _quotient(gramians.sum(axis=2), squares[:, None])
        self.pairs = sorted(self._pairs(gramians, squares), key=lambda p: _last(p.cosine.value))
        self.conflict_rate = float((self._cosines < 0).any(axis=(1, 2)).mean())
        self.mix = self._mix(gramians)
        self.losses = self._losses()

    @property
    def steps(self) -> int:
        """How many steps count."""
        return len(self._norms)

    def _pairs(self, gramians: np.ndarray, squares: np.ndarray) -> Iterator[PairFigures]:
        for i, j in combinations(range(len(self.terms)), 2):
            angles = self._cosines[:, i, j]
            conflict = angles < 0
            without = squares[conflict] - 2 * gramians[conflict, i, j]
            shortening = 1 - np.sqrt(np.clip(squares[conflict], 0, None) / without)
            yield PairFigures(
                self.terms[i].name,
                self.terms[j].name,
                _spread(angles),
                conflict_rate(angles),
                float(np.median(shortening)) if conflict.any() else 0.0,
            )

    @property
    def _known_pairs(self) -> list[PairFigures]:
        return [pair for pair in self.pairs if not math.isnan(pair.cosine.value)]

    def _heads(self) -> list[list[int]]:
        heads = dict.fromkeys(term.head for term in self.terms)
        return [[i for i, t in enumerate(self.terms) if t.head == head] for head in heads]

    def _balanced(self, head: list[int], norms: np.ndarray) -> np.ndarray:
        """Coefficients of equal |coef| x norm within a head, 0 where there is no gradient."""
        return _balanced(self._coefs[head], np.where(self._has_gradient, norms, 0.0)[head])

    def _mix(self, gramians: np.ndarray) -> Mix:
        norms = np.median(self._norms, axis=0)
        coefs, head_coefs, terms = [], [], []
        for head in self._heads():
            own = self._balanced(head, norms)
            kept = np.flatnonzero(own) if own.any() else range(len(head))
            coefs.append([_rounded(own[i]) for i in kept])
            head_coefs.append(_rounded(self._head_coef(head, own, gramians)))
            terms += [self.terms[head[i]] for i in kept]
        return Mix(coefs, head_coefs, terms)

    def _head_coef(self, head: list[int], own: np.ndarray, gramians: np.ndarray) -> float:
        """The coefficient with which a head's gradient is as long as it is now."""
        now = _length(gramians[:, head][:, :, head], np.ones(len(head)))
        then = _length(np.nan_to_num(self._raw[:, head][:, :, head]), own)
        sign = np.sign(self._coefs[head] @ own) or 1.0
        return float(sign * (now / then if then else np.abs(self._coefs[head]).sum()))

    def _losses(self) -> list[LossFigures]:
        norms = np.median(self._norms, axis=0)
        known = self._norms[:, self._has_gradient].all(axis=1)
        balanced = np.zeros(len(self.terms))
        single = np.zeros([known.sum(), len(self.terms)])
        for head, coef in zip(self._heads(), self.mix.head_coefs):
            balanced[head] = coef * self._balanced(head, norms)
            for row, step in zip(single, self._norms[known]):
                row[head] = coef * self._balanced(head, step)
        return [
            LossFigures(
                term.name,
                term.head,
                term.coef,
                _spread(self._sizes[:, i], np.median),
                _spread(self._norms[:, i], np.median),
                _spread(self._shares[:, i]),
                replace(_spread(single[:, i]), value=float(balanced[i])),
                bool(self._has_gradient[i]),
            )
            for i, term in enumerate(self.terms)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all figures and the recommendation, ready for JSON; None stands for NaN."""
        return _without_nan(
            {
                "steps": self.steps,
                "skipped_steps": self.skipped,
                "losses": [asdict(loss) for loss in self.losses],
                "pairs": [asdict(pair) for pair in self.pairs],
                "conflict_rate": self.conflict_rate,
                "recommendation": {
                    "coefficients": self.advice_on_coefficients(),
                    "surgery": self.advice_on_surgery(),
                    "loss": self.mix.loss_config(),
                },
            }
        )

    def describe(self) -> str:
        """Return the tables, what their columns are, and the recommendation."""
        first, last = self.skipped + 1, self.skipped + self.steps
        spread = f"Over the iterations {first} to {last}; in brackets the middle half of the steps."
        legend = [_wrapped(f"{name}: {text}.", "  ") for name, text in _LEGEND.items()]
        parts = [
            self._loss_table(),
            self._pair_table(),
            "\n".join([spread, *legend]),
            "Recommendation",
            *map(_wrapped, self.advice_on_coefficients()),
            self.snippet(),
            _wrapped(self.advice_on_surgery()),
        ]
        return "\n\n".join(parts)

    def _loss_table(self) -> str:
        header = ["loss", "coef", "size", "gradient norm", "share, %", "balanced coef"]
        rows = [
            [
                loss.name,
                f"{loss.coef:.4g}",
                loss.size.show(),
                loss.gradient_norm.show(),
                loss.share.show(100),
                loss.balanced_coef.show() if loss.has_gradient else "-",
            ]
            for loss in self.losses
        ]
        return _table([header, *rows])

    def _pair_table(self) -> str:
        header = ["pair", "cosine", "conflicts, %", "shortening, %"]
        rows = [
            [
                pair.names,
                pair.cosine.show(),
                f"{100 * pair.conflict_rate:.3g}",
                f"{100 * pair.shortening:.2g}" if pair.conflict_rate else "-",
            ]
            for pair in self._known_pairs[:_MOST_PAIRS]
        ]
        rest = len(self._known_pairs) - _MOST_PAIRS
        more = f"\n({rest} more pairs, of higher cosine, in the JSON file)" if rest > 0 else ""
        return _table([header, *rows]) + more

    def advice_on_coefficients(self) -> list[str]:
        """Say in words what the present coefficients do and what the balanced ones would."""
        absent = [self._absence(i) for i, live in enumerate(self._has_gradient) if not live]
        if all(len(coefs) == 1 for coefs in self.mix.coefs):
            return [*absent, f"Coefficients: {self._present()}. No head has two to balance."]
        return [
            *absent,
            f"Coefficients: {self._present()}; within a head, the lengths of coef x gradient "
            f"differ by up to a factor of {self._imbalance():.3g}. With those below they are "
            "equal, and each head's gradient stays as long as it is, so that the learning rate "
            f"stays right. This rests on {self.steps} steps of one run: gradients change as "
            "training goes on, and equal lengths are a neutral start, not an optimum.",
        ]

    def _absence(self, index: int) -> str:
        name = self.terms[index].name
        if self.terms[index].coef == 0:
            return f"{name} has the coefficient 0, with which nothing of it can be measured."
        zero = int((self._norms[:, index] == 0).sum())
        return (
            f"The gradient of {name} was zero in {zero} of {self.steps} steps, so that it has no "
            "balanced coefficient: is it constant, or does it not depend on the network?"
        )

    def _present(self) -> str:
        """What the present coefficients do."""
        ranked = sorted(self.losses, key=lambda loss: _last(loss.share.value))
        known = [loss for loss in ranked if loss.has_gradient and not math.isnan(loss.share.value)]
        if not known:
            return "the update is zero"
        least, most = known[0], known[-1]
        text = f"at present {most.name} makes {_percent(most.share.value)} of the update"
        if len(known) > 1:
            text += f", {least.name} {_percent(least.share.value)}"
        against = [loss.name for loss in known if loss.share.value < 0]
        return text + (f"; on average it works against {', '.join(against)}" if against else "")

    def _imbalance(self) -> float:
        lengths = [abs(loss.coef) * loss.gradient_norm.value for loss in self.losses]
        heads = [[lengths[i] for i in h if self._has_gradient[i]] for h in self._heads()]
        return max((max(head) / min(head) for head in heads if head), default=1.0)

    def snippet(self) -> str:
        """Return the balanced coefficients as the config key ``loss``, in YAML."""
        config = {"loss": self.mix.loss_config()}
        text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=_WIDTH)
        return text.strip()

    def advice_on_surgery(self) -> str:
        """Say in words whether methods that project conflicting gradients have anything to do."""
        lowest = self.pairs[0]
        often = f"in {_percent(self.conflict_rate)} of the {self.steps} steps"
        if math.isnan(lowest.cosine.value):
            return "Gradient surgery: no two losses have a gradient, so it has nothing to do."
        if self.conflict_rate < _RARE:
            return (
                "Gradient surgery: PCGrad, CAGrad and the like would have "
                f"{'next to ' if self.conflict_rate else ''}nothing to do. Gradients conflict "
                f"{often}, and the lowest mean cosine is {lowest.cosine.value:.2g} "
                f"({lowest.names}). Where none conflict, the plain sum already lowers every loss: "
                "PCGrad leaves it as it is, and CAGrad can only shift it towards the weaker losses."
            )
        ranked = sorted(self.pairs, key=lambda pair: -pair.conflict_rate)
        frequent = [pair for pair in ranked if pair.conflict_rate >= _RARE] or ranked[:1]
        weak = all(pair.cosine.low > _RIGHT_ANGLE for pair in frequent)
        return (
            "Gradient surgery: PCGrad, CAGrad and the like would have "
            f"{'little' if weak else 'something'} to do: {often} at least one pair conflicts"
            f"{', but nearly at right angles' if weak else ''}. {_named(frequent)}. Whether the "
            "network gets better by it, only training tells: autoloss train --loss_aggregator "
            "PCGrad."
        )

    def plot(self, path: str | Path) -> None:
        """Draw gradient norms and cosines over the iterations, and the shares of the update.

        Args:
            path: the PNG file.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(18, 4.8), dpi=100, layout="constrained")
        panels = figure.subplots(1, 3)
        self._plot_norms(panels[0])
        self._plot_cosines(panels[1])
        self._plot_shares(panels[2])
        for axes in panels:
            axes.grid(alpha=0.3)
        for axes in panels[:2]:
            if axes.lines:
                axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.savefig(path)

    @property
    def _iterations(self) -> np.ndarray:
        return np.arange(self.steps) + self.skipped + 1

    def _plot_norms(self, axes: Any) -> None:
        for index in np.flatnonzero(self._has_gradient):
            axes.plot(self._iterations, self._norms[:, index], color=f"C{index}")
            axes.lines[-1].set_label(self.terms[index].name)
        axes.set(title="gradient norm, without the coefficient", xlabel="iteration", yscale="log")

    def _plot_cosines(self, axes: Any) -> None:
        names = [term.name for term in self.terms]
        for pair in self._known_pairs[:_MOST_PAIRS]:
            angles = self._cosines[:, names.index(pair.first), names.index(pair.second)]
            axes.plot(self._iterations, angles, label=pair.names.replace(", ", ",\n"))
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title="cosine (below 0: conflict)", xlabel="iteration", ylim=(-1.05, 1.05))

    def _plot_shares(self, axes: Any) -> None:
        for index, loss in enumerate(self.losses):
            quartiles = [100 * loss.share.low, 100 * loss.share.high]
            axes.barh(loss.name, 100 * loss.share.value, height=0.5, color=f"C{index}")
            axes.plot(quartiles, [loss.name] * 2, color="black")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.invert_yaxis()
        axes.set(title="share of the update", xlabel="% (line: middle half of the steps)")


def diagnose_from(args: Namespace, config_dir: Path) -> Diagnosis:
    """Diagnose as the flags of ``autoloss diagnose`` say; print and write what was found.

    Args:
        args: the parsed flags.
        config_dir: where bare config names are looked up.

    Raises:
        ConfigError: the config cannot work, or it has one loss only.
    """
    folder = Path(args.save_dir)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--save_dir: expected a folder, found the file {folder}")
    path = find_config(args.config, config_dir)
    config = load_config(path, batch_size=args.batch_size, opts=args.opts)
    with _quiet_logger():
        parts = build_parts(config, args)
        notes = _notes(parts.losses)
        diagnosis = _measure(parts, args.iters, config.batch_size, args.num_workers)
    folder.mkdir(parents=True, exist_ok=True)
    head = {"config": path, "iterations": args.iters, "seed": args.seed, "notes": notes}
    figures = json.dumps(head | diagnosis.to_dict(), indent=2)
    (folder / "diagnosis.json").write_text(figures + "\n", encoding="utf-8")
    diagnosis.plot(folder / "diagnosis.png")
    print(f"\nThe losses of {args.config} over {args.iters} iterations\n")
    for note in notes:
        print(f"{_wrapped(note)}\n")
    print(diagnosis.describe())
    print(f"\nThe same is in {folder / 'diagnosis.json'} and {folder / 'diagnosis.png'}")
    return diagnosis


@contextmanager
def _quiet_logger() -> Iterator[None]:
    """Let PaddleSeg log nothing but errors."""
    level, logger.log_level = logger.log_level, 0
    try:
        yield
    finally:
        logger.log_level = level


def _notes(losses: dict[str, Any]) -> list[str]:
    """What of the config is not diagnosed as it stands."""
    weighed = {term.head for term in terms_of(losses) if term.sources}
    notes = [
        f"{type(losses['types'][head]).__name__} learns its weights or finds them step by step; "
        "here its losses have the coefficient 1 each instead."
        for head in sorted(weighed)
    ]
    if losses.get("loss_aggregator") is not None:
        notes.append("loss_aggregator is set aside: the update is the plain sum of the losses.")
    return list(dict.fromkeys(notes))


def _measure(parts: Parts, iters: int, batch_size: int, num_workers: int) -> Diagnosis:
    """Train for a few iterations in a folder that is deleted, and look at every gradient."""
    terms = [replace(term, sources=()) for term in terms_of(parts.losses)]
    if len(terms) < 2:
        raise ConfigError(
            f"loss.types: expected two or more losses to compare, found {terms[0].name} alone"
        )
    mixed = as_fixed_mix(parts.losses)
    names = [term.name for term in terms_of(mixed)]
    values, gramians = [], []
    aggregator = LossAggregator(names, SeparateBackwardWeighting(len(names)))
    with tempfile.TemporaryDirectory() as folder, tqdm(total=iters, desc="diagnosing") as progress:

        def record(layer: LossAggregator, inputs: tuple, total: paddle.Tensor) -> None:
            values.append([float(inputs[0][name]) for name in names])
            gramians.append(layer.last_gramian)
            progress.update()

        aggregator.register_forward_post_hook(record)
        with redirect_stdout(StringIO()):
            paddleseg.core.train(
                parts.model,
                parts.train_dataset,
                optimizer=parts.optimizer,
                save_dir=folder,
                iters=iters,
                batch_size=batch_size,
                save_interval=iters,
                log_iters=iters + 1,
                num_workers=num_workers,
                losses=mixed | {"loss_aggregator": aggregator},
            )
    skipped = min(5, iters // 10)
    return Diagnosis(terms, np.array(values[skipped:]), np.array(gramians[skipped:]), skipped)


def as_fixed_mix(losses: dict[str, Any]) -> dict[str, Any]:
    """The losses with ``MixedLoss`` in the place of what weighs them."""
    terms = terms_of(losses)
    types, coefs = list(losses["types"]), list(losses["coef"])
    for head in {term.head for term in terms if term.sources}:
        own = [term for term in terms if term.head == head]
        types[head] = MixedLoss([term.layer for term in own], [term.coef for term in own])
        coefs[head] = 1.0
    return {"types": types, "coef": coefs}


def _quotient(dividend: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the divisor is zero."""
    full = np.full(dividend.shape, np.nan)
    return np.divide(dividend, divisor, out=full, where=np.broadcast_to(divisor != 0, full.shape))


def _spread(values: np.ndarray, center: Callable[[np.ndarray], float] = np.mean) -> Spread:
    """The mean, or another center, and the quartiles of what is not NaN."""
    known = values[~np.isnan(values)]
    if not known.size:
        return Spread(math.nan, math.nan, math.nan)
    return Spread(float(center(known)), *map(float, np.percentile(known, [25, 75])))


def _balanced(coefs: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Coefficients of equal |coef| x norm for one head, 0 where there is no gradient.

    Their absolute values sum to 1, and they have the signs that they have now, up to a common one.
    """
    balanced = np.divide(np.sign(coefs), norms, out=np.zeros(len(coefs)), where=norms > 0)
    if not balanced.any():
        balanced = coefs
    scale = np.abs(balanced).sum() * (np.sign(balanced.sum()) or 1.0)
    return balanced / scale if scale else balanced


def _length(gramians: np.ndarray, coefs: np.ndarray) -> float:
    """The median length of sum coef x gradient."""
    squares = np.einsum("i,nij,j->n", coefs, gramians, coefs)
    return float(np.median(np.sqrt(np.clip(squares, 0, None))))


def _named(pairs: Sequence[PairFigures]) -> str:
    """Say how often pairs conflict and what comes of it."""
    details = [
        f"{p.first} with {p.second} in {_percent(p.conflict_rate)} (mean cosine "
        f"{p.cosine.value:.2g}, lower quartile {p.cosine.low:.2g}), which shortens the update by "
        f"{_percent(p.shortening)}"
        for p in pairs[:_MOST_NAMED]
    ]
    rest = len(pairs) - len(details)
    return "; ".join([*details, f"and {rest} more"] if rest else details)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _last(value: float) -> float:
    """A key to sort by, with NaN at the end."""
    return math.inf if math.isnan(value) else value


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=2 * indent, break_long_words=False
    )


def _table(rows: list[list[str]]) -> str:
    """Columns aligned, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for first, *others in rows:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:])]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
