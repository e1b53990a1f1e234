"""The split of a list: seeded, by what is in it, and in groups that names show."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from paddleseg_autoloss.data_checks.split import groups_of, held_out_names

#: As in a data set of sections that are cut in four tiles each.
TILES = [f"data/images/{s:02d}_{y}_{x}.jpg" for s in range(20) for y in (0, 256) for x in (0, 256)]


def test_tiles_of_a_section_stay_together():
    for seed in range(5):
        for share, sections in ((0.025, 1), (0.05, 1), (0.1, 2), (0.25, 5), (0.5, 10)):
            held_out, groups = held_out_names(TILES, share, seed)
            counts = Counter(name.split("/")[-1][:2] for name in held_out)
            assert list(counts.values()) == [4] * sections
            assert sorted(counts) == groups


def test_every_section_is_held_out_by_some_seed():
    parts = [held_out_names(TILES, 0.1, seed)[0] for seed in range(100)]
    assert set().union(*parts) == set(TILES)


def test_neither_order_nor_folder_nor_repetition_matters():
    expected, _ = held_out_names(TILES, 0.1, seed=3)
    shuffled = random.Random(0).sample(TILES, len(TILES))
    assert held_out_names(shuffled * 2, 0.1, seed=3)[0] == expected
    moved = [name.replace("data/", "/elsewhere/7/") for name in TILES]
    assert held_out_names(moved, 0.1, seed=3)[0] == {
        name.replace("data/", "/elsewhere/7/") for name in expected
    }


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        # Words without a digit are kinds of images, not one thing seen several times.
        ([f"{kind}_{i:03d}.png" for kind in ("bent", "color") for i in range(9)], None),
        # Half of the images are in one film.
        ([f"seq{1 + i // 9}_{i}.png" for i in range(18)], None),
        ([f"img_{i}.png" for i in range(18)], None),
        (["scan.png", "scan (2).png", "a/b.png"], None),
        (
            [f"case_{i // 2}_slice_{i}.png" for i in range(18)],
            [f"case_{i // 2}" for i in range(18)],
        ),
        (
            [f"patient{i // 2}/slice{i}.png" for i in range(18)],
            [f"patient{i // 2}" for i in range(18)],
        ),
        (["p1.png", "p1_b.png", "p2.png", "p2_b.png"], ["p1", "p1", "p2", "p2"]),
    ],
)
def test_groups(names, groups):
    assert groups_of(names, most=4) == (groups or names)


@pytest.mark.parametrize("count", range(2, 9))
def test_no_part_is_empty(count):
    names = [f"{i // 3}_{i}.png" for i in range(count)]
    for share in (0.01, 0.1, 0.5, 0.99):
        for seed in range(5):
            assert 0 < len(held_out_names(names, share, seed)[0]) < count
