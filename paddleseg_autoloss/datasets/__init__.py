"""Data sets registered with PaddleSeg."""

from paddleseg_autoloss.datasets.synthetic_fundus import SyntheticFundus

__all__ = ["SyntheticFundus"]
