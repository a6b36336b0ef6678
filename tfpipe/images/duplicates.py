"""Find duplicates: equal files, and re-encoded or resized copies.

Mirrored, rotated and strongly cropped copies are not found. Two drawings of one shape in different
colours count as copies, because the hash is of grey values.
"""

import collections
import csv
import io
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfpipe.core import remote, storage
from tfpipe.core.errors import UserError, one_line
from tfpipe.images.image_table import rank

DUPLICATES = "duplicates.csv"

# Two hashes are near if they differ in at most 40 of their 256 bits, and in at most 6 of the 64 of
# the lowest frequencies. Measured on 9,600 photographs of cats and dogs, 46 million pairs: six
# pairs are that near, with 0 to 15 bits, and all six show the same photograph; the next pair
# differs in 69. Found of copies of 400 photographs: re-encoded at JPEG quality 20 to 95, brightness
# or contrast changed by 10 or 20 %, greyscale: all; half the size, 200 pixels, blurred: 99 %;
# cropped at each side by 1 %: 91 %, by 2 %: 61 %; with a border of 5 pixels: 47 %.
MAX_DISTANCE = 40
_MAX_LOW_DISTANCE = 6

# A hash with fewer ones says little: an image rich in detail has 128, and none of those 9,600
# images has fewer than 99. Flat images and smooth gradients have at most 40 and look alike whatever
# they show; they are duplicates only if their files are equal.
_MIN_ONES = 96


# A cluster with more than half of a class's files, and at least ten of them, says nothing about
# copies: drawings, X-rays and micrographs of one kind are alike by nature.
_MOST = 0.5
_MANY = 10


# Pairs of hashes that are compared at once.
_BLOCK = 2**14

_LOWER = 2**32 - 1  # the lower half of a number of 64 bits


class Member(NamedTuple):
    """One image of a cluster.

    Attributes:
        cluster: 0, 1, ... in the order of the clusters' first members.
        path: of its source and in it, for a person.
        label: its class.
        kind: "first", "exact" (its file equals the first member's) or "near".
        distance: bits in which its hash differs from the first member's; up to twice MAX_DISTANCE,
            because both are near the leader of the cluster.
        action: "keep" (by itself), "drop" or "group".
    """

    cluster: int
    path: str
    label: str
    kind: str
    distance: int
    action: str


