"""TFRecords as a source: images, names and labels of our records and of other programs."""

import hashlib
import io
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from tfpipe import sources
from tfpipe.core.errors import UserError
from tfpipe.records import example, manifest, tfrecord
from tfpipe.sources import tfrecords as module


def foreign(**features):
    """Returns a tf.train.Example; `__` in a key stands for `/`."""
    made = example.Example()
    for key, value in features.items():
        feature = made.features.feature[key.replace("__", "/")]
        kind = feature.int64_list if isinstance(value, int) else feature.bytes_list
        kind.value.append(value)
    return made.SerializeToString()


def own(encoded, filename, text, label, **more):
    size = {"format": "jpeg", "height": 0, "width": 0, **more}
    digest = hashlib.sha256(encoded).hexdigest()
    return example.serialize(
        encoded, filename=filename, text=text, label=label, sha256=digest, **size
    )


def write_shard(path, records):
    path.write_bytes(b"".join(map(tfrecord.frame, records)))
    return path


def write_data_set(folder, shards, classes=("cat", "dog")):
    """Writes a data set of one split; `shards` holds lists of records."""
    folder.mkdir()
    listed = []
    for i, records in enumerate(shards):
        path = write_shard(folder / f"all-{i:05d}-of-{len(shards):05d}.tfrecord", records)
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        listed.append(manifest.Shard(path.name, "all", len(records), len(data), digest))
    count = sum(map(len, shards))
    manifest.Manifest(
        arguments={},
        input_fingerprint="",
        classes=tuple(classes),
        splits={"all": {classes[0]: count, **dict.fromkeys(classes[1:], 0)}},
        accepted=count,
        converted={},
        rejected={},
        fingerprint="",
        mean_record_bytes=sum(shard.bytes for shard in listed) / count,
        shards=tuple(listed),
    ).save(folder)
    return folder


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture
def data_set(tmp_path):
    made = [own(bytes([i]) * 900, f"cat.{i}.jpg", "cat", 0) for i in range(8)]
    return write_data_set(tmp_path / "records", [made[:3], made[3:]])


def test_the_images_of_a_folder_come_back(image_folder, records):
    source = sources.open_source(str(records))
    assert type(source) is sources.TFRecords
    names = sorted(path.name for path in image_folder.iterdir())
    assert source.names() == names
    assert source.skipped == []
    assert {name: each.label for name, each in source.annotations().items()} == {
        name: name.split(".")[0] for name in names
    }
    assert all(source.read(name) == (image_folder / name).read_bytes() for name in names)
    assert source.locate(names[0]) == f"{records}/{names[0]}"


def test_a_copy_in_another_process_need_not_list_again(data_set, monkeypatch):
    source = sources.open_source(str(data_set))
    pickled = pickle.dumps(source)
    monkeypatch.setattr(tfrecord, "frames", None)
    copy = pickle.loads(pickled)  # noqa: S301 (our own)
    assert copy.path == source.path
    assert copy.names() == source.names()
    assert copy.fingerprint() == source.fingerprint()
    assert copy.annotations() == source.annotations()
    assert copy.read(copy.names()[-1]) == source.read(copy.names()[-1])


