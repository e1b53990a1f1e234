"""The methods that a config can name: each in a file of its name."""

from __future__ import annotations

import pkgutil

import pytest

from paddleseg_autoloss import weighting
from paddleseg_autoloss.weighting import METHODS

#: Files that hold no method for configs.
SHARED = {"base", "double_sampling", "draws", "norm_balance", "objective", "simplex", "solvers"}
FILES = {module.name for module in pkgutil.iter_modules(weighting.__path__)} - SHARED


def file_of(method) -> str:
    return method.__module__.rpartition(".")[2]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_in_the_file_of_its_name(name):
    file = file_of(METHODS[name])
    assert file.replace("_", "") == name.lower()
    assert file == file.strip("_").lower()


def test_every_file_has_its_method():
    assert {file_of(method) for method in METHODS.values()} == FILES
    assert len(METHODS) == len(FILES)


@pytest.mark.parametrize("name", METHODS)
def test_a_class_can_be_imported_from_the_package(name):
    method = METHODS[name]
    assert getattr(weighting, method.__name__) is method
    assert method.config_name == name
    assert vars(method)["config_name"] == name


def test_they_are_in_the_order_of_the_alphabet():
    assert list(METHODS) == sorted(METHODS, key=str.lower)
