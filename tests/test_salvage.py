"""Training on what is left of damaged shards: exactly the good records, and nothing unknown."""

import collections
import csv
import dataclasses
import os
import pathlib
import random
import shutil

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tfpipe import build_records
from tfpipe.core import storage
from tfpipe.core.errors import ResumableError, UserError
from tfpipe.records import damaged, example, manifest, resync, salvage, tfrecord

SHARD = "train-00001-of-00003.tfrecord"
SPLITS = ("train", "val")


@pytest.fixture
def folder(records, tmp_path):
    return pathlib.Path(shutil.copytree(records, tmp_path / "toy"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run" / "salvaged"


def frames(path):
    """Returns each frame of a whole shard as its offset and bytes."""
    content, offset, found = path.read_bytes(), 0, []
    while offset < len(content):
        end = offset + 16 + int.from_bytes(content[offset : offset + 8], "little")
        found.append((offset, content[offset:end]))
        offset = end
    return found


def read(described, split):
    """Returns the records of a split, as TensorFlow reads them and thus with right checksums."""
    paths = [str(described.folder / shard.name) for shard in described.shards_of(split)]
    return list(tf.data.TFRecordDataset(paths).as_numpy_iterator())


def lost_rows(out):
    with open(out / "lost.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check(described, left, out):
    """Checks that every count of `left` is what TensorFlow reads; returns how many are lost."""
    lost = collections.Counter(row["shard"].partition("-")[0] for row in lost_rows(out))
    for split in SPLITS:
        there = read(left, split)
        assert set(there) <= set(read_originals(described, split))
        assert left.count(split) == len(there) == described.count(split) - lost[split]
        assert left.count(split) == sum(shard.records for shard in left.shards_of(split))
        texts = collections.Counter(example.deserialize(record).text for record in there)
        assert left.splits[split] == {name: texts[name] for name in described.classes}
    for shard in left.shards:
        path = left.folder / shard.name
        assert path.stat().st_size == shard.bytes
        with open(path, "rb") as file:
            assert sum(1 for _ in tfrecord.frames(file)) == shard.records
    assert left.accepted == left.images()
    assert left.mean_record_bytes == sum(s.bytes for s in left.shards) / left.count()
    return sum(lost.values())


originals = {}


def read_originals(described, split):
    """Returns the records of a split as they were before any damage; see `remember`."""
    return originals[described.fingerprint, split]


@pytest.fixture(autouse=True)
def remember(records):
    described = manifest.load(records)
    for split in SPLITS:
        originals[described.fingerprint, split] = read(described, split)


def readable(folder, out, max_corrupt=80, splits=SPLITS):
    return salvage.readable(manifest.load(folder), splits, max_corrupt=max_corrupt, folder=out)


def test_whole_shards_are_left_where_they_are(folder, out, capsys):
    described = manifest.load(folder)
    assert salvage.readable(described, SPLITS, max_corrupt=0, folder=out) is described
    assert not out.parent.exists()
    assert capsys.readouterr().err == ""


def flip(path, place, mask=1):
    content = bytearray(path.read_bytes())
    content[place] ^= mask
    path.write_bytes(content)


# Where in the frame of record 4, counted from its start or, negative, from its end.
@pytest.mark.parametrize(
    "place",
    [0, 6, 9, 12, 500, -5, -1],
    ids="length length-high length-crc data data2 end crc".split(),
)
def test_a_flipped_byte_costs_one_record(folder, out, place, capsys):
    described, path = manifest.load(folder), folder / SHARD
    whole = frames(path)
    offset, frame = whole[4]
    flip(path, offset + place % len(frame))
    left = readable(folder, out, max_corrupt=1)
    assert check(described, left, out) == 1
    (row,) = lost_rows(out)
    assert (row["shard"], row["record"], row["offset"]) == (SHARD, "4", str(offset))
    # The name is told if the damage is certainly elsewhere: in the length, or in the image.
    name = example.deserialize(frame[12:-4]).filename if place in (0, 6, 9, 500) else ""
    assert row["filename"] == name
    clean = b"".join(f for o, f in whole if o != offset)
    assert (out / SHARD).read_bytes() == clean
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {SHARD}: SHA-256 differs; record 4, which starts at byte")
    assert warning.endswith(f"; 1 of {len(whole)} records lost\n")
    assert left.fingerprint != described.fingerprint


def test_100_of_100_random_flips_cost_one_record_each(folder, out):
    described = manifest.load(folder)
    rng = random.Random(7)
    for _ in range(100):
        shard = rng.choice([s for s in described.shards if s.split in SPLITS])
        path = folder / shard.name
        content, whole = path.read_bytes(), frames(path)
        place = rng.randrange(len(content))
        flip(path, place, rng.randrange(1, 256))
        left = readable(folder, out, max_corrupt=1)
        hit = max(offset for offset, _ in whole if offset <= place)
        assert (out / shard.name).read_bytes() == b"".join(f for o, f in whole if o != hit)
        assert [row["offset"] for row in lost_rows(out)] == [str(hit)]
        assert left.count() == described.count() - 1
        path.write_bytes(content)
    assert readable(folder, out, max_corrupt=0) == described
    assert not (out / "lost.csv").exists()


@pytest.mark.parametrize("more", [0, 1, 11, 12, 200])
def test_a_cut_costs_what_is_cut_off(folder, out, more):
    described, path = manifest.load(folder), folder / SHARD
    whole = frames(path)
    path.write_bytes(path.read_bytes()[: whole[4][0] + more])
    left = readable(folder, out)
    assert check(described, left, out) == len(whole) - 4
    rows = lost_rows(out)
    assert [row["record"] for row in rows] == [str(n) for n in range(4, len(whole))]
    assert [row["offset"] for row in rows if row["offset"]] == ([str(whole[4][0])] if more else [])
    assert (out / SHARD).read_bytes() == b"".join(f for _, f in whole[:4])


def remove(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def exchange(path):
    """Another shard of the data set is copied over this one."""
    shutil.copyfile(path.parent / "val-00000-of-00003.tfrecord", path)


def reorder(path):
    whole = [frame for _, frame in frames(path)]
    path.write_bytes(b"".join([whole[-1], *whole[:-1]]))


def double(path):
    whole = [frame for _, frame in frames(path)]
    path.write_bytes(b"".join([whole[0], *whole]))


def replace_by_others(path):
    """Every checksum is right, but these are not records of this data set."""
    path.write_bytes(b"".join(tfrecord.frame(b"not an example") for _ in range(3)))


def relabel(path):
    """The shard is cut, and its first record names a class that its label is not."""
    fields = example.deserialize(frames(path)[0][1][12:-4])._asdict()
    fields["label"] = 1 - fields["label"]
    path.write_bytes(tfrecord.frame(example.serialize(**fields)))


@pytest.mark.parametrize(
    "damage", [remove, empty, exchange, reorder, double, replace_by_others, relabel]
)
def test_a_shard_without_a_record_that_is_known_is_lost_as_a_whole(folder, out, damage):
    described = manifest.load(folder)
    count = len(frames(folder / SHARD))
    damage(folder / SHARD)
    left = readable(folder, out, max_corrupt=count)
    assert check(described, left, out) == count
    assert [row["record"] for row in lost_rows(out)] == [str(n) for n in range(count)]
    assert SHARD not in [pathlib.Path(shard.name).name for shard in left.shards]
    assert not (out / SHARD).exists()


def test_what_is_appended_costs_nothing(folder, out, capsys):
    described, path = manifest.load(folder), folder / SHARD
    content, whole = path.read_bytes(), frames(path)
    for more in (b"garbage", whole[0][1]):
        path.write_bytes(content + more)
        left = readable(folder, out, max_corrupt=0)
        assert check(described, left, out) == 0
        assert (out / SHARD).read_bytes() == content
        assert left.fingerprint == described.fingerprint
        assert f"; 0 of {len(whole)} records lost" in capsys.readouterr().err


def test_a_zeroed_sector_costs_the_records_it_touches(folder, out):
    described, path = manifest.load(folder), folder / SHARD
    whole = frames(path)
    content = bytearray(path.read_bytes())
    begin, end = whole[3][0] + 100, whole[6][0] + 5  # from within record 3 into the length of 6
    content[begin:end] = bytes(end - begin)
    path.write_bytes(content)
    left = readable(folder, out)
    assert check(described, left, out) == 4
    assert [row["record"] for row in lost_rows(out)] == ["3", "4", "5", "6"]


def test_deleted_bytes_cost_the_record_they_were_in(folder, out):
    described, path = manifest.load(folder), folder / SHARD
    whole, content = frames(path), path.read_bytes()
    place = whole[5][0] + 300
    path.write_bytes(content[:place] + content[place + 7 :])
    assert check(described, readable(folder, out), out) == 1
    assert (out / SHARD).read_bytes() == b"".join(f for o, f in whole if o != whole[5][0])


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 20_000), st.integers(0, 2**32))),
    cut=st.floats(0, 1),
    is_cut=st.booleans(),
)
def test_every_record_that_no_damage_touches_is_kept(
    records, tmp_path_factory, changes, cut, is_cut
):
    """Any number of stretches of zeros (by an even number) or noise, and perhaps a cut."""
    described = manifest.load(records)
    (shard,) = [shard for shard in described.shards if shard.name == SHARD]
    whole, content = frames(records / SHARD), bytearray((records / SHARD).read_bytes())
    size = len(content)
    for place, length, seed in changes:
        begin = int(place * (size - 1))
        end = min(begin + length, size)
        noise = np.random.default_rng(seed).bytes(end - begin)
        content[begin:end] = noise if seed % 2 else bytes(end - begin)
    content = content[: int(cut * size)] if is_cut else content
    hypothesis.assume(len(content) < size or content != (records / SHARD).read_bytes())
    folder = tmp_path_factory.mktemp("damaged")
    (folder / SHARD).write_bytes(content)
    found = damaged.salvage(dataclasses.replace(described, folder=folder), shard)
    kept = b"".join(bytes(content[begin:end]) for begin, end in found.runs)
    untouched = [frame for o, frame in whole if content[o : o + len(frame)] == frame]
    assert kept == b"".join(untouched)
    assert found.clean.records == len(untouched) == shard.records - len(found.lost)
    numbers = [lost.record for lost in found.lost]
    gone = [n for n, (o, frame) in enumerate(whole) if content[o : o + len(frame)] != frame]
    assert set(numbers) - {None} <= set(gone)
    for lost in found.lost:
        if lost.record is not None and lost.offset is not None:
            assert lost.offset == whole[lost.record][0]
        if lost.filename:
            frame = dict(whole)[lost.offset]
            assert lost.filename == example.deserialize(frame[12:-4]).filename


