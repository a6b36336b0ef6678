"""Manifests load; a damaged one is an error of one line."""

import dataclasses
import json

import pytest

from tfpipe.core.errors import UserError
from tfpipe.records import manifest


@pytest.fixture
def folder(tmp_path):
    """A minimal data set; its shards hold no records."""
    shards = []
    for split, records in [("train", 3), ("train", 2), ("val", 2)]:
        name = f"{split}-{len(shards)}.tfrecord"
        (tmp_path / name).write_bytes(bytes(10 * records))
        shards.append(manifest.Shard(name, split, records, 10 * records, "0" * 64))
    manifest.Manifest(
        arguments={"seed": 0, "source": ["x.zip"]},
        input_fingerprint="f" * 64,
        classes=("cat", "dog"),
        splits={"train": {"cat": 2, "dog": 3}, "val": {"cat": 1, "dog": 1}},
        accepted=7,
        converted={"grey": 1},
        rejected={},
        fingerprint="e" * 64,
        mean_record_bytes=10.0,
        shards=tuple(shards),
    ).save(tmp_path)
    return tmp_path


def test_load_gives_what_was_saved(folder):
    m = manifest.load(str(folder))
    assert m.folder == folder
    assert m.classes == ("cat", "dog")
    assert (m.count("train"), m.count("val"), m.count("all")) == (5, 2, 7)
    assert [shard.records for shard in m.shards_of("train")] == [3, 2]
    assert len(m.shards_of("all")) == 3
    m.check()
    m.save(folder)
    assert manifest.load(folder) == m
    with pytest.raises(UserError, match=r"'test'.*train, val"):
        m.count("test")
    with pytest.raises(dataclasses.FrozenInstanceError):
        m.accepted = 0


def test_check_names_the_shard(folder):
    m = manifest.load(folder)
    (folder / "train-1.tfrecord").write_bytes(bytes(19))
    with pytest.raises(UserError, match=r"train-1.tfrecord is damaged.* 19 .* 20") as caught:
        m.check()
    assert "--overwrite" in str(caught.value)
    (folder / "train-1.tfrecord").unlink()
    with pytest.raises(UserError, match=r"train-1.tfrecord: No such file"):
        m.check()


def edit(folder, change):
    path = folder / manifest.MANIFEST
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(schema_version=99), "schema version 99"),
        (lambda v: v.pop("schema_version"), "no schema_version"),
        (lambda v: v.pop("classes"), "classes"),
        (lambda v: v.update(extra=1), "extra"),
        (lambda v: v["shards"][0].pop("bytes"), "bytes"),
        (lambda v: v["shards"][0].update(name="../train"), "plain file name"),
        (lambda v: v["shards"][0].update(records=4), "6 records"),
        (lambda v: v["shards"].pop(), "'val'"),
        (lambda v: v["splits"]["val"].pop("cat"), "'val'"),
        (lambda v: v.update(splits=[]), "damaged"),
        (lambda v: v.update(accepted=8), "add up"),
        (lambda v: v.update(shards=None), "damaged"),
        (lambda v: v.update(mean_record_bytes="1"), "mean_record_bytes"),
        (lambda v: v["shards"].append({**v["shards"][0], "records": 0}), "listed twice"),
        (lambda v: v["shards"][1].update(bytes="7"), "bytes"),
        (lambda v: v["shards"][1].update(sha256=7), "sha256"),
        (lambda v: v["shards"].append({**v["shards"][0], "name": "x", "split": "y"}), "'y'"),
    ],
)
def test_damaged_manifest(folder, change, words):
    edit(folder, change)
    with pytest.raises(UserError) as caught:
        manifest.load(folder)
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\xff"])
def test_not_a_manifest(folder, text):
    (folder / manifest.MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(UserError):
        manifest.load(folder)


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        manifest.load(tmp_path / "nothing")


def test_an_option_that_came_later_has_its_default(folder):
    """Also one that is gone, or that the build does not use, makes no other data set."""
    m = manifest.load(folder)
    edit(folder, lambda v: v["arguments"].update(gone=1))
    later = {**m.arguments, "later": "auto"}

    def is_current(**changed):
        given = {**later, **changed}
        digest = m.input_fingerprint
        return manifest.is_current(
            folder, given, digest, replace=False, defaults={"later": "auto", "seed": 9}
        )

    assert is_current()
    for changed in ({"later": "full"}, {"seed": 9}):
        with pytest.raises(UserError, match=rf"options \(`{next(iter(changed))}`\)"):
            is_current(**changed)


def test_is_current(folder):
    m = manifest.load(folder)
    same = (m.arguments, m.input_fingerprint)
    assert manifest.is_current(folder, *same, replace=False)
    assert not manifest.is_current(folder, *same, replace=True)
    assert not manifest.is_current(folder / "new", *same, replace=False)
    (folder / "empty").mkdir()
    assert not manifest.is_current(folder / "empty", *same, replace=False)
    (folder / "empty").rmdir()
    with pytest.raises(UserError, match=r"options \(`seed`\).*overwrite"):
        manifest.is_current(folder, {**m.arguments, "seed": 1}, "x", replace=False)
    with pytest.raises(UserError, match=r"images: .*overwrite"):
        manifest.is_current(folder, m.arguments, "x", replace=False)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        manifest.is_current(folder, *same, replace=True)
    (folder / manifest.MANIFEST).unlink()
    for replace in (False, True):
        with pytest.raises(UserError, match="not a data set"):
            manifest.is_current(folder, *same, replace=replace)
        with pytest.raises(UserError, match="Not a directory"):
            manifest.is_current(folder / "notes.txt", *same, replace=replace)
