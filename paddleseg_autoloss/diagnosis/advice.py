"""Tables of a diagnosis, and advice on coefficients and on gradient surgery."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import yaml

from paddleseg_autoloss.diagnosis.numbers import Diagnosis, LossFigures, PairFigures, Spread
from paddleseg_autoloss.text_tables import align_columns

__all__ = [
    "MOST_PAIRS",
    "coefficient_advice",
    "describe",
    "explain_columns",
    "loss_rows",
    "loss_snippet",
    "pair_rows",
    "surgery_advice",
    "to_dict",
    "wrap",
]

#: Number of pairs to print and to draw: those with the lowest cosines.
MOST_PAIRS = 12
#: Number of pairs to name in a sentence.
_MOST_NAMED = 3
#: Share of the steps with a conflict below which gradient surgery is not worth its cost.
_RARE = 0.05
#: Cosine above which a conflict counts as almost a right angle.  A projection removes the share of
#: a gradient that is equal to the absolute value of the cosine.
_RIGHT_ANGLE = -0.1
#: Width of the text, in characters.
_WIDTH = 100
#: What docs/evidence found for this pair of losses.
_PAIR = ["CrossEntropyLoss", "DiceLoss"]
_GOOD = [0.2, 0.8]
_SEEN = (
    "for CrossEntropyLoss and DiceLoss, 0.2:0.8 trained to a better mIoU than 0.8:0.2 on three of "
    "four data sets, and to about the same on one"
)

_LEGEND = {
    "coef": "the config's coefficients of the loss, multiplied",
    "size": "value of the loss, without its coefficient; median",
    "gradient norm": "length of its gradient over all trainable parameters, without its "
    "coefficient; median",
    "share": "mean of its part of the update d, the sum of coef x gradient before the optimizer: "
    "<coef x gradient, d> / |d|^2. They sum to 100 %; negative: the update works against the loss",
    "balanced coef": "gives the losses of a head gradients of equal length, and does not change "
    "the length of the head's gradient; in brackets, the values for single steps",
    "cosine": "mean, of the angle between two gradients: 1 the same direction, below 0 a conflict",
    "conflicts": "share of the steps in which the cosine is negative",
    "shortening": "of the update by these conflicts; median of those steps",
}


def to_dict(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return all figures and the advice by name, for a JSON file.

    Args:
        diagnosis: the figures.
    """
    return {
        "steps": diagnosis.steps,
        "skipped_steps": diagnosis.skipped,
        "losses": [asdict(loss) for loss in diagnosis.losses],
        "pairs": [asdict(pair) for pair in diagnosis.pairs],
        "conflict_rate": diagnosis.conflict_rate,
        "recommendation": {
            "coefficients": coefficient_advice(diagnosis),
            "surgery": surgery_advice(diagnosis),
            "loss": diagnosis.mix.loss_config(),
        },
    }


def describe(diagnosis: Diagnosis) -> str:
    """Return the tables, an explanation of their columns, and the advice.

    Args:
        diagnosis: the figures.
    """
    spread, columns = explain_columns(diagnosis)
    legend = [wrap(text, "  ") for text in columns]
    parts = [
        align_columns(loss_rows(diagnosis), numbers=True),
        _pair_table(diagnosis),
        "\n".join([spread, *legend]),
        "Recommendation",
        *map(wrap, coefficient_advice(diagnosis)),
        loss_snippet(diagnosis),
        wrap(surgery_advice(diagnosis)),
    ]
    return "\n\n".join(parts)


def loss_rows(diagnosis: Diagnosis) -> list[list[str]]:
    """Return the table of the losses, its header first.

    Args:
        diagnosis: the figures.
    """
    header = ["loss", "coef", "size", "gradient norm", "share, %", "balanced coef"]
    rows = [
        [
            loss.name,
            f"{loss.coef:.4g}",
            _show(loss.size),
            _show(loss.gradient_norm),
            _show(loss.share, 100),
            _show(loss.balanced_coef) if loss.has_gradient else "-",
        ]
        for loss in diagnosis.losses
    ]
    return [header, *rows]


