"""Warnings about classes that a split lacks, or has far too few or too many of."""

import collections

import numpy as np
import PIL.Image
import pytest

import tfpipe.runs.trainer  # noqa: F401 (loads TensorFlow before a test's time begins)
from tfpipe import build_records, train
from tfpipe.core.errors import UserError
from tfpipe.images import duplicates
from tfpipe.records import coverage
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset

FIFTH = {"train": 0.8, "val": 0.2}


@pytest.mark.parametrize(
    ("count", "expected", "far"),
    [
        *((0, 1.0, True), (0, 0.9, False), (0, 5 * 0.2, True), (1, 0.2, False), (3, 1.2, False)),
        *((12, 24, False), (11, 24, True), (36, 24, False), (37, 24, True), (1000, 800, False)),
        *((2, 4, False), (2, 5, True), (0, 0, False)),
    ],
)
def test_far(count, expected, far):
    assert coverage.is_far(count, expected) == far
    assert coverage.is_far(np.array([[count, 1]]), np.array([expected, 1])).tolist() == [
        [far, False]
    ]


def describe(train, val, fractions=FIFTH):
    counts = {"train": train, "val": val}
    return coverage.describe(counts, fractions and coverage.expect(counts, fractions))


def test_fair_counts_need_no_words():
    assert describe({"a": 80, "b": 9}, {"a": 20, "b": 2}) == ""
    assert describe({"a": 1, "b": 99}, {"a": 99, "b": 1}, None) == ""


def test_missing_classes_are_counted_and_the_first_named():
    names = [f"person {i}" for i in range(300)]
    said = describe(dict.fromkeys(names, 1), {name: int(i < 100) for i, name in enumerate(names)})
    assert "no image in val for 200 of 300 classes" in said
    assert "'person 100', 'person 101', 'person 102', ..." in said
    assert "add images" in said
    assert "--splits" in said
    assert "groups" not in said


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        ({"a": 119, "b": 96}, {"a": 1, "b": 24}, ["share of val", "'a' has 1 instead of 24"]),
        ({"a": 120, "b": 96}, {"a": 0, "b": 24}, ["no image in val", "1 of 2", "('a')"]),
        ({"a": 0, "b": 96}, {"a": 9, "b": 24}, ["no image in train", "'a' has 9 instead of 2"]),
    ],
)
def test_what_groups_force(train, val, words):
    said = describe(train, val)
    for word in [*words, "equal files and groups stay together"]:
        assert word in said


def test_counts_of_parts():
    found = coverage.count(["val", "train", "train"], ["b", "a", "a"])
    assert found == {"train": {"a": 2, "b": 0}, "val": {"a": 0, "b": 1}}


def build(source, out, **changes):
    options = {"source": (str(source),), "out": str(out), "workers": 1, "report": False}
    build_records.main(build_records.Options(**options | changes))
    return manifests.load(out)


def pictures(folder, **counts):
    """Save noise, which is alike in no two pictures."""
    for kind, count in counts.items():
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng([number, *kind.encode()]).integers(0, 256, (24, 24, 3))
            image = PIL.Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / kind / f"{number}.png")
    return folder


