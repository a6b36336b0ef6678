"""The drop-path rate of a backbone."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.refusals import refused
from tfpipe.model import stochastic_depth
from tfpipe.model.backbones import build, get


def residual(rates):
    """Adds one to ones of shape [N, 2, 2, 1] for each branch that an image does not skip."""
    layers = tf_keras.layers
    image = x = layers.Input([2, 2, 1])
    ones = layers.Rescaling(0.0, 1.0)(image)
    for place, rate in enumerate(rates):
        branch = layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=f"drop{place}")(ones)
        x = layers.Add()([x, branch])
    return tf_keras.Model(image, layers.Dropout(0.3)(x))


def test_that_share_of_images_skips_the_last_branch():
    model = residual([0.1, 0.2])
    stochastic_depth.set_rate(model, 0.5)
    assert [model.get_layer(f"drop{n}").rate for n in (0, 1)] == pytest.approx([0.25, 0.5])
    assert model.layers[-1].rate == 0.3  # an ordinary dropout
    last = tf_keras.Model(model.input, model.get_layer("drop1").output)
    kept = last(tf.zeros([4000, 2, 2, 1]), training=True).numpy()
    assert np.ptp(kept.reshape(4000, -1), axis=1).max() == 0  # whole images
    assert (kept[:, 0, 0, 0] == 0).mean() == pytest.approx(0.5, abs=0.04)
    np.testing.assert_allclose(model(tf.zeros([1, 2, 2, 1])), 2)  # none in inference


@pytest.mark.slow
def test_efficientnet_has_it_and_mobilenet_has_not():
    model = build(get("efficientnetb0"), 32, "none")
    rates = [layer.rate for layer in model.layers if "drop" in layer.name]
    stochastic_depth.set_rate(model, 0.4)
    again = [layer.rate for layer in model.layers if "drop" in layer.name]
    assert max(again) == pytest.approx(0.4)
    np.testing.assert_allclose(np.divide(again, rates), 0.4 / max(rates))
    with refused("`drop_path=0.2`: mobilenet.* has no layers of stochastic depth"):
        stochastic_depth.set_rate(build(get("mobilenet"), 32, "none"), 0.2)
