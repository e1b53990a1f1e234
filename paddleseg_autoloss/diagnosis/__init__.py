"""Measures the effect of each loss of a config on the network, over a few training steps.

`measurement` trains and records, `numbers` computes the figures, `advice` gives advice from them,
`pictures` draws them, `report` writes all of it, and `command` calls all of these.
"""

from __future__ import annotations

from paddleseg_autoloss.diagnosis.command import diagnose_from
from paddleseg_autoloss.diagnosis.numbers import Diagnosis, LossFigures, PairFigures, Spread

__all__ = ["Diagnosis", "LossFigures", "PairFigures", "Spread", "diagnose_from"]
