"""Training on what is left of damaged shards: exactly the good records, and nothing unknown."""

import collections
import csv
import hashlib
import os
import pathlib
import shutil

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tfpipe.core import storage
from tfpipe.core.errors import ResumableError, UserError
from tfpipe.records import example, manifest, salvage, tfrecord, verify

CLASSES = ("cat", "dog")
SHARDS = {"train-0": 9, "train-1": 9, "val-0": 5}  # records by shard
SHARD = "train-1.tfrecord"
SPLITS = ("train", "val")
_PIXELS = np.random.default_rng(0).bytes(3 * 12 * 12 * 9)


def frame_of(shard, number):
    """A record of 400 to 500 bytes; every fourth of a training shard is a copy."""
    label, image = number % 2, _PIXELS[3 * 144 * number :][: 3 * 144]
    fields = {"height": 12, "width": 12, "label": label, "text": CLASSES[label]}
    names = {"filename": f"{shard}/{number}", "sha256": hashlib.sha256(image).hexdigest()}
    copy = number % 4 == 3 and shard != "val-0"
    return tfrecord.frame(example.serialize(image, format="raw", **fields, **names, copy=copy))


FRAMES = {s: [frame_of(s, number) for number in range(n)] for s, n in SHARDS.items()}
WHOLE = FRAMES["train-1"]
COUNT = len(WHOLE)
STARTS = np.cumsum([0, *map(len, WHOLE)]).tolist()


def contents(frames):
    """Counts the records by split, class and copy, as the manifest does."""
    found = [example.deserialize(frame[12:-4]) for frame in frames]
    texts = collections.Counter(record.text for record in found)
    copies = collections.Counter(record.text for record in found if record.copy)
    return {c: texts[c] for c in CLASSES}, {c: copies[c] for c in CLASSES}


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "toy"
    out.mkdir()
    shards, splits, copies = [], {}, {}
    for name, frames in FRAMES.items():
        split, data = name.partition("-")[0], b"".join(frames)
        (out / f"{name}.tfrecord").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        shards.append(manifest.Shard(f"{name}.tfrecord", split, len(frames), len(data), digest))
        same = [f for other, fs in FRAMES.items() if other.startswith(split) for f in fs]
        splits[split], copies[split] = contents(same)
    size, count = sum(shard.bytes for shard in shards), sum(SHARDS.values())
    del copies["val"]
    manifest.Manifest(
        *({}, "f" * 64, CLASSES, splits, count - sum(copies["train"].values())),
        *({}, {}, "e" * 64, size / count, tuple(shards), copies),
    ).save(out)
    return out


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/verified.json"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run" / "salvaged"


def readable(folder, out, max_corrupt=80, splits=SPLITS):
    return salvage.readable(manifest.load(folder), splits, max_corrupt=max_corrupt, folder=out)


def lost_rows(out):
    with open(out / "lost.csv", newline="", encoding="utf-8") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


def check(left, out, numbers):
    """Checks that TensorFlow reads all but some records of SHARD, and that the counts are right."""
    kept = [frame for number, frame in enumerate(WHOLE) if number not in numbers]
    expected = {"train": FRAMES["train-0"] + kept, "val": FRAMES["val-0"]}
    for split, frames in expected.items():
        there = list(tf.data.TFRecordDataset(left.paths(split)).as_numpy_iterator())
        assert there == [frame[12:-4] for frame in frames]
        counts = left.splits[split], left.copies.get(split, dict.fromkeys(CLASSES, 0))
        assert counts == contents(frames)
        assert sum(shard.records for shard in left.shards_of(split)) == len(frames)
    size = sum(os.path.getsize(path) for path in left.paths())
    assert left.mean_record_bytes == size / left.count()
    assert left.accepted == left.images()
    assert [row[:2] for row in lost_rows(out)] == [(SHARD, str(n)) for n in numbers]
    return [row[2] for row in lost_rows(out)]


def flip(path, place, mask=1):
    content = bytearray(path.read_bytes())
    content[place] ^= mask
    path.write_bytes(content)


