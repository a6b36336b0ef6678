"""The partition into splits: stable, whatever the order, and fair."""

import collections
import hashlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.building import splits, stratify
from tfpipe.core.errors import UserError


def sha(value) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()


def assign(images, fractions, seed):
    contents, labels = zip(*images, strict=True)
    return splits.assign(contents, labels, fractions, seed)


def by_chance(contents, fractions, salt):
    """The rule without its exception, worked out with whole numbers."""
    ends = [sum(list(fractions.values())[: i + 1]) for i in range(len(fractions))]
    numbers = [int(hashlib.sha256(f"{salt}:{c}".encode()).hexdigest()[:16], 16) for c in contents]
    last = len(ends) - 1
    return [
        list(fractions)[next((i for i, end in enumerate(ends) if n < end * 2**64), last)]
        for n in numbers
    ]


HALVES = {"train": 0.5, "val": 0.5}
FIFTH = {"train": 0.8, "val": 0.2}
THREE = {"train": 0.8, "val": 0.1, "test": 0.1}
seeds = st.integers(0, 2**31)

weights = st.lists(st.floats(0.001, 1), min_size=1, max_size=5)
fractions_of_1 = weights.map(lambda ws: {f"s{i}": w / sum(ws) for i, w in enumerate(ws)})


def test_parse():
    assert splits.parse("train:0.8,val:0.2") == {"train": 0.8, "val": 0.2}
    assert splits.parse(" a_1 : 1 ") == {"a_1": 1.0}
    assert list(splits.parse("b:0.1,c:0.2,a:0.7")) == ["b", "c", "a"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "train", "train:", "train:x", "train:0.8", "train:0.8,val:0.3", "train:1,val:0"),
        *("train:1.5,val:-0.5", "train:nan", "train:inf", "Train:1", "a b:1", "../x:1", "all:1"),
        *("train:0.5,train:0.5", "train:0.5,,val:0.5", "train=0.8,val=0.2"),
    ],
)
def test_parse_rejects(text):
    with pytest.raises(UserError, match="splits="):
        splits.parse(text)


@pytest.mark.parametrize(
    ("given", "folds", "names"),
    [
        ({"": 999}, 0, "train,val"),
        ({"": 1000}, 0, "train,val,test"),
        ({"": 400, "train": 600}, 0, "train,val,test"),
        ({"": 1000}, 5, "train,val"),
        ({"train": 5000, "val": 10}, 0, "train,val"),
        ({"train": 5000, "test": 10}, 0, "train,val,test"),
    ],
)
def test_a_large_set_has_a_test_split_unless_it_has_others_or_folds(given, folds, names):
    found = splits.plan("auto", given, folds)
    assert ",".join(found.names) == names
    said = splits.describe(found, given, "the folders say")
    assert ("makes no test split" in said) == (names == "train,val,test" and "test" not in given)
    assert splits.plan("train:0.8,val:0.2", given, folds).names == ("train", "val")


def test_assign_golden():
    # Where chance alone comes near enough to the fractions, it decides.
    contents, near = [sha(i) for i in range(400)], 0
    for seed in range(20):
        expected = by_chance(contents, FIFTH, seed)
        if abs(expected.count("val") - 80) <= 8:
            assert splits.assign(contents, ["x"] * 400, FIFTH, seed) == expected
            near += 1
    assert near > 5


def test_the_nearest_move_until_the_share_is_within_two_points():
    contents = [sha(i) for i in range(400)]
    for seed in range(40):
        number = {c: hashlib.sha256(f"{seed}:{c}".encode()).digest()[:8] for c in contents}
        ascending = sorted(contents, key=number.get)
        chance = by_chance(contents, FIFTH, seed).count("val")
        # 80 are a fifth, and 8 are two points.
        expected = ascending[400 - min(max(chance, 72), 88) :]
        assigned = splits.assign(contents, ["x"] * 400, FIFTH, seed)
        assert {c for c, s in zip(contents, assigned, strict=True) if s == "val"} == set(expected)


@settings(max_examples=100, deadline=None)
@given(seed=seeds, sizes=st.lists(st.integers(1, 150), min_size=1, max_size=4), of=fractions_of_1)
def test_every_class_has_its_share_in_every_split(seed, sizes, of):
    labels = [f"class{c}" for c, size in enumerate(sizes) for _ in range(size)]
    assigned = splits.assign([sha(i) for i in range(len(labels))], labels, of, seed)
    counts = collections.Counter(zip(labels, assigned, strict=True))
    for c, size in enumerate(sizes):
        mine = {split: counts[f"class{c}", split] for split in of}
        if size >= len(of):
            assert min(mine.values()) >= 1
        if size * min(of.values()) >= 1 or size < len(of):  # else one in each may need more
            for split, fraction in of.items():
                off = abs(mine[split] - fraction * size)
                assert off < 1 or off <= 0.02 * size + 1e-5