def warnings(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rare")
    return build(pictures(folder / "in", common=20, once=1), folder / "out", folds=3)


def test_build_tells_what_is_missing(tmp_path, capsys):
    manifest = build(pictures(tmp_path / "in", common=20, once=1), tmp_path / "out", folds=3)
    assert manifest.splits["train"]["once"] == 1
    split, folds = warnings(capsys)
    assert "no image in val for 1 of 2 classes ('once')" in split
    assert "in one of the 3 folds for 1 of 2 classes ('once')" in folds


def test_no_fold_is_empty(tmp_path):
    with pytest.raises(UserError, match=r"folds=9.* 6 images.* fewer"):
        build(pictures(tmp_path / "in", a=3, b=3), tmp_path / "out", folds=9)
    assert not (tmp_path / "out").exists()


def test_train_tells_what_is_missing(rare, capsys, tiny_config):
    with pytest.raises(UserError, match="average"):  # so that it ends before the first step
        train.main(tiny_config(records=str(rare.folder), average="none of these"))
    (said,) = warnings(capsys)
    assert "no image in val for 1 of 2 classes ('once')" in said


def test_folds_lack_what_only_one_has(rare):
    there = next(int(fold) for fold, counts in rare.folds.items() if counts["once"])
    for fold in range(3):
        parts = [Subset(rare, ("train", "val"), fold, held) for held in (False, True)]
        said = coverage.describe_subsets(*parts)
        assert f"no image in {parts[fold != there].name} for 1 of 2" in said


def test_build_tells_what_groups_force(tmp_path, capsys):
    source = pictures(tmp_path / "in", held=10, free=20)
    rows = [f"in/held/{i}.png,held,one patient" for i in range(10)]
    rows += [f"in/free/{i}.png,free," for i in range(20)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,group", *rows]))
    manifest = build(source.parent / "list.csv", tmp_path / "out")
    assert manifest.splits["train"]["held"] == 10
    (said,) = warnings(capsys)
    assert "no image in val for 1 of 2 classes ('held')" in said
    assert "equal files and groups stay together" in said


@pytest.mark.parametrize("mode", ["none", "copies", "drop"])
def test_rebalanced_records_are_no_reason_to_warn(mode, tmp_path, capsys):
    manifest = build(pictures(tmp_path / "in", a=30, b=5), tmp_path / "out", rebalance=mode)
    assert warnings(capsys) == []
    assert coverage.describe_subsets(*(Subset(manifest, (split,)) for split in FIFTH)) == ""


def test_every_one_image_class_is_in_train(tmp_path, capsys):
    names = [f"c{i}" for i in range(30)]
    counts = {name: 1 + (i % 3 == 0) for i, name in enumerate(names)}
    manifest = build(pictures(tmp_path / "in", **counts), tmp_path / "out")
    assert set(manifest.splits["train"].values()) == {1}
    assert sum(manifest.splits["val"].values()) == 10
    (line,) = warnings(capsys)
    assert "no image in val for 20 of 30 classes" in line


KINDS = ("disc", "square", "triangle")


def shape(number, kind, *, moves, side=96):
    """A shape of its own colour near the middle of a white square: alike by nature."""
    rng = np.random.default_rng([number, *kind.encode()])
    image = PIL.Image.new("RGB", (side, side), "white")
    pen = PIL.ImageDraw.Draw(image)
    left, right = (int(rng.integers(14, 24)), int(rng.integers(52, 68))) if moves else (20, 60)
    points = [(left, left), (right, left), (right, right)]
    color = tuple(int(value) for value in rng.integers(0, 200, 3))
    if kind == "triangle":
        pen.polygon(points, fill=color)
    else:
        draw = pen.ellipse if kind == "disc" else pen.rectangle
        draw(points[0] + points[2], fill=color)
    return image


def shapes(folder, count, *, moves):
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            shape(number, kind, moves=moves).save(folder / kind / f"{number}.png")
    return folder


@pytest.mark.parametrize("moves", [True, False])
def test_pictures_that_are_alike_by_nature(moves, tmp_path, capsys):
    manifest = build(shapes(tmp_path / "in", 60, moves=moves), tmp_path / "out", folds=5)
    assert all(6 <= manifest.splits["val"][kind] <= 18 for kind in KINDS)
    assert all(6 <= counts[kind] <= 18 for counts in manifest.folds.values() for kind in KINDS)
    said = capsys.readouterr().err
    if moves:
        assert "of 180 images are in" in said
    else:
        assert "most images look alike in" in said
        actions = {each.action for each in duplicates.load(manifest.folder)}
        assert actions == {"keep"}
    assert "share of val" not in said


def test_no_class_is_dropped_because_its_pictures_are_alike(tmp_path, capsys):
    source = shapes(tmp_path / "in", 30, moves=False)
    (source / "disc" / "copy.png").write_bytes((source / "disc" / "0.png").read_bytes())
    manifest = build(source, tmp_path / "out", duplicates="drop")
    assert manifest.accepted == 90
    assert manifest.rejected == {"duplicate": 1}
    assert "most images look alike in 3 of 3 classes" in capsys.readouterr().err


@pytest.mark.parametrize("count", [2, 5, 9])
def test_a_few_pictures_that_are_alike(count, tmp_path, capsys):
    source = pictures(tmp_path / "in", other=20)
    for number in range(count):
        path = source / "alike" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        shape(number, "square", moves=False).save(path)
    manifest = build(source, tmp_path / "out", folds=2)
    assert manifest.splits["train"]["alike"] > manifest.splits["val"]["alike"]
    assert all(counts["alike"] for counts in manifest.folds.values())
    said = warnings(capsys)
    if count < 5:  # all are in train, as val would have less than one
        assert manifest.splits["val"]["alike"] == 0
        assert any("no image in val for 1 of 2 classes ('alike')" in line for line in said)
    else:
        assert any("in several splits" in line and "1 of 'alike'" in line for line in said)
        assert {each.action for each in duplicates.load(manifest.folder)} == {"keep"}


def test_near_copies_of_a_photograph_share_a_split(tmp_path, capsys):
    for kind in ("cat", "dog"):
        (tmp_path / "in" / kind).mkdir(parents=True)
        for number in range(20):
            cells = np.random.default_rng([number, *kind.encode()]).integers(0, 256, (24, 24, 3))
            image = PIL.Image.fromarray(cells.astype(np.uint8)).resize((128, 128))
            for quality in (95, 70, 40):
                image.save(tmp_path / "in" / kind / f"{number} {quality}.jpg", quality=quality)
    out = tmp_path / "out"
    manifest = build(tmp_path / "in", out)
    split_of = collections.defaultdict(set)
    for split in FIFTH:
        for record in Subset(manifest, (split,)).records():
            split_of[record.filename.split()[0]].add(split)
    assert all(len(each) == 1 for each in split_of.values())
    assert warnings(capsys) == []