def clusters(files: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Find the clusters of duplicates.

    Equal files are in one cluster. For images that look alike, the order of their files' digests
    decides, whatever the order of the images. In this order, an image that is near no leader
    becomes a leader. Then every other image joins the leader nearest to it. So no chain of near
    images joins two that differ much, as it would with every pair that is near.

    Args:
        files: digests of the images' files, of any type that sorts.
        hashes: a `DIGEST` array of their perceptual hashes, from `perceptual_hash.hash_images`.

    Returns:
        int64, for each image the index of the first image of its cluster, which may be its own.
    """
    tells = _ones(_rows(hashes)).sum(axis=1) >= _MIN_ONES
    # Equal hashes count once, so that a thousand equal images do not give a million pairs.
    detailed = hashes[tells]
    distinct, of = rank(detailed)
    file_of = rank(files)[1]
    smallest = np.full(len(distinct), len(files))
    np.minimum.at(smallest, of, file_of[tells])
    order = np.argsort(smallest, kind="stable")  # equal ranks stay sorted by hash
    leader = np.empty_like(order)
    leader[order] = _leaders(_rows(detailed[distinct[order]]))
    names = len(distinct) + file_of
    names[tells] = leader[of]
    return firsts_of(names)


def firsts_of(values: np.ndarray) -> np.ndarray:
    """Return for each value the index of the first one that equals it, as int64."""
    _, first, of = np.unique(values, return_index=True, return_inverse=True)
    return first[of]


def alike_by_nature(firsts: np.ndarray, files: np.ndarray, labels: Sequence[str]) -> dict[int, str]:
    """Find the clusters that hold most of a class.

    Their images are probably no copies of each other.

    Args:
        firsts: from `clusters`.
        files: digests of the images' files; equal ones count once.
        labels: their classes.

    Returns:
        For the first image of each such cluster the class that it holds most of.
    """
    names, label_of = _numbers(labels)
    # An image in each row; equal files of one class have one number.
    pairs = firsts_of(rank(files)[1] * len(names) + label_of)
    distinct = np.unique(pairs)
    total = np.bincount(label_of[distinct], minlength=len(names))
    held, counts = np.unique(firsts[distinct] * len(names) + label_of[distinct], return_counts=True)
    first, label = np.divmod(held, max(len(names), 1))
    most = (counts >= _MANY) & (counts > _MOST * total[label])
    return {i: names[k] for i, k in zip(first[most].tolist(), label[most].tolist(), strict=True)}


def loosen(firsts: np.ndarray, files: np.ndarray, loose: Collection[int]) -> np.ndarray:
    """Return the clusters with those in `loose` reduced to equal files.

    Args:
        firsts: from `clusters`.
        files: digests of the images' files.
        loose: the first images of some clusters.
    """
    held = np.isin(firsts, list(loose))
    apart = rank(files)[1] + 1
    return firsts_of(firsts * (len(firsts) + 1) + np.where(held, apart, 0))


def copies(firsts: np.ndarray) -> list[int]:
    """Return the indices of all images but the first of each cluster."""
    return np.flatnonzero(firsts != np.arange(len(firsts))).tolist()


def conflicts(firsts: np.ndarray, labels: Sequence[str]) -> list[list[int]]:
    """Return the members of every cluster with more than one label."""
    return [group for group in _groups(firsts) if len({labels[i] for i in group}) > 1]


def members(
    firsts: np.ndarray,
    held: np.ndarray,
    files: np.ndarray,
    hashes: np.ndarray,
    path: Callable[[int], str],
    labels: Sequence[str],
    policy: str,
) -> list[Member]:
    """List the clusters that have more than one member.

    Args:
        firsts: from `clusters`.
        held: the clusters that the policy applies to, from `loosen`.
        files: digests of the images' files.
        hashes: their perceptual hashes.
        path: returns where an image is, for a person.
        labels: their classes.
        policy: "keep" duplicates, "drop" all but the first, or "group" them in one split.

    Returns:
        Their members, cluster by cluster, each in the order of the images.
    """
    found, sizes = [], np.bincount(held)
    for number, group in enumerate(_groups(firsts)):
        rows = _rows(hashes[group])
        distances = _ones(rows ^ rows[0]).sum(axis=1).tolist()
        for i, distance in zip(group, distances, strict=True):
            same_file = files[i] == files[group[0]]
            kind = "first" if i == group[0] else "exact" if same_file else "near"
            free = i == held[i] if policy == "drop" else sizes[held[i]] == 1
            action = "keep" if free else policy
            found.append(Member(number, path(i), labels[i], kind, distance, action))
    return found


def count(members: Sequence[Member]) -> dict[str, int]:
    """Return the numbers of clusters, of members, and of clusters with several labels."""
    labels = collections.defaultdict(set)
    for member in members:
        labels[member.cluster].add(member.label)
    conflicts = sum(len(each) > 1 for each in labels.values())
    return {"clusters": len(labels), "images": len(members), "conflicts": conflicts}


def save(path: remote.Path, members: Iterable[Member]) -> None:
    """Write the list of duplicates, one a line, with unprintable characters escaped."""
    with storage.atomic_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Member._fields)
        writer.writerows([one_line(cell) for cell in member] for member in members)


def load(folder: remote.Path) -> list[Member]:
    """Read `duplicates.csv`, escapes and all; raise UserError if it is missing or damaged."""
    path = folder / DUPLICATES
    try:
        with io.TextIOWrapper(storage.open_to_read(path), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            Member(**row | {"cluster": int(row["cluster"]), "distance": int(row["distance"])})
            for row in rows
        ]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is missing or damaged ({one_line(error)}): build the data set again with"
            " `overwrite`"
        ) from None


def _groups(firsts: np.ndarray) -> list[list[int]]:
    """Return the indices of each cluster of several images, in the order of their firsts."""
    several = np.flatnonzero(np.bincount(firsts)[firsts] > 1) if len(firsts) else []
    groups = collections.defaultdict(list)
    for i in several:
        groups[int(firsts[i])].append(int(i))
    return list(groups.values())


def _numbers(labels: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the sorted classes, and the number of each image's class."""
    names = sorted(set(labels))
    number = {name: i for i, name in enumerate(names)}
    return names, np.fromiter((number[label] for label in labels), np.int64, len(labels))


def _leaders(rows: np.ndarray) -> np.ndarray:
    """Return for each of distinct hashes the index of its leader, which may be itself.

    The leaders are the first maximal set of which no two are near. They are found in a few rounds
    instead of one by one (G. Blelloch, J. Fineman, J. Shun, "Greedy Sequential Maximal Independent
    Set and Matching are Parallel on Average", SPAA 2012).

    Args:
        rows: uint64 [n, 4], from `_rows`, in the order that decides.
    """
    leads = np.zeros(len(rows), bool)
    undecided = np.arange(len(rows))
    while len(undecided):
        free = _nearest(rows, undecided, undecided, any_before=True) < 0
        leads[undecided[free]] = True
        others = undecided[~free]
        undecided = others[_nearest(rows, others, undecided[free], any_before=True) < 0]
    leader, others = np.arange(len(rows)), np.flatnonzero(~leads)
    leader[others] = _nearest(rows, others, np.flatnonzero(leads))
    return leader


def _nearest(
    rows: np.ndarray, items: np.ndarray, others: np.ndarray, *, any_before: bool = False
) -> np.ndarray:
    """Return for each item the nearest of the others, the first of several, or -1 if none is near.

    Two rows of 64 bits that differ in at most 6 agree in at least 2 of their 8 bytes. So only rows
    with an equal pair of bytes are compared (multi-index hashing: M. Norouzi, A. Punjani, D. Fleet,
    "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012).

    Args:
        rows: uint64 [n, 4], from `_rows`.
        items: int64, indices of rows.
        others: int64, indices of rows.
        any_before: whether only others before the item count, and any near one will do.
    """
    # A distance is in the upper half of a number, the index of the other row in the lower.
    none = 2**62
    found = np.full(len(items), none)
    if not len(items):
        return found
    # A hash has 16 rows of two bytes; the 8 x 8 lowest frequencies are the first byte of the first
    # 8 rows.
    low_bytes = np.ascontiguousarray(rows.view(np.uint8)[:, :16:2])
    low = low_bytes.view(np.uint64)[:, 0]
    for one, two in itertools.combinations(range(low_bytes.shape[1]), 2):
        # A key is in the upper half of a number, the index of its row in the lower.
        key = (low_bytes[:, one].astype(np.int64) << 8 | low_bytes[:, two]) << 32
        ordered = np.sort(key[others] | others)
        place = np.searchsorted(ordered, key[items])
        end = np.searchsorted(ordered, key[items] | (items if any_before else _LOWER))
        ordered &= _LOWER
        left = np.flatnonzero((place < end) & ((found == none) | (not any_before)))
        # Compare each item with the next of its key: several at once if there are few items. No
        # array has more elements than items or _BLOCK.
        while len(left):
            at = place[left][:, None] + np.arange(max(1, _BLOCK // len(left)))
            other = ordered[np.minimum(at, len(ordered) - 1)]
            apart = low[items[left]][:, None] ^ low[other]
            a, b = np.nonzero((_ones(apart) <= _MAX_LOW_DISTANCE) & (at < end[left][:, None]))
            # Rows that share other bytes before these two have been compared.
            equal = apart[a, b].view(np.uint8).reshape(-1, 8)[:, :two] == 0
            a, b = a[equal.sum(1) == 1], b[equal.sum(1) == 1]
            item, other = left[a], other[a, b]
            distance = _ones(rows[items[item]] ^ rows[other]).sum(axis=1).astype(np.int64)
            near = distance <= MAX_DISTANCE
            np.minimum.at(found, item[near], distance[near] << 32 | other[near])
            place[left] += at.shape[1]
            left = left[place[left] < end[left]]
            if any_before:
                left = left[found[left] == none]
    return np.where(found < none, found & _LOWER, -1)


def _rows(hashes: np.ndarray) -> np.ndarray:
    """Return a `DIGEST` array as uint64 [n, 4], its bytes in their order."""
    return np.ascontiguousarray(hashes).view(np.uint64).reshape(len(hashes), 4)


def _ones(words: np.ndarray) -> np.ndarray:
    """Count the ones in each element of a uint64 array (H. Warren, Hacker's Delight, ch. 5)."""
    words = words - (words >> 1 & 0x5555555555555555)
    words = (words & 0x3333333333333333) + (words >> 2 & 0x3333333333333333)
    return (words + (words >> 4) & 0x0F0F0F0F0F0F0F0F) * 0x0101010101010101 >> 56
