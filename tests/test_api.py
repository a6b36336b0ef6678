"""The Python API, in one process: datasets, splits, predictions, keywords."""

import collections
import dataclasses
import inspect
import io
import itertools

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tf_keras

import tfpipe
from tfpipe import build_records, evaluate, export
from tfpipe.api.dataset import DatasetOptions
from tfpipe.core import keywords
from tfpipe.core.errors import UserError, as_keywords
from tfpipe.core.options import option
from tfpipe.input import pipeline
from tfpipe.records import example, split_spec, tfrecord
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset
from tfpipe.training.train_config import TrainConfig

SMALL = {"image_size": 24, "batch_size": 10}


@pytest.fixture(scope="module")
def data(records):
    return tfpipe.load_records(records)


def stored(data, split):
    """The records of a split in the order of its shards, without `Subset`."""
    manifest = manifests.load(data.path)
    found = []
    for shard in manifest.shards:
        if shard.split == split:
            with open(manifest.folder / shard.name, "rb") as file:
                found += [example.deserialize(record) for _, record in tfrecord.read(file)]
    return found


def labels_of(dataset):
    return [batch[1].numpy().tolist() for batch in dataset]


def test_records_are_described(data):
    assert data.class_names == ("cat", "dog")
    for split in ("train", "val"):
        found = collections.Counter(record.text for record in stored(data, split))
        assert data.splits[split].class_counts == found
        assert data.splits[split].num_examples == found.total()
    assert str(data.splits["train"].num_examples) in repr(data)
    assert "cat" in data._repr_html_()


def test_batches_are_the_images_of_the_split_in_order(data):
    dataset = data.as_dataset("val", **SMALL)
    records = stored(data, "val")
    assert isinstance(dataset, tf.data.Dataset)
    assert dataset.cardinality() == 2
    batches = list(dataset.as_numpy_iterator())
    assert [len(images) for images, _ in batches] == [10, len(records) - 10]
    labels = np.concatenate([labels for _, labels in batches])
    assert labels.tolist() == [record.label for record in records]
    # TensorFlow's own decoder gives the same pixels.
    part = Subset(manifests.load(data.path), ("val",))
    expected = pipeline.eval_batches(part, image_size=24, batch_size=len(records))
    images = np.concatenate([images for images, _ in batches])
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, next(iter(expected))["image"], atol=1)


@pytest.mark.parametrize("cached", ["none", "encoded", "decoded"])
def test_each_epoch_has_another_order_and_the_same_by_seed(data, cached):
    def epochs(seed):
        dataset = data.as_dataset("train", shuffle=True, seed=seed, cache=cached, **SMALL)
        return [labels_of(dataset) for _ in range(2)]

    first = epochs(0)
    assert first[0] != first[1]
    assert epochs(0) == first
    assert epochs(1) != first
    for epoch in first:
        assert sorted(itertools.chain(*epoch)) == sorted(r.label for r in stored(data, "train"))


@pytest.mark.parametrize(
    ("split", "taken"),
    [
        ("train[:10%]", [("train", 0, 6)]),
        ("train[90%:]", [("train", 58, 64)]),
        ("train[12.5%:50%]", [("train", 8, 32)]),
        ("train[60:]", [("train", 60, 64)]),
        ("train[-4:]", [("train", 60, 64)]),
        ("train[:-60]", [("train", 0, 4)]),
        ("train[3:7]+val", [("train", 3, 7), ("val", 0, 16)]),
        ("train + val[:25%]", [("train", 0, 64), ("val", 0, 4)]),
        ("train[:5]+train[20:25]", [("train", 0, 5), ("train", 20, 25)]),
        ("train[:1000]", [("train", 0, 64)]),
        ("val+train", [("val", 0, 16), ("train", 0, 64)]),
        ("all", [("train", 0, 64), ("val", 0, 16)]),
    ],
)
def test_slices_are_those_of_the_stored_records(data, split, taken):
    expected = [record for name, start, stop in taken for record in stored(data, name)[start:stop]]
    part = split_spec.parse(split, manifests.load(data.path))
    assert [r.filename for r in part.records()] == [r.filename for r in expected]
    assert part.count == part.images == len(expected)
    assert part.class_counts["dog"] == sum(record.text == "dog" for record in expected)
    dataset = data.as_dataset(split, image_size=8, batch_size=64)
    assert list(itertools.chain(*labels_of(dataset))) == [record.label for record in expected]


