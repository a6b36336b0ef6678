"""Clusters of duplicates, against a comparison with every leader."""

import collections
import csv
import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tfpipe.images import duplicates
from tfpipe.images.image_table import DIGEST

# The 8 x 8 lowest frequencies in a hash of 16 x 16 bits, from the bit of the lowest on.
LOW = [255 - (16 * row + column) for row in range(8) for column in range(8)]
HIGH = sorted(set(range(256)) - set(LOW))


def from_hex(digests) -> np.ndarray:
    return np.array([bytes.fromhex(each) for each in digests], DIGEST)


def text(value: int) -> str:
    return f"{value:064x}"


def clusters(sha256s, hashes):
    """The clusters of images by the digits of their digests and hashes."""
    return duplicates.clusters(np.array(sha256s, str), from_hex(hashes)).tolist()


def rich(seed: int) -> int:
    """A hash with half of its bits set."""
    bits = np.random.default_rng(seed).permutation(256)[:128]
    return sum(1 << int(bit) for bit in bits)


def flip(value: int, bits) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


def near(a: str, b: str) -> bool:
    """The documented rule, bit by bit."""
    x, y = int(a, 16), int(b, 16)
    if min(x.bit_count(), y.bit_count()) < 96:
        return False
    low = sum((x ^ y) >> bit & 1 for bit in LOW)
    return low <= 6 and (x ^ y).bit_count() <= 40


def one_by_one(sha256s, hashes):
    """The documented rule: leaders in the order of the files, then the nearest leader."""

    def joined(i, j):
        return sha256s[i] == sha256s[j] or near(hashes[i], hashes[j])

    order = sorted(range(len(hashes)), key=lambda i: sha256s[i])
    leaders = []
    for i in order:
        if not any(joined(i, j) for j in leaders):
            leaders.append(i)
    leader_of = {}
    for i in order:
        distance = {j: (int(hashes[i], 16) ^ int(hashes[j], 16)).bit_count() for j in leaders}
        leader_of[i] = min((j for j in leaders if joined(i, j)), key=distance.get)
    firsts = {leader: min(i for i in leader_of if leader_of[i] == leader) for leader in leaders}
    return [firsts[leader_of[i]] for i in range(len(hashes))]


@st.composite
def images(draw):
    """Hashes around a few centres, from equal to far, some poor; files that repeat."""
    found = []
    for number in range(draw(st.integers(0, 14))):
        if found and draw(st.integers(0, 4)) == 0:
            found.append(draw(st.sampled_from(found)))
            continue
        value = rich(draw(st.integers(0, 1)))
        value = flip(value, draw(st.lists(st.sampled_from(LOW), max_size=5, unique=True)))
        value = flip(value, draw(st.lists(st.sampled_from(HIGH), max_size=35, unique=True)))
        if draw(st.integers(0, 5)) == 0:
            value &= (1 << draw(st.integers(0, 256))) - 1
        found.append((hashlib.sha256(b"%d" % number).hexdigest(), text(value)))
    return found


@settings(max_examples=150, deadline=None)
@given(found=images())
@example(found=[])
def test_clusters_are_those_of_the_rule(found):
    sha256s, hashes = [sha for sha, _ in found], [hash_ for _, hash_ in found]
    assert clusters(sha256s, hashes) == one_by_one(sha256s, hashes)