def test_whole_shards_are_left_where_they_are(folder, out, capsys):
    described = manifest.load(folder)
    assert salvage.readable(described, SPLITS, max_corrupt=0, folder=out) is described
    assert not out.parent.exists()
    assert capsys.readouterr().err == ""


def test_a_shard_is_hashed_once(folder, out, monkeypatch):
    hashed = []
    sha256 = verify.sha256

    def counted(path, *args):
        hashed.append(pathlib.Path(path).name)
        return sha256(path, *args)

    monkeypatch.setattr(verify, "sha256", counted)
    readable(folder, out)
    assert len(hashed) == len(SHARDS)
    readable(folder, out)
    assert len(hashed) == len(SHARDS)
    flip(folder / SHARD, STARTS[4] + 20)
    readable(folder, out)
    readable(folder, out)  # a damaged one is not remembered
    assert set(hashed[len(SHARDS) :]) == {SHARD}
    assert len(hashed) >= len(SHARDS) + 2


@pytest.mark.parametrize("content", ["", "[]", "no JSON", '{"x": 3}'])
def test_a_list_of_verified_shards_that_is_damaged_is_none(folder, out, cache, content):
    cache.parent.mkdir()
    cache.write_text(content)
    assert readable(folder, out).count() == sum(SHARDS.values())
    assert SHARD in cache.read_text()


def test_without_a_place_for_the_list_all_is_hashed(folder, out, cache, monkeypatch):
    cache.parent.write_text("a file in the place of the folder")
    readable(folder, out)
    monkeypatch.setenv("TFPIPE_CACHE", "")
    readable(folder, out)


@pytest.mark.parametrize("place", [12, 100, -5, -1], ids="data data2 end crc".split())
def test_a_record_that_fails_its_checksum_is_skipped(folder, out, place, capsys):
    flip(folder / SHARD, STARTS[4] + place % len(WHOLE[4]))
    left = readable(folder, out, max_corrupt=1)
    assert check(left, out, [4]) == [str(STARTS[4])]
    assert left.fingerprint != manifest.load(folder).fingerprint
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {SHARD}: SHA-256 differs; record 4, ")
    assert warning.endswith(f"; 1 of {COUNT} records lost\n")


@pytest.mark.parametrize("place", [0, 6, 9], ids="length length-high length-crc".split())
def test_a_broken_length_loses_the_rest_of_the_shard(folder, out, place):
    flip(folder / SHARD, STARTS[4] + place)
    offsets = check(readable(folder, out), out, list(range(4, COUNT)))
    assert offsets == [str(STARTS[4]), *[""] * (COUNT - 5)]


@pytest.mark.parametrize("more", [1, 11, 12, 200])
def test_a_cut_loses_the_rest_of_the_shard(folder, out, more):
    os.truncate(folder / SHARD, STARTS[4] + more)
    check(readable(folder, out), out, list(range(4, COUNT)))


def exchange(path):
    """Another shard of the data set is copied over this one."""
    shutil.copyfile(path.parent / "val-0.tfrecord", path)


def relabel(path):
    """The shard is cut, and its first record names a class that its label is not."""
    fields = example.deserialize(WHOLE[0][12:-4])._asdict() | {"label": 1}
    path.write_bytes(tfrecord.frame(example.serialize(**fields)) + WHOLE[1][:50])


@pytest.mark.parametrize(
    "damage",
    [
        pathlib.Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"".join([WHOLE[-1], *WHOLE[:-1]])),
        lambda path: path.write_bytes(b"".join([WHOLE[0], *WHOLE])),
        lambda path: path.write_bytes(b"".join(WHOLE[:4])),
        lambda path: path.write_bytes(tfrecord.frame(b"not an example") * 3),
        exchange,
        relabel,
    ],
    ids="missing empty reordered doubled cut-between foreign exchanged relabelled".split(),
)
def test_a_shard_that_holds_other_records_is_lost_as_a_whole(folder, out, damage):
    damage(folder / SHARD)
    left = readable(folder, out, max_corrupt=COUNT)
    check(left, out, list(range(COUNT)))
    assert not (out / SHARD).exists()


