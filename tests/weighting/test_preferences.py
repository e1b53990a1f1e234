"""What holds for the preferences of every method that takes some."""

from __future__ import annotations

import numpy as np
import pytest
from support.calls import methods_of, solve, weights_of
from support.samplers import well_conditioned

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import METHODS, LossWeighting
from paddleseg_autoloss.weighting.base import own_arguments

#: The methods with preferences, and the argument that has them.
PREFERENCES = [
    (name, argument)
    for name, method in METHODS.items()
    for argument in ("pref_vector", "weights")
    if argument in own_arguments(method)
]
every_method = pytest.mark.parametrize(("name", "argument"), PREFERENCES)


def weights(name: str, **arguments) -> np.ndarray:
    method = METHODS[name](3, **arguments)
    if name in methods_of(LossWeighting):
        return weights_of(method, [0.5, 2.0, 0.7])
    return solve(method, well_conditioned(3, seed=1, conflict=0))


def test_who_has_them():
    found = {argument: [n for n, a in PREFERENCES if a == argument] for _, argument in PREFERENCES}
    assert found == {
        "pref_vector": ["AlignedMTL", "ConFIG", "DualProj", "UPGrad"],
        "weights": ["COSMOS", "PBI", "STCH"],
    }


@every_method
def test_equal_preferences_change_nothing(name, argument):
    expected = weights(name)
    for equal in ([1, 1, 1], [0.5, 0.5, 0.5], (3, 3.0, 3)):
        np.testing.assert_allclose(weights(name, **{argument: equal}), expected, rtol=1e-5)


@every_method
def test_only_the_ratios_matter(name, argument):
    expected = weights(name, **{argument: [3, 0, 1]})
    np.testing.assert_allclose(weights(name, **{argument: [30.0, 0.0, 10.0]}), expected, rtol=1e-6)
    assert not np.allclose(expected, weights(name))


@every_method
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "expected one for each of 3 losses, found 2"),
        ([1, -1, 2], "expected a number of at least 0, found -1"),
        ([0, 0, 0], "expected a number above 0, found none"),
        ([1, "a", 2], "expected a number, found 'a'"),
        (2.0, "expected a list of 3 numbers, found 2.0"),
    ],
)
def test_what_is_no_preference(name, argument, value, message):
    with pytest.raises(ConfigError) as error:
        METHODS[name](3, **{argument: value})
    assert str(error.value) == f"{argument}: {message}"


@every_method
def test_repr_shows_them(name, argument):
    assert f"{argument}=[3, 1, 2]" in repr(METHODS[name](3, **{argument: [3, 1, 2]}))


@pytest.mark.parametrize("name", ["PBI", "STCH"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0.0], "expected one for each of 2 losses, found 1"),
        ([0.0, float("nan")], "expected a number, found nan"),
        (0.5, "expected a list of 2 numbers, found 0.5"),
    ],
)
def test_what_is_no_reference_point(name, value, message):
    with pytest.raises(ConfigError) as error:
        METHODS[name](2, reference=value)
    assert str(error.value) == f"reference: {message}"