def test_shuffled_slices_have_the_same_records(data):
    dataset = data.as_dataset("train[:20]+val", shuffle=True, **SMALL)
    expected = [*stored(data, "train")[:20], *stored(data, "val")]
    assert sorted(itertools.chain(*labels_of(dataset))) == sorted(r.label for r in expected)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("test", "test.*train, val"),
        ("", "split"),
        ("train[10%]", "train\\[:10%\\]"),
        ("train[:10%", "split"),
        ("train[:x]", "'x'"),
        ("train[:101%]", "100%"),
        ("train[5:5]", "no record"),
        ("train[64:]", "no record"),
        ("train+train", "twice"),
        ("all+val", "twice"),
        ("all[:10]", "no slices"),
        ("train[:10]+train[5:20]", "twice"),
        ("train++val", "split"),
    ],
)
def test_wrong_splits_are_named(data, split, words):
    with pytest.raises(tfpipe.UserError, match=words) as raised:
        data.as_dataset(split)
    assert "\n" not in str(raised.value)


def test_weights_labels_and_types(data):
    weighted = data.as_dataset("train[:20]", class_weights="cat=3,dog=0.5", dtype="uint8", **SMALL)
    for images, labels, weights in weighted:
        assert images.dtype == tf.uint8
        np.testing.assert_array_equal(weights, np.where(labels == 0, 3, 0.5))
    (mixed,) = data.as_dataset(
        "val", image_size=16, augment="mixup(1)", one_hot=True, class_weights="cat=2,dog=4"
    )
    images, labels, weights = mixed
    np.testing.assert_allclose(tf.reduce_sum(labels, 1), 1, atol=1e-6)
    np.testing.assert_allclose(weights, labels.numpy() @ [2, 4], atol=1e-5)
    counts = data.splits["train"].class_counts
    expected = {i: 64 / 2 / counts[name] for i, name in enumerate(data.class_names)}
    assert data.class_weights("train") == pytest.approx(expected)


def test_a_remainder_is_dropped_if_asked(data):
    dataset = data.as_dataset("val", drop_remainder=True, augment="flip_lr", **SMALL)
    assert dataset.element_spec[0].shape == [10, 24, 24, 3]
    assert [len(labels) for labels in labels_of(dataset)] == [10]
    assert len(list(data.as_dataset("val[:3]", **SMALL))) == 1


@pytest.mark.parametrize("size", [None, 100])
def test_augmented_images_are_those_of_the_training(data, size):
    """Without an augmentation that draws, the chain changes each image in a known way."""
    plain = data.as_dataset("val", image_size=24, batch_size=size or 5)
    flipped = data.as_dataset(
        "val", image_size=24, batch_size=size or 5, augment="maybe(1,flip_lr)"
    )
    for (before, _), (after, _) in zip(plain, flipped, strict=True):
        either = np.minimum(
            np.abs(after - before).max((1, 2, 3)), np.abs(after - before[:, :, ::-1]).max((1, 2, 3))
        )
        assert either.max() < 0.01


def test_a_model_of_ones_own_is_fitted(data):
    train = data.as_dataset("train", shuffle=True, augment="flip_lr", **SMALL)
    model = tf_keras.Sequential(
        [tf_keras.layers.Rescaling(1 / 255), tf_keras.layers.Flatten(), tf_keras.layers.Dense(2)]
    )
    model.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(
        train.map(lambda images, labels: (images * 1.0, labels)),
        validation_data=data.as_dataset("val", **SMALL).take(1),
        epochs=2,
        verbose=0,
    )
    assert np.isfinite(history.history["val_loss"]).all()
    assert len(history.history["loss"]) == 2