@settings(max_examples=50, deadline=None)
@given(found=images(), order=st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(found, order):
    def together(found):
        firsts = clusters(*zip(*found, strict=True)) if found else []
        groups = collections.defaultdict(list)
        for image, first in zip(found, firsts, strict=True):
            groups[first].append(image)
        return sorted(sorted(each) for each in groups.values())

    assert together(found) == together(order.sample(found, len(found)))


@pytest.mark.parametrize("seed", range(20))
def test_every_pair_within_the_distance_is_found(seed):
    # Wherever the differing bits lie: 6 of the low ones spoil up to 6 of the 8 bytes.
    rng = np.random.default_rng(seed)
    values = [rich(1000 * seed + i) for i in range(200)]
    copies = [
        flip(v, [*rng.permutation(LOW)[:6].tolist(), *rng.permutation(HIGH)[:34].tolist()])
        for v in values
    ]
    firsts = clusters([str(i) for i in range(400)], [text(v) for v in values + copies])
    assert firsts == [*range(200), *range(200)]


@pytest.mark.parametrize(
    ("bits", "joined"),
    [
        (LOW[:6], True),
        (LOW[:7], False),
        (HIGH[:40], True),
        (HIGH[:41], False),
        (LOW[::11] + HIGH[:34], True),
        (LOW[::11] + HIGH[:35], False),
    ],
)
def test_the_limits(bits, joined):
    hashes = [text(rich(5)), text(flip(rich(5), bits))]
    assert clusters(["a", "b"], hashes) == ([0, 0] if joined else [0, 1])


def test_a_chain_is_not_one_cluster():
    # Each of the 20 is near to the next, as pictures alike by nature are.
    values = [rich(1)]
    for i in range(19):
        values.append(flip(values[-1], HIGH[9 * i : 9 * i + 9]))
    firsts = clusters([f"{i:02}" for i in range(20)], [text(v) for v in values])
    # Four steps of 9 bits are within 40, five are not: so 0, 5, 10, 15 lead, and 3 is nearer to 5.
    assert firsts == [0, 0, 0, *[3] * 5, *[8] * 5, *[13] * 7]


def test_alike_by_nature():
    # One cluster of 12 of 20 squares and 12 of 100 circles, one of 9 of 10 crosses; 40 equal files.
    labels = ["square"] * 20 + ["circle"] * 100 + ["cross"] * 10 + ["disc"] * 41
    firsts = [0] * 12 + [*range(12, 20)] + [0] * 12 + [*range(32, 120)] + [120] * 9 + [129]
    firsts = np.array([*firsts, *[130] * 40, 170])
    sha256s = np.array([*map(str, range(130)), *["same"] * 40, "other"])
    found = duplicates.alike_by_nature(firsts, sha256s, labels)
    assert found == {0: "square"}
    loosened = duplicates.loosen(firsts, sha256s, found)
    assert loosened.tolist() == [*range(120), *firsts[120:]]


def test_equal_files_of_a_loosened_cluster_stay_together():
    firsts, files = np.array([0, 0, 0, 3, 0, 3]), np.array(list("abaxby"))
    assert duplicates.loosen(firsts, files, {0}).tolist() == [0, 1, 0, 3, 1, 3]


def test_hashes_of_little_detail_join_equal_files_only():
    flat, poor = text(1 << 255), text((1 << 95) - 1)
    assert clusters(list("abcda"), [flat, flat, poor, poor, flat]) == [0, 1, 2, 3, 0]


def test_many_equal_hashes_are_quick():
    # Five thousand million pairs, if they were compared one by one.
    hashes = [text(rich(1)), text(rich(2))] * 50_000
    firsts = clusters([str(i) for i in range(100_000)], hashes)
    assert firsts == [0, 1] * 50_000


def test_rows_that_share_bytes_are_compared_in_bounded_memory():
    import tracemalloc

    # 1,000 different hashes with the same first four rows: all fall under one key.
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (1000, 32), np.uint8)
    rows[:, :8] = 255
    tracemalloc.start()
    hashes = [row.tobytes().hex() for row in rows]
    firsts = clusters([str(i) for i in range(1000)], hashes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert firsts == list(range(1000))
    assert peak < 2e6  # two indices for each of their 500,000 pairs take 8e6 bytes


FIRSTS = np.array([0, 1, 0, 3, 1, 0])
SHA256S = np.array(["a", "b", "a", "d", "e", "f"])
HASHES = from_hex(text(v) for v in (7, rich(3), 7, rich(4), flip(rich(3), HIGH[:9]), 0))
PATHS = [f"photos/{i}.jpg" for i in range(5)] + ["photos/a\nb.jpg"]
LABELS = ["cat", "dog", "cat", "dog", "dog", "dog"]


def test_copies_and_conflicts():
    assert duplicates.copies(FIRSTS) == [2, 4, 5]
    assert duplicates.conflicts(FIRSTS, LABELS) == [[0, 2, 5]]
    assert duplicates.copies(np.arange(3)) == []
    assert duplicates.conflicts(np.arange(3), LABELS[:3]) == []


@pytest.mark.parametrize(
    ("policy", "actions"),
    [
        ("keep", ["keep"] * 5),
        ("drop", ["keep", "drop", "drop", "keep", "drop"]),
        ("group", ["group"] * 5),
    ],
)
def test_list_of_duplicates(policy, actions, tmp_path):
    found = duplicates.members(FIRSTS, FIRSTS, SHA256S, HASHES, PATHS.__getitem__, LABELS, policy)
    assert [member.action for member in found] == actions
    assert duplicates.count(found) == {"clusters": 2, "images": 5, "conflicts": 1}
    duplicates.save(tmp_path / duplicates.DUPLICATES, found)
    with open(tmp_path / "duplicates.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["cluster", "path", "label", "kind", "distance", "action"]
    assert [row[:5] for row in rows] == [
        ["0", "photos/0.jpg", "cat", "first", "0"],
        ["0", "photos/2.jpg", "cat", "exact", "0"],
        ["0", r"photos/a\nb.jpg", "dog", "near", "3"],
        ["1", "photos/1.jpg", "dog", "first", "0"],
        ["1", "photos/4.jpg", "dog", "near", "9"],
    ]


@pytest.mark.parametrize(
    ("policy", "actions"),
    [
        ("drop", ["keep", "drop", "keep", "keep", "drop"]),
        ("group", ["group", "group", "keep", "group", "group"]),
    ],
)
def test_images_that_are_not_held_together_are_kept(policy, actions):
    held = duplicates.loosen(FIRSTS, SHA256S, {0})
    found = duplicates.members(FIRSTS, held, SHA256S, HASHES, PATHS.__getitem__, LABELS, policy)
    assert [member.action for member in found] == actions


def test_copies_among_real_images_are_found(shared):
    import io
    import zipfile

    from PIL import Image

    from tfpipe.images import perceptual_hash

    with zipfile.ZipFile(shared / "data/dogs-vs-cats/train.zip") as archive:
        names = [f"train/{kind}.{i}.jpg" for kind in ("cat", "dog") for i in range(200)]
        found = [
            perceptual_hash.thumbnail(np.asarray(Image.open(io.BytesIO(archive.read(name)))))
            for name in names
        ]
    hashes = [each.hash for each in perceptual_hash.hash_images(found)]
    firsts = clusters(names, hashes)
    copies = duplicates.copies(np.array(firsts))
    # One photograph is there twice; a person looked.
    pair = [names[i] for i in (firsts[copies[0]], copies[0])]
    assert len(copies) == 1
    assert pair == ["train/dog.74.jpg", "train/dog.180.jpg"]
