"""The split of a list: seeded, by what is in it, and in groups that names show."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from paddleseg_autoloss.data_checks.split import Groups, divided_group, groups_of, held_out_names

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
        # One image without a number hides nothing.
        (
            [*(f"p{i // 2}_{i}.png" for i in range(8)), "overview.png"],
            [*(f"p{i // 2}" for i in range(8)), "overview"],
        ),
        # Two images whose names begin with a word hide nothing either.
        (
            [*(f"p{i // 2}_{i}.png" for i in range(8)), "control_left.png", "control_right.png"],
            [*(f"p{i // 2}" for i in range(8)), "control_left", "control_right"],
        ),
        # Some names need more words than others.
        (
            [*(f"p{i // 2}_{i}.png" for i in range(8)), *(f"film_{i // 2}_{i}" for i in range(8))],
            [*(f"p{i // 2}" for i in range(8)), *(f"film_{i // 2}" for i in range(8))],
        ),
        # A patient with many images is trained on; the others give enough to draw from.
        (
            [f"p{max(0, i - 5) // 2}_{i}.png" for i in range(16)],
            [f"p{max(0, i - 5) // 2}" for i in range(16)],
        ),
    ],
)
def test_groups(names, groups):
    assert groups_of(names, most=4, enough=8) == (groups or names)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("img_{}.png", {"img_2.png", "img_8.png"}),
        ("{}_img.png", {"0_img.png", "4_img.png"}),
        ("img_{}_x.png", {"img_0_x.png", "img_5_x.png"}),
    ],
)
def test_the_draw_of_names_without_groups_stays(form, expected):
    """Runs of earlier versions go on with the images that they held out."""
    names = [form.format(number) for number in range(10)]
    assert held_out_names(names, 0.2, seed=0) == (expected, [])


@pytest.mark.parametrize("count", range(2, 9))
def test_no_part_is_empty(count):
    names = [f"{i // 3}_{i}.png" for i in range(count)]
    for share in (0.01, 0.1, 0.5, 0.99):
        for seed in range(5):
            for left in range(1, count):
                held_out = Groups.find(names, share, left).draw(names, share, seed, left)
                assert 0 < len(held_out) <= count - left


@pytest.mark.parametrize(
    "sizes",
    [[4] * 10 + [1], [4] * 9 + [20], [10] * 4, [20] * 5, [2] * 3],
    ids=["one more image", "one large", "four", "five", "three"],
)
def test_no_group_is_on_both_sides(sizes):
    names = [f"patient{g:02d}_series1_{i}.png" for g, size in enumerate(sizes) for i in range(size)]
    for seed in range(30):
        held_out, _ = held_out_names(names, 0.2, seed)
        patients = [
            {name.split("_")[0] for name in part} for part in (held_out, set(names) - held_out)
        ]
        assert not patients[0] & patients[1]


def test_a_second_list_divides_no_group_of_the_first():
    """Ten photographs of ten tiles, and a second list of three images."""
    tiles = [
        f"photo{photo}_{tile // 4}_{tile % 4}.png" for photo in range(10) for tile in range(10)
    ]
    groups = Groups.find(tiles, 0.2)
    for seed in range(30):
        first = groups.draw(tiles, 0.2, seed)
        rest = [tile for tile in tiles if tile not in first]
        second = groups.draw(rest, 0.03, seed)
        third = set(rest) - second
        assert divided_group([list(part) for part in (first, second, third)]) is None
        assert len(second) == 10


@pytest.mark.parametrize(
    ("parts", "group"),
    [
        ([["p1_a.png", "p2_a.png"], ["p1_b.png"]], "p1"),
        ([["p1_a.png", "p1_b.png"], ["p2_a.png"]], None),
        ([["1.png", "2.png"], ["3.png"]], None),
        ([["img_1.png", "img_2.png"], ["img_3.png"]], None),
        ([["bent_1.png", "color_1.png"], ["bent_2.png"]], None),
        ([["p1_a.png", "extra_0.png"], ["p1_b.png", "extra_1.png"]], "p1"),
    ],
)
def test_divided_group(parts, group):
    assert divided_group(parts) == group
