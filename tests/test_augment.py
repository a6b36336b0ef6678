"""Every registered augmentation, against references and compiled against eager."""

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from tfpipe.errors import UserError
from tfpipe.input import augment
from tfpipe.input.augment import COLOUR, GEOMETRIC, Augment

SIDE = 17

# For each operation: a spec that changes pictures, and one that must leave them as they are.
EXAMPLES = {
    "brightness": ("brightness(0.3)", "brightness(0)"),
    "contrast": ("contrast(0.5)", "contrast(0)"),
    "crop": ("crop(0.6)", "crop(1)"),
    "flip_lr": ("flip_lr(1)", "flip_lr(0)"),
    "flip_ud": ("flip_ud(1)", "flip_ud(0)"),
    "rotate": ("rotate(30)", "rotate(0)"),
    "saturation": ("saturation(0.8)", "saturation(0)"),
    "shear": ("shear(25)", "shear(0)"),
    "translate": ("translate(0.2)", "translate(0)"),
    "zoom": ("zoom(0.5,2)", "zoom(1,1)"),
}


def pictures(count=6):
    rng = np.random.default_rng(3)
    smooth = scipy.ndimage.gaussian_filter(
        rng.uniform(0, 255, (count, SIDE, SIDE, 3)), (0, 2, 2, 0)
    )
    low, high = smooth.min(), smooth.max()
    return (20 + 200 * (smooth - low) / (high - low)).astype(np.float32)


def uniform(draws, count=6):
    return np.random.default_rng(5).uniform(0, 1, (count, draws)).astype(np.float32)


def test_every_operation_has_an_example():
    assert set(EXAMPLES) == set(augment.operations)


@pytest.mark.parametrize("name", EXAMPLES)
def test_strength_zero_is_exactly_the_identity(name):
    chain = Augment(EXAMPLES[name][1])
    images = np.round(pictures())
    np.testing.assert_array_equal(chain(images, uniform(chain.draws)), images)


@pytest.mark.parametrize("name", EXAMPLES)
def test_changes_the_picture_within_range(name):
    chain = Augment(EXAMPLES[name][0])
    images = pictures()
    found = chain(images, uniform(chain.draws)).numpy()
    assert np.abs(found - images).mean() > 1
    assert found.shape == images.shape
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 255


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])
def test_is_the_same_in_a_graph_and_compiled(name, compiled):
    chain = Augment(EXAMPLES[name][0])
    images, u = pictures(), uniform(chain.draws)
    run = tf.function(chain, jit_compile=compiled)
    np.testing.assert_allclose(run(images, u), chain(images, u), atol=2e-2)


@pytest.mark.parametrize("name", [n for n in EXAMPLES if augment.operations[n].kind == GEOMETRIC])
def test_samples_as_scipy_does(name):
    """The matrix of each operation, applied by scipy in float64 with the nearest edge pixel."""
    chain = Augment(EXAMPLES[name][0])
    images, u = pictures(), uniform(chain.draws)
    found = chain(images, u).numpy()
    args = chain._steps[0][0].args
    matrices = augment.operations[name].function(tf.constant(u), SIDE, *args).numpy()
    for image, matrix, result in zip(images, matrices.astype(np.float64), found, strict=True):
        np.testing.assert_allclose(result, scipy_warp(image, matrix), atol=0.05)


def scipy_warp(image, matrix):
    centre = (SIDE - 1) / 2
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])  # scipy's rows come first
    to_input = swap @ matrix @ swap
    shift = to_input[:2, :2] @ [-centre, -centre] + to_input[:2, 2] + centre
    return np.stack(
        [
            scipy.ndimage.affine_transform(
                channel.astype(np.float64), to_input[:2, :2], shift, order=1, mode="nearest"
            )
            for channel in np.moveaxis(image, -1, 0)
        ],
        axis=-1,
    )


# What each geometric operation does to a picture, told by another library or by slicing.
def test_flips_mirror():
    images = pictures()
    u = np.zeros([6, 1], np.float32)
    np.testing.assert_array_equal(Augment("flip_lr")(images, u), images[:, :, ::-1])
    np.testing.assert_array_equal(Augment("flip_ud")(images, u), images[:, ::-1])


