"""Sum."""

from __future__ import annotations

import pytest
from support.learned import total

from paddleseg_autoloss.weighting import SumWeighting


def test_sum_is_the_sum():
    assert total(SumWeighting(3)) == pytest.approx(3.8)
