"""The counts of a subset equal its records, and folds separate the images."""

import collections
import dataclasses
import itertools
import re

import numpy as np
import pytest
from conftest import draw

from tfpipe import build_records
from tfpipe.core.errors import UserError
from tfpipe.input import pipeline
from tfpipe.input.input_config import InputConfig
from tfpipe.records import example, tfrecord
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset

FOLDS = 3
SPLITS = [("train",), ("val",), ("train", "val"), ("all",)]


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """Records of 40 cats and 16 dogs in three folds, with copies of dogs in the training split."""
    folder = tmp_path_factory.mktemp("unbalanced")
    for kind, count in (("cat", 40), ("dog", 16)):
        for number in range(count):
            draw(kind, number).save(folder / f"{kind}.{number}.jpg")
    options = {"rebalance": "copies", "folds": FOLDS, "shards": 2}
    out = folder.with_name("folded")
    build_records.main(
        build_records.Options(
            source=(str(folder),), out=str(out), report=False, workers=1, **options
        )
    )
    return manifests.load(out)


def stored(manifest, splits):
    """Yields the records of some splits without `Subset`."""
    for shard in manifest.shards:
        if shard.split in splits or "all" in splits:
            with open(manifest.folder / shard.name, "rb") as file:
                for _, record in tfrecord.read(file):
                    yield example.deserialize(record)


def names(records, *, copies=True):
    return sorted(record.filename for record in records if copies or not record.copy)


FOLD_SIDES = [(None, False), *itertools.product(range(FOLDS), (False, True))]


def expected(folded, splits, fold, held_out):
    return [
        record
        for record in stored(folded, splits)
        if fold is None
        or (held_out and record.fold == fold and not record.copy)
        or (not held_out and record.fold != fold)
    ]


@pytest.mark.parametrize("splits", SPLITS)
@pytest.mark.parametrize(("fold", "held_out"), FOLD_SIDES)
def test_counts_are_those_of_the_records(folded, splits, fold, held_out):
    subset = Subset(folded, splits, fold, held_out)
    here = expected(folded, splits, fold, held_out)
    assert subset.count == len(here)
    assert subset.images == sum(not record.copy for record in here)
    counts = collections.Counter(record.text for record in here)
    assert subset.class_counts == {name: counts[name] for name in ("cat", "dog")}
    size = sum(len(example.serialize(**r._asdict())) + tfrecord.FRAME_BYTES for r in here)
    assert subset.bytes == pytest.approx(size, rel=0 if fold is None else 0.5)
    assert names(subset.records()) == names(here)


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize(("fold", "held_out"), FOLD_SIDES[:3])
def test_evaluation_sees_the_records(folded, fold, held_out, copies):
    subset = Subset(folded, ("all",), fold, held_out)
    found = []
    for batch in pipeline.eval_batches(subset, image_size=8, batch_size=5, copies=copies):
        real = batch["sample_weight"].numpy() > 0
        found += [name.decode() for name in batch["name"].numpy()[real]]
    assert sorted(found) == names(expected(folded, ("all",), fold, held_out), copies=copies)


@pytest.mark.parametrize("splits", SPLITS)
@pytest.mark.parametrize(("fold", "held_out"), FOLD_SIDES[1:])
def test_counts_of_folds_need_no_records(folded, splits, fold, held_out):
    """The manifest has them; that of an older version has not, and the records are read."""
    gone = dataclasses.replace(folded, folder=folded.folder / "gone")
    older = dataclasses.replace(folded, fold_records={})
    listed, counted = (Subset(m, splits, fold, held_out) for m in (gone, older))
    assert (listed.count, listed.images) == (counted.count, counted.images)
    assert listed.class_counts == counted.class_counts


def test_copies_are_there_in_every_fold(folded):
    copied = collections.Counter(fields.fold for fields in stored(folded, ("all",)) if fields.copy)
    assert set(copied) == set(range(FOLDS))


