"""Decoding against Pillow, and the batches' promises: order, completeness, repeatability."""

import dataclasses
import hashlib
import io

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from conftest import draw
from PIL import Image

from tests.refusals import refused
from tfpipe import build_records, sources
from tfpipe.augment import Augment
from tfpipe.images import preprocess, preprocess_host
from tfpipe.input import cache, files, pipeline
from tfpipe.input.input_config import InputConfig
from tfpipe.records import example, tfrecord
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset


def encode(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def resized(picture, side):
    """The expected pixels, float64 [side, side, 3], by other libraries."""
    if max(picture.size) > 2 * side:  # averages
        return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR), np.float64)
    pixels = np.asarray(picture, np.float64)
    height, width, _ = pixels.shape
    centres = np.arange(side) + 0.5
    grid = np.meshgrid(centres * height / side - 0.5, centres * width / side - 0.5, indexing="ij")
    channels = [
        scipy.ndimage.map_coordinates(pixels[..., c], grid, order=1, mode="nearest")
        for c in range(3)
    ]
    return np.stack(channels, -1)


def opened(data, side):
    """The picture in a file, a JPEG at the smallest eighth, quarter or half that covers `side`."""
    picture = Image.open(io.BytesIO(data))
    factor = next((f for f in (8, 4, 2) if -(-min(picture.size) // f) >= side), 1)
    picture.draft("RGB", tuple(length // factor for length in picture.size))
    return picture.convert("RGB")


def stored(data, kind, height, width):
    """The fields of a record."""
    rest = {"label": 0, "text": "", "filename": "a", "sha256": "", "fold": -1, "copy": False}
    return example.ImageExample(data, format=kind, height=height, width=width, **rest)


def from_host(data, side):
    """Decode for training, from a record's fields."""
    picture = Image.open(io.BytesIO(data))
    kind = "jpeg" if picture.format == "JPEG" else "png"
    into = np.empty((side, side, 3), np.uint8)
    preprocess_host.square(stored(data, kind, picture.height, picture.width), side, into)
    return into


WAYS = {
    "eager": preprocess.decode_image,
    "graph": tf.function(preprocess.decode_image),
    "host": from_host,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("side", [20, 40, 110])
@pytest.mark.parametrize("way", WAYS)
def test_decodes_and_resizes_as_other_libraries_do(kind, side, way):
    if way == "host" and kind in ("GIF", "BMP"):
        pytest.skip("no record holds one")
    data = encode(draw("cat", 1, side=90), kind)
    found = np.asarray(WAYS[way](data, side))
    assert found.dtype == np.uint8
    reference = resized(opened(data, side), side)
    # Pillow rounds after each axis; its JPEG decoder has the slow transform and upsampling.
    difference = np.abs(found - reference)
    assert difference.max() <= (40 if kind == "JPEG" else 2)
    assert difference.mean() <= (2 if kind == "JPEG" else 0.6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(90, 70), (400, 300), (64, 64), (1000, 130), (5, 9), (641, 47)])
@pytest.mark.parametrize("quality", [60, 95])
def test_training_sees_what_is_served(kind, size, quality):
    """Within one level if both are bilinear; averages of more pixels differ more."""
    rng = np.random.default_rng(2)
    noise = scipy.ndimage.gaussian_filter(rng.uniform(0, 255, (size[1], size[0], 3)), (2, 2, 0))
    picture = Image.fromarray((noise * 2 - 128).clip(0, 255).astype(np.uint8))
    data = encode(picture, kind, quality=quality)
    for side in (32, 64, 100):
        served, trained = (np.asarray(WAYS[way](data, side), int) for way in ("graph", "host"))
        assert np.abs(served - trained).max() <= 1 + (max(opened(data, side).size) > 2 * side)


def test_the_device_gets_the_pixels_that_the_host_would_resize():
    data = encode(draw("dog", 2, side=200), "JPEG")
    height, width = np.asarray(opened(data, 64)).shape[:2]
    picture = Image.open(io.BytesIO(data))
    image = stored(data, "jpeg", picture.height, picture.width)
    into = np.full((int(2.25 * 64**2), 3), 9, np.uint8)
    assert preprocess_host.canvas(image, 64, into) == (height, width)
    pixels = preprocess.decode_pixels(data, 64).numpy()
    np.testing.assert_array_equal(into[: height * width].reshape(height, width, 3), pixels)
    assert (into[height * width :] == 9).all()


@pytest.mark.parametrize("size", [(900, 100), (3000, 1), (80, 80)])
def test_a_picture_of_too_many_pixels_is_made_smaller_for_the_device(size):
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    image = stored(encode(picture, "PNG"), "png", size[1], size[0])
    into = np.empty((48 * 48, 3), np.uint8)
    height, width = preprocess_host.canvas(image, 32, into)
    assert 0.5 * 48 * 48 < height * width <= 48 * 48
    reference = picture.resize((width, height), Image.Resampling.BOX)
    found = into[: height * width].reshape(height, width, 3)
    assert np.abs(found - np.asarray(reference, float)).mean() < 3


def test_a_window_is_cut_out_before_the_resize():
    picture = draw("cat", 3, side=100)
    data = encode(picture, "PNG")
    width, height = picture.size
    window = np.array([0.25, 0.5, 0.5, 0.4], np.float32)
    into = np.empty((40, 40, 3), np.uint8)
    preprocess_host.square(stored(data, "png", height, width), 40, into, window)
    left, top = round(0.5 * width), round(0.25 * height)
    box = (left, top, round(0.9 * width), round(0.75 * height))
    assert np.abs(into - resized(picture.crop(box), 40)).max() <= 1.01


def test_keeps_a_picture_of_the_right_size_and_makes_three_channels_of_grey():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)
    found = preprocess.decode_image(encode(Image.fromarray(pixels), "PNG"), 24)
    np.testing.assert_array_equal(found, np.stack([pixels] * 3, -1))
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocess.decode_image(b"GIF87 no, text", 8)


@pytest.fixture(scope="module")
def manifest(records):
    return manifests.load(records)


TWO_NUMBERS = Augment("translate(0.1)")


def batches(described, *, first_epoch=0, first_step=0, epochs=2, augment=TWO_NUMBERS, **changes):
    part = described if isinstance(described, Subset) else Subset(described, ("train",))
    config = InputConfig(**{"image_size": 16, "batch_size": 8, "shuffle_mb": 1, **changes})
    first = {"first_epoch": first_epoch, "first_step": first_step}
    found = pipeline.train_batches(part, config, augment=augment, epochs=epochs, **first)
    return [{key: value.numpy() for key, value in batch.items()} for batch in found]


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a[key], b[key])
        for a, b in zip(map(pictures_only, one), map(pictures_only, other), strict=True)
        for key in a
    )


def pictures_only(batch):
    """The batch with the unused part of its canvases set to 0."""
    if "size" not in batch:
        return batch
    pixels = np.arange(batch["image"].shape[1]) < batch["size"].prod(axis=1)[:, None]
    return batch | {"image": np.where(pixels[..., None], batch["image"], 0)}


@pytest.mark.parametrize("cached", ["none", "encoded", "decoded"])
@pytest.mark.parametrize("size", [7, 63, 64])
def test_an_epoch_has_each_record_and_no_batch_has_one_twice(manifest, cached, size):
    """With 63, one record is left for the last batch."""
    count = manifest.count("train")
    found = batches(manifest, epochs=1, cache=cached, batch_size=size)
    assert len(found) == -(-count // size)
    for batch in found:
        assert (batch["image"].shape, batch["image"].dtype) == ((size, 16, 16, 3), np.uint8)
        assert (batch["label"].shape, batch["random"].shape) == ((size,), (size, 2))
        assert ((batch["random"] >= 0) & (batch["random"] < 1)).all()
        assert (batch["sample_weight"] == 1).all()
        assert len(set(batch["example_id"].tolist())) == size
    numbers = np.concatenate([batch["example_id"] for batch in found])
    assert len(set(numbers.tolist())) == count
    rest = batches(manifest, epochs=1, cache=cached, batch_size=size, first_step=len(found) - 1)
    assert same(found[-1:], rest), "also where the epoch resumes at its last step"


@pytest.mark.parametrize("count", [8, 1, 3])
def test_a_padded_batch_weighs_its_own_rows(count):
    values = np.random.default_rng(0).normal(size=count)
    rows, weight = pipeline.pad_batch(values, 8)
    assert rows.shape == weight.shape == (8,)
    assert (rows * weight).sum() / weight.sum() == pytest.approx(values.mean())


@pytest.mark.parametrize("cached", ["none", "encoded", "decoded"])
@pytest.mark.parametrize("resize_on", ["host", "device"])
def test_the_seed_decides_everything(manifest, cached, resize_on):
    options = {"cache": cached, "resize_on": resize_on}
    once = batches(manifest, **options)
    assert same(once, batches(manifest, threads=1, **options))
    assert not same(once, batches(manifest, seed=1, **options))


def by_random(found):
    """The pictures of all batches by their random numbers, which identify epoch and example."""
    return {
        (d.tobytes(), int(label)): image.tobytes()
        for batch in found
        for image, label, d in zip(batch["image"], batch["label"], batch["random"], strict=True)
    }


@pytest.mark.parametrize(
    "options", [{"cache": "encoded"}, {"cache": "decoded"}, {"deterministic": False}, {"ram_mb": 1}]
)
def test_samples_look_the_same_however_they_are_read(manifest, options):
    plain, other = (by_random(batches(manifest, **more)) for more in ({}, options))
    assert plain == other
    assert len(plain) == 2 * manifest.count("train")


def test_the_device_resizes_to_the_same_pictures(manifest):
    options = {"epochs": 1, "image_size": 48}
    host, device = (batches(manifest, resize_on=where, **options) for where in ("host", "device"))
    compared = 0
    for one, other in zip(host, device, strict=True):
        labels = tf.one_hot(other["label"], 2)
        sizes = other["size"]
        room = other["image"].shape[1]
        assert (sizes.prod(axis=1) <= room).all()
        images, _ = Augment("")(other["image"], labels, other["random"], side=48, sizes=sizes)
        np.testing.assert_array_equal(one["label"], other["label"])
        # Only pictures that fit into the canvas, and so are resized once; the host rounds.
        whole = sizes.prod(axis=1) < 0.9 * room
        assert np.abs(images.numpy()[whole] - one["image"][whole]).max(initial=0) <= 1
        compared += whole.sum()
    assert compared > 10


def test_a_cache_that_does_not_fit_is_refused(manifest, monkeypatch):
    monkeypatch.setattr(cache, "free_memory", lambda: 50_000)
    with refused(r"cache=decoded.* needs .* GB for .* give .cache=none"):
        batches(manifest, cache="decoded", image_size=299)
    stored = sum(shard.bytes for shard in manifest.shards_of("train"))
    monkeypatch.setattr(cache, "free_memory", lambda: 2 * stored)
    with refused(r"give .cache=encoded"):
        batches(manifest, cache="decoded", image_size=299)
    assert batches(manifest, cache="encoded", epochs=1)
    monkeypatch.undo()
    assert 2**20 < cache.free_memory() < 2**50


def test_a_record_that_cannot_be_decoded_is_named(manifest, tmp_path):
    shard = manifest.shards_of("train")[0]
    path = tmp_path / shard.name
    with open(manifest.folder / shard.name, "rb") as file:
        records = [record for _, record in tfrecord.read(file)]
    fields = example.deserialize(records[3])
    values = fields._asdict() | {"encoded": b"\xff\xd8 no picture"}
    records[3] = example.serialize(**values)
    path.write_bytes(b"".join(map(tfrecord.frame, records)))
    broken = dataclasses.replace(manifest, shards=(dataclasses.replace(shard, name=str(path)),))
    with refused(rf"image of {fields.filename} cannot be decoded \(.*JPEG"):
        batches(broken, batch_size=1, epochs=1)


@pytest.mark.parametrize("cached", ["none", "encoded", "decoded"])
@pytest.mark.parametrize("step", [1, 8])
def test_an_epoch_can_be_begun_at_any_step(manifest, cached, step):
    """And the epoch after it is whole, with another order and other numbers."""
    whole = batches(manifest, epochs=3, cache=cached)
    rest = batches(manifest, first_epoch=1, first_step=step, epochs=3, cache=cached)
    assert same(whole[8 + step :], rest)
    ids = [
        [int(i) for batch in epoch for i in batch["example_id"]]
        for epoch in (whole[:8], whole[8:16])
    ]
    assert set(ids[0]) == set(ids[1])
    assert ids[0] != ids[1]
    assert not by_random(whole[:8]).keys() & by_random(whole[8:16]).keys()


def test_what_a_step_leaves_out_is_not_decoded(manifest, monkeypatch):
    decoded, decode = [], InputConfig.decode

    def count(config, images, windows):
        decoded.extend(images)
        return decode(config, images, windows)

    monkeypatch.setattr(InputConfig, "decode", count)
    batches(manifest, first_step=6, epochs=1)
    assert len(decoded) == 2 * 8


@pytest.mark.parametrize(
    "cached", ["none", pytest.param("encoded", marks=pytest.mark.slow), "decoded"]
)
@pytest.mark.parametrize(
    ("resize_on", "workers"), [("host", 2), pytest.param("device", 4, marks=pytest.mark.slow)]
)
def test_workers_share_the_batches_of_one(manifest, cached, resize_on, workers):
    options = {"cache": cached, "resize_on": resize_on, "first_step": 2}
    whole = batches(manifest, **options)
    # Workers share one order, also with deterministic=False.
    shares = [
        batches(manifest, worker=worker, workers=workers, deterministic=worker == 0, **options)
        for worker in range(workers)
    ]
    joined = [
        {key: np.concatenate([batch[key] for batch in step]) for key in step[0]}
        for step in zip(*shares, strict=True)
    ]
    assert same(whole, joined)
    assert {len(batch["image"]) for batch in shares[0]} == {8 // workers}


def test_workers_need_equal_shares():
    with refused(r"batch_size=10.* 4 workers.*batch_size=12"):
        InputConfig(16, 10, workers=4)
    with refused(r"data_service=grpc://h:1.* 2 workers"):
        InputConfig(16, 10, workers=2, service="grpc://h:1")


def test_numbers_tell_the_records(manifest):
    """The first 15 hex digits of the stored file's SHA-256."""
    digests = {}
    for path in Subset(manifest, ("train",)).paths:
        with open(path, "rb") as file:
            for _, record in tfrecord.read(file):
                fields = example.deserialize(record)
                number = int(hashlib.sha256(fields.encoded).hexdigest()[:15], 16)
                digests[number] = fields.filename.encode(), fields.label
    for batch in batches(manifest, epochs=1):
        for number, label in zip(batch["example_id"].tolist(), batch["label"], strict=True):
            assert digests.pop(number)[1] == label
    assert not digests


def test_eval_batches_drop_nothing_and_mask_the_filling(manifest):
    dataset = pipeline.eval_batches(Subset(manifest, ("all",)), image_size=16, batch_size=7)
    found = list(dataset.as_numpy_iterator())
    assert {batch["image"].shape for batch in found} == {(7, 16, 16, 3)}
    rows = {key: np.concatenate([batch[key] for batch in found]) for key in found[0]}
    real = rows["sample_weight"] > 0
    assert real.sum() == len(set(rows["name"][real])) == manifest.count()
    for key in ("image", "example_id", "label"):
        assert not rows[key][~real].any()
    assert set(rows["name"][~real]) == {b""}
    ids = {
        record.filename.encode(): record.sha256[:15]
        for record in Subset(manifest, ("all",)).records()
    }
    for name, number in zip(rows["name"][real], rows["example_id"][real], strict=True):
        assert ids[name] == f"{number:015x}"


@pytest.mark.parametrize("size", [0, -1, 10_000])
def test_an_impossible_batch_size_is_explained(manifest, size):
    with refused(f"batch_size={size}.*give 1 to"):
        pipeline.steps_per_epoch(Subset(manifest, ("train",)), size)


def test_files_give_the_same_pictures_as_records(manifest, image_folder):
    source = sources.open_source(str(image_folder))
    decode = files.decoder(16)
    found = dict(
        files.read_files(
            source, source.names(), lambda name, encoded: (name.encode(), decode(encoded)), ahead=8
        )
    )
    assert len(found) == manifest.count()
    for batch in pipeline.eval_batches(Subset(manifest, ("all",)), image_size=16, batch_size=8):
        columns = (batch[key].numpy() for key in ("name", "image", "sample_weight"))
        for name, image, weight in zip(*columns, strict=True):
            if weight:
                np.testing.assert_array_equal(found.pop(name), image, err_msg=str(name))
    assert not found


def test_a_file_that_cannot_be_read_is_in_its_place(tmp_path):
    draw("cat", 0).save(tmp_path / "1.jpg")
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "2.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "3.jpg").write_bytes(whole)
    source = sources.open_source(str(tmp_path))
    found = files.read_files(source, source.names(), lambda name, encoded: encoded, ahead=1)
    first, second, third = found
    assert (first, third) == (whole, whole)
    assert isinstance(second, sources.Rejected)
    assert second.reason == "damaged"


@pytest.fixture(scope="module")
def balanced(tmp_path_factory):
    """Records of 12 cats and 4 dogs, with added copies of dogs."""
    folder = tmp_path_factory.mktemp("unbalanced")
    for kind, count in (("cat", 12), ("dog", 4)):
        for number in range(count):
            draw(kind, number).save(folder / f"{kind}.{number}.jpg")
    out = folder.with_name("balanced")
    build_records.main(
        build_records.Options(
            source=(str(folder),), out=str(out), rebalance="copies", report=False, workers=1
        )
    )
    return manifests.load(out)


def names(described, split, copies):
    part = Subset(described, (split,))
    found = pipeline.eval_batches(part, image_size=8, batch_size=5, copies=copies)
    return [name for b in found.as_numpy_iterator() for name in b["name"][b["sample_weight"] > 0]]


def test_training_sees_copies_and_evaluation_never_does(balanced):
    """Nor is a transformed copy of a validation image in the training split."""
    records = balanced.splits["train"]
    assert records["cat"] == records["dog"]
    assert balanced.copies == {"train": {"cat": 0, "dog": records["dog"] - 3}}
    assert (balanced.accepted, balanced.images()) == (16, 16)
    images, every = (names(balanced, "train", copies) for copies in (False, True))
    assert len(every) == balanced.count("train")
    assert len(images) == len(set(images)) == balanced.images("train")
    assert set(images) == set(every)
    held_out = {name.split(b"#")[0] for name in names(balanced, "val", copies=True)}
    assert held_out
    assert not held_out & {name.split(b"#")[0] for name in every}
