"""Partition images so that each part has its share of every class: the rule of `splits`.

Images that must stay together form a unit. Near-duplicates are one too, unless a class would then
be far from its share of a part, or lack training images.
"""

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np

from tfpipe.building.units import Units
from tfpipe.images.duplicates import firsts_of
from tfpipe.images.image_table import rank, to_hex
from tfpipe.records import coverage, label_set


def partition(
    keys: np.ndarray | Sequence[str],
    labels: Sequence[str],
    fractions: Sequence[float],
    salt: str,
    groups: Sequence[Hashable] | None = None,
    near: Sequence[Hashable] | None = None,
    training: int | None = None,
) -> list[int]:
    """Divide images by the rule of `splits`.

    Args:
        keys: digests of the images' contents, a `DIGEST` array or hexadecimal; equal ones stay
            together.
        labels: their labels, as of `label_set`.
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
    if not len(keys):
        return []
    # Ranks and numbers replace keys, which take more memory.
    firsts, ranks = rank(keys)
    each = (_number(salt, keys[i]) for i in firsts.tolist())
    numbers = np.fromiter(each, np.float64, len(firsts))
    hard = join(ranks) if groups is None else join(ranks, groups)
    holders, classes = label_set.memberships(labels)
    shares = np.array(fractions)

    def divide(units: np.ndarray) -> tuple[np.ndarray, set[int]]:
        parts = _divide(numbers, ranks, holders, classes, shares, units, training)
        return parts, _unfair(parts[holders], classes, shares, training)

    near = np.full(len(ranks), -1) if near is None else _numbers(near)
    parts, unfair = divide(join(hard, near))
    forced = divide(hard)[1] if unfair else set()  # no cluster is the reason
    count = 1
    while broken := _largest(near, ranks, holders, classes, unfair - forced, count):
        near = np.where(np.isin(near, list(broken)), -1, near)
        parts, unfair = divide(join(hard, near))
        count *= 2  # bounds the number of rounds
    return parts.tolist()


def _divide(
    numbers: np.ndarray,
    ranks: np.ndarray,
    holders: np.ndarray,
    classes: np.ndarray,
    shares: np.ndarray,
    firsts: np.ndarray,
    training: int | None,
) -> np.ndarray:
    """Divide images into parts; equal `firsts` stay together.

    `holders` and `classes` have the image and the class of each membership.
    """
    smallest = np.full(len(ranks), len(ranks))  # of the keys of each unit
    np.minimum.at(smallest, firsts, ranks)
    # Units are numbered by their keys, so that ties do not depend on the order of the images.
    of_units, unit_of = np.unique(smallest[firsts], return_inverse=True)
    del smallest
    units = Units(numbers[of_units], unit_of[holders], classes, shares, training)
    units.rebalance()
    return units.part[unit_of]


def _unfair(
    parts: np.ndarray, classes: np.ndarray, shares: np.ndarray, training: int | None
) -> set[int]:
    """Return the classes that are far from their share of a part, or lack training images.

    `parts` and `classes` are of each membership of an image in a class.
    """
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
    near: np.ndarray,
    ranks: np.ndarray,
    holders: np.ndarray,
    classes: np.ndarray,
    chosen: set[int],
    count: int,
) -> set[int]:
    """Return the clusters with the most images of each chosen class, `count` of a class."""
    smallest = np.full(len(ranks), len(ranks))  # of the keys of each cluster
    np.minimum.at(smallest, near[near >= 0], ranks[near >= 0])
    found: set[int] = set()
    for label in chosen:
        of_class = near[holders[classes == label]]
        clusters, held = np.unique(of_class[of_class >= 0], return_counts=True)
        order = np.lexsort((smallest[clusters], -held))
        found.update(clusters[order[:count]].tolist())
    return found


def join(*keyings: Sequence[Hashable]) -> np.ndarray:
    """Join images that share a value in any of `keyings`, directly or through others.

    Args:
        keyings: each has one value for every image; None and "" join nothing.

    Returns:
        For each image the index of the first one that it is joined to, which may be itself.
    """
    joined = np.arange(len(keyings[0]))
    parent = memoryview(joined)  # whose single elements are quick

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for keying in keyings:
        firsts = _numbers(keying)
        others = np.flatnonzero((firsts >= 0) & (firsts != np.arange(len(firsts))))
        for i, first in zip(others.tolist(), firsts[others].tolist(), strict=True):
            low, high = sorted((root(i), root(first)))
            parent[high] = low
    while (joined != joined[joined]).any():
        joined = joined[joined]
    return joined


def _numbers(values: Sequence[Hashable]) -> np.ndarray:
    """Return the index of the first value that equals each; -1 for None, "" and -1."""
    if isinstance(values, np.ndarray):
        return np.where(values == -1, -1, firsts_of(values))
    first: dict[Hashable, int] = {None: -1, "": -1}
    return np.fromiter(
        (first.setdefault(v, i) for i, v in enumerate(values)), np.int64, len(values)
    )


def _number(salt: str, key: bytes | str) -> float:
    text = salt + (key if isinstance(key, str) else to_hex(key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
