"""Automatic loss weighting for PaddleSeg.

The import of this package registers its losses and data sets in PaddleSeg, corrects faults of the
installed PaddleSeg (`paddleseg_autoloss.compat`), and lets ``paddleseg.core.train`` also train the
parameters of losses.  Import it before Paddle: Paddle 2.6.2 requires this order.
"""

from paddleseg_autoloss.missing_packages import explained_imports

__version__ = "0.2.0"

with explained_imports():
    from paddleseg_autoloss import compat  # noqa: F401  isort: skip

    from paddleseg_autoloss.datasets import SyntheticFundus
    from paddleseg_autoloss.integration.training import install
    from paddleseg_autoloss.losses import COMPONENTS, WeightedLoss

    install()

__all__ = ["SyntheticFundus", "__version__", *COMPONENTS]


def __getattr__(name: str) -> type[WeightedLoss]:
    """Return a component by its name, as in ``paddleseg_autoloss.CAGrad``."""
    if name not in COMPONENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return COMPONENTS[name]
