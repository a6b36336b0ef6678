"""Decoding against Pillow, and the batches' promises: order, completeness, repeatability."""

import io

import numpy as np
import pytest
import tensorflow as tf
from conftest import draw
from PIL import Image

from tfpipe import build_records
from tfpipe.errors import UserError
from tfpipe.ingest import manifest as manifests
from tfpipe.ingest import sources
from tfpipe.input import pipeline, preprocess


def encode(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("in_graph", [False, True], ids=["eager", "graph"])
def test_decodes_and_shrinks_as_pillow_does(kind, in_graph):
    picture = draw("cat", 1, side=90)
    data = encode(picture, kind)
    decode = tf.function(preprocess.decode_image) if in_graph else preprocess.decode_image
    found = decode(data, 40).numpy()
    assert found.dtype == np.uint8
    reference = Image.open(io.BytesIO(data)).convert("RGB")
    # Pillow's bilinear filter averages over the pixels that fall together, as antialias does.
    reference = np.asarray(reference.resize((40, 40), Image.Resampling.BILINEAR))
    # Pillow rounds after each axis; a lossy file may be decoded one level apart.
    assert np.abs(found.astype(int) - reference).max() <= (6 if kind == "JPEG" else 2)


def test_keeps_a_picture_of_the_right_size_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    data = encode(Image.fromarray(pixels), "PNG")
    np.testing.assert_array_equal(preprocess.decode_image(data, 24), pixels)


def test_makes_three_channels_of_grey():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)
    found = preprocess.decode_image(encode(Image.fromarray(pixels), "PNG"), 24)
    np.testing.assert_array_equal(found, np.stack([pixels] * 3, -1))


def test_a_batch_is_its_images():
    files = [encode(draw("dog", n), "JPEG") for n in range(3)]
    batch = preprocess.decode_batch(tf.constant(files), 32)
    for data, image in zip(files, batch, strict=True):
        np.testing.assert_array_equal(image, preprocess.decode_image(data, 32))


def test_what_is_no_image_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocess.decode_image(b"GIF87 no, text", 8)


@pytest.fixture(scope="module")
def manifest(records):
    return manifests.load(records)


def batches(manifest, *, first_epoch=0, epochs=2, seed=0, split="train", **changes):
    options = {"image_size": 16, "batch_size": 8, "draws": 2, "shuffle_mb": 1, **changes}
    dataset = pipeline.train_batches(
        manifest, split, seed=seed, first_epoch=first_epoch, epochs=epochs, **options
    )
    return list(dataset.as_numpy_iterator())


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a
    )


def test_train_batches_are_full_and_typed(manifest):
    found = batches(manifest)
    steps = pipeline.steps_per_epoch(manifest, "train", 8)
    assert len(found) == 2 * steps
    for batch in found:
        assert batch["image"].shape == (8, 16, 16, 3)
        assert batch["image"].dtype == np.uint8
        assert batch["label"].shape == (8,)
        assert batch["draws"].shape == (8, 2)
        assert ((batch["draws"] >= 0) & (batch["draws"] < 1)).all()
        assert (batch["weight"] == 1).all()


def test_an_epoch_has_each_record_at_most_once(manifest):
    count = manifest.count("train")
    found = batches(manifest, epochs=1, batch_size=count)
    assert len(found) == 1
    assert len({image.tobytes() for image in found[0]["image"]}) == count
    assert len({draws.tobytes() for draws in found[0]["draws"]}) == count


def test_the_seed_decides_everything(manifest):
    assert same(batches(manifest), batches(manifest))
    assert not same(batches(manifest), batches(manifest, seed=1))


def test_every_epoch_has_another_order_and_other_numbers(manifest):
    found = batches(manifest, batch_size=manifest.count("train"))
    first, second = found
    assert not np.array_equal(first["image"], second["image"])
    order = [{image.tobytes(): i for i, image in enumerate(b["image"])} for b in found]
    shared = sorted(set(order[0]) & set(order[1]))
    assert len(shared) == manifest.count("train")
    numbers = [b["draws"][[o[key] for key in shared]] for b, o in zip(found, order, strict=True)]
    assert not np.isclose(numbers[0], numbers[1]).all(axis=1).any()


def test_a_later_epoch_can_be_begun_with(manifest):
    steps = pipeline.steps_per_epoch(manifest, "train", 8)
    assert same(
        batches(manifest, epochs=3)[2 * steps :], batches(manifest, first_epoch=2, epochs=3)
    )


def test_eval_batches_drop_nothing_and_mask_the_filling(manifest):
    dataset = pipeline.eval_batches(manifest, "all", image_size=16, batch_size=7)
    found = list(dataset.as_numpy_iterator())
    assert {batch["image"].shape for batch in found} == {(7, 16, 16, 3)}
    assert sum(batch["weight"].sum() for batch in found) == manifest.count()
    names = [n for b in found for n, w in zip(b["name"], b["weight"], strict=True) if w]
    assert len(set(names)) == manifest.count()
    assert (found[-1]["image"][found[-1]["weight"] == 0] == 0).all()


@pytest.mark.parametrize("size", [0, -1, 10_000])
def test_an_impossible_batch_size_is_explained(manifest, size):
    with pytest.raises(UserError, match=f"--batch_size={size}.*give 1 to"):
        pipeline.steps_per_epoch(manifest, "train", size)


def test_files_give_the_same_pictures_as_records(manifest, image_folder):
    source = sources.open_source(str(image_folder))
    rejects = []
    files = pipeline.file_batches(
        source, source.names(), image_size=16, batch_size=8, rejects=rejects
    )
    by_name = {}
    for dataset in (files, pipeline.eval_batches(manifest, "all", image_size=16, batch_size=8)):
        for batch in dataset.as_numpy_iterator():
            for name, image, weight in zip(
                batch["name"], batch["image"], batch["weight"], strict=True
            ):
                if weight:
                    by_name.setdefault(name, []).append(image)
    assert not rejects
    assert len(by_name) == manifest.count()
    for name, (file, record) in by_name.items():
        np.testing.assert_array_equal(file, record, err_msg=str(name))


def test_a_file_that_cannot_be_read_is_listed(tmp_path):
    draw("cat", 0).save(tmp_path / "1.jpg")
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "2.jpg").write_bytes(whole[: len(whole) // 2])
    source = sources.open_source(str(tmp_path))
    rejects = []
    dataset = pipeline.file_batches(
        source, source.names(), image_size=16, batch_size=2, rejects=rejects
    )
    (batch,) = dataset.as_numpy_iterator()
    assert [name for name, _, _ in rejects] == ["2.jpg"]
    assert not batch["image"][1].any()


@pytest.fixture(scope="module")
def balanced(tmp_path_factory):
    """Records of 12 cats and 4 dogs, to which copies of dogs were added."""
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


def test_training_sees_copies_and_evaluation_never_does(balanced):
    records = balanced.splits["train"]
    assert records["cat"] == records["dog"]
    assert balanced.copies == {"train": {"cat": 0, "dog": records["dog"] - 3}}
    assert (balanced.accepted, balanced.images()) == (16, 16)
    seen = {}
    for copies in (False, True):
        batches = pipeline.eval_batches(
            balanced, "train", image_size=8, batch_size=5, copies=copies
        )
        weights = np.concatenate([batch["weight"] for batch in batches])
        names = np.concatenate([batch["name"] for batch in batches])[weights > 0]
        seen[copies] = sorted(names.tolist())
    assert len(seen[True]) == balanced.count("train")
    assert len(seen[False]) == len(set(seen[False])) == balanced.images("train")
    assert set(seen[True]) == set(seen[False])
