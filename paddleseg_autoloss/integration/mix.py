"""The fixed coefficients that correspond to learned weights: learn, freeze, retrain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from paddle import nn

from paddleseg_autoloss.files import write_file
from paddleseg_autoloss.integration.builder import component_config
from paddleseg_autoloss.integration.monitor import current_weights
from paddleseg_autoloss.integration.terms import Term

__all__ = ["Mix", "equivalent_mix", "four_digits"]

_NEGLIGIBLE = 1e-6


class Mix:
    """Fixed coefficients for every head.

    Args:
        coefs: for each head, the coefficients of its terms; those of one head sum to 1.
        head_coefs: a coefficient for each head; that of the first head is the same as in the run.
        terms: the terms that the coefficients belong to.
    """

    def __init__(
        self, coefs: list[list[float]], head_coefs: list[float], terms: Sequence[Term]
    ) -> None:
        self.coefs = coefs
        self.head_coefs = head_coefs
        self.terms = terms

    def describe(self) -> str:
        """Return the coefficients as one line of text."""
        shown = self.coefs[0] if len(self.coefs) == 1 else self.coefs
        heads = "" if len(self.coefs) == 1 else f", head coef: {self.head_coefs}"
        return f"equivalent MixedLoss coef: {shown}{heads}"

    def loss_config(self) -> dict[str, Any] | None:
        """Return the config key ``loss``, or None if the losses were not built from a config."""
        types = []
        for head, coefs in enumerate(self.coefs):
            layers = [term.layer for term in self.terms if term.head == head]
            configs = [_config_of(layer) for layer in layers]
            if None in configs:
                return None
            mixed = {"type": "MixedLoss", "losses": configs, "coef": coefs}
            types.append(mixed if len(coefs) > 1 else configs[0])
        return {"types": types, "coef": self.head_coefs}

    def write(self, path: str | Path, origin: str) -> bool:
        """Write the config key ``loss`` as YAML; return False if the losses have no configs.

        Args:
            path: the file.
            origin: text on where the weights come from, for a comment at the top of the file.
        """
        config = self.loss_config()
        if config is None:
            return False
        lines = [
            f"# {origin}",
            "# as fixed coefficients, those of each head scaled to sum to 1.",
            yaml.safe_dump({"loss": config}, sort_keys=False, default_flow_style=None),
        ]
        write_file(path, "\n".join(lines))
        return True


def _config_of(layer: nn.Layer) -> dict[str, Any] | None:
    """Return the config of a loss, with the ``ignore_index`` that its component passed to it."""
    config = component_config(layer)
    ignored = getattr(layer, "ignore_index", 255)
    return {**config, "ignore_index": ignored} if config and ignored != 255 else config


def equivalent_mix(losses: dict[str, list[Any]], terms: Sequence[Term]) -> Mix | None:
    """Return the fixed mix that corresponds to the current weights.

    It is None if no term has a learned weight, if a weight is below 0 by more than a millionth of
    its head's sum, or if such a sum is not positive.

    Args:
        losses: PaddleSeg's loss dict.
        terms: its terms.
    """
    if not any(term.sources for term in terms):
        return None
    weights: dict[int, list[float]] = {}
    for term, weight in zip(terms, current_weights(terms)):
        weights.setdefault(term.head, []).append(float(weight))
    totals = [sum(of_head) for of_head in weights.values()]
    if not all(total > 0 for total in totals):
        return None
    shares = [[w / total for w in ws] for ws, total in zip(weights.values(), totals)]
    if any(share < -_NEGLIGIBLE for of_head in shares for share in of_head):
        return None
    coefs = [[four_digits(max(share, 0.0)) for share in of_head] for of_head in shares]
    scale = losses["coef"][0] / totals[0]
    return Mix(coefs, [four_digits(total * scale) for total in totals], terms)


def four_digits(value: float) -> float:
    """Return a coefficient with the four digits that are written.

    Args:
        value: the coefficient.
    """
    return float(f"{value:.4g}")
