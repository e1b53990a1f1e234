"""Which images of a list are held out of training: drawn by seed, in groups that names show."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["groups_of", "held_out_names"]

_DIGIT = re.compile(r"\d")
_WORD = re.compile(r"[/_\- ]+[^/_\- ]+")


def held_out_names(names: Iterable[str], share: float, seed: int) -> tuple[set[str], list[str]]:
    """Draw the images that are held out of training.

    The result depends on the set of names and on the seed only: neither on the order of the names,
    nor on the folder that contains them all, nor on random states.  Images of one group (see
    `groups_of`) are on one side.  At least one group is taken, and each other one that brings the
    number of images nearer to the share.

    Args:
        names: paths of the images; a repeated name counts once.
        share: the share of the images to hold out, above 0 and below 1.
        seed: seed of the draw.

    Returns:
        The names that are held out, and the groups of several images among them.
        With two names or more, neither part is empty.

    Examples:
        >>> tiles = [f"{section:02d}_{tile}.png" for section in range(10) for tile in range(4)]
        >>> held_out, groups = held_out_names(tiles, 0.1, seed=0)
        >>> sorted(held_out), groups
        (['05_0.png', '05_1.png', '05_2.png', '05_3.png'], ['05'])
    """
    unique = sorted(set(names))
    wanted = min(max(1, round(share * len(unique))), len(unique) - 1)
    groups = groups_of(unique, most=2 * wanted)
    sizes = Counter(groups)
    taken: set[str] = set()
    total = 0
    for group in sorted(sizes, key=lambda group: _draw(group, seed)):
        later = total + sizes[group]
        is_nearer = total == 0 or abs(later - wanted) < abs(total - wanted)
        if is_nearer and later < len(unique):
            taken.add(group)
            total = later
    held_out = {name for name, group in zip(unique, groups) if group in taken}
    return held_out, sorted(group for group in taken if sizes[group] > 1)


def _draw(group: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{group}".encode("utf-8", "surrogatepass")).hexdigest()


def groups_of(names: Sequence[str], most: int) -> list[str]:
    """Return for each image the group that it belongs to: the beginning of its name.

    Tiles of one photograph, slices of one scan and frames of one film look alike, and their names
    begin alike: ``07_0_256.png`` and ``07_256_0.png`` are of section 07.  A name is a row of words
    with ``/``, ``_``, ``-`` or a space between them.  The group is its first words, as few of them
    as make several groups, each with a digit and at most ``most`` images.  So a word such as
    ``train`` or ``scratch`` makes no group, and neither does a film that has half of the images.

    Args:
        names: different paths of images.
        most: the most images that a group has.

    Returns:
        The group of each name; where names show no groups, the name itself, without the folder that
        contains all images and without the ending.
    """
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names])
    stems = [
        os.path.splitext(os.path.relpath(os.path.abspath(name), folder))[0].replace(os.sep, "/")
        for name in names
    ]
    ends = [[match.start() for match in _WORD.finditer(stem)] + [len(stem)] for stem in stems]
    for count in range(max(map(len, ends)) - 1):
        groups = [stem[: end[min(count, len(end) - 1)]] for stem, end in zip(stems, ends)]
        sizes = Counter(groups)
        if len(sizes) > 1 and max(sizes.values()) <= most and all(map(_DIGIT.search, sizes)):
            return groups
    return [os.path.relpath(os.path.abspath(name), folder).replace(os.sep, "/") for name in names]