def test_an_augmentation_takes_batches(data):
    augment = tfpipe.Augment("flip_lr|rotate(15)|brightness(0.2)")
    images, labels = next(iter(data.as_dataset("val", **SMALL)))

    @tf.function(jit_compile=True)
    def step(images, labels, seed):
        return augment(images, labels, seed=seed)

    one, same, other = (step(images, labels, tf.constant([n, 5])) for n in (1, 1, 2))
    np.testing.assert_array_equal(one[0], same[0])
    assert np.abs(one[0] - other[0]).max() > 1
    np.testing.assert_array_equal(one[1], labels)
    drawn = [augment(images, seed=[1, 5]), augment(images, labels, seed=[1, 5])[0]]
    np.testing.assert_array_equal(*drawn)
    assert np.abs(augment(images) - augment(images)).max() > 1  # drawn anew
    dataset = data.as_dataset("val", **SMALL)
    assert [len(y) for _, y in dataset.map(augment)] == [10, 6]
    assert [x.dtype for x in dataset.map(lambda x, y: augment(x))] == [tf.float32] * 2


@pytest.mark.parametrize(
    ("spec", "inputs", "words"),
    [
        ("mixup(0.2)", ([2, 8, 8, 3],), "labels"),
        ("mixup(0.2)", ([2, 8, 8, 3], [2]), "one_hot"),
        ("flip_lr", ([2, 8, 8, 3], [2], [2]), "weights"),
        ("flip_lr", ([2, 8, 9, 3],), "square"),
        ("flip_lr", ([8, 8, 3],), "square"),
    ],
)
def test_wrong_batches_are_refused(spec, inputs, words):
    with pytest.raises(tfpipe.UserError, match=words):
        tfpipe.Augment(spec)(*(tf.zeros(shape) for shape in inputs))


def test_an_image_is_predicted_in_every_form(run_dir, image_folder):
    run = tfpipe.load_run(run_dir)
    path = image_folder / "dog.3.jpg"
    picture = PIL.Image.open(path).convert("RGB")
    file = io.BytesIO()
    picture.save(file, "PNG")
    upright = PIL.Image.open(path)
    turned = upright.transpose(PIL.Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # to be turned by 90 degrees clockwise
    forms = [
        file.getvalue(),
        np.asarray(picture),
        tf.constant(np.asarray(picture)),
        picture,
        np.dstack([np.asarray(picture), np.full(picture.size[::-1], 255, np.uint8)]),
        turned,
    ]
    rows = run.predict(forms)
    for row in rows:
        assert row.probabilities == pytest.approx(rows[0].probabilities, abs=1e-6)
    by_path, by_bytes = run.predict([str(path), path.read_bytes()])
    assert by_path.name == str(path)
    assert by_path.probabilities == by_bytes.probabilities
    assert by_path.probability == max(by_path.probabilities.values())
    assert by_path.probabilities[by_path.label] == by_path.probability
    assert run.predict(path) == [by_path]
    many = run.predict([path] * 33)
    assert [row.label for row in many] == [by_path.label] * 33


def test_predictions_are_those_of_the_evaluation(run_dir, records, image_folder):
    """Of the images' files and of the records of them, to the probabilities."""
    run = tfpipe.load_run(run_dir)
    from tfpipe.runs import predictions_file

    found = predictions_file.read(run_dir / "predictions.csv")
    rows = run.predict([image_folder / name for name in found["name"]])
    assert list(run.class_names) == list(rows[0].probabilities)
    for row, expected in zip(rows, found["probabilities"], strict=True):
        np.testing.assert_allclose([*row.probabilities.values()], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros([4, 4, 3]), "0..255"),
        (np.zeros([4, 4, 2], np.uint8), "shape"),
        (np.zeros([4], np.uint8), "uint8"),
        (np.zeros([0, 4, 3], np.uint8), "shape"),
        (b"no image", "not an image|image 0"),
        ("nowhere.jpg", "nowhere.jpg"),
        (".", "folder"),
        (None, "NoneType"),
        (PIL.Image.new("F", (4, 4)), "mode F"),
    ],
)
def test_what_is_no_image_is_named_or_kept(run_dir, image, words):
    run = tfpipe.load_run(run_dir)
    with pytest.raises(tfpipe.UserError, match=words) as raised:
        run.predict([image])
    assert "\n" not in str(raised.value)
    good = np.zeros([4, 4, 3], np.uint8)
    first, second = run.predict([image, good], on_error="keep")
    assert first.label is None
    assert first.error
    assert not first.probabilities
    assert second.label in run.class_names


