"""What each loss of a config does to the network, over a few training steps.

`measurement` trains and records, `numbers` has the figures, `advice` says what follows from them,
`pictures` draws them, and `command` does all of that.
"""

from __future__ import annotations

from paddleseg_autoloss.diagnosis.command import diagnose_from
from paddleseg_autoloss.diagnosis.numbers import Diagnosis, LossFigures, PairFigures, Spread

__all__ = ["Diagnosis", "LossFigures", "PairFigures", "Spread", "diagnose_from"]
