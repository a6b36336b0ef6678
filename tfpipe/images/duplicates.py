"""Find duplicates: equal files, and re-encoded or resized copies.

Mirrored, rotated and strongly cropped copies are not found. Two drawings of one shape in different
colours count as copies, because the hash is of grey values.
"""

import collections
import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tfpipe.core import remote, storage
from tfpipe.core.errors import UserError, one_line

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


class Member(NamedTuple):
    """One image of a cluster.

    Attributes:
        cluster: 0, 1, ... in the order of the clusters' first members.
        path: of its source and in it, for a person.
        label: its class.
        kind: "first", "exact" (its file equals the first member's) or "near".
        distance: bits in which its hash differs from the first member's; in a chain of near
            duplicates it can exceed MAX_DISTANCE.
        action: "keep", "drop" or "group".
    """

    cluster: int
    path: str
    label: str
    kind: str
    distance: int
    action: str


def clusters(file_sha256s: Sequence[str], hashes: Sequence[str]) -> list[int]:
    """Find the clusters of duplicates.

    Two images are in one cluster if their files are equal, or their hashes are near, or a chain of
    such pairs joins them.

    Args:
        file_sha256s: hex digests of the images' files.
        hashes: their perceptual hashes, from `perceptual_hash.hash_images`.

    Returns:
        For each image the index of the first image of its cluster, which may be its own.
    """
    firsts = list(range(len(hashes)))

    def find(i: int) -> int:
        while firsts[i] != i:
            firsts[i] = firsts[firsts[i]]
            i = firsts[i]
        return i

    def join(i: int, j: int) -> None:
        i, j = find(i), find(j)
        firsts[max(i, j)] = min(i, j)

    rows = _rows(hashes)
    telling = _ones(rows).sum(axis=1) >= _MIN_ONES
    with_file: dict[str, int] = {}
    with_hash: dict[str, int] = {}
    # Equal hashes are joined first, so that a thousand equal images do not give a million pairs.
    for i, (sha256, hash_) in enumerate(zip(file_sha256s, hashes, strict=True)):
        join(i, with_file.setdefault(sha256, i))
        if telling[i]:
            join(i, with_hash.setdefault(hash_, i))
    distinct = list(with_hash.values())
    for a, b in _near_pairs(rows[distinct]):
        join(distinct[a], distinct[b])
    return [find(i) for i in range(len(firsts))]


def copies(firsts: Sequence[int]) -> list[int]:
    """Return the indices of all images but the first of each cluster."""
    return [i for i, first in enumerate(firsts) if i != first]


def conflicts(firsts: Sequence[int], labels: Sequence[str]) -> list[list[int]]:
    """Return the members of every cluster with more than one label."""
    return [group for group in _groups(firsts) if len({labels[i] for i in group}) > 1]


def members(
    firsts: Sequence[int],
    file_sha256s: Sequence[str],
    hashes: Sequence[str],
    paths: Sequence[str],
    labels: Sequence[str],
    policy: str,
) -> list[Member]:
    """List the clusters that have more than one member.

    Args:
        firsts: from `clusters`.
        file_sha256s: hex digests of the images' files.
        hashes: their perceptual hashes.
        paths: where they are, for a person.
        labels: their classes.
        policy: "keep" duplicates, "drop" all but the first, or "group" them in one split.

    Returns:
        Their members, cluster by cluster, each in the order of the images.
    """
    found = []
    for number, group in enumerate(_groups(firsts)):
        rows = _rows([hashes[i] for i in group])
        distances = _ones(rows ^ rows[0]).sum(axis=1).tolist()
        for i, distance in zip(group, distances, strict=True):
            same_file = file_sha256s[i] == file_sha256s[group[0]]
            kind = "first" if i == group[0] else "exact" if same_file else "near"
            action = "keep" if policy == "drop" and kind == "first" else policy
            found.append(Member(number, paths[i], labels[i], kind, distance, action))
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


def _groups(firsts: Sequence[int]) -> list[list[int]]:
    groups = collections.defaultdict(list)
    for i, first in enumerate(firsts):
        groups[first].append(i)
    return [group for group in groups.values() if len(group) > 1]


def _near_pairs(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the pairs of distinct hashes that are near; a pair may come more than once.

    Two rows of 64 bits that differ in at most 6 agree in at least 2 of their 8 bytes. So the rows
    are sorted by each pair of bytes, and only rows with equal pairs are compared (multi-index
    hashing: M. Norouzi, A. Punjani, D. Fleet, "Fast Search in Hamming Space with
    Multi-Index Hashing", CVPR 2012).

    Args:
        rows: uint64 [n, 4], from `_rows`.
    """
    # A hash has 16 rows of two bytes; the 8 x 8 lowest frequencies are the first byte of the first
    # 8 rows.
    low_bytes = np.ascontiguousarray(rows.view(np.uint8)[:, :16:2])
    low = low_bytes.view(np.uint64)[:, 0]
    for first, second in itertools.combinations(range(low_bytes.shape[1]), 2):
        key = low_bytes[:, first].astype(np.uint16) << 8 | low_bytes[:, second]
        order = np.argsort(key, kind="stable")
        key_ends = np.cumsum(np.bincount(key))
        ends, ordered = key_ends[key[order]], low[order]
        # Compare each row with the next of its key, then with the next but one, and so on. No array
        # has more elements than there are rows, however many share a key.
        left = np.arange(len(rows))
        for offset in itertools.count(1):
            left = left[left + offset < ends[left]]
            if not len(left):
                break
            near = left[_ones(ordered[left] ^ ordered[left + offset]) <= _MAX_LOW_DISTANCE]
            a, b = order[near], order[near + offset]
            near = _ones(rows[a] ^ rows[b]).sum(axis=1) <= MAX_DISTANCE
            yield from zip(a[near].tolist(), b[near].tolist(), strict=True)


def _rows(hashes: Sequence[str]) -> np.ndarray:
    """Return hashes as uint64 [n, 4], their bytes in the order of the digits."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint64).reshape(len(hashes), 4)


def _ones(words: np.ndarray) -> np.ndarray:
    """Count the ones in each element of a uint64 array (H. Warren, Hacker's Delight, ch. 5)."""
    words = words - (words >> 1 & 0x5555555555555555)
    words = (words & 0x3333333333333333) + (words >> 2 & 0x3333333333333333)
    return (words + (words >> 4) & 0x0F0F0F0F0F0F0F0F) * 0x0101010101010101 >> 56
