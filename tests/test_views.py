"""Test-time views against NumPy and SciPy, eager, in a graph and within a predictor."""

import types

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from tests.refusals import refused
from tfpipe.model import views
from tfpipe.model.calibration import Calibration
from tfpipe.model.predictor import Predictor

SIDE = 13
IMAGES = np.random.default_rng(0).uniform(0, 255, (3, SIDE, SIDE, 3)).astype(np.float32)


def cropped(images, fraction):
    """Samples half-pixel centres of the central window, in float64."""
    at = (np.arange(SIDE) + 0.5) * fraction + SIDE * (1 - fraction) / 2 - 0.5
    rows, columns = np.meshgrid(at, at, indexing="ij")
    found = [
        scipy.ndimage.map_coordinates(channel.astype(np.float64), [rows, columns], order=1)
        for image in images
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.moveaxis(np.reshape(found, (len(images), 3, SIDE, SIDE)), 1, -1)


REFERENCES = {
    "flip_lr": lambda images: images[:, :, ::-1],
    "flip_ud": lambda images: images[:, ::-1],
    "rot90": lambda images: np.rot90(images, axes=(1, 2)),
    "rot90(3)": lambda images: np.rot90(images, 3, axes=(1, 2)),
    "crop(0.9)": lambda images: cropped(images, 0.9),
    "crop(0.35)": lambda images: cropped(images, 0.35),
    "flip_lr|rot90": lambda images: np.rot90(images[:, :, ::-1], axes=(1, 2)),
    "crop(0.8)|flip_ud": lambda images: cropped(images, 0.8)[:, ::-1],
}


def test_every_view_has_a_reference():
    assert {text.split("(")[0] for text in REFERENCES if "|" not in text} == set(views.views)


@pytest.mark.parametrize("text", REFERENCES)
def test_a_view_is_its_reference_for_batches_of_any_size(text):
    view, expected = views.parse(text)[1], REFERENCES[text](IMAGES)
    any_batch = [tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32)]
    for function in (view, tf.function(view, input_signature=any_batch)):
        for count in (len(IMAGES), 1, 0):
            found = function(tf.constant(IMAGES[:count]))
            assert (found.shape, found.dtype) == ((count, SIDE, SIDE, 3), tf.float32)
            np.testing.assert_allclose(found, expected[:count], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 1), (" ", 1), ("none", 1), ("flip_lr", 2), ("flip_lr, flip_ud,crop(0.9),", 4)],
)
def test_the_image_itself_is_always_there(text, count):
    found = views.parse(text)
    assert len(found) == count
    np.testing.assert_array_equal(found[0](tf.constant(IMAGES)), IMAGES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flip", "unknown test-time view 'flip'; did you mean 'flip_ud'.*known: crop, flip_lr"),
        ("crop", r"tta.: crop: wrong number of values; `crop\(0.9\)`"),
        ("crop(1)", r"crop\(1\): the fraction is above 0 and below 1"),
        ("crop(1e999)", "a number is too large"),
        ("crop(flip_lr)", "takes finite numbers"),
        ("flip_lr(1)", "wrong number of values"),
        ("rot90(1.5)", "give 1, 2 or 3"),
        ("flip_lr,flip_lr", "name each view once"),
        ("__import__('os')", "tta=.* is not a spec"),
        ("flip_lr flip_ud", "is not a spec .*separated by commas"),
        ("none,flip_lr", "unknown test-time view 'none'"),
    ],
)
def test_a_wrong_list_is_explained(text, message):
    with refused(message):
        views.parse(text)


def test_a_predictor_averages_the_logits():
    def model(images, training):
        assert not training
        return images[:, 0, :1, 0] / 100  # the top left pixel

    classifier = types.SimpleNamespace(model=model, output="sigmoid", image_size=SIDE)
    pixels = IMAGES.astype(np.uint8)
    predictor = Predictor(
        classifier, views.parse("flip_lr,flip_ud"), Calibration("platt", 2.0, -1.0, 0.1, 0.9)
    )
    corners = pixels[:, [0, 0, -1], [0, -1, 0], 0].astype(np.float64)
    expected = corners.mean(1) / 100
    np.testing.assert_allclose(predictor.logits(pixels)[:, 0], expected, rtol=1e-6)
    second = (1 / (1 + np.exp(1 - 2 * expected))).clip(0.1, 0.9)
    np.testing.assert_allclose(
        predictor.classify(pixels), np.stack([1 - second, second], 1), rtol=1e-5
    )
