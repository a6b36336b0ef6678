"""Colours, blur, cutout and noise against formulas, colorsys, scipy and the distributions."""

import colorsys

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import tensorflow as tf
from test_augment import COUNT, EXAMPLES, SIDE, apply, pictures

from tfpipe.augment import Kind, operations
from tfpipe.augment.noise import normal

U = np.array([[0.0], [0.25], [0.5], [0.75], [0.999], [0.1]], np.float32)


def by_formula(k):
    """Return the result of each operation in float64; k [N, 1, 1, 1] in [-1, 1)."""
    images = pictures().astype(np.float64)
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    luma = (images @ [0.299, 0.587, 0.114])[..., None]
    return {
        "brightness(0.2)": images + 51 * k,
        "contrast(0.5)": mean + (images - mean) * (1 + 0.5 * k),
        "saturation(0.5)": luma + (images - luma) * (1 + 0.5 * k),
        "gamma(0.5,1.5)": 255 * (images / 255) ** (1 + 0.5 * k),
        "hue(0.3)": turned(images, 0.3 * k.ravel()),
        "blur(1.5)": blurred(images, 1.5 * (k.ravel() + 1) / 2),
    }


def turned(images, turns):
    def turn(pixel, by):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        return 255 * np.array(colorsys.hsv_to_rgb((hue + by) % 1, saturation, value))

    return np.stack(
        [np.apply_along_axis(turn, 2, image, by) for image, by in zip(images, turns, strict=True)]
    )


def blurred(images, sigmas):
    return np.stack(
        [
            scipy.ndimage.gaussian_filter(
                image, (max(s, 1e-6),) * 2 + (0,), mode="nearest", radius=(4, 4, 0)
            )
            for image, s in zip(images, sigmas, strict=True)
        ]
    )


@pytest.mark.parametrize("text", by_formula(np.zeros([COUNT, 1, 1, 1])))
def test_follows_its_formula(text):
    reference = by_formula(2.0 * U[:, :, None, None] - 1)[text]
    np.testing.assert_allclose(apply(text, U), reference.clip(0, 255), atol=0.05)


def test_every_colour_has_a_formula():
    names = {text.split("(")[0] for text in by_formula(np.zeros([COUNT, 1, 1, 1]))}
    assert names == {name for name in EXAMPLES if operations[name].kind == Kind.COLOR}


def test_hue_and_gamma_clip_first():
    u = np.array([[1.0, 0.25]] * COUNT, np.float32)
    for text in ("gamma(2,3)", "hue(0.5)"):
        assert (apply(f"brightness(1)|{text}", u) == 255).all()
        assert np.isfinite(apply(f"contrast(1)|brightness(1)|{text}", [[1, 0, 0.25]] * COUNT)).all()


def test_cutout_greys_a_square_about_its_centre():
    u = np.array([[0.5, 0.5], [0.0, 0.0], [0.999, 0.5], [0.31, 0.8], [0.68, 0.1], [0, 1]])
    found = apply("cutout(0.4)", u)
    for image, before, (x, y) in zip(found, pictures(), u * SIDE, strict=True):
        rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
        inside = (abs(rows - y) < 0.2 * SIDE) & (abs(columns - x) < 0.2 * SIDE)
        assert inside.any()
        np.testing.assert_array_equal(image, np.where(inside[..., None], 127.5, before))


def test_noise_is_gaussian_with_its_sigma():
    grey = np.full([COUNT, 64, 64, 3], 128, np.uint8)
    found = apply("noise(0.1)", None, grey) - 128
    for noise in found:
        assert scipy.stats.kstest(noise.ravel() / 25.5, "norm").pvalue > 1e-3
        assert noise.std() == pytest.approx(25.5, rel=0.03)


def test_noise_has_no_pattern():
    """Neighbours, channels and samples with close seeds go together no more than by chance."""
    u = np.array([[0.5, 0.5], [0.5 + 2**-24, 0.5], [0.5, 0.25]], np.float32)
    noise = normal(tf.constant(u), tf.constant([3, 64, 64, 3])).numpy()
    pairs = [
        (noise[:, 1:], noise[:, :-1]),
        (noise[:, :, 1:], noise[:, :, :-1]),
        (noise[..., 0], noise[..., 1]),
        (noise[0], noise[1]),
        (noise[0].ravel()[1:], noise[1].ravel()[:-1]),
        (noise[0], noise[2]),
    ]
    for one, other in pairs:
        chance = 4 / np.sqrt(one.size)  # four standard deviations
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < chance
