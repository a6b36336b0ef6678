"""Descriptions of what images look like, against ImageHash and Pillow."""

import io

import numpy as np
import pytest
from conftest import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from tfpipe.images import perceptual_hash

imagehash = pytest.importorskip("imagehash")


def photographs(shared, count=40):
    """Yields the first real images, as PIL images."""
    import zipfile

    with zipfile.ZipFile(shared / "data/dogs-vs-cats/train.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        for name in names[:count]:
            yield Image.open(io.BytesIO(archive.read(name))).convert("RGB")


def look(image):
    return perceptual_hash.hash_images([perceptual_hash.thumbnail(np.asarray(image))])[0]


def distance(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def noise(seed):
    """Returns grey noise of 32 x 32 squares of 2 x 2 pixels: as rich a picture as there is."""
    values = np.random.default_rng(seed).integers(0, 256, (32, 32), np.uint8)
    return Image.fromarray(values.repeat(2, axis=0).repeat(2, axis=1)).convert("RGB")


def reference(image):
    return str(imagehash.phash(image, hash_size=16, highfreq_factor=2))


@pytest.mark.parametrize("seed", range(10))
def test_hash_is_that_of_imagehash(seed):
    # ImageHash gets 32 x 32 pixels, so that neither side resamples. They differ only where a
    # frequency is so weak that it counts as none, of which noise has hardly any.
    image = noise(seed)
    found, expected = look(image).hash, reference(image.resize((32, 32), Image.BOX))
    assert len(found) == 64
    assert found == found.lower()
    assert distance(found, expected) <= 6
    assert int(found, 16) & ~int(expected, 16) == 0


def test_hash_of_real_images_is_near_that_of_imagehash(shared):
    distances = [distance(look(i).hash, reference(i)) for i in photographs(shared)]
    # Point samples are not Lanczos resampling; unrelated images differ in 128 bits.
    assert np.median(distances) <= 20
    assert max(distances) <= 64


def test_copies_of_real_images_are_near_and_others_are_not(shared):
    images = list(photographs(shared))
    originals = [look(image).hash for image in images]
    for image, original in zip(images, originals, strict=True):
        encoded = io.BytesIO()
        image.save(encoded, "JPEG", quality=50)
        for copy in (
            Image.open(encoded),
            image.resize((200, 200), Image.LANCZOS),
            ImageEnhance.Brightness(image).enhance(0.9),
            image.convert("L").convert("RGB"),
        ):
            assert distance(look(copy).hash, original) <= 40
    others = [distance(a, b) for i, a in enumerate(originals) for b in originals[:i]]
    assert min(others) > 60


@pytest.mark.parametrize("seed", range(5))
def test_color_is_the_mean(seed):
    pixels = np.asarray(draw("cat", seed))
    samples = perceptual_hash.thumbnail(pixels)
    assert look(pixels).color == pytest.approx(samples.mean(axis=(0, 1)), abs=0.0501)
    # The noise of these pictures has the standard deviation 25.
    assert look(pixels).color == pytest.approx(pixels.mean(axis=(0, 1)), abs=5)


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (1, 128, 77)])
def test_flat_images_have_a_color_and_hardly_a_hash(color):
    found = look(np.full((375, 500, 3), color, np.uint8))
    assert found.color == color
    assert int(found.hash, 16).bit_count() <= 1  # the mean grey value


def test_a_gradient_has_few_ones_and_noise_below_a_grey_level_none():
    gradient = np.linspace(0, 255, 400)[:, None, None] * np.ones((400, 300, 3))
    assert int(look(gradient.astype(np.uint8)).hash, 16).bit_count() < 40
    noise = np.random.default_rng(0).integers(127, 129, (400, 300, 3), np.uint8)
    assert int(look(noise).hash, 16).bit_count() <= 1


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_thumbnail_samples_the_middles_of_equal_cells(height, width):
    numbers = np.arange(height * width).reshape(height, width)
    pixels = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=-1).astype(np.uint8)
    found = perceptual_hash.thumbnail(pixels).astype(int) @ (65536, 256, 1)
    rows = [int((i + 0.5) * height / 64) for i in range(64)]
    columns = [int((i + 0.5) * width / 64) for i in range(64)]
    assert np.array_equal(found, numbers[np.ix_(rows, columns)])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9000), (9000, 1), (2, 3), (9000, 9000)])
def test_every_size_has_a_look(shape):
    pixels = np.broadcast_to(np.array([10, 20, 30], np.uint8), (*shape, 3))
    assert perceptual_hash.thumbnail(pixels).shape == (64, 64, 3)
    assert look(pixels).color == (10.0, 20.0, 30.0)


@settings(max_examples=20, deadline=None)
@given(chunk=st.integers(1, 25), kind=st.sampled_from(["noise", "flat", "drawn"]))
def test_a_look_does_not_depend_on_its_chunk(chunk, kind):
    rng = np.random.default_rng(0)
    make = {
        "noise": lambda i: rng.integers(0, 256, (64, 64, 3), np.uint8),
        "flat": lambda i: np.full((64, 64, 3), 10 * i, np.uint8),
        "drawn": lambda i: perceptual_hash.thumbnail(np.asarray(draw("dog", i))),
    }[kind]
    thumbnails = [make(i) for i in range(25)]
    together = perceptual_hash.hash_images(thumbnails)
    apart = [
        found
        for start in range(0, 25, chunk)
        for found in perceptual_hash.hash_images(thumbnails[start : start + chunk])
    ]
    assert apart == together


def test_sums_are_exact():
    # Integer arithmetic, whose order cannot matter, gives the same waves.
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    grey = (pixels.astype(object) @ np.array([299, 587, 114], object)).reshape(32, 2, 32, 2)
    dct = perceptual_hash._DCT.astype(int).astype(object)
    waves = dct @ grey.sum(axis=(1, 3)) @ dct.T
    waves = np.rint((waves / perceptual_hash._STEP).astype(float)).ravel()
    bits = "".join("01"[int(wave > np.median(waves))] for wave in waves)
    assert look(pixels).hash == f"{int(bits, 2):064x}"


def test_no_images():
    assert perceptual_hash.hash_images([]) == []
