"""Frames and records equal TensorFlow's byte for byte, without TensorFlow."""

import hashlib
import io
import subprocess
import sys

import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tfpipe.records import example, tfrecord

RECORDS = [b"", b"a", bytes(range(256)) * 300, b"\0" * 70_000, b"last"]

JPEG = b"\xff\xd8 not decoded here"
CAT = {
    "format": "jpeg",
    "height": 375,
    "width": 499,
    "label": 0,
    "text": "cät",
    "filename": "train/cat.0\udcff.jpg",  # a byte that is not UTF-8
    "sha256": hashlib.sha256(JPEG).hexdigest(),
}


def feature(value):
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def record_of(**features):
    features = {key.replace("__", "/"): feature(value) for key, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def offsets(records):
    return [sum(len(record) + 16 for record in records[:i]) for i in range(len(records))]


def write_all(records):
    return io.BytesIO(b"".join(map(tfrecord.frame, records)))


def test_frames_are_those_of_tensorflow(tmp_path):
    path = str(tmp_path / "x.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for record in RECORDS:
            writer.write(record)
    with open(path, "rb") as file:
        assert file.read() == write_all(RECORDS).getvalue()
        assert list(tfrecord.read(file)) == list(zip(offsets(RECORDS), RECORDS, strict=True))


@hypothesis.given(st.lists(st.binary(max_size=300)))
def test_records_come_back_in_any_order(records):
    file = write_all(records)
    assert list(tfrecord.read(file)) == list(zip(offsets(records), records, strict=True))
    listed = list(tfrecord.frames(file))
    assert listed == list(zip(offsets(records), map(len, records), strict=True))
    for (offset, _), record in reversed(list(zip(listed, records, strict=True))):
        assert tfrecord.read_at(file, offset) == record


@hypothesis.given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.data())
def test_every_flipped_bit_and_every_cut_is_placed(records, data):
    whole = write_all(records).getvalue()
    place = data.draw(st.integers(0, len(whole) - 1))
    hit = max(offset for offset in offsets(records) if offset <= place)
    flipped = bytearray(whole)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(tfrecord.FrameError, match=f"byte {hit} fails its checksum") as caught:
        list(tfrecord.read(io.BytesIO(flipped)))
    assert (caught.value.offset, caught.value.cut) == (hit, False)
    if place in offsets(records):  # a cut between two records raises no error
        before = records[: offsets(records).index(place)]
        assert [record for _, record in tfrecord.read(io.BytesIO(whole[:place]))] == before
        return
    for reader in (tfrecord.read, tfrecord.frames):
        with pytest.raises(tfrecord.FrameError, match=f"byte {hit} is cut") as caught:
            list(reader(io.BytesIO(whole[:place])))
        assert (caught.value.offset, caught.value.cut) == (hit, True)


@pytest.mark.parametrize("length", [10**15, 2**63, 2**64 - 1])
def test_a_declared_length_is_not_allocated(length):
    """The checksum of the length is right; only the size of the file shows the error."""
    packed = length.to_bytes(8, "little")
    crc = tfrecord.frame(packed)[-4:]  # the CRC of the packed length
    for read in (lambda file: list(tfrecord.read(file)), lambda file: tfrecord.read_at(file, 0)):
        with pytest.raises(tfrecord.FrameError, match="is cut"):
            read(io.BytesIO(packed + crc + b"few bytes"))


@pytest.mark.parametrize("offset", [1, 10**6])
def test_reading_where_no_frame_starts(offset):
    with pytest.raises(tfrecord.FrameError, match=f"byte {offset} "):
        tfrecord.read_at(write_all(RECORDS), offset)


@pytest.mark.parametrize("more", [{}, {"fold": 0}, {"copy": True}, {"fold": 4, "copy": True}])
def test_a_record_is_the_example_that_tensorflow_makes(more):
    record = example.serialize(JPEG, **CAT, **more)
    numbers = {f"image__{key}": int(value) for key, value in more.items()}
    expected = tf.train.Example.FromString(
        record_of(
            image__encoded=JPEG,
            image__format=b"jpeg",
            image__height=375,
            image__width=499,
            image__class__label=0,
            image__class__text="cät".encode(),
            image__filename=b"train/cat.0\xff.jpg",
            image__key__sha256=CAT["sha256"].encode(),
            **numbers,
        )
    )
    assert record == expected.SerializeToString(deterministic=True)
    keys = [record.index(key.encode()) for key in sorted(expected.features.feature)]
    assert keys == sorted(keys)
    assert example.deserialize(record)._asdict() == {
        "encoded": JPEG,
        **CAT,
        "fold": -1,
        "copy": False,
        **more,
    }
    parsed = {key: value.numpy() for key, value in example.parse(record).items()}
    assert parsed["image/encoded"] == JPEG
    assert parsed["image/filename"] == b"train/cat.0\xff.jpg"
    assert parsed["image/class/label"] == 0
    assert parsed["image/fold"] == more.get("fold", -1)
    assert parsed["image/copy"] == more.get("copy", False)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({}, ("", 0, 0, None, "", "", "", -1, False)),
        ({"label": 7}, ("", 0, 0, 7, "", "", "", -1, False)),
        ({"label": 7, "image__class__label": 3}, ("", 0, 0, 3, "", "", "", -1, False)),
        ({"label": b"seven", "image__height": b"9"}, ("", 0, 0, None, "", "", "", -1, False)),
    ],
)
def test_a_foreign_record_may_lack_all_but_the_image(features, expected):
    assert example.deserialize(record_of(image__encoded=b"x", **features)) == (b"x", *expected)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\xff\xff\xff garbage", "not a tf.train.Example"),
        (b"", "no image/encoded"),
        (record_of(image=b"x"), "no image/encoded"),
        (record_of(image__encoded=5), "no image/encoded"),
    ],
)
def test_what_holds_no_image_is_refused(record, message):
    with pytest.raises(ValueError, match=message):
        example.deserialize(record)


@hypothesis.given(st.data())
def test_a_damaged_example_is_read_or_refused(data):
    record = bytearray(example.serialize(JPEG, **CAT, fold=1, copy=True))
    for _ in range(data.draw(st.integers(1, 4))):
        record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    try:
        fields = example.deserialize(bytes(record[: data.draw(st.integers(0, len(record)))]))
    except ValueError:
        return
    for value, kind in zip(fields, example.ImageExample.__annotations__.values(), strict=True):
        assert isinstance(value, kind)


def test_records_are_made_without_tensorflow():
    code = (
        "import sys\n"
        "from tfpipe.records import example, tfrecord\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
