"""Mixing: weights by the Beta distribution, labels by the area of each picture."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from test_augment import COUNT, SIDE, one_hot, pictures, uniform

from tfpipe.augment import Augment, mixing


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.4, 1.0, 3.0, 100.0])
def test_weights_follow_the_beta_distribution(alpha):
    weights = mixing.beta(tf.constant(uniform(1, 40_000)[:, 0]), alpha, "mixup").numpy()
    # A small alpha has much of its mass nearer to 1 than float32 can tell, but not to 0.
    small = weights[weights < 0.5]
    assert len(small) / len(weights) == pytest.approx(0.5, abs=0.01)
    distribution = scipy.stats.beta(alpha, alpha)
    assert scipy.stats.kstest(small, lambda x: 2 * distribution.cdf(x)).pvalue > 1e-3
    others = 1 - weights[weights > 0.5].astype(np.float64)
    assert np.quantile(others, 0.9) == pytest.approx(distribution.ppf(0.45), rel=0.1)


def test_mixup_is_the_mean_with_the_next_one():
    images, labels = Augment("mixup(1)")(pictures(), one_hot(), uniform(1))
    own = uniform(1)  # Beta(1, 1) is uniform
    before = pictures().astype(np.float64)
    weight = own[:, :, None, None]
    expected = weight * before + (1 - weight) * np.roll(before, -1, 0)
    np.testing.assert_allclose(images, expected, atol=0.01)
    expected = own * one_hot() + (1 - own) * np.roll(one_hot(), -1, 0)
    np.testing.assert_allclose(labels, expected, atol=1e-6)


def test_cutmix_labels_are_the_areas():
    # Each picture is one colour, so the share of pixels of each can be counted.
    images = np.empty([COUNT, SIDE, SIDE, 3], np.uint8)
    images[:] = (10 * np.arange(COUNT) + 5)[:, None, None, None]
    for seed in range(5):
        u = uniform(3, seed=seed)
        found, labels = Augment("cutmix(1)")(images, one_hot(), u)
        for n, (image, label) in enumerate(zip(found.numpy(), labels.numpy(), strict=True)):
            other = (n + 1) % COUNT
            shares = [(image[..., 0] == 10 * k + 5).mean() for k in range(COUNT)]
            np.testing.assert_allclose(label, shares, atol=1e-6)
            rows, columns = np.nonzero(image[..., 0] == 10 * other + 5)
            if len(rows):  # a box: as large as its extent, at most the side that was drawn
                height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
                assert len(rows) == height * width
                assert max(height, width) <= np.sqrt(1 - u[n, 2]) * SIDE + 1


def test_partners_are_as_they_were_before_mixing():
    twice = Augment("one_of(mixup(1)|cutmix(1))")
    u = uniform(twice.num_random)
    u[:, 0] = [0.1, 0.9] * 3
    found, labels = twice(pictures(), one_hot(), u)
    mixed = Augment("mixup(1)")(pictures(), one_hot(), u[:, 1:2])
    pasted = Augment("cutmix(1)")(pictures(), one_hot(), u[:, 1:])
    for part, own, other in ((found, mixed[0], pasted[0]), (labels, mixed[1], pasted[1])):
        np.testing.assert_array_equal(part[::2], own[::2])
        np.testing.assert_array_equal(part[1::2], other[1::2])


def test_a_batch_of_one_is_its_own_partner():
    images, labels = Augment("mixup(1)|cutmix(1)")(
        pictures(1), tf.constant([[0.0, 1.0]]), uniform(4, 1)
    )
    np.testing.assert_allclose(images, pictures(1), atol=1e-4)
    np.testing.assert_array_equal(labels, [[0.0, 1.0]])