@settings(max_examples=50, deadline=None)
@given(seed=seeds, data=st.data(), order=st.randoms(use_true_random=False))
def test_order_does_not_matter(seed, data, order):
    group = st.sampled_from(["", "g1", "g2", "g3", "g4", None])
    images = [(sha(i), f"class{data.draw(st.integers(0, 3))}", data.draw(group)) for i in range(60)]
    shuffled = order.sample(images, len(images))
    of = {"train": 0.7, "val": 0.2, "test": 0.1}

    def split_of(images):
        contents, labels, groups = zip(*images, strict=True)
        return dict(zip(images, splits.assign(contents, labels, of, seed, groups), strict=True))

    assert split_of(images) == split_of(shuffled)


def test_few_images_change_their_split_when_others_come():
    moved = []
    for seed in range(30):
        images = [(sha(f"{seed}/{i}"), "ab"[i % 2]) for i in range(1760)]
        before, after = assign(images[:1600], FIFTH, seed), assign(images, FIFTH, seed)
        moved.append(sum(a != b for a, b in zip(before, after[:1600], strict=True)))
    # A fresh partition would move 2 * 0.8 * 0.2 * 1600 = 512.
    assert sum(moved) / len(moved) < 4
    assert max(moved) < 30
    assert moved.count(0) > len(moved) / 2


@settings(max_examples=200, deadline=None)
@given(
    seed=seeds,
    images=st.lists(
        st.tuples(
            st.integers(0, 30).map(sha),
            st.sampled_from("abc"),
            st.sampled_from(["", None, 1, 2, "1", "g"]),
        ),
        min_size=1,
        max_size=60,
    ),
    of=fractions_of_1,
)
def test_units_stay_together(seed, images, of):
    contents, labels, groups = zip(*images, strict=True)
    assigned = splits.assign(contents, labels, of, seed, groups)
    assert set(assigned) <= set(of)
    split_of = collections.defaultdict(set)
    for content, group, split in zip(contents, groups, assigned, strict=True):
        split_of["content", content].add(split)
        if group not in ("", None):
            split_of["group", group].add(split)
    assert all(len(found) == 1 for found in split_of.values())


def test_join_goes_through_others():
    assert stratify.join(["a", "b", "a", "c", "d"], [0, 1, None, 1, ""]).tolist() == [0, 1, 0, 1, 4]
    assert stratify.join("abc", [7, 8, 9], [None, "x", "x"]).tolist() == [0, 1, 1]
    # A chain, whatever its order: 0-5, 5-1, 1-4, 4-2, 2-3.
    assert stratify.join([0, 2, 4, 5, 3, 1], [9, 2, 4, 4, 3, 9], [1, 1, 3, 6, 3, 8]).tolist()[
        :2
    ] == [0, 0]
    assert stratify.join([]).tolist() == []