def test_an_evaluation_has_tables_and_intervals(run_dir, records):
    run = tfpipe.load_run(run_dir)
    found = run.evaluate(split="val", rounds=100)
    assert 0 <= found["accuracy"] <= 1
    low, high = found.interval("accuracy")
    assert low <= found["accuracy"] <= high
    assert f"{found['accuracy']:.4f}" in repr(found)
    page = found._repr_html_()
    assert page.count("<table") == page.count("</table>") == len(found.tables)
    assert "&lt;" in run.evaluate(split="val")._repr_html_() or "<script" not in page
    again = run.evaluate(tfpipe.load_records(records), split="train", rounds=100)
    assert again.metrics["n"] == 64
    assert set(run.history) >= {"loss", "val_loss", "epoch"}
    assert len(run.history["loss"]) == len(run.history["epoch"])
    assert "val_loss" in run._repr_html_()


@dataclasses.dataclass(frozen=True)
class Options:
    text: str = option("text", "a")
    choice: str = option("choice", "x", ("x", "y"))
    whole: int = option("whole", 1, minimum=0)
    number: float = option("number", 0.5, maximum=1)
    yes: bool = option("yes", False)
    many: tuple[str, ...] = option("many", ())
    maybe: float | None = option("maybe", None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"text": 224}, 224),
        ({"whole": np.int64(3)}, 3),
        ({"number": 1}, 1.0),
        ({"number": np.float32(0.5)}, 0.5),
        ({"yes": True}, True),
        ({"many": "one"}, ("one",)),
        ({"many": ["one", "two"]}, ("one", "two")),
        ({"maybe": None}, None),
        ({"maybe": 2}, 2.0),
    ],
)
def test_keywords_are_converted(given, expected):
    (name,) = given
    found = getattr(keywords.options(Options, "f", given), name)
    assert found == (str(expected) if name == "text" else expected)
    assert type(found) is (str if name == "text" else type(expected))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"txt": 1}, "f has no keyword `txt`: did you mean `text`"),
        ({"zzz": 1}, "`zzz`.*text, choice"),
        ({"text": None}, "`text=None`: give text"),
        ({"text": True}, "`text=True`"),
        ({"choice": "z"}, "`choice=z`: give one of x, y"),
        ({"whole": 1.5}, "`whole=1.5`: give a whole number"),
        ({"whole": True}, "`whole=True`"),
        ({"whole": -1}, "`whole=-1`: give at least 0"),
        ({"number": "x"}, "`number=x`: give a number"),
        ({"number": float("nan")}, "`number=nan`: give at most 1"),
        ({"yes": 1}, "`yes=1`: give True or False"),
        ({"many": 3}, "`many=3`"),
        ({"many": [3.5, None]}, "`many=None`"),
    ],
)
def test_wrong_keywords_are_named(given, words):
    with pytest.raises(UserError, match=words):
        keywords.options(Options, "f", given)


@pytest.mark.parametrize(
    "cls", [build_records.Options, TrainConfig, evaluate.Options, export.Options]
)
def test_every_default_is_a_value(cls):
    fields = [f for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING]
    required = {f.name: "x" for f in dataclasses.fields(cls) if f not in fields}
    for field in fields:
        found = keywords.options(cls, "f", {**required, field.name: field.default})
        assert getattr(found, field.name) == field.default