def pair_rows(diagnosis: Diagnosis) -> list[list[str]]:
    """Return the table of all pairs whose cosine is defined, its header first.

    Args:
        diagnosis: the figures.
    """
    header = ["pair", "cosine", "conflicts, %", "shortening, %"]
    rows = [
        [
            pair.names,
            _show(pair.cosine),
            f"{100 * pair.conflict_rate:.3g}",
            f"{100 * pair.shortening:.2g}" if pair.conflict_rate else "-",
        ]
        for pair in diagnosis.known_pairs
    ]
    return [header, *rows]


def _pair_table(diagnosis: Diagnosis) -> str:
    header, *rows = pair_rows(diagnosis)
    rest = len(rows) - MOST_PAIRS
    more = f"\n({rest} more pairs, of higher cosine, in the JSON file)" if rest > 0 else ""
    return align_columns([header, *rows[:MOST_PAIRS]], numbers=True) + more


def explain_columns(diagnosis: Diagnosis) -> tuple[str, list[str]]:
    """Return a sentence on all columns of the tables, and one on each.

    Args:
        diagnosis: the figures.
    """
    first, last = diagnosis.skipped + 1, diagnosis.skipped + diagnosis.steps
    spread = f"Over the iterations {first} to {last}; in brackets the middle half of the steps."
    return spread, [f"{name}: {text}." for name, text in _LEGEND.items()]


def _show(spread: Spread, scale: float = 1.0) -> str:
    """Return a figure with its quartiles as text, every number times ``scale``."""
    if math.isnan(spread.value):
        return "-"
    value, low, high = (scale * x for x in (spread.value, spread.low, spread.high))
    return f"{value:.3g} ({_two_digits(low)}..{_two_digits(high)})"


def _two_digits(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 99.5 else f"{value:.0f}"


def coefficient_advice(diagnosis: Diagnosis) -> list[str]:
    """Describe the effect of the current coefficients and of the balanced ones.

    Args:
        diagnosis: the figures.

    Returns:
        One paragraph for each loss with zero gradient; one on a mix to keep or to try, if it is
        known; and one on the balanced coefficients.
    """
    absent = [
        _missing_gradient(diagnosis, i) for i, live in enumerate(diagnosis.has_gradient) if not live
    ]
    present = f"Coefficients: {_present_shares(diagnosis.losses)}"
    if all(len(coefs) == 1 for coefs in diagnosis.mix.coefs):
        return [*absent, f"{present}. No head has two losses to balance."]
    return [
        *absent,
        *_seen(diagnosis),
        f"{present}; within a head, the lengths of coef x gradient "
        f"differ by up to a factor of {_imbalance(diagnosis):.3g}. With the coefficients below "
        "they are equal, and each head's gradient keeps its length, so the learning rate can "
        f"stay. This is measured over {diagnosis.steps} steps of one run: gradients change "
        "during training, and equal lengths are a neutral start, not an optimum.",
    ]


def _seen(diagnosis: Diagnosis) -> list[str]:
    """Return what is known of the losses of a head, if they are the pair that was compared."""
    names = [type(term.layer).__name__ for term in diagnosis.terms]
    found = []
    for head in diagnosis.heads():
        coefs = {names[i]: diagnosis.terms[i].coef for i in head}
        if len(head) == len(_PAIR) and sorted(coefs) == _PAIR:
            shares = [coefs[name] / (sum(coefs.values()) or 1.0) for name in _PAIR]
            found.append(all(abs(one - other) < 0.01 for one, other in zip(shares, _GOOD)))
    if not found:
        return []
    if all(found):
        return [f"Keep this mix: {_SEEN}. The balanced coefficients below are for comparison only."]
    return [f"Try 0.2:0.8 first: {_SEEN}."]


def _missing_gradient(diagnosis: Diagnosis, index: int) -> str:
    term = diagnosis.terms[index]
    if term.coef == 0:
        return f"{term.name} has the coefficient 0, so its gradient cannot be measured."
    zero = int((diagnosis.norms[:, index] == 0).sum())
    return (
        f"The gradient of {term.name} was zero in {zero} of {diagnosis.steps} steps, so it has no "
        "balanced coefficient. Check whether it is constant or does not depend on the network."
    )


def _present_shares(losses: Sequence[LossFigures]) -> str:
    """Say which losses have the largest and smallest share of the update, and which increase."""
    known = [loss for loss in losses if loss.has_gradient and not math.isnan(loss.share.value)]
    if not known:
        return "the update is zero"
    known.sort(key=lambda loss: loss.share.value)
    least, most = known[0], known[-1]
    text = f"now {most.name} contributes {_percent(most.share.value)} of the update"
    if len(known) > 1:
        text += f", {least.name} {_percent(least.share.value)}"
    against = [loss.name for loss in known if loss.share.value < 0]
    return text + (f"; on average it works against {', '.join(against)}" if against else "")


def _imbalance(diagnosis: Diagnosis) -> float:
    """Return the largest ratio of two lengths of coef x gradient within a head."""
    losses = diagnosis.losses
    lengths = [loss.coef * loss.gradient_norm.value for loss in losses]
    heads = [[lengths[i] for i in head if losses[i].has_gradient] for head in diagnosis.heads()]
    return max((max(head) / min(head) for head in heads if head), default=1.0)


def loss_snippet(diagnosis: Diagnosis) -> str:
    """Return the balanced coefficients as the config key ``loss``, in YAML.

    Args:
        diagnosis: the figures.
    """
    config = {"loss": diagnosis.mix.loss_config()}
    text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=_WIDTH)
    return text.strip()


