"""Every registered augmentation: the identity, ranges, compiled against eager; chains; policies."""

import inspect

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from tests.refusals import refused
from tfpipe.augment import Augment, operations

COUNT, SIDE = 6, 17

# For each operation: a spec that changes pictures, and one that must leave them as they are.
EXAMPLES = {
    "blur": ("blur(2)", "blur(0)"),
    "brightness": ("brightness(0.3)", "brightness(0)"),
    "contrast": ("contrast(0.5)", "contrast(0)"),
    "crop": ("crop(0.6)", "crop(1)"),
    "cutmix": ("cutmix(1)", "cutmix(0)"),
    "cutout": ("cutout(0.4)", "cutout(0)"),
    "flip_lr": ("flip_lr(1)", "flip_lr(0)"),
    "flip_ud": ("flip_ud(1)", "flip_ud(0)"),
    "gamma": ("gamma(0.5,2)", "gamma(1,1)"),
    "hue": ("hue(0.3)", "hue(0)"),
    "maybe": ("maybe(0.7,rotate(30)|brightness(0.3)|noise(0.1))", "maybe(0,rotate(30)|blur)"),
    "mixup": ("mixup(1)", "mixup(0)"),
    "noise": ("noise(0.1)", "noise(0)"),
    "one_of": ("one_of(crop(0.7)|flip_lr(1)|hue(0.3)|mixup(1))", "one_of(crop(1)|hue(0)|noise(0))"),
    "randaugment": ("randaugment(2,20)", "randaugment(2,0)"),
    "resized_crop": ("resized_crop(0.2,0.8)", "resized_crop(1,1)"),
    "rotate": ("rotate(30)", "rotate(0)"),
    "saturation": ("saturation(0.8)", "saturation(0)"),
    "shear": ("shear(25)", "shear(0)"),
    "translate": ("translate(0.2)", "translate(0)"),
    "trivialaugment": ("trivialaugment", "trivialaugment(0)"),
    "zoom": ("zoom(0.5,2)", "zoom(1,1)"),
    "zoom_xy": ("zoom_xy(0.5,2)", "zoom_xy(1,1)"),
}


def pictures(count=COUNT, side=SIDE):
    rng = np.random.default_rng(3)
    smooth = scipy.ndimage.gaussian_filter(
        rng.uniform(0, 255, (count, side, side, 3)), (0, 2, 2, 0)
    )
    low, high = smooth.min(), smooth.max()
    return np.round(20 + 200 * (smooth - low) / (high - low)).astype(np.uint8)


def one_hot(count=COUNT):
    return np.eye(count, dtype=np.float32)


def uniform(draws, count=COUNT, seed=5):
    return np.random.default_rng(seed).uniform(0, 1, (count, draws)).astype(np.float32)


def apply(text, u=None, images=None, **options):
    """Return the images of a chain."""
    chain = Augment(text)
    images = pictures() if images is None else images
    u = uniform(chain.num_random, len(images)) if u is None else np.asarray(u, np.float32)
    return chain(images, one_hot(len(images)), u, **options)[0].numpy()


def test_every_operation_has_an_example():
    assert set(EXAMPLES) == set(operations)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("geometry", ["", "flip_lr(0)|"], ids=["alone", "warped"])
def test_strength_zero_is_exactly_the_identity(name, geometry):
    chain = Augment(geometry + EXAMPLES[name][1])
    images, labels = chain(pictures(), one_hot(), uniform(chain.num_random))
    np.testing.assert_array_equal(images, pictures().astype(np.float32))
    np.testing.assert_array_equal(labels, one_hot())


@pytest.mark.parametrize("name", EXAMPLES)
def test_changes_the_picture_within_range(name):
    chain = Augment(EXAMPLES[name][0])
    images, labels = chain(pictures(), one_hot(), uniform(chain.num_random))
    assert np.abs(images - pictures().astype(np.float32)).mean() > 1
    assert images.shape == pictures().shape
    assert images.dtype == labels.dtype == tf.float32
    assert np.min(images) >= 0
    assert np.max(images) <= 255
    np.testing.assert_allclose(np.sum(labels, 1), 1, atol=1e-6)
    assert chain.mixes == (np.max(np.abs(labels - one_hot())) > 0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("randaugment", "trivialaugment", "one_of")
        else name
        for name in EXAMPLES
    ],
)
def test_is_the_same_eager_in_a_graph_and_compiled(name):
    chain = Augment(EXAMPLES[name][0])
    inputs = pictures(), one_hot(), uniform(chain.num_random)
    expected = chain(*inputs)
    any_batch = [tf.TensorSpec([None, *each.shape[1:]], tf.as_dtype(each.dtype)) for each in inputs]
    graph = tf.function(chain, input_signature=any_batch)
    compiled = tf.function(chain, jit_compile=True)
    for found in (graph(*inputs), compiled(*inputs)):
        # The last bit of one may round a quarter of a level, the warp's step, the other way.
        difference = np.abs(found[0] - expected[0])
        assert np.max(difference) <= 0.27
        assert np.mean(difference) <= 0.002
        np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_picture_depends_on_its_own_numbers_alone(name):
    chain = Augment(EXAMPLES[name][0])
    u = uniform(chain.num_random)
    changed = u.copy()
    changed[3] = uniform(chain.num_random, seed=6)[3]
    one = chain(pictures(), one_hot(), u)[0].numpy()
    other = chain(pictures(), one_hot(), changed)[0].numpy()
    same = [np.array_equal(a, b) for a, b in zip(one, other, strict=True)]
    # Pictures are mixed with the next one, changed as it is.
    assert same[:2] + same[4:] == [True] * 4
    assert same[2] or chain.mixes


def test_an_empty_chain_only_casts():
    assert not Augment(" ")
    np.testing.assert_array_equal(apply(" "), pictures().astype(np.float32))