@pytest.mark.parametrize("more", [b"garbage", WHOLE[0]])
def test_appended_bytes_cost_nothing(folder, out, more):
    (folder / SHARD).write_bytes(b"".join(WHOLE) + more)
    left = readable(folder, out, max_corrupt=0)
    check(left, out, [])
    assert left.fingerprint == manifest.load(folder).fingerprint


@hypothesis.settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 900), st.integers(0, 2**32))),
    cut=st.floats(0.1, 1),
)
def test_records_are_kept_up_to_the_first_broken_length(folder, out, changes, cut):
    """Stretches of zeros or noise, and a cut inside a record."""
    content = bytearray(b"".join(WHOLE))
    for place, length, seed in changes:
        begin = int(place * (len(content) - 1))
        end = min(begin + length, len(content))
        noise = np.random.default_rng(seed).bytes(end - begin)
        content[begin:end] = noise if seed % 2 else bytes(end - begin)
    size = int(cut * len(content))
    hypothesis.assume(size not in STARTS)
    (folder / SHARD).write_bytes(content[:size])
    lost = []
    for number, (start, frame) in enumerate(zip(STARTS, WHOLE, strict=False)):
        found = bytes(content[:size][start : start + len(frame)])
        if found[:12] != frame[:12] or len(found) < len(frame):
            lost += range(number, COUNT)
            break
        if found != frame:
            lost.append(number)
    check(readable(folder, out), out, lost)


def test_more_damage_than_allowed_is_an_error_and_writes_nothing(folder, out):
    for name in SHARDS:
        flip(folder / f"{name}.tfrecord", 100)
    with pytest.raises(UserError) as caught:
        readable(folder, out, max_corrupt=2)
    message = str(caught.value)
    assert "3 of 23 records are lost" in message
    assert "`max_corrupt=3`" in message
    assert all(f"{name}.tfrecord (SHA-256 differs" in message for name in SHARDS)
    assert "\n" not in message
    assert not out.parent.exists()


def test_only_the_splits_that_are_read_count(folder, out):
    flip(folder / SHARD, 100)
    assert readable(folder, out, max_corrupt=0, splits=["val"]) == manifest.load(folder)
    with pytest.raises(UserError, match="max_corrupt=0"):
        readable(folder, out, max_corrupt=0, splits=["all"])
    with pytest.raises(UserError, match="max_corrupt=-1"):
        readable(folder, out, max_corrupt=-1)


def test_the_second_run_writes_only_what_is_damaged(folder, out, monkeypatch):
    flip(folder / SHARD, 100)
    monkeypatch.chdir(out.parent.parent)
    first = readable(folder, pathlib.Path("run/salvaged"))
    monkeypatch.chdir("/")  # the manifest's paths are absolute
    check(first, out, [0])
    before = os.stat(out / SHARD)
    assert readable(folder, out) == first
    assert os.stat(out / SHARD).st_ino == before.st_ino
    flip(out / SHARD, 100)  # the clean shard is damaged in its turn
    check(readable(folder, out), out, [0])
    (folder / SHARD).write_bytes(b"".join(WHOLE))
    assert readable(folder, out, max_corrupt=0) == manifest.load(folder)
    assert not (out / "lost.csv").exists()


def test_a_split_without_records_is_an_error(folder, out):
    (folder / "val-0.tfrecord").unlink()
    with pytest.raises(UserError, match="no record of split 'val' is left"):
        readable(folder, out)
    assert not out.parent.exists()


def test_a_folder_that_cannot_be_written(folder, out, tmp_path, monkeypatch):
    flip(folder / SHARD, 100)
    with pytest.raises(ResumableError, match=r"cannot write to .*: Not a dir"):
        readable(folder, folder / SHARD / "salvaged")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(ResumableError, match=r"cannot write .*: No space left on device"):
        readable(folder, out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, lambda path: flip(path, 300)])
def test_a_failure_of_the_disk_in_an_epoch_is_one_line(folder, damage):
    described = manifest.load(folder)
    damage(folder / SHARD)
    with (
        pytest.raises(ResumableError, match="read any more") as caught,
        salvage.explained(described),
    ):
        list(tf.data.TFRecordDataset(described.paths("train")))
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert not any(noise in message for noise in ("\n", "{{", "[Op"))