@pytest.mark.parametrize("splits", SPLITS)
def test_folds_partition_the_images(folded, splits):
    whole = names(Subset(folded, splits).records(), copies=False)
    held_out = [names(Subset(folded, splits, f, True).records()) for f in range(FOLDS)]
    assert sorted(itertools.chain(*held_out)) == whole
    for fold, images in enumerate(held_out):
        rest = names(Subset(folded, splits, fold).records(), copies=False)
        assert sorted(images + rest) == whole


def test_the_copies_of_an_image_have_its_fold(folded):
    fold = {fields.filename: fields.fold for fields in stored(folded, ("all",)) if not fields.copy}
    for fields in stored(folded, ("all",)):
        assert fields.fold == fold[fields.filename]


@pytest.mark.parametrize("cached", ["none", "encoded", "decoded"])
@pytest.mark.parametrize("fold", range(FOLDS))
def test_training_never_sees_what_is_held_out(folded, cached, fold):
    """Training sees no held-out image and no copy of one, but all others."""
    there = [(int(f.sha256[:15], 16), f.fold) for f in stored(folded, ("all",))]
    held_out = {number for number, own in there if own == fold}
    subset = Subset(folded, ("all",), fold)
    reading = InputConfig(16, subset.count, cache=cached)
    (batch,) = pipeline.train_batches(subset, reading)
    seen = batch["example_id"].numpy().tolist()
    assert not held_out & set(seen)
    assert sorted(seen) == sorted(number for number, own in there if own != fold)
    assert np.bincount(batch["label"]).tolist() == list(subset.class_counts.values())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((("train",),), "train"),
        ((("train", "val"),), "train+val"),
        ((("train", "val"), 2, True), "fold 2 of train+val"),
        ((("train", "val"), 2), "train+val without fold 2"),
        ((("all",), 0), "all without fold 0"),
    ],
)
def test_names(folded, arguments, name):
    assert Subset(folded, *arguments).name == name


def test_a_split_that_is_named_twice_is_read_once(folded):
    for splits in (("train", "train"), ("all", "train")):
        subset = Subset(folded, splits)
        assert len(set(subset.paths)) == len(subset.paths)
        assert subset.count == folded.count(splits[0])


@pytest.mark.parametrize(
    ("splits", "fold", "message"),
    [
        (("train", "test"), None, "has no split 'test'; it has train, val and 'all'"),
        (("",), None, "has no split ''"),
        (("train",), 3, "has no fold 3; it has 0, 1, 2"),
        (("train",), -1, "has no fold -1; it has 0, 1, 2"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(folded, splits, fold, message):
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        Subset(folded, splits, fold)
    assert "\n" not in str(raised.value)


def test_records_without_folds_say_how_to_get_some(records):
    with pytest.raises(UserError, match=r"toy has no folds"):
        Subset(manifests.load(records), ("train",), 0)


def test_a_fold_that_a_split_has_nothing_of_is_told(folded):
    more = dataclasses.replace(folded, folds=folded.folds | {"3": {"cat": 0, "dog": 0}})
    assert Subset(more, ("val",), 3).count == folded.count("val")
    with pytest.raises(UserError, match="folded has no records of fold 3 of val: name another"):
        Subset(more, ("val",), 3, True).count  # noqa: B018


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_shard_that_cannot_be_counted_is_named(folded, tmp_path, damage):
    shard = folded.shards_of("train")[0]
    content = bytearray((folded.folder / shard.name).read_bytes())
    content[100] ^= damage == "flipped"
    if damage != "missing":
        (tmp_path / shard.name).write_bytes(content[: -1 if damage == "cut" else None])
    older = dataclasses.replace(folded, folder=tmp_path, shards=(shard,), fold_records={})
    subset = Subset(older, ("train",), 0)
    with pytest.raises(
        UserError, match=rf"{shard.name} cannot be read \(.*verify_records"
    ) as raised:
        subset.count  # noqa: B018
    assert "\n" not in str(raised.value)


def test_too_large_a_batch_is_explained(folded):
    subset = Subset(folded, ("train", "val"), 1)
    message = rf"batch_size=99.*.* {subset.count} records of train\+val without fold 1; give 1 to"
    with pytest.raises(UserError, match=message):
        pipeline.steps_per_epoch(subset, 99)