def test_numbers_are_blank_where_they_cannot_be_told(folder, out):
    """Records are missing in two places, so how many in which is open; the sum is not."""
    described, path = manifest.load(folder), folder / SHARD
    whole, content = frames(path), bytearray(path.read_bytes())
    for number in (2, 3, 7):
        content[whole[number][0]] ^= 1
    path.write_bytes(content[: whole[-2][0]])
    assert check(described, readable(folder, out), out) == 5
    found = [(row["record"], row["offset"]) for row in lost_rows(out)]
    assert found == [("2", str(whole[2][0])), ("", str(whole[7][0])), *[("", "")] * 3]


def test_damage_in_several_shards(folder, out):
    described = manifest.load(folder)
    names = [shard.name for shard in described.shards if shard.split in SPLITS]
    for number, name in enumerate(names):
        flip(folder / name, 100 * (number + 1))
    with pytest.raises(UserError) as caught:
        readable(folder, out, max_corrupt=len(names) - 1)
    message = str(caught.value)
    total = sum(described.count(split) for split in SPLITS)
    assert f"{len(names)} of {total} records are lost, more than --max_corrupt=" in message
    assert message.endswith(f"--max_corrupt={len(names)}")
    for name in names[:3]:
        assert f"{name} (SHA-256 differs; record 0, which starts at byte 0" in message
    assert "\n" not in message
    assert not out.parent.exists()  # nothing is written
    assert check(described, readable(folder, out, len(names)), out) == len(names)