def test_labels_and_names_of_other_programs(tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    write_shard(
        folder / "train.tfrecord-00000-of-00002",
        [
            foreign(image__encoded=b"0", image__class__text=b"tench", image__class__label=1),
            foreign(image__encoded=b"1", image__class__label=2, label=9),
            foreign(image__encoded=b"2", label=3, image__filename=b"n01/a.JPEG"),
            foreign(image__encoded=b"3", image__filename=b"bare", image__format=b"PNG"),
        ],
    )
    write_shard(
        folder / "train.tfrecord-00001-of-00002",
        [
            foreign(image__encoded=b"4", label=3, image__filename=b"n01/a.JPEG"),
            foreign(image=b"no such key"),
            b"\xff\xff\xff garbage",
            foreign(image__encoded=b"5", image__filename=b"\xff.jpg"),
        ],
    )
    (folder / "labels.txt").write_text("1:tench")
    (folder / "train.tfrecord.idx").write_text("0 20")
    first, second = "train.tfrecord-00000-of-00002", "train.tfrecord-00001-of-00002"
    source = sources.open_source(str(folder))
    assert {name: source.read(name) for name in source.names()} == {
        f"{first}#00000.jpg": b"0",
        f"{first}#00001.jpg": b"1",
        "n01/a.JPEG": b"2",
        "bare.png": b"3",
        f"n01/a@{second}#00000.JPEG": b"4",
        "\udcff.jpg": b"5",
    }
    assert {n: each.label for n, each in source.annotations().items() if each.label} == {
        f"{first}#00000.jpg": "tench",
        f"{first}#00001.jpg": "2",
        "n01/a.JPEG": "3",
        f"n01/a@{second}#00000.JPEG": "3",
    }
    assert [entry[:2] for entry in source.skipped] == [
        (f"{second}#00001", "not an image record"),
        (f"{second}#00002", "not an image record"),
    ]
    assert "only 'image' (bytes of 11)" in source.skipped[0][2]


def test_names_chosen_to_collide_are_still_told_apart(tmp_path):
    names = ["a.jpg", "a@x.tfrecord#00002.jpg", "a.jpg", "a.jpg"]
    made = [own(bytes([i]), name, "cat", 0) for i, name in enumerate(names)]
    source = sources.open_source(str(write_shard(tmp_path / "x.tfrecord", made)))
    assert len(source.names()) == 4
    assert {source.read(name) for name in source.names()} == {b"\0", b"\1", b"\2", b"\3"}


def test_a_number_is_named_by_the_manifest(tmp_path):
    made = [foreign(image__encoded=b"x", image__class__label=i) for i in (1, 2)]
    source = sources.open_source(str(write_data_set(tmp_path / "x", [made])))
    assert sorted(each.label for each in source.annotations().values()) == [
        "2",
        "dog",
    ]  # there are two classes, 0 and 1


def test_transformed_copies_are_listed_not_read(tmp_path):
    made = [own(b"x", "cat.0.jpg", "cat", 0), own(b"y", "cat.0.jpg", "cat", 0, copy=True)]
    source = sources.open_source(str(write_data_set(tmp_path / "x", [made])))
    assert source.names() == ["cat.0.jpg"]
    assert source.read("cat.0.jpg") == b"x"
    ((name, reason, detail),) = source.skipped
    assert (name, reason) == ("cat.0.jpg", sources.COPY)
    assert detail.startswith("all-00000-of-00001.tfrecord#00001 ")


def test_raw_pixels_become_a_png(tmp_path):
    values = np.random.default_rng(5).integers(0, 256, (7, 11, 3), np.uint8)
    size = {"format": "raw", "height": 7, "width": 11}
    made = [
        own(values.tobytes(), "cat.0.jpg", "cat", 0, **size),
        own(values.tobytes()[1:], "cat.1.jpg", "cat", 0, **size),
        own(b"", "cat.2.jpg", "cat", 0, format="raw"),
        foreign(image__encoded=values.tobytes(), image__format=b"raw", image__width=11),
    ]
    source = sources.open_source(str(write_data_set(tmp_path / "x", [made])))
    np.testing.assert_array_equal(pixels(source.read("cat.0.jpg")), values)
    assert source.names()[0] == "all-00000-of-00001.tfrecord#00003.png"
    for name in (source.names()[0], "cat.1.jpg", "cat.2.jpg"):
        with pytest.raises(sources.Rejected, match="bytes are not") as caught:
            source.read(name)
        assert caught.value.reason == "damaged"


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "size"])
def test_a_damaged_data_set_is_one_line(data_set, damage):
    path = data_set / "all-00001-of-00002.tfrecord"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "flip":
        path.write_bytes(data)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-3] if damage == "cut" else data + b"more")
    with pytest.raises(UserError) as caught:
        sources.open_source(str(data_set))
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    if damage == "flip":
        assert f"python -m tfpipe.verify_records --records={data_set}" in message
        assert "fails its checksum" in message


@pytest.mark.parametrize("place", [3, 9, 30, -1])
def test_a_damaged_file_of_others_is_one_line(tmp_path, place):
    path = write_shard(tmp_path / "x.tfrecord", [foreign(image__encoded=b"x" * 99)] * 2)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.tfrecord is damaged .* checksum") as caught:
        sources.open_source(str(path))
    assert "verify_records" not in str(caught.value)