def test_geometry_is_done_first_and_boxes_after_colours():
    u = [[0.25, 0.5, 1.0, 0.0]] * COUNT  # a box at the left, all white, and mirrored
    found = apply("cutout(0.5)|brightness(1)|flip_lr(1)", u)
    assert set(np.unique(found)) == {127.5, 255.0}
    assert (found[:, 5:12, :8] == 127.5).all()
    assert (found[:, :, 9:] == 255.0).all()


def outcomes(text, count=4000):
    """Return the different pictures that a chain makes of one, and the share of each."""
    chain, images = Augment(text), np.tile(pictures(1, 8), (count, 1, 1, 1))
    u = uniform(chain.num_random, count)
    u[:, 1:] = 0.9
    found = chain(images, np.ones([count, 1], np.float32), u)[0].numpy()
    kinds, counts = np.unique(found.reshape(count, -1), axis=0, return_counts=True)
    return kinds, counts / count


def test_one_of_draws_exactly_one_with_equal_chances():
    choices = ("brightness(1)", "flip_lr(1)", "cutout(1)", "translate(0.4)")
    kinds, shares = outcomes(f"one_of({'|'.join(choices)})")
    alone = [apply(text, [[0.9] * Augment(text).num_random], pictures(1, 8)) for text in choices]
    assert {kind.tobytes() for kind in kinds} == {each.tobytes() for each in alone}
    assert shares.min() > 0.22


def test_maybe_does_all_or_nothing():
    kinds, shares = outcomes("maybe(0.3,flip_lr(1)|brightness(1))")
    both = apply("flip_lr(1)|brightness(1)", [[0.9, 0.9]], pictures(1, 8))
    assert {kind.tobytes() for kind in kinds} == {
        each.tobytes() for each in (both, pictures(1, 8).astype("f"))
    }
    assert min(shares) == pytest.approx(0.3, abs=0.03)


def test_randaugment_is_of_full_strength_and_nothing_once_in_a_while():
    chain = Augment("randaugment(1,15)")
    choices = sorted(name for name in operations if operations[name].strength)
    assert choices == "brightness contrast rotate saturation shear translate".split()
    share = 1 / (1 + len(choices))
    position = 1 + choices.index("rotate")
    for sign, low in ((1, 0.6), (-1, 0.2)):  # any number above and below one half
        u = np.full([COUNT, chain.num_random], low, np.float32)
        u[:, 0] = (position + 0.5) * share
        found = chain(pictures(), one_hot(), u)[0]
        expected = apply("rotate(15)", np.full([COUNT, 1], 1.0 if sign > 0 else 0.0))
        np.testing.assert_array_equal(found, expected)
    u[:, 0] = 0.5 * share
    np.testing.assert_array_equal(chain(pictures(), one_hot(), u)[0], pictures().astype("f"))
    assert Augment("randaugment(3,15)").num_random == 3 * chain.num_random


def test_trivialaugment_draws_the_operation_and_then_its_strength():
    """Twice the number gives twice the angle; the sign is that of the number."""
    chain = Augment("trivialaugment")
    choices = sorted(name for name in operations if operations[name].strength)
    share = 1 / (1 + len(choices))
    for u_strength in (0.1, 0.5, 0.8):
        u = np.full([COUNT, chain.num_random], u_strength, np.float32)
        u[:, 0] = (1.5 + choices.index("rotate")) * share
        expected = apply("rotate(30)", np.full([COUNT, 1], u_strength))
        np.testing.assert_array_equal(chain(pictures(), one_hot(), u)[0], expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sharpen", "unknown augmentation 'sharpen'.*known: blur, brightness, contrast"),
        ("one_of(flip_lr|sharpen)", "unknown augmentation 'sharpen'"),
        ("rotate", r"rotate: wrong number of values; `rotate\(20\)`"),
        ("rotate(1,2,3)", "wrong number of values"),
        ("rotate(flip_lr)", "takes finite numbers only"),
        ("rotate(1e999)", "a number is too large"),
        ("rotate(200)", r"in \[0, 180\]"),
        ("zoom(1.2,0.8)", "factors are above 0, the smaller first"),
        ("crop(0)", r"the fraction is in \(0, 1\]"),
        ("resized_crop(0,1)", r"areas are in \(0, 1\]"),
        ("resized_crop(1,0.5)", "the smaller first"),
        ("trivialaugment(31)", r"the magnitude is in \[0, 30\]"),
        ("shear(90)", r"in \[0, 90\) degrees"),
        ("contrast(2)", r"in \[0, 1\]"),
        ("hue(0.6)", r"in \[0, 0.5\]"),
        ("gamma(0,1)", "above 0"),
        ("blur(9)", r"in \[0, 5\]"),
        ("mixup(-1)", r"alpha is in \[0, 100\]"),
        ("maybe(2,blur)", r"maybe: the first is a number in \[0, 1\]"),
        ("maybe(0.5,3)", "maybe: it takes operations"),
        ("one_of(0.5)", "one_of: it takes operations"),
        ("one_of", "wrong number of values; `one_of"),
        ("randaugment(0,9)", "rounds are 1 to 10"),
        ("randaugment(2,31)", r"the magnitude is in \[0, 30\]"),
        ("rotate(", "is not a spec"),
        ("rotate(__import__('os'))", "is not a spec"),
    ],
)
def test_a_wrong_spec_is_explained(text, message):
    with refused(message):
        Augment(text)


@pytest.mark.parametrize("name", sorted(operations))
def test_the_first_line_of_a_description_shows_how_to_write_it(name):
    example = inspect.getdoc(operations[name].function).split("`")[1]
    assert example.startswith(name)
    assert Augment(example).num_random >= operations[name].num_random