@pytest.mark.parametrize("u", [0.0, 0.25, 0.9])
def test_rotates_by_degrees(u):
    images = pictures()
    found = Augment("rotate(40)")(images, np.full([6, 1], u, np.float32)).numpy()
    angle = 40 * (2 * u - 1)
    reference = scipy.ndimage.rotate(
        images, angle, axes=(1, 2), reshape=False, order=1, mode="nearest"
    )
    np.testing.assert_allclose(found, reference, atol=0.05)


def test_translates_by_a_fraction_of_the_side():
    images = pictures()
    u = np.array([[1.0, 0.0]] * 6, np.float32)  # by +4/17 of the side in x and -4/17 in y
    found = Augment(f"translate({4 / SIDE})")(images, u).numpy()
    np.testing.assert_allclose(found[:, 4:, :-4], images[:, :-4, 4:], atol=1e-3)


def test_zooms_by_a_factor():
    images = pictures()
    found = Augment("zoom(2,2)")(images, np.zeros([6, 1], np.float32)).numpy()
    # At twice the size every other pixel of the inner half is a pixel of the original.
    np.testing.assert_allclose(found[:, ::2, ::2], images[:, 4:13, 4:13], atol=1e-3)


def test_crops_a_square_of_a_fraction_of_the_side():
    images = pictures()
    corner = np.zeros([6, 2], np.float32)
    found = Augment("crop(0.5)")(images, corner).numpy()
    np.testing.assert_allclose(found[:, ::2, ::2], images[:, :9, :9], atol=1e-3)


def test_shears_by_degrees():
    images = pictures()
    found = Augment("shear(45)")(images, np.ones([6, 1], np.float32)).numpy()
    # Columns lean by one pixel a row, about the centre.
    np.testing.assert_allclose(found[:, 8], images[:, 8], atol=1e-3)
    np.testing.assert_allclose(found[:, 10, :-2], images[:, 10, 2:], atol=1e-3)


def test_colours_follow_their_formulas():
    images, u = pictures(), np.array([[0.0], [0.25], [0.5], [0.75], [1.0], [0.1]], np.float32)
    k = (2 * u - 1)[:, :, None, None]
    double = images.astype(np.float64)
    mean = double.mean(axis=(1, 2, 3), keepdims=True)
    luma = (double @ [0.299, 0.587, 0.114])[..., None]
    expected = {
        "brightness(0.2)": double + 51 * k,
        "contrast(0.5)": mean + (double - mean) * (1 + 0.5 * k),
        "saturation(0.5)": luma + (double - luma) * (1 + 0.5 * k),
    }
    assert {text.split("(")[0] for text in expected} == {
        n for n in EXAMPLES if augment.operations[n].kind == COLOUR
    }
    for text, reference in expected.items():
        np.testing.assert_allclose(Augment(text)(images, u), reference.clip(0, 255), atol=0.05)


def test_a_chain_is_its_operations_one_after_the_other():
    images = pictures()
    u = uniform(3)
    chain = Augment("rotate(90)|flip_lr(1)|brightness(0.2)")
    turned = Augment("rotate(90)")(images, np.ones([6, 1], np.float32)).numpy()
    u[:, 0] = 1.0
    expected = Augment("brightness(0.2)")(turned[:, :, ::-1], u[:, 2:])
    np.testing.assert_allclose(chain(images, u), expected, atol=0.05)


def test_takes_uint8():
    images = np.round(pictures()).astype(np.uint8)
    found = Augment("flip_lr(1)")(images, np.zeros([6, 1], np.float32))
    np.testing.assert_array_equal(found, images[:, :, ::-1].astype(np.float32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sharpen", "unknown augmentation 'sharpen'.*known: brightness, contrast"),
        ("rotate", r"rotate: wrong number of values; `rotate\(20\)`"),
        ("rotate(1,2,3)", "wrong number of values"),
        ("rotate(flip_lr)", "takes numbers only"),
        ("zoom(1.2,0.8)", "factors are above 0, the smaller first"),
        ("crop(0)", r"the fraction is in \(0, 1\]"),
        ("shear(90)", "below 90 degrees"),
        ("contrast(2)", r"in \[0, 1\]"),
        ("rotate(", "is not a spec"),
    ],
)
def test_a_wrong_spec_is_explained(text, message):
    with pytest.raises(UserError, match=message):
        Augment(text)