def test_the_smallest_content_places_a_group():
    contents, groups = [sha(i) for i in range(600)], [i // 3 for i in range(600)]
    least = [min(contents[i // 3 * 3 : i // 3 * 3 + 3]) for i in range(600)]
    expected = by_chance(least, HALVES, 1)
    assert abs(expected.count("val") - 300) <= 12  # so chance alone decides
    assert splits.assign(contents, ["x"] * 600, HALVES, 1, groups) == expected


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(8))
def test_a_huge_group_is_placed_as_well_as_can_be(share, seed):
    n = 2000
    contents, huge = [sha(i) for i in range(n)], int(share * n)
    groups = ["huge" if i < huge else "" for i in range(n)]
    assigned = splits.assign(contents, ["ab"[i % 2] for i in range(n)], FIFTH, seed, groups)
    assert len(set(assigned[:huge])) == 1
    val = assigned.count("val")
    # Below 0.8 the group fits into the training split and the rest fills up the shares.
    expected = 0.2 * n if share < 0.8 else n - huge
    assert abs(val - expected) <= 0.02 * n


@pytest.mark.parametrize("seed", range(10))
def test_as_many_large_groups_as_splits_are_one_in_each(seed):
    groups = ["a"] * 50 + ["b"] * 30 + ["c"] * 20
    of = {"train": 0.8, "val": 0.1, "test": 0.1}
    assigned = splits.assign([sha(i) for i in range(100)], ["x"] * 100, of, seed, groups)
    assert len({assigned[0], assigned[50], assigned[80]}) == 3


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("of", [FIFTH, {"val": 0.2, "train": 0.8}, THREE])
def test_every_class_is_trained_on(seed, of):
    labels = ["common"] * 60 + ["once"] + ["twice"] * 2 + ["copied"] * 4
    contents = [sha(i) for i in range(63)] + [sha("copied")] * 4
    assigned = splits.assign(contents, labels, of, seed)
    trained = {label for label, split in zip(labels, assigned, strict=True) if split == "train"}
    assert trained == set(labels)


def test_without_the_name_the_first_split_is_trained_on():
    assert splits.training({"fit": 0.8, "val": 0.2}) == "fit"
    assigned = [assign([(sha(i), "once")], {"fit": 0.1, "val": 0.9}, 0) for i in range(20)]
    assert assigned == [["fit"]] * 20


def shares(labels, assigned, split="val"):
    """The share of a split of each class."""
    total = collections.Counter(labels)
    found = collections.Counter(lab for lab, s in zip(labels, assigned, strict=True) if s == split)
    return {label: found[label] / total[label] for label in total}


@pytest.mark.parametrize("seed", range(10))
def test_near_duplicates_stay_together_if_the_shares_allow_it(seed):
    contents, labels = [sha(i) for i in range(600)], ["ab"[i % 2] for i in range(600)]
    near = [i // 6 for i in range(600)]
    assigned = splits.assign(contents, labels, FIFTH, seed, near=near)
    assert assigned == splits.assign(contents, labels, FIFTH, seed, groups=near)
    assert all(len(set(assigned[i : i + 6])) == 1 for i in range(0, 600, 6))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("sizes", [[120], [50, 70], [40, 40, 40], [60, 30, 20, 9, 1]])
def test_near_duplicates_are_broken_for_the_share_of_a_class(sizes, seed):
    near = [number for number, size in enumerate(sizes) for _ in range(size)] + [None] * 120
    labels = ["alike"] * 120 + ["other"] * 120
    contents = [sha(f"{seed} {i}") for i in range(240)]
    found = shares(labels, splits.assign(contents, labels, FIFTH, seed, near=near))
    assert 0.1 <= found["alike"] <= 0.3
    assert 0.17 <= found["other"] <= 0.23


@pytest.mark.parametrize("seed", range(10))
def test_a_cluster_of_two_classes_is_broken_for_either(seed):
    labels, near = ["big"] * 300 + ["small"] * 10, [*range(280)] + ["both"] * 30
    contents = [sha(f"{seed} {i}") for i in range(310)]
    found = shares(labels, splits.assign(contents, labels, FIFTH, seed, near=near))
    assert 0.1 <= found["small"] <= 0.4
    assert 0.17 <= found["big"] <= 0.23


@pytest.mark.parametrize("seed", range(10))
def test_what_is_not_the_reason_is_not_broken(seed):
    # Two groups of the user's force the share of "held"; the near pairs of that class stay pairs.
    labels = ["held"] * 100 + ["free"] * 100
    groups = [0] * 50 + [1] * 50 + [None] * 100
    near = [i // 2 for i in range(200)]
    contents = [sha(f"{seed} {i}") for i in range(200)]
    assigned = splits.assign(contents, labels, FIFTH, seed, groups, near)
    assert assigned[::2] == assigned[1::2]
    assert shares(labels, assigned)["held"] == 0.5


@settings(max_examples=100, deadline=None)
@given(
    seed=seeds,
    images=st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from("abc"), st.integers(0, 4)),
        min_size=1,
        max_size=80,
    ),
    order=st.randoms(use_true_random=False),
)
def test_near_duplicates_take_no_class_from_a_split(seed, images, order):
    # A file that is there several times has one class, and is in one cluster.
    cluster_of = {}
    images = [
        (sha((i, label)), label, cluster_of.setdefault((i, label), cluster))
        for i, label, cluster in images
    ]

    def assigned(images):
        contents, labels, near = zip(*images, strict=True)
        return splits.assign(contents, labels, FIFTH, seed, near=near)

    found = assigned(images)
    shuffled = order.sample(range(len(images)), len(images))
    assert assigned([images[i] for i in shuffled]) == [found[i] for i in shuffled]
    split_of = collections.defaultdict(set)
    for (content, _, _), split in zip(images, found, strict=True):
        split_of[content].add(split)
    assert all(len(each) == 1 for each in split_of.values())
    files = collections.defaultdict(collections.Counter)
    for content, label, _ in images:
        files[label][content] += 1
    for label, counts in files.items():
        there = {s for (_, of, _), s in zip(images, found, strict=True) if of == label}
        assert "train" in there
        if len(counts) >= 5 and max(counts.values()) == 1:
            assert "val" in there


@pytest.mark.parametrize("seed", range(10))
def test_folds_break_near_duplicates_too(seed):
    # Each fold's training lacks no class that has two images.
    labels = ["pair"] * 2 + ["alike"] * 60 + ["other"] * 60
    near = ["p"] * 2 + ["x"] * 60 + [None] * 60
    found = splits.folds([sha(f"{seed} {i}") for i in range(122)], labels, 5, seed, near=near)
    assert found[0] != found[1]
    counts = collections.Counter(found[2:62])
    assert all(6 <= counts[fold] <= 18 for fold in range(5))


def test_contents_of_two_classes_count_for_both():
    contents, labels = [sha(i // 2) for i in range(800)], ["ab"[i % 2] for i in range(800)]
    for seed in range(10):
        assigned = splits.assign(contents, labels, FIFTH, seed)
        assert assigned[::2] == assigned[1::2]
        assert abs(assigned[::2].count("val") - 80) <= 8


def test_a_tiny_split_gets_the_image_with_the_nearest_number():
    fractions = {"train": 0.999999, "val": 0.000001}
    contents = [sha(i) for i in range(20)]
    number = {c: int(hashlib.sha256(f"0:{c}".encode()).hexdigest()[:16], 16) for c in contents}
    assigned = splits.assign(contents, ["x"] * 20, fractions, 0)
    assert [c for c, s in zip(contents, assigned, strict=True) if s == "val"] == [
        max(contents, key=number.get)
    ]


def test_another_seed_is_another_partition():
    contents, labels = [sha(i) for i in range(1000)], ["x"] * 1000
    first, other = (splits.assign(contents, labels, HALVES, seed) for seed in (0, 1))
    assert 400 < sum(a == b for a, b in zip(first, other, strict=True)) < 600


@pytest.mark.parametrize("k", [2, 5, 100])
def test_folds_are_equal_and_stratified(k):
    contents, labels = [sha(i) for i in range(2000)], ["ab"[i % 2] for i in range(2000)]
    found = splits.folds(contents, labels, k, 0)
    counts = collections.Counter(zip(found, labels, strict=True))
    assert set(counts) == {(fold, label) for fold in range(k) for label in "ab"}
    assert max(abs(count / 1000 - 1 / k) for count in counts.values()) <= 0.02


def test_folds_are_independent_of_the_split():
    contents, labels = [sha(i) for i in range(4000)], ["x"] * 4000
    assigned = splits.assign(contents, labels, FIFTH, 0)
    found = splits.folds(contents, labels, 5, 0)
    both = collections.Counter(zip(assigned, found, strict=True))
    for fold in range(5):
        share = both["val", fold] / found.count(fold)
        # Four standard deviations of a binomial.
        assert abs(share - assigned.count("val") / 4000) < 4 * math.sqrt(0.2 * 0.8 / 800)


def test_folds_keep_groups_together():
    contents, labels = [sha(i) for i in range(300)], ["abc"[i % 3] for i in range(300)]
    groups = [f"patient {i // 6}" for i in range(300)]
    found = splits.folds(contents, labels, 5, 0, groups)
    assert all(len(set(found[i : i + 6])) == 1 for i in range(0, 300, 6))
    assert set(found) == set(range(5))


@pytest.mark.parametrize("k", [-1, 1, 101])
def test_wrong_number_of_folds(k):
    with pytest.raises(UserError, match=f"folds={k}.* 2 to 100") as caught:
        splits.folds([], [], k, 0)
    assert caught.value.status == 2


def test_empty_and_single():
    assert splits.assign([], [], HALVES, 0) == []
    assert splits.folds([], [], 5, 0) == []
    assert splits.folds([sha(1)], ["x"], 0, 0) == [-1]
    assert splits.assign([sha(1)], ["x"], {"only": 1.0}, 0) == ["only"]
    assert set(assign([(sha(i), "x") for i in range(5)], {"only": 1.0}, 0)) == {"only"}
