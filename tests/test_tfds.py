"""TensorFlow Datasets reads a records folder as if it were its own."""

import collections
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tfpipe import build_records, verify_records
from tfpipe.records import manifest as manifests
from tfpipe.records import tfds as files

README = pathlib.Path(__file__).parents[1] / "records" / "README.md"
FILES = {"dataset_info.json", "features.json", "image.class.label.labels.txt"}

tfds = pytest.importorskip(
    "tensorflow_datasets",
    reason="tensorflow-datasets is not installed; with Python 3.10 it needs an older protobuf",
)


def pixels(kind, number):
    """Noise of a size of its own; the seventh of a class is grey."""
    rng = np.random.default_rng([number, *kind.encode()])
    shape = (16 + number, 24) if number == 7 else (16 + number, 24, 3)
    return rng.integers(0, 256, shape).astype(np.uint8)


CLASSES = ("Crème brûlée", "dog", "猫")  # names beyond ASCII, and blanks


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    for kind in CLASSES:
        (folder / kind).mkdir()
        for number in range(10 if kind == "dog" else 20):
            PIL.Image.fromarray(pixels(kind, number)).save(folder / kind / f"{number}.png")
    return folder


def build(source, out, **changes):
    options = {"source": (str(source),), "out": str(out), "workers": 1, "report": False}
    build_records.main(build_records.Options(**options | changes))
    return manifests.load(out)


@pytest.fixture(scope="module")
def records(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "records"
    return build(source, out, shards=3, splits="train:0.6,val:0.2,test:0.2")


def test_images_and_class_names(records):
    builder = tfds.builder_from_directory(records.folder)
    names = builder.info.features[files.LABEL].names
    assert tuple(names) == records.classes == CLASSES
    found = 0
    for split in records.splits:
        assert builder.info.splits[split].num_examples == records.count(split)
        counts = collections.Counter()
        pairs = builder.as_dataset(split=split, as_supervised=True)
        examples = builder.as_dataset(split=split)
        for (image, label), each in zip(tfds.as_numpy(pairs), tfds.as_numpy(examples), strict=True):
            kind, name = each["image/filename"].decode().split("/")
            expected = pixels(kind, int(name.removesuffix(".png")))
            if expected.ndim == 2:
                expected = np.stack([expected] * 3, -1)
            np.testing.assert_array_equal(image, expected)
            assert names[label] == kind == each["image/class/text"].decode()
            assert (each["image/height"], each["image/width"]) == expected.shape[:2]
            counts[kind] += 1
            found += 1
        assert counts == records.splits[split]
    assert found == 50


def test_parts_of_splits(records):
    builder = tfds.builder_from_directory(records.folder)
    data = builder.as_dataset(split="train[:50%]+val", as_supervised=True)
    assert isinstance(data, tf.data.Dataset)
    assert len(data) == len(list(data)) == round(records.count("train") / 2) + records.count("val")
    half, rest = ("train[:50%]", "train[50%:]")
    seen = [
        {each["image/filename"] for each in tfds.as_numpy(builder.as_dataset(split=split))}
        for split in (half, rest)
    ]
    assert not seen[0] & seen[1]
    assert sum(map(len, seen)) == records.count("train")


def test_folds_and_copies(source, tmp_path):
    manifest = build(source, tmp_path / "out", folds=3, rebalance="copies")
    builder = tfds.builder_from_directory(manifest.folder)
    train = list(tfds.as_numpy(builder.as_dataset(split="train")))
    assert len(train) == manifest.count("train") > manifest.images("train")
    both = [*train, *tfds.as_numpy(builder.as_dataset(split="val"))]
    assert {each["image/fold"] for each in both} == {0, 1, 2}


def test_a_split_without_folds(source, tmp_path):
    for kind in CLASSES:
        (tmp_path / "in" / "test").mkdir(parents=True, exist_ok=True)
        shutil.copytree(source / kind, tmp_path / "in" / "train" / kind)
        (tmp_path / "in" / "test" / kind).mkdir()
        PIL.Image.fromarray(pixels(kind, 30)).save(tmp_path / "in" / "test" / kind / "30.png")
    manifest = build(tmp_path / "in", tmp_path / "out", folds=2)
    builder = tfds.builder_from_directory(manifest.folder)
    assert {*manifest.splits} == {"train", "val", "test"}
    assert len(list(builder.as_dataset(split="test"))) == 3
    assert len(list(builder.as_dataset(split="train+val+test"))) == 53


def test_resized_images(source, tmp_path):
    manifest = build(source, tmp_path / "out", store="resized:12x8")
    data = tfds.builder_from_directory(manifest.folder).as_dataset(split="val")
    assert {each["image/encoded"].shape for each in tfds.as_numpy(data)} == {(8, 12, 3)}


def test_the_manifest_lists_the_files(records, source, tmp_path):
    assert set(records.files) >= FILES
    assert all((records.folder / name).is_file() for name in FILES)
    verify_records.main(verify_records.Options(records=str(records.folder)))
    raw = build(source, tmp_path / "raw", store="raw:16")
    assert not FILES & {path.name for path in raw.folder.iterdir()}


def test_the_readmes_code(records):
    section = README.read_text(encoding="utf-8").split("## Reading it with TensorFlow Datasets")[1]
    code = section.split("```python\n")[1].split("```")[0]
    names = {}
    exec(code.replace("records/dogs-vs-cats", str(records.folder)), names)  # noqa: S102 (our own)
    image, label = next(iter(names["data"]))
    assert image.dtype == "uint8"
    assert names["names"][label] in CLASSES
