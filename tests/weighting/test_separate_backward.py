"""SeparateBackward: the multipliers are the weights."""

from __future__ import annotations

import pytest
from support.calls import solve
from support.samplers import J

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import SeparateBackwardWeighting


class TestSeparateBackward:
    def test_weights_are_the_multipliers(self):
        assert solve(SeparateBackwardWeighting(2, lr_mult=[1, 0.1]), J).tolist() == [1, 0.1]
        assert solve(SeparateBackwardWeighting(2), J).tolist() == [1, 1]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"lr_mult": [1]}, "lr_mult: expected one for each of 2 losses, found 1"),
            (
                {"lr_mult": {"a": 1, "b": 2}},
                "lr_mult: expected one value for all losses, or a list of 2, found {'a': 1",
            ),
            ({"lr_mult": [1, -1]}, "lr_mult: expected a positive number, found -1"),
            ({"step": "every"}, "step: expected joint or each, found 'every'"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            SeparateBackwardWeighting(2, **arguments)