def surgery_advice(diagnosis: Diagnosis) -> str:
    """Say whether methods that project conflicting gradients can have an effect.

    Args:
        diagnosis: the figures.
    """
    lowest, rate = diagnosis.pairs[0], diagnosis.conflict_rate
    often = f"in {_percent(rate)} of the {diagnosis.steps} steps"
    if math.isnan(lowest.cosine.value):
        return "Gradient surgery: fewer than two losses have a gradient, so it has no effect."
    if rate < _RARE:
        return (
            "Gradient surgery: PCGrad, CAGrad and similar methods would have "
            f"{'almost ' if rate else ''}no effect. Gradients conflict "
            f"{often}, and the lowest mean cosine is {lowest.cosine.value:.2g} "
            f"({lowest.names}). Without conflicts, the plain sum already lowers every loss: "
            "PCGrad does not change it, and CAGrad can only shift it towards the weaker losses."
        )
    ranked = sorted(diagnosis.pairs, key=lambda pair: -pair.conflict_rate)
    frequent = [pair for pair in ranked if pair.conflict_rate >= _RARE] or ranked[:1]
    weak = all(pair.cosine.low > _RIGHT_ANGLE for pair in frequent)
    return (
        "Gradient surgery: PCGrad, CAGrad and similar methods would have "
        f"{'a small' if weak else 'an'} effect: {often} at least one pair conflicts"
        f"{', but nearly at right angles' if weak else ''}. {_conflicts(frequent)}. Only "
        "training shows whether the network gets better: --loss_aggregator PCGrad in the "
        "command that trains."
    )


def _conflicts(pairs: Sequence[PairFigures]) -> str:
    """Say how often pairs conflict and how much that shortens the update."""
    details = [
        f"{p.first} with {p.second} in {_percent(p.conflict_rate)} (mean cosine "
        f"{p.cosine.value:.2g}, lower quartile {p.cosine.low:.2g}), which shortens the update by "
        f"{_percent(p.shortening)}"
        for p in pairs[:_MOST_NAMED]
    ]
    rest = len(pairs) - len(details)
    return "; ".join([*details, f"and {rest} more"] if rest else details)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def wrap(text: str, indent: str = "") -> str:
    """Break a paragraph into lines of at most 100 characters.

    Args:
        text: the paragraph.
        indent: text before the first line; the other lines begin with it twice.
    """
    return textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=2 * indent, break_long_words=False
    )