def test_only_the_splits_that_are_read_count(folder, out):
    flip(folder / SHARD, 100)
    described = manifest.load(folder)
    assert readable(folder, out, max_corrupt=0, splits=["val"]) == described
    with pytest.raises(UserError, match="--max_corrupt=0"):
        readable(folder, out, max_corrupt=0, splits=["all"])


def test_copies_are_counted(image_folder, tmp_path, out):
    """Transformed copies are records too, but not images."""
    smaller = tmp_path / "images"
    shutil.copytree(image_folder, smaller, ignore=shutil.ignore_patterns("cat.1*", "cat.2*"))
    build_records.main(
        build_records.Options(
            source=(str(smaller),),
            out=str(tmp_path / "records"),
            shards=1,
            workers=1,
            report=False,
            rebalance="copies",
        )
    )
    described = manifest.load(tmp_path / "records")
    assert described.images("train") < described.count("train")
    path = described.folder / "train-00000-of-00001.tfrecord"
    whole = [frame for _, frame in frames(path)]
    kept = [example.deserialize(frame[12:-4]) for frame in whole[: len(whole) // 2]]
    path.write_bytes(b"".join(whole[: len(kept)]))
    left = salvage.readable(described, ["train"], max_corrupt=10**6, folder=out)
    counts = collections.Counter((fields.text, fields.copy) for fields in kept)
    assert left.copies["train"] == {c: counts[c, True] for c in described.classes}
    assert left.images("train") == sum(not fields.copy for fields in kept)
    assert left.accepted == left.images()
    assert left.splits["val"] == described.splits["val"]


def test_the_second_run_writes_nothing_again(folder, out):
    flip(folder / SHARD, 100)
    first = readable(folder, out)
    before = os.stat(out / SHARD)
    assert readable(folder, out) == first
    assert os.stat(out / SHARD).st_ino == before.st_ino
    flip(out / SHARD, 100)  # what was salvaged is damaged in its turn
    assert readable(folder, out) == first
    with open(out / SHARD, "rb") as file:
        assert len(list(tfrecord.read(file))) > 0


def test_paths_hold_also_when_the_folder_is_relative(folder, out, monkeypatch):
    described = manifest.load(folder)
    flip(folder / SHARD, 100)
    monkeypatch.chdir(out.parent.parent)
    left = readable(folder, pathlib.Path("run/salvaged"))
    monkeypatch.chdir("/")
    assert check(described, left, out) == 1


def test_a_split_of_which_nothing_is_left(folder, out):
    for path in folder.glob("val-*"):
        path.unlink()
    with pytest.raises(UserError, match="no record of split 'val' is left"):
        readable(folder, out)
    assert not out.parent.exists()


def test_a_negative_bound(folder, out):
    with pytest.raises(UserError, match="--max_corrupt=-1"):
        readable(folder, out, max_corrupt=-1)


def test_a_folder_that_cannot_be_written(folder, tmp_path):
    flip(folder / SHARD, 100)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResumableError, match=r"cannot write to .*file/salvaged: Not a directory"):
        readable(folder, tmp_path / "file" / "salvaged")


def test_a_full_disk(folder, out, monkeypatch):
    flip(folder / SHARD, 100)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(ResumableError, match=r"cannot write .*: No space left on device"):
        readable(folder, out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("kind", ["zeros", "noise", "headers", "small numbers"])
def test_much_garbage_is_searched_in_seconds(tmp_path, kind):
    """16 MB; nested frames must not make the work grow with the square of the size."""
    size = 2**24
    record = tfrecord.frame(b"the next one")
    garbage = {
        "zeros": lambda: bytes(size),
        "noise": lambda: np.random.default_rng(0).bytes(size),
        # A right header every 12 bytes, each of a record that reaches far.
        "headers": lambda: tfrecord.frame(bytes(2**20))[:12] * (size // 12),
        "small numbers": lambda: np.arange(size // 8, dtype="<u8").tobytes(),
    }[kind]()
    path = tmp_path / "shard"
    path.write_bytes(garbage + record)
    with open(path, "rb") as file:
        found = []
        for begin, end, whole in resync.stretches(file, len(garbage) + len(record)):
            found.append((begin, end, whole))
            if len(found) > 100:  # more than the records of a shard: `damaged` gives up, too
                break
    if kind == "headers":
        assert all(whole is None for _, _, whole in found)
    else:
        assert found == [
            (0, len(garbage), None),
            (len(garbage), len(garbage) + len(record), b"the next one"),
        ]


@pytest.mark.parametrize("damage", [remove, lambda path: flip(path, 500)], ids=["gone", "flipped"])
def test_a_failure_of_the_disk_in_an_epoch_is_one_line(folder, damage):
    described = manifest.load(folder)
    damage(folder / SHARD)
    with pytest.raises(ResumableError) as caught, salvage.explained(described):
        read(described, "train")
    message = str(caught.value)
    assert "\n" not in message
    assert "{{" not in message
    assert "[Op" not in message
    if damage is remove:
        assert message.startswith(f"{folder / SHARD} cannot be read any more (No such file or dir")
    else:
        assert message.startswith(f"{folder} cannot be read any more (corrupted record at ")


def test_a_manifest_of_what_is_left_is_no_other_in_what_it_does_not_count(folder, out):
    flip(folder / SHARD, 100)
    described = manifest.load(folder)
    left = readable(folder, out)
    changed = {"shards", "splits", "accepted", "fingerprint", "mean_record_bytes"}
    for field in dataclasses.fields(manifest.Manifest):
        same = getattr(left, field.name) == getattr(described, field.name)
        assert same == (field.name not in changed), field.name
