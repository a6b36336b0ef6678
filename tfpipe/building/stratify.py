"""Partition images so that each part has its share of every class: the rule of `splits`.

    number of a unit     0 ........ val's interval begins at 0.8 .... 1
    units of a class     a   b  c        d    e | f           g          cut here by chance,
    too few in val       a   b  c        d  | e   f           g          and here by the rule

Which units move does not depend on the order of images or classes, only on numbers and names.
"""

import collections
import hashlib
from collections.abc import Hashable, Sequence

import numpy as np

from tfpipe.records import coverage

# How far a part's share of a class may be from its fraction: 2 percentage points.
TOLERANCE = 0.02

# A part without any of a class weighs more than any number of images too few or too many.
_EMPTY = 2**40


def partition(
    keys: Sequence[str],
    labels: Sequence[str],
    fractions: Sequence[float],
    salt: str,
    groups: Sequence[Hashable] | None = None,
    near: Sequence[Hashable] | None = None,
    training: int | None = None,
) -> list[int]:
    """Divide images by the rule of `splits`.

    Args:
        keys: hex digests of the images' contents; equal ones stay together.
        labels: their classes, one for each.
        fractions: of the images, one for each part; they sum to 1.
        salt: of the partition.
        groups: the group of each image; a group stays together; None or "" for none.
        near: the cluster of near-duplicates of each image. A cluster stays together if no class
            is then far from its share, or lacks training images; else the largest are broken.
        training: the index of the part that needs an image of every class; None if the others of
            each part are a training set, as with folds.

    Returns:
        The index of a part for each image.
    """
    if not keys:
        return []
    hard = join(keys) if groups is None else join(keys, groups)
    class_of = {label: i for i, label in enumerate(sorted(set(labels)))}
    classes = np.array([class_of[label] for label in labels])
    shares = np.array(fractions)

    def divide(units: Sequence[int]) -> tuple[list[int], set[int]]:
        parts = _divide(keys, classes, shares, salt, units, training)
        return parts, _unfair(np.array(parts), classes, shares, training)

    near = [None] * len(keys) if near is None else list(near)
    parts, unfair = divide(join(hard, near))
    forced = divide(hard)[1] if unfair else set()  # no cluster is the reason
    count = 1
    while broken := _largest(near, keys, classes, unfair - forced, count):
        near = [None if cluster in broken else cluster for cluster in near]
        parts, unfair = divide(join(hard, near))
        count *= 2  # bounds the number of rounds
    return parts


def _divide(
    keys: Sequence[str],
    classes: np.ndarray,
    shares: np.ndarray,
    salt: str,
    firsts: Sequence[int],
    training: int | None,
) -> list[int]:
    """Divide images into parts; equal `firsts` stay together."""
    smallest: dict[int, str] = {}
    for first, key in zip(firsts, keys, strict=True):
        smallest[first] = min(key, smallest.get(first, key))
    # Units are numbered by their keys, so that ties do not depend on the order of the images.
    unit_of = {first: i for i, first in enumerate(sorted(smallest, key=smallest.__getitem__))}
    units = _Units(
        np.array([_number(salt + smallest[first]) for first in unit_of]),
        np.array([unit_of[first] for first in firsts]),
        classes,
        shares,
        training,
    )
    units.rebalance()
    return [units.part[unit_of[first]] for first in firsts]


def _unfair(
    parts: np.ndarray, classes: np.ndarray, shares: np.ndarray, training: int | None
) -> set[int]:
    """Return the classes that are far from their share of a part, or lack training images."""
    counts = np.zeros((classes.max() + 1, len(shares)), np.int64)
    np.add.at(counts, (classes, parts), 1)
    sizes = counts.sum(1)
    far = coverage.is_far(counts, sizes[:, None] * shares).any(1)
    if training is None:
        lacking = (sizes > 1) & (counts.max(1) == sizes) & (len(shares) > 1)
    else:
        lacking = counts[:, training] == 0
    return set(np.flatnonzero(far | lacking).tolist())


def _largest(
    near: Sequence[Hashable],
    keys: Sequence[str],
    classes: np.ndarray,
    chosen: set[int],
    count: int,
) -> set[Hashable]:
    """Return the clusters with the most images of each chosen class, `count` of a class."""
    if not chosen:
        return set()
    sizes: dict[int, collections.Counter] = {label: collections.Counter() for label in chosen}
    smallest: dict[Hashable, str] = {}
    for cluster, key, label in zip(near, keys, classes.tolist(), strict=True):
        if cluster is not None:
            smallest[cluster] = min(key, smallest.get(cluster, key))
            if label in chosen:
                sizes[label][cluster] += 1
    return {
        cluster
        for held in sizes.values()
        for cluster in sorted(held, key=lambda c: (-held[c], smallest[c]))[:count]
    }


def join(*keyings: Sequence[Hashable]) -> list[int]:
    """Join images that share a value in any of `keyings`, directly or through others.

    Args:
        keyings: each has one value for every image; None and "" join nothing.

    Returns:
        For each image the index of the first one that it is joined to, which may be itself.
    """
    parent = list(range(len(keyings[0])))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for keying in keyings:
        first: dict[Hashable, int] = {}
        for i, value in enumerate(keying):
            j = i if value is None or value == "" else first.setdefault(value, i)
            if i != j:
                low, high = sorted((root(i), root(j)))
                parent[high] = low
    return [root(i) for i in range(len(parent))]