def test_functions_show_their_keywords(data):
    flags = {f.name: f.default for f in dataclasses.fields(TrainConfig)}
    shown = inspect.signature(tfpipe.fit).parameters
    assert shown["epochs"].default == flags["epochs"]
    assert "data" in shown
    assert "records" not in shown
    assert set(flags) - set(shown) == {"records", "describe", "data_service"}
    assert "label_smoothing: share of each label" in tfpipe.fit.__doc__
    assert "--splits" not in tfpipe.build.__doc__
    own = {f.name: f.default for f in dataclasses.fields(DatasetOptions)}
    asked = inspect.signature(tfpipe.Records.as_dataset).parameters
    assert {name: asked[name].default for name in own} == own
    assert set(asked) - set(own) == {"self", "split"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("--image_size=0: give 1", "`image_size=0`: give 1"),
        ("give --tta or (--clip=0,1)", "give `tta` or (`clip=0`,1)"),
        ("run python -m tfpipe.train --epochs=3 --amp", "run tfpipe.fit(epochs=3, amp=True)"),
        ("with `python -m tfpipe.build_records --folds=N`", "with `tfpipe.build(folds=N)`"),
        ("what tfpipe.build_records wrote: tfpipe.train", "what tfpipe.build wrote: tfpipe.fit"),
        ("tfpipe.training --x=1", "tfpipe.training `x=1`"),
        ("run `python -m tfpipe.verify_records --records=r`", None),
        ("`epochs=-1` and a--b", None),
    ],
)
def test_messages_name_keywords(message, expected):
    assert as_keywords(message) == (expected or message)


@pytest.mark.parametrize(
    "call",
    [
        lambda data, run: tfpipe.build("pictures", "out", spilts="train:1"),
        lambda data, run: tfpipe.load_records("nowhere"),
        lambda data, run: tfpipe.load_records(path="nowhere"),
        lambda data, run: tfpipe.load_records(data.path, folder=1),
        lambda data, run: data.as_dataset(image_sise=3),
        lambda data, run: data.as_dataset(augment="flip"),
        lambda data, run: data.as_dataset(augment="mixup(0.2)"),
        lambda data, run: data.as_dataset(class_weights="bird=2"),
        lambda data, run: data.as_dataset("val", batch_size=64, drop_remainder=True),
        lambda data, run: tfpipe.fit(data, "run", epohs=3),
        lambda data, run: tfpipe.fit(data, "run", data_service="grpc://h:1"),
        lambda data, run: tfpipe.fit("nowhere", "run", weights="none"),
        lambda data, run: tfpipe.load_run("nowhere"),
        lambda data, run: run.evaluate(rounds=1),
        lambda data, run: run.evaluate(split="test"),
        lambda data, run: run.export("out", version="x"),
        lambda data, run: run.predict([], tta=None),
        lambda data, run: run.predict("x.jpg", on_error="ignore"),
        lambda data, run: run.predict(3),
        lambda data, run: tfpipe.build("pictures", "out", progress="yes"),
        lambda data, run: tfpipe.Augment("nothing"),
    ],
)
def test_mistakes_are_one_exception_without_flags(data, run_dir, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(tfpipe.UserError) as raised:
        call(data, tfpipe.load_run(run_dir))
    assert "--" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_nothing_is_printed_unless_asked(image_folder, tmp_path, capfd, caplog):
    given = {"report": False, "workers": 1, "splits": "train:0.5,val:0.5"}
    with caplog.at_level("INFO", logger="tfpipe"):
        tfpipe.build(str(image_folder), tmp_path / "out", **given)
    assert capfd.readouterr() == ("", "")
    assert any("labels" in record.message for record in caplog.records)
    tfpipe.build(str(image_folder), tmp_path / "shown", progress=True, **given)
    assert "labels" in capfd.readouterr().err
