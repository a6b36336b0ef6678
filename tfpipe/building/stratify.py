"""Partition images so that each part has its share of every class: the rule of `splits`.

Images that must stay together form a unit. Near-duplicates are one too, unless a class would then
be far from its share of a part, or lack training images.
"""

import collections
import hashlib
from collections.abc import Hashable, Sequence

import numpy as np

from tfpipe.building.units import Units
from tfpipe.records import coverage


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
    units = Units(
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


def _number(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
