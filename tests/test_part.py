"""What is read: its counts against the records themselves, and that folds keep images apart."""

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
from tfpipe.records.part import Part

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
    """The records of some splits, by another reader than the parts'."""
    for shard in manifest.shards:
        if shard.split in splits or "all" in splits:
            with open(manifest.folder / shard.name, "rb") as file:
                for _, record in tfrecord.read(file):
                    yield example.deserialize(record)


def names(part, *, copies):
    """The names of the images that evaluation sees, sorted."""
    found = []
    for batch in pipeline.eval_batches(part, image_size=8, batch_size=5, copies=copies):
        real = batch["sample_weight"].numpy() > 0
        found += [name.decode() for name in batch["name"].numpy()[real]]
    return sorted(found)


@pytest.mark.parametrize("splits", SPLITS)
@pytest.mark.parametrize(
    ("fold", "held_out"), [(None, False), *itertools.product(range(FOLDS), (False, True))]
)
def test_counts_are_those_of_the_records(folded, splits, fold, held_out):
    part = Part(folded, splits, fold, held_out)
    here = [
        fields
        for fields in stored(folded, splits)
        if fold is None
        or (held_out and fields.fold == fold and not fields.copy)
        or (not held_out and fields.fold != fold)
    ]
    assert part.count == len(here)
    assert part.images == sum(not fields.copy for fields in here)
    counts = collections.Counter(fields.text for fields in here)
    assert part.class_counts == {name: counts[name] for name in ("cat", "dog")}
    size = sum(len(example.serialize(**f._asdict())) + tfrecord.FRAME_BYTES for f in here)
    assert part.bytes == pytest.approx(size, rel=0 if fold is None else 0.5)
    assert names(part, copies=True) == sorted(fields.filename for fields in here)
    assert names(part, copies=False) == sorted(f.filename for f in here if not f.copy)


def test_copies_are_there_in_every_fold(folded):
    copied = collections.Counter(fields.fold for fields in stored(folded, ("all",)) if fields.copy)
    assert set(copied) == set(range(FOLDS))


@pytest.mark.parametrize("splits", SPLITS)
def test_folds_partition_the_images(folded, splits):
    held_out = [names(Part(folded, splits, fold, True), copies=False) for fold in range(FOLDS)]
    assert sorted(itertools.chain(*held_out)) == names(Part(folded, splits), copies=False)
    for fold, images in enumerate(held_out):
        rest = names(Part(folded, splits, fold), copies=False)
        assert sorted(images + rest) == names(Part(folded, splits), copies=False)


def test_the_copies_of_an_image_have_its_fold(folded):
    fold = {fields.filename: fields.fold for fields in stored(folded, ("all",)) if not fields.copy}
    for fields in stored(folded, ("all",)):
        assert fields.fold == fold[fields.filename]


@pytest.mark.parametrize("cached", ["none", "encoded", "decoded"])
@pytest.mark.parametrize("fold", range(FOLDS))
def test_training_never_sees_what_is_held_out(folded, cached, fold):
    """Neither an image nor a copy of one; and it sees all else."""
    there = [(int(f.sha256[:15], 16), f.fold) for f in stored(folded, ("all",))]
    held_out = {number for number, own in there if own == fold}
    part = Part(folded, ("all",), fold)
    config = InputConfig(16, part.count, cache=cached)
    (batch,) = pipeline.train_batches(part, config)
    seen = batch["example_id"].numpy().tolist()
    assert not held_out & set(seen)
    assert sorted(seen) == sorted(number for number, own in there if own != fold)
    assert np.bincount(batch["label"]).tolist() == list(part.class_counts.values())


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
def test_parts_have_names(folded, arguments, name):
    assert Part(folded, *arguments).name == name


def test_a_split_that_is_named_twice_is_read_once(folded):
    for splits in (("train", "train"), ("all", "train")):
        part = Part(folded, splits)
        assert len(set(part.paths)) == len(part.paths)
        assert part.count == folded.count(splits[0])


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
        Part(folded, splits, fold)
    assert "\n" not in str(raised.value)


def test_records_without_folds_say_how_to_get_some(records):
    with pytest.raises(UserError, match=r"toy has no folds: build the records with --folds=N"):
        Part(manifests.load(records), ("train",), 0)


def test_a_fold_that_a_split_has_nothing_of_is_told(folded):
    more = dataclasses.replace(folded, folds=folded.folds | {"3": {"cat": 0, "dog": 0}})
    assert Part(more, ("val",), 3).count == folded.count("val")
    with pytest.raises(UserError, match="folded has no records of fold 3 of val: name another"):
        Part(more, ("val",), 3, True).count  # noqa: B018


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_shard_that_cannot_be_counted_is_named(folded, tmp_path, damage):
    shard = folded.shards_of("train")[0]
    content = bytearray((folded.folder / shard.name).read_bytes())
    content[100] ^= damage == "flipped"
    if damage != "missing":
        (tmp_path / shard.name).write_bytes(content[: -1 if damage == "cut" else None])
    part = Part(dataclasses.replace(folded, folder=tmp_path, shards=(shard,)), ("train",), 0)
    with pytest.raises(
        UserError, match=rf"{shard.name} cannot be read \(.*verify_records"
    ) as raised:
        part.count  # noqa: B018
    assert "\n" not in str(raised.value)


def test_too_large_a_batch_of_a_part_is_explained(folded):
    part = Part(folded, ("train", "val"), 1)
    message = rf"batch_size=99.* {part.count} records of train\+val without fold 1; give 1 to"
    with pytest.raises(UserError, match=message):
        pipeline.steps_per_epoch(part, 99)
