"""Data sets of other programs as sources: TFRecords, WebDataset tars and Parquet files."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from tfpipe import sources
from tfpipe.core.errors import UserError
from tfpipe.sources import hub, list_columns, record_keys

NAMES = ("cat", "dog", "cow")


def image(number, kind="JPEG"):
    """Returns the bytes of a small picture of its own."""
    pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_records(path, rows, compression=""):
    """Writes TFRecords by TensorFlow itself; values are bytes, integers or lists of them."""
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for row in rows:
            made = tf.train.Example()
            for key, value in row.items():
                values = value if isinstance(value, list) else [value]
                feature = made.features.feature[key]
                if isinstance(values[0], bytes):
                    feature.bytes_list.value.extend(values)
                else:
                    feature.int64_list.value.extend(values)
            writer.write(made.SerializeToString())
    return path.parent


def labels(source):
    return [source.annotations()[name].label for name in source.names()]


def splits(source):
    return [source.annotations()[name].split for name in source.names()]


LAYOUTS = {
    "tensorflow datasets": (
        lambda n: {"image": image(n), "label": n % 3},
        "pets-train.tfrecord-00000-of-00001",
    ),
    "slim": (
        lambda n: {"image/encoded": image(n), "image/class/label": n % 3},
        "pets_train_00000-of-00001.tfrecord",
    ),
    "object detection": (
        lambda n: {
            "image/encoded": image(n),
            "image/object/class/text": [NAMES[n % 3].encode()] * 2,
        },
        "train.record",
    ),
    "kaggle": (
        lambda n: {"image": image(n), "class": n % 3, "id": b"%05d" % n},
        "00-512x512-798.tfrec",
    ),
    "text": (
        lambda n: {"image_raw": image(n, "PNG"), "label": NAMES[n % 3].encode()},
        "a.tfrecords",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_keys_of_other_programs_are_known(tmp_path, layout):
    row, shard = LAYOUTS[layout]
    folder = write_records(tmp_path / "x" / "1.0.0" / shard, map(row, range(6)))
    (folder / "labels.txt").write_text("cat\ndog\ncow\n")
    source = sources.open_source(str(tmp_path / "x"))
    assert type(source) is sources.TFRecords
    assert labels(source) == [NAMES[n % 3] for n in range(6)]
    kind = "PNG" if layout == "text" else "JPEG"
    assert [source.read(name) for name in source.names()] == [image(n, kind) for n in range(6)]
    assert set(splits(source)) == {"train" if "train" in shard else ""}


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_compressed_records_are_read(tmp_path, compression):
    rows = ({"image/encoded": image(n), "label": n} for n in range(4))
    source = sources.open_source(
        str(write_records(tmp_path / "x" / "a.tfrecord", rows, compression))
    )
    assert labels(source) == ["0", "1", "2", "3"]
    assert [source.read(name) for name in source.names()] == [image(n) for n in range(4)]


def test_a_cut_compressed_file_is_an_error(tmp_path):
    rows = ({"image/encoded": image(n)} for n in range(4))
    path = write_records(tmp_path / "x" / "a.tfrecord.gz", rows, "GZIP") / "a.tfrecord.gz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="damaged TFRecord file"):
        sources.open_source(str(path))


LABEL_MAP = "".join(f"item {{\n id: {n}\n name: '{name}'\n}}\n" for n, name in enumerate(NAMES))


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("label.labels.txt", "cat\ndog\ncow\n", list(NAMES)),
        ("labels.txt", "0:cat\n1:dog\n2:cow\n", list(NAMES)),
        ("classes.txt", "cat\r\ndog\r\ncow", list(NAMES)),
        ("map.pbtxt", LABEL_MAP, list(NAMES)),
        ("labels.txt", "cat\ndog\n", ["0", "1", "2"]),  # too short: told, and not used
        ("readme.txt", "cat\ndog\ncow\n", ["0", "1", "2"]),
    ],
)
def test_names_of_classes_beside_the_records(tmp_path, file, text, expected):
    rows = ({"image/encoded": image(n), "label": n} for n in range(3))
    folder = write_records(tmp_path / "x" / "a.tfrecord", rows)
    (folder / file).write_bytes(text.encode())
    source = sources.open_source(str(folder))
    assert labels(source) == expected
    said = "".join([*source.notes(list_columns.FOUND), *source.warnings()])
    assert (file in said) == (file != "readme.txt")


def test_two_lists_of_names_that_differ_are_an_error(tmp_path):
    folder = write_records(tmp_path / "x" / "a.tfrecord", [{"image/encoded": image(0), "label": 0}])
    (folder / "labels.txt").write_text("cat\n")
    (folder / "classes.txt").write_text("dog\n")
    with pytest.raises(UserError, match="different names"):
        sources.open_source(str(folder)).annotations()


def test_a_record_of_two_things_is_listed(tmp_path):
    rows = [
        {"image": image(n), "image/object/class/text": [b"cat", b"dog"][: n + 1]} for n in (0, 1)
    ]
    source = sources.open_source(str(write_records(tmp_path / "x" / "a.record", rows)))
    assert labels(source) == ["cat"]
    ((_, reason, detail),) = source.skipped
    assert reason == "several labels"
    assert "'cat' and 'dog'" in detail


def test_unknown_keys_are_named_and_can_be_given(tmp_path):
    rows = [{"picture": image(n), "more": image(9), "kind": NAMES[n].encode()} for n in range(3)]
    folder = write_records(tmp_path / "x" / "a.tfrecord", rows)
    with pytest.raises(UserError, match=r"'kind' \(bytes of 3\).*'picture'.*record_keys="):
        sources.open_source(str(folder))
    keys = sources.Options(record_keys="image:picture, label:kind")
    source = sources.open_source(str(folder), keys)
    assert labels(source) == list(NAMES)
    assert [source.read(name) for name in source.names()] == [image(n) for n in range(3)]


@pytest.mark.parametrize("text", ["picture", "image:", "image:a,image:b", "pixels:a"])
def test_a_wrong_form_of_record_keys_is_an_error(text):
    with pytest.raises(UserError, match="record_keys="):
        record_keys.parse(text)


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("ending", "content", "expected"),
    [
        (".cls", lambda n: b"%d\n" % (n % 3), ["0", "1", "2"]),
        (".txt", lambda n: NAMES[n % 3].encode(), list(NAMES)),
        (
            ".json",
            lambda n: b'{"label": %d, "class_name": "%s"}' % (n % 3, NAMES[n % 3].encode()),
            list(NAMES),
        ),
        (".json", lambda n: b'{"width": 32}', None),
        (".txt", lambda n: b"a picture of number %d" % n, None),  # captions are no labels
    ],
)
def test_labels_beside_the_images_of_a_webdataset_shard(tmp_path, ending, content, expected):
    members = {}
    for n in range(6):
        members[f"a/{n:07}.left.jpg"] = image(n)
        members[f"a/{n:07}{ending}"] = content(n)
    source = sources.open_source(str(write_tar(tmp_path / "pets-val-000000.tar", members)))
    if expected is None:
        assert source.annotations() == {}
        assert len(source.names()) == 12  # the other files are listed as no images
    else:
        assert source.names() == [f"a/{n:07}.left.jpg" for n in range(6)]
        assert labels(source) == expected * 2
        assert set(splits(source)) == {"val"}


def write_parquet(path, numbers, *, names=NAMES, column="image", label="label"):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    files = [{"bytes": image(n), "path": f"{n}.jpg"} for n in numbers]
    kinds = [n % 3 for n in numbers]
    table = pa.table({column: files, label: kinds, "id": [f"p{n}" for n in numbers]})
    if names:
        feature = {"names": list(names), "_type": "ClassLabel"}
        said = json.dumps({"info": {"features": {label: feature, column: {"_type": "Image"}}}})
        table = table.replace_schema_metadata({"huggingface": said})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)


def test_parquet_files_of_the_datasets_library(tmp_path):
    write_parquet(tmp_path / "x" / "data" / "train-00000-of-00001.parquet", range(10))
    write_parquet(tmp_path / "x" / "data" / "test-00000-of-00001.parquet", [*range(2), 11])
    (tmp_path / "x" / "README.md").write_text("---\nlicense: mit\n---\n")
    source = sources.open_source(str(tmp_path / "x"))
    assert type(source) is sources.Parquet
    assert len(source.names()) == 13  # 0.jpg and 1.jpg are in both files
    by_split = sorted(zip(splits(source), labels(source), source.names(), strict=True))
    assert [row[:2] for row in by_split if row[0] == "test"] == [
        ("test", "cat"), ("test", "cow"), ("test", "dog")
    ]  # fmt: skip
    assert sorted(map(source.read, source.names())) == sorted(
        image(n) for n in [*range(10), *range(2), 11]
    )


def test_columns_of_parquet_files_can_be_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", range(3), names=(), column="scan", label="finding")
    source = sources.open_source(str(tmp_path / "a.parquet"))
    assert source.read("0.jpg") == image(0)  # predictions need no labels
    with pytest.raises(UserError, match=r"label among scan, finding, id.*record_keys="):
        source.annotations()
    source = sources.open_source(
        str(tmp_path / "a.parquet"), sources.Options(record_keys="label:finding")
    )
    assert labels(source) == ["0", "1", "2"]


def test_a_damaged_parquet_file_is_an_error(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match="damaged Parquet file"):
        sources.open_source(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("path", ["tfds:pets", "hf:ann/pets"])
def test_a_public_data_set_needs_its_library_or_a_network(path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=rf"{path} (needs|cannot be fetched)"):
        hub.fetch(path)
