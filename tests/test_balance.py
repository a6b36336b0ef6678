"""Balance of the classes: how many are dropped or copied, and what a copy looks like."""

import collections
import hashlib

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.building import balance

TRANSFORMS = (balance.crop, balance.rotate, balance.shear, balance.flip_lr, balance.flip_ud)


def sha(value) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()


def photo(height=60, width=80):
    """A smooth picture, so that ways to interpolate hardly differ."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9) * np.cos(y / 7), np.sin((x + y) / 11), np.cos(x / 13 - y / 8)]
    return (128 + 100 * np.stack(waves, -1)).astype(np.uint8)


LABELS = st.lists(st.sampled_from("abc"), max_size=60)


@given(labels=LABELS, seed=st.integers(0, 9), data=st.data())
def test_drop_evens_the_training_split_only(labels, seed, data):
    keys = [sha(i) for i in range(len(labels))]
    training = [i for i in range(len(labels)) if data.draw(st.booleans())]
    dropped = balance.drop(keys, labels, training, seed)
    assert set(dropped) <= set(training)
    before = collections.Counter(labels[i] for i in training)
    after = collections.Counter(labels[i] for i in set(training) - set(dropped))
    assert after == dict.fromkeys(before, min(before.values(), default=0))


@given(labels=LABELS, seed=st.integers(0, 9), data=st.data())
def test_copies_fill_every_class_evenly(labels, seed, data):
    keys = [sha(i) for i in range(len(labels))]
    training = [i for i in range(len(labels)) if data.draw(st.booleans())]
    copies = balance.copies(keys, labels, training, seed)
    assert {copy.original for copy in copies} <= set(training)
    assert len(set(copies)) == len(copies)
    before = collections.Counter(labels[i] for i in training)
    made = collections.Counter(copy.original for copy in copies)
    for label, count in before.items():
        used = [made[i] for i in training if labels[i] == label]
        assert count + sum(used) == max(before.values())
        assert max(used) - min(used) <= 1
    # A copy has the next number of its original.
    numbers = collections.defaultdict(list)
    for copy in copies:
        numbers[copy.original].append(copy.number)
    assert all(each == list(range(1, len(each) + 1)) for each in numbers.values())


def test_the_order_of_images_does_not_matter_and_the_seed_does():
    keys, labels = [sha(i) for i in range(100)], ["a"] * 70 + ["b"] * 30
    backwards = range(99, -1, -1)

    def chosen(keys, labels, seed):
        dropped = balance.drop(keys, labels, range(100), seed)
        copied = balance.copies(keys, labels, range(100), seed)
        return {keys[i] for i in dropped}, {(keys[i], number) for i, number in copied}

    first = chosen(keys, labels, 0)
    assert chosen([keys[i] for i in backwards], [labels[i] for i in backwards], 0) == first
    other = chosen(keys, labels, 1)
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_the_transform_depends_on_seed_key_and_number_alone():
    pixels = photo()

    def make(key="k", number=1, seed=0):
        return balance.transform(pixels, key, number, seed)

    before = pixels.copy()
    np.testing.assert_array_equal(make(), make())
    np.testing.assert_array_equal(pixels, before)
    for change in ({"key": "other"}, {"number": 2}, {"seed": 3}):
        others = [make(**{"key": f"{i}", **change}) for i in range(8)]
        assert any((make(key=f"{i}") != other).any() for i, other in enumerate(others))


def test_every_transform_is_as_likely_and_comes_alone(monkeypatch):
    used = []

    def note(name):
        return lambda pixels, rng: used.append(name) or pixels

    monkeypatch.setattr(balance, "_TRANSFORMS", tuple(note(t.__name__) for t in TRANSFORMS))
    for i in range(2000):
        balance.transform(photo(), sha(i), 1, 0)
    counts = collections.Counter(used)
    assert sum(counts.values()) == 2000
    # Four standard deviations of a binomial: sqrt(2000 * 0.2 * 0.8) = 17.9.
    assert all(abs(counts[t.__name__] - 400) < 4 * 17.9 for t in TRANSFORMS)


@pytest.mark.parametrize("shape", [(60, 80), (1, 1), (2, 300), (300, 2), (7, 5)])
@pytest.mark.parametrize("function", TRANSFORMS)
def test_nothing_dark_comes_in_from_outside(function, shape):
    pixels = np.full((*shape, 3), (200, 180, 220), np.uint8)
    for seed in range(20):
        out = function(pixels, np.random.default_rng(seed))
        assert out.dtype == np.uint8
        np.testing.assert_array_equal(out, pixels)


class Fixed:
    """Gives one number instead of a random one."""

    def __init__(self, value):
        self.value = value

    def uniform(self, low, high):
        assert low == -high == -20.0
        return self.value

    def random(self, count):
        return np.full(count, self.value)


@pytest.mark.parametrize("degrees", [-20, -7.5, 0, 13, 20])
@pytest.mark.parametrize("name", ["rotate", "shear"])
def test_warp_agrees_with_scipy(name, degrees):
    pixels, a = photo(), np.radians(degrees)
    # From output to input, row before column; the centre stays.
    matrix = {
        "rotate": np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]),
        "shear": np.array([[1, 0], [np.tan(a), 1]]),
    }[name]
    centre = (np.array(pixels.shape[:2]) - 1) / 2
    expected = np.stack(
        [
            scipy.ndimage.affine_transform(
                pixels[..., c].astype(float),
                matrix,
                centre - matrix @ centre,
                order=3,
                mode="reflect",  # SciPy's name for the edge pixel twice, NumPy's "symmetric"
            )
            for c in range(3)
        ],
        -1,
    )
    out = getattr(balance, name)(pixels, Fixed(degrees)).astype(float)
    # A spline against a cubic convolution that rounds down; half a pixel would give a mean of 3.
    assert np.abs(out - expected).mean() < 1
    assert np.abs(out - expected).max() < 5
    if degrees == 0:
        np.testing.assert_array_equal(out, pixels)


def test_crop_is_a_window_of_nine_tenths():
    x = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (100, 1, 3))
    for value in (0.0, 0.5, np.nextafter(1, 0)):
        row = balance.crop(x, Fixed(value))[50, :, 0].astype(float)
        # Pixel centres: 0.9 (i + 0.5) + left - 0.5, but for the cubic's reach at the ends.
        expected = 0.9 * (np.arange(200) + 0.5) + 20 * value - 0.5
        np.testing.assert_allclose(row[3:-3], expected[3:-3], atol=0.51)


def test_flips():
    pixels = photo()
    np.testing.assert_array_equal(balance.flip_lr(pixels, None), np.fliplr(pixels))
    np.testing.assert_array_equal(balance.flip_ud(pixels, None), np.flipud(pixels))