def test_a_shard_that_the_manifest_does_not_list_is_listed(data_set):
    write_shard(data_set / "more.tfrecord", [foreign(image__encoded=b"x")])
    source = sources.open_source(str(data_set))
    assert [(name, reason) for name, reason, _ in source.skipped] == [
        ("more.tfrecord", "unlisted shard")
    ]
    assert len(source.names()) == 8


@pytest.mark.parametrize("change", ["overwritten", "shorter", "gone"])
def test_a_file_that_changes_after_it_was_listed(tmp_path, change):
    path = write_shard(tmp_path / "x.tfrecord", [own(b"x" * 50, "cat.0.jpg", "cat", 0)])
    source = sources.open_source(str(path))
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(b"y" * 300 if change == "overwritten" else path.read_bytes()[:40])
    with pytest.raises(sources.Rejected, match="unreadable" if change == "gone" else "byte 0 "):
        source.read("cat.0.jpg")
    with pytest.raises(sources.Rejected, match="changed"):
        source.read("cat.1.jpg")


def test_a_record_that_is_too_large_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_RECORD_BYTES", 200)
    made = [foreign(image__encoded=b"x" * 300), foreign(image__encoded=b"y" * 100)]
    source = sources.open_source(str(write_shard(tmp_path / "x.tfrecord", made)))
    assert [entry[:2] for entry in source.skipped] == [("x.tfrecord#00000", "too large")]
    assert source.names() == ["x.tfrecord#00001.jpg"]


def test_the_fingerprint_follows_the_contents(tmp_path):
    path = tmp_path / "x.tfrecord"
    write_shard(path, [own(b"x", "cat.0.jpg", "cat", 0)])
    before = os.stat(path).st_mtime_ns
    first = sources.open_source(str(path)).fingerprint()
    assert sources.open_source(str(path)).fingerprint() == first
    write_shard(path, [own(b"y", "cat.0.jpg", "cat", 0)])
    os.utime(path, ns=(before, before + 10**9))
    assert sources.open_source(str(path)).fingerprint() != first
    one = write_data_set(tmp_path / "one", [[own(b"x", "cat.0.jpg", "cat", 0)]])
    two = write_data_set(tmp_path / "two", [[own(b"y", "cat.0.jpg", "cat", 0)]])
    three = write_data_set(tmp_path / "three", [[own(b"x", "cat.0.jpg", "cat", 0)]])
    prints = [sources.open_source(str(each)).fingerprint() for each in (one, two, three)]
    assert prints[0] == prints[2] != prints[1]  # copied elsewhere, at another time


SHARD_RECORD = tfrecord.frame(foreign(image__encoded=b"x"))
LIKE_GZIP = tfrecord.frame(foreign(image__encoded=b"x" * (0x8B1F - 35)))


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"cat.0.jpg": b"x", "manifest.json": b'{"name": "app"}'}, sources.Folder),
        ({"cat.0.jpg": b"x", "x.tfrecord": SHARD_RECORD}, sources.Folder),
        ({"train-00000-of-00001": SHARD_RECORD, ".hidden/y": b""}, sources.TFRecords),
        (SHARD_RECORD, sources.TFRecords),
        (LIKE_GZIP, sources.TFRecords),
    ],
)
def test_what_is_taken_for_records(tmp_path, files, kind):
    assert LIKE_GZIP.startswith(b"\x1f\x8b")
    path = tmp_path / "x"
    if isinstance(files, bytes):
        path.write_bytes(files)
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    assert type(sources.open_source(str(path))) is kind


def test_a_file_without_records_is_an_error(tmp_path):
    path = write_shard(tmp_path / "x.tfrecord", [])
    with pytest.raises(UserError, match="holds no files that can be read"):
        sources.open_source(str(path))


def test_a_manifest_that_is_no_regular_file_is_not_opened(tmp_path):
    (tmp_path / "cat.0.jpg").write_bytes(b"x")
    os.mkfifo(tmp_path / "manifest.json")
    assert type(sources.open_source(str(tmp_path))) is sources.Folder
