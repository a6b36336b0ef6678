"""Geometry against scipy and tf.image.resize, in one interpolation, from canvases of any sizes."""

import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import tensorflow as tf
from test_augment import COUNT, SIDE, apply, one_hot, pictures, uniform

from tfpipe.augment import Augment, Kind

# Rounding errors of the warp, in levels of red, green and blue.
ROUNDED = np.array([1 / 16, 1 / 16, 1 / 8])


def assert_sampled(found, expected, atol=0.01):
    """Check images [..., 3] up to the warp's rounding and `atol` levels."""
    np.testing.assert_array_less(np.abs(found - expected) - ROUNDED - atol, 0)


def on_canvases(count=5, most=60, seed=0):
    """Return uint8 [count, P, 3], int32 sizes [count, 2], and the pictures of these sizes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, most + 1, (count, 2)).astype(np.int32)
    sizes[0] = most
    canvases = np.zeros((count, most * most, 3), np.uint8)
    images = []
    for canvas, (height, width) in zip(canvases, sizes, strict=True):
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        canvas[: height * width] = image.reshape(-1, 3)
        images.append(image)
    return canvases, sizes, images


def scipy_warp(image, matrix, side, fraction=1.0, u=(0, 0)):
    """Sample in float64: `matrix` about the centre, then a resize with half-pixel centres.

    Beyond the window of a crop, its edge is used.
    """
    height, width = image.shape[:2]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    source = matrix[:2, :2] @ np.stack([x.ravel(), y.ravel()]) + matrix[:2, 2:]
    rows = (source[1] + side / 2) * height / side - 0.5
    columns = (source[0] + side / 2) * width / side - 0.5
    top, left = (1 - fraction) * u[1] * height, (1 - fraction) * u[0] * width
    rows = rows.clip(top, max(top, top + fraction * height - 1))
    columns = columns.clip(left, max(left, left + fraction * width - 1))
    channels = [
        scipy.ndimage.map_coordinates(
            channel.astype(np.float64), [rows, columns], order=1, mode="nearest"
        )
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack(channels, -1).reshape(side, side, 3)


def matrices(text, u):
    """Return the matrices of a chain, composed in float64."""
    result, first = np.eye(3), 0
    for part in text.split("|"):
        chain = Augment(part)
        step = chain._steps[Kind.GEOMETRY][0]
        own = step.operation.function(
            tf.constant(u[:, first : first + chain.num_random]), SIDE, *step.call.args
        )
        result, first = result @ own.numpy().astype(np.float64), first + chain.num_random
    return result


CHAIN = "crop(0.8)|rotate(40)|shear(20)|zoom_xy(0.8,1.2)|translate(0.1)|flip_lr|flip_ud"


@hypothesis.given(st.integers(0, 2**32), st.integers(1, 80))
@hypothesis.settings(max_examples=25, deadline=None)
def test_a_chain_and_the_resize_are_one_interpolation(seed, most):
    canvases, sizes, images = on_canvases(most=most, seed=seed)
    u = uniform(Augment(CHAIN).num_random, len(images), seed)
    found = apply(CHAIN, u, canvases, side=SIDE, sizes=sizes)
    for image, matrix, result, own in zip(images, matrices(CHAIN, u), found, u, strict=True):
        expected = scipy_warp(image, matrix, SIDE, 0.8, own[:2])
        assert_sampled(result, expected, 0.05)


@hypothesis.given(st.integers(0, 2**32), st.integers(1, 90), st.integers(1, 40))
@hypothesis.settings(max_examples=25, deadline=None)
def test_an_empty_chain_resizes_as_tensorflow_does(seed, most, side):
    canvases, sizes, images = on_canvases(most=most, seed=seed)
    found = apply("", None, canvases, side=side, sizes=sizes)
    for image, result in zip(images, found, strict=True):
        expected = tf.image.resize(image, [side, side], "bilinear", antialias=False)
        assert_sampled(result, expected)


def test_resizes_photographs_of_the_usual_sizes_under_xla():
    canvases, sizes, images = on_canvases(count=2, most=700)
    chain = tf.function(Augment(""), jit_compile=True)
    found, _ = chain(canvases, one_hot(2), np.zeros([2, 0], "f"), side=299, sizes=sizes)
    for image, result in zip(images, found, strict=True):
        expected = tf.image.resize(image, [299, 299], "bilinear", antialias=False)
        assert_sampled(result, expected, 0.0101)


@pytest.mark.parametrize(
    "text", ["", CHAIN, "maybe(0.5,rotate(20)|blur)|randaugment(2,9)|contrast(0.2)"]
)
def test_compiles_to_one_sample_of_four_pixels(text):
    chain = Augment(text)
    inputs = pictures().reshape(COUNT, -1, 3), one_hot(), uniform(chain.num_random)
    sizes = np.full([COUNT, 2], SIDE, np.int32)
    compiled = tf.function(lambda *a: chain(*a, side=9, sizes=sizes)[0], jit_compile=True)
    program = compiled.experimental_get_compiler_ir(*map(tf.constant, inputs))("optimized_hlo")
    # Packed pixels are uint32. A gather that is fused twice would be written twice.
    assert len(re.findall(r"= u32\[\S+ gather\(", program)) == 4


def test_nothing_of_the_canvas_is_seen():
    canvases, sizes, _ = on_canvases()
    filled = canvases.copy()
    for canvas, (height, width) in zip(filled, sizes, strict=True):
        canvas[height * width :] = 255
    u = uniform(Augment(CHAIN).num_random, len(canvases))
    np.testing.assert_array_equal(
        apply(CHAIN, u, canvases, side=SIDE, sizes=sizes),
        apply(CHAIN, u, filled, side=SIDE, sizes=sizes),
    )


@pytest.mark.parametrize("text", ["crop(0.6)", "crop(0.75)|rotate(30)|zoom(0.9,1.1)|flip_lr"])
def test_a_crop_on_the_host_is_the_crop_on_the_device(text):
    """The windows are whole pixels here, so that the host can cut them without interpolation."""
    images = pictures(5, 40)
    here, there = Augment(text), Augment(text, crop_on_host=True)
    assert (here.crops_on_host, there.crops_on_host) == (False, True)
    u = uniform(here.num_random, 5)
    fraction = float(text[5 : text.index(")")])
    room = round(40 * (1 - fraction))
    u[:, :2] = np.random.default_rng(1).integers(0, room + 1, (5, 2)) / room
    windows = np.round(40 * there.window(u).numpy()).astype(int)
    cropped = np.stack(
        [
            image[top : top + height, left : left + width]
            for image, (top, left, height, width) in zip(images, windows, strict=True)
        ]
    )
    assert cropped.shape[1:3] == (40 * fraction, 40 * fraction)
    one, _ = here(images, one_hot(5), u, side=30)
    other, _ = there(cropped, one_hot(5), u, side=30)
    assert_sampled(one, other, ROUNDED + 0.02)  # both are rounded off


def test_only_a_crop_at_the_beginning_is_done_on_the_host():
    for text in ("flip_lr|crop(0.8)", "maybe(0.5,crop(0.8))", ""):
        chain = Augment(text, crop_on_host=True)
        assert not chain.crops_on_host
        np.testing.assert_array_equal(chain.window(np.zeros(chain.num_random, "f")), [0, 0, 1, 1])
    chain = Augment("crop(0.8)", crop_on_host=True)
    window = chain.window(np.array([0.5, 1.0], "f"))  # x, then y
    np.testing.assert_allclose(window, [0.2, 0.1, 0.8, 0.8], atol=1e-6)


# Each operation against another library or slicing.
def test_flips_mirror():
    images, u = pictures().astype(np.float32), np.zeros([COUNT, 1])
    np.testing.assert_array_equal(apply("flip_lr", u), images[:, :, ::-1])
    np.testing.assert_array_equal(apply("flip_ud", u), images[:, ::-1])
    np.testing.assert_array_equal(apply("flip_lr(0.3)", u + 0.31), images)


@pytest.mark.parametrize("u", [0.0, 0.25, 0.9])
def test_rotates_by_degrees(u):
    found = apply("rotate(40)", np.full([COUNT, 1], u))
    reference = scipy.ndimage.rotate(
        pictures().astype(np.float64),
        40 * (2 * u - 1),
        axes=(1, 2),
        reshape=False,
        order=1,
        mode="nearest",
    )
    assert_sampled(found, reference, 0.05)


def test_translates_by_a_fraction_of_the_side():
    u = [[1.0, 0.0]] * COUNT  # by +4/17 of the side in x and -4/17 in y
    found = apply(f"translate({4 / SIDE})", u)
    assert_sampled(found[:, 4:, :-4], pictures()[:, :-4, 4:])


def test_zooms_by_a_factor_for_both_axes_or_each():
    # At twice the size every other pixel of the inner half is a pixel of the original.
    assert_sampled(apply("zoom(2,2)")[:, ::2, ::2], pictures()[:, 4:13, 4:13])
    found = apply("zoom_xy(0.5,1)", [[0.0, 1.0]] * COUNT)  # x by 0.5, y by 1
    assert_sampled(found[:, :, ::2], pictures()[:, :, 4:13])


def test_crops_a_window_in_half_pixel_geometry():
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3)).astype(np.uint8)
    for u, (left, top) in {(0.0, 0.0): (0, 0), (1.0, 0.0): (8, 0), (0.25, 0.75): (2, 6)}.items():
        found = apply("crop(0.5)", [u] * COUNT, images)
        window = images[:, top : top + 8, left : left + 8]
        expected = tf.image.resize(window, [16, 16], "bilinear")
        assert_sampled(found, expected)


def test_a_resized_crop_has_uniform_area_and_stays_within_the_picture():
    """The picture is a ramp in each direction, so the result tells its own window."""
    side, low, high, count = 64, 0.3, 1.0, 300
    ramp = 4 * np.arange(side, dtype=np.uint8)
    x, y = np.broadcast_arrays(ramp, ramp[:, np.newaxis])
    images = np.tile(np.stack([x, y, x], -1), (count, 1, 1, 1))
    u = uniform(4, count)
    found = apply(f"resized_crop({low},{high})", u, images) / 4
    a, b = 24, 40  # columns and rows far from the edges, where the result is linear
    width = (found[:, a, b, 0] - found[:, a, a, 0]) / (b - a)
    height = (found[:, b, a, 1] - found[:, a, a, 1]) / (b - a)
    assert scipy.stats.kstest(width * height, "uniform", (low, high - low)).pvalue > 0.01
    assert (width / height).min() > 3 / 4 - 0.02
    assert (width / height).max() < 4 / 3 + 0.02
    for size, start in ((width, found[:, a, a, 0]), (height, found[:, a, a, 1])):
        edge = start + 0.5 - size * (a + 0.5)  # of the window, in pixels
        room = side * (1 - size)
        assert edge.min() > -0.1
        assert (edge - room).max() < 0.1
        roomy = room > 8
        position = edge[roomy] / room[roomy]
        assert scipy.stats.kstest(position, "uniform").pvalue > 0.01


def test_shears_by_degrees():
    found = apply("shear(45)", np.ones([COUNT, 1]))
    # Columns lean by one pixel a row, about the centre.
    assert_sampled(found[:, 8], pictures()[:, 8])
    assert_sampled(found[:, 10, :-2], pictures()[:, 10, 2:])


def test_pictures_of_one_row_or_column_are_resized():
    """Their canvas is full, so a gather beyond the last picture would fail."""
    canvas = np.random.default_rng(0).integers(0, 256, (3, 5, 3)).astype(np.uint8)
    sizes = np.array([[1, 5], [5, 1], [1, 5]])
    found = apply("", np.zeros([3, 0]), canvas, side=8, sizes=sizes)
    for result, pixels, size in zip(found, canvas, sizes, strict=True):
        expected = tf.image.resize(pixels.reshape(*size, 3), [8, 8])
        np.testing.assert_allclose(result, expected, atol=0.126)