class _Units:
    """The units and their parts; a unit is a set of images that stay together.

    Attributes:
        part: the index of the part of each unit.
    """

    def __init__(
        self,
        numbers: np.ndarray,
        units: np.ndarray,
        classes: np.ndarray,
        fractions: np.ndarray,
        training: int | None,
    ):
        """Put each unit into the part of its number.

        Args:
            numbers: float64 [units] in [0, 1].
            units: int [images], the unit of each image.
            classes: int [images], its class.
            fractions: float64 [parts].
            training: the part that needs an image of every class; None for no such part.
        """
        ends = np.cumsum(fractions)
        self._numbers, self._starts, self._ends = numbers, ends - fractions, ends
        # The fractions may sum to a little less than 1; the rest belongs to the last part.
        part = np.minimum(np.searchsorted(ends, numbers, side="right"), len(ends) - 1)
        # A holding is the images of one class in one unit; holdings are sorted by unit.
        holdings, images = np.unique(units * (classes.max() + 1) + classes, return_counts=True)
        unit, label = np.divmod(holdings, classes.max() + 1)
        counts = np.zeros((classes.max() + 1, len(fractions)), np.int64)
        np.add.at(counts, (label, part[unit]), images)
        low, high = _bounds(counts.sum(1), np.bincount(label), fractions, training)
        by_class = np.argsort(label, kind="stable")
        self._members = np.split(unit[by_class], np.cumsum(np.bincount(label))[:-1])
        self._bad = np.flatnonzero(((counts < low) | (counts > high)).any(1)).tolist()
        # Lists, because single elements of arrays are slow.
        self.part = part.tolist()
        self._counts, self._low, self._high = counts.tolist(), low.tolist(), high.tolist()
        self._first = np.searchsorted(unit, np.arange(len(numbers) + 1)).tolist()
        self._label, self._images = label.tolist(), images.tolist()

    def rebalance(self) -> None:
        """Move units until every part has its share of each class, or no move helps.

        Every move lowers a sum of positive integers, so the loop ends.
        """
        while self._bad:
            moved = [self._rebalance_class(label) for label in self._bad]
            if not any(moved):
                return
            # The move of a unit of several classes may harm another class.
            self._bad = [c for c in range(len(self._counts)) if self._off(c)]

    def _rebalance_class(self, label: int) -> bool:
        """Move units of a class until its shares are right or no move helps; return if any did."""
        moved = False
        while self._off(label) and self._move_nearest(label):
            moved = True
        return moved

    def _move_nearest(self, label: int) -> bool:
        """Try each move of a class once, the nearest first; make those that help."""
        units, counts = self._members[label], np.array(self._counts[label])
        here = np.array([self.part[unit] for unit in units.tolist()])
        full, short = counts > self._high[label], counts < self._low[label]
        row, to = np.nonzero(full[here][:, None] | short)
        unit = units[row]
        below, above = self._starts[to] - self._numbers[unit], self._numbers[unit] - self._ends[to]
        order = np.lexsort((to, unit, np.maximum(below, above)))
        moved = False
        for u, t in zip(unit[order].tolist(), to[order].tolist(), strict=True):
            if self._gain(u, t) > 0:
                self._move(u, t)
                moved = True
                if not self._off(label):
                    break
        return moved

    def _holdings(self, unit: int) -> range:
        return range(self._first[unit], self._first[unit + 1])

    def _gain(self, unit: int, to: int) -> int:
        """Return by how much a move lowers the parts' excess."""
        source, gain = self.part[unit], 0
        if source == to:
            return 0
        for i in self._holdings(unit):
            label, images = self._label[i], self._images[i]
            for part, change in ((source, -images), (to, images)):
                now = self._counts[label][part]
                gain += self._excess(label, part, now) - self._excess(label, part, now + change)
        return gain

    def _move(self, unit: int, to: int) -> None:
        for i in self._holdings(unit):
            self._counts[self._label[i]][self.part[unit]] -= self._images[i]
            self._counts[self._label[i]][to] += self._images[i]
        self.part[unit] = to

    def _off(self, label: int) -> bool:
        return any(self._excess(label, part, n) for part, n in enumerate(self._counts[label]))

    def _excess(self, label: int, part: int, count: int) -> int:
        """Return by how many images of a class a part has too many or too few."""
        if count > self._high[label][part]:
            return count - self._high[label][part]
        if count < self._low[label][part]:
            return self._low[label][part] - count + (0 if count else _EMPTY)
        return 0


def _number(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _bounds(
    images: np.ndarray, units: np.ndarray, fractions: np.ndarray, training: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the most images of each class that each part may have.

    Both include the tolerance, and rounding down and up. So if every unit is one image, there is a
    partition within the bounds, and single moves lead to it.

    Args:
        images: int [classes], the number of images.
        units: int [classes], the number of units.
        fractions: float64 [parts].
        training: the part that needs an image of every class; None for no such part.

    Returns:
        Two int64 arrays [classes, parts].
    """
    images = images[:, None]
    parts = len(fractions)
    exact = images * fractions
    # At least one for each part if there are enough units; larger parts give in proportion.
    above = np.maximum(exact - 1, 0)
    room = np.maximum(above.sum(1, keepdims=True), 1e-9)
    enough = units[:, None] >= parts
    exact = np.where(enough, 1 + above * ((images - parts) / room), exact).round(6)
    slack = TOLERANCE * images
    low = np.minimum(np.floor(exact), np.ceil((exact - slack).round(6)))
    high = np.maximum(np.ceil(exact), np.floor((exact + slack).round(6)))
    low = np.maximum(low, enough)
    if training is not None:
        low[:, training] = np.maximum(low[:, training], 1)
    return low.astype(np.int64), np.maximum(low, high).astype(np.int64)
