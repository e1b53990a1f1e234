"""Which images of a list are held out of training: drawn by seed, in groups that names show."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Groups", "divided_group", "groups_of", "held_out_names"]

_DIGIT = re.compile(r"\d")
_WORD = re.compile(r"[/_\- ]+[^/_\- ]+")


@dataclass(frozen=True)
class Groups:
    """The groups of images that stay together, and how large one may be to be held out.

    Args:
        of: the group of each image, by its name.
        most: the most images of a group that can be held out; a larger one is trained on.
    """

    of: Mapping[str, str]
    most: int

    @classmethod
    def find(cls, names: Iterable[str], share: float, fewest_left: int = 1) -> Groups:
        """Find the groups of images of which a share is to be held out.

        Args:
            names: paths of the images; a repeated name counts once.
            share: the share of the images to hold out, above 0 and below 1.
            fewest_left: the fewest images that are not held out, at least 1.
        """
        unique = sorted(set(names))
        most_held_out = len(unique) - fewest_left
        wanted = _wanted(len(unique), share, most_held_out)
        # A batch of half the images is not one thing seen several times.
        most = min(max(wanted, min(2 * wanted, -(-len(unique) // 4))), most_held_out)
        return cls(dict(zip(unique, groups_of(unique, most, 2 * wanted))), most)

    def draw(self, names: Iterable[str], share: float, seed: int, fewest_left: int = 1) -> set[str]:
        """Draw the images that are held out.

        At least one group is taken, and each other one that brings the number of images nearer to
        the share.  If no group leaves enough images, images are drawn one by one.

        Args:
            names: paths of images, all or some of those that have a group.
            share: the share of the images to hold out, above 0 and below 1.
            seed: seed of the draw.
            fewest_left: the fewest images that are not held out, at least 1.
        """
        unique = sorted(set(names))
        most = len(unique) - fewest_left
        wanted = _wanted(len(unique), share, most)
        sizes = Counter(self.of[name] for name in unique)
        taken: set[str] = set()
        total = 0
        for group in sorted(sizes, key=lambda group: _draw(group, seed)):
            later = total + sizes[group]
            is_nearer = total == 0 or abs(later - wanted) < abs(total - wanted)
            if is_nearer and later <= most and sizes[group] <= self.most:
                taken.add(group)
                total = later
        if not taken:
            inside = dict(zip(unique, _inside_common_folder(unique)))
            return set(sorted(unique, key=lambda name: _draw(inside[name], seed))[:wanted])
        return {name for name in unique if self.of[name] in taken}

    def several(self, names: Iterable[str]) -> list[str]:
        """Return the groups of several images among some images."""
        sizes = Counter(self.of[name] for name in names)
        return sorted(group for group, size in sizes.items() if size > 1)


def held_out_names(names: Iterable[str], share: float, seed: int) -> tuple[set[str], list[str]]:
    """Draw the images that are held out of training.

    The result depends on the set of names and on the seed only: neither on the order of the names,
    nor on the folder that contains them all, nor on random states.  Images of one group (see
    `groups_of`) are on one side.

    Args:
        names: paths of the images; a repeated name counts once.
        share: the share of the images to hold out, above 0 and below 1.
        seed: seed of the draw.

    Returns:
        The names that are held out, and the groups of several images among them.  Of two names or
        more, at least one is held out, and one is not.

    Examples:
        >>> tiles = [f"{section:02d}_{tile}.png" for section in range(10) for tile in range(4)]
        >>> held_out, groups = held_out_names(tiles, 0.1, seed=0)
        >>> sorted(held_out), groups
        (['05_0.png', '05_1.png', '05_2.png', '05_3.png'], ['05'])
    """
    unique = set(names)
    groups = Groups.find(unique, share)
    held_out = groups.draw(unique, share, seed)
    return held_out, groups.several(held_out)


def _wanted(count: int, share: float, most: int) -> int:
    return min(max(1, round(share * count)), most)


def _draw(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{text}".encode("utf-8", "surrogatepass")).hexdigest()


def groups_of(names: Sequence[str], most: int, enough: int) -> list[str]:
    """Return for each image the group that it belongs to: the beginning of its name.

    Tiles of one photograph, slices of one scan and frames of one film look alike, and their names
    begin alike: ``07_0_256.png`` and ``07_256_0.png`` are of section 07.  A name is a row of words
    with ``/``, ``_``, ``-`` or a space between them.  The group is its first words, as few of them
    as make several groups, of which those with at most ``most`` images have ``enough`` of them to
    draw from.  A group of several images needs a digit.  So a word such as ``train`` or ``scratch``
    makes no group, and neither does a film that has half of the images.

    Args:
        names: different paths of images.
        most: the most images of a group that can be held out.
        enough: how many images such groups must have in all; at most all images are asked for.

    Returns:
        The group of each name; where names show no groups, the path below the folder that contains
        all images.
    """
    for groups in _groupings(names):
        sizes = Counter(groups)
        drawable = sum(size for size in sizes.values() if size <= most)
        if drawable >= min(enough, len(names)):
            return groups
    return _inside_common_folder(names)


def divided_group(parts: Iterable[Sequence[str]]) -> str | None:
    """Return the first group that has images in several lists, or None.

    Args:
        parts: the paths of the images of each list.
    """
    lists = [list(part) for part in parts]
    names = [name for part in lists for name in part]
    part_of = [index for index, part in enumerate(lists) for _ in part]
    groups = next((g for g in _groupings(names) if len(set(g)) < len(g)), [])
    found: dict[str, set[int]] = {}
    for group, part in zip(groups, part_of):
        found.setdefault(group, set()).add(part)
    return next((group for group in sorted(found) if len(found[group]) > 1), None)


def _groupings(names: Sequence[str]) -> Iterator[list[str]]:
    """Yield the group of each name by its first word, its first two words, and so on.

    A group of several images needs a digit, and takes as many further words as it needs for one.
    Numbers of words that make one group only are skipped.
    """
    stems = [os.path.splitext(name)[0] for name in _inside_common_folder(names)]
    ends = [[match.start() for match in _WORD.finditer(stem)] + [len(stem)] for stem in stems]
    longest = max(map(len, ends))
    for first in range(longest - 1):
        groups = _beginnings(stems, ends, first)
        vague = _without_digit(groups)
        for count in range(first + 1, longest):
            longer = _beginnings(stems, ends, count)
            still = _without_digit(groups)
            groups = [new if old in still else old for old, new in zip(groups, longer)]
        number = len(set(groups))
        if number > 1 and not (vague and number == len(groups)):
            yield groups


def _beginnings(stems: Sequence[str], ends: Sequence[Sequence[int]], count: int) -> list[str]:
    return [stem[: end[min(count, len(end) - 1)]] for stem, end in zip(stems, ends)]


def _without_digit(groups: Sequence[str]) -> set[str]:
    sizes = Counter(groups)
    return {group for group, size in sizes.items() if size > 1 and not _DIGIT.search(group)}


def _inside_common_folder(names: Sequence[str]) -> list[str]:
    paths = [os.path.abspath(name) for name in names]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, folder).replace(os.sep, "/") for path in paths]
