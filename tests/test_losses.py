"""Losses: against their formulas, the paper's figures and scikit-learn."""

import numpy as np
import pytest
import sklearn.utils.class_weight
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from tests.refusals import refused
from tests.training import CACHED, log_of
from tfpipe import train
from tfpipe.model.classifier import Classifier
from tfpipe.training import losses
from tfpipe.training.train_config import TrainConfig

SHARES = {"ant": 0.5, "bee": 0.3, "cat": 0.2}


def options(**changes):
    return TrainConfig(records="r", run_dir="d", **changes)


def classifier(output):
    return Classifier(None, None, (), None, output, 0)


def reference(labels, logits, *, gamma=0.0, smoothing=0.0, weights=1.0):
    """The formulas in float64; a sigmoid's logit z is a softmax's logits 0 and z."""
    z = np.asarray(logits, np.float64)
    if z.shape[1] == 1:
        z = np.concatenate([0 * z, z], 1)
    log_p = log_softmax(z, axis=1)
    y = labels.astype(np.float64) * (1 - smoothing) + smoothing / z.shape[1]
    return -(y * weights * (1 - np.exp(log_p)) ** gamma * log_p).sum(1)


def samples(output, n=64):
    rng = np.random.default_rng(1)
    classes = 2 if output == "sigmoid" else 3
    labels = rng.dirichlet(np.ones(classes), n).astype(np.float32)
    labels[: n // 2] = np.eye(classes)[rng.integers(0, classes, n // 2)]
    logits = rng.normal(0, 3, (n, 1 if classes == 2 else 3)).astype(np.float32)
    return labels, logits, dict(list(SHARES.items())[:classes])


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", ["none", "bee=3"])
@pytest.mark.parametrize(
    ("name", "gamma"), [("crossentropy", 0.0), *(("focal", g) for g in (0.0, 0.5, 2.0))]
)
def test_losses_are_their_formulas(output, smoothing, weights, name, gamma):
    labels, logits, shares = samples(output)
    loss = losses.build(
        options(loss=name, label_smoothing=smoothing, focal_gamma=gamma, class_weights=weights),
        shares,
    )
    found = tf.function(loss)(classifier(output), tf.constant(labels), tf.constant(logits))
    factors = [1.0, 1.0 if weights == "none" else 3.0, 1.0][: len(shares)]
    expected = reference(labels, logits, gamma=gamma, smoothing=smoothing, weights=factors)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_the_focal_loss_of_the_paper():
    """Lin et al. 2017, section 3.2: with gamma 2, p = 0.9 counts 100 x less, 0.968 about 1000 x."""
    p = np.array([0.9, 0.968])
    logits = tf.constant(np.log(p / (1 - p))[:, None], tf.float32)
    labels = tf.constant([[0.0, 1.0]] * 2)
    plain, focal = (
        losses.build(options(loss=name), {"a": 0.5, "b": 0.5})(
            classifier("sigmoid"), labels, logits
        )
        for name in ("crossentropy", "focal")
    )
    np.testing.assert_allclose(plain / focal, [100, 1 / 0.032**2], rtol=1e-4)


@pytest.mark.parametrize("name", losses.losses)
@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
@settings(max_examples=10, deadline=None)
@given(size=st.floats(0, 1e4), gamma=st.floats(0, 5))
def test_losses_and_gradients_are_finite_for_any_logits(name, output, size, gamma):
    labels, _, shares = samples(output, 6)
    loss = losses.build(options(loss=name, focal_gamma=gamma), shares)
    rows = np.eye(3)[:, :1] if output == "sigmoid" else np.eye(3)
    logits = tf.constant(np.concatenate([rows, -rows]) * size, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(classifier(output), labels, logits)
    assert np.isfinite(value).all()
    assert (value.numpy() >= 0).all()
    assert np.isfinite(tape.gradient(value, logits)).all()


def test_balanced_weights_are_scikit_learns():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    expected = sklearn.utils.class_weight.compute_class_weight(
        "balanced", classes=np.arange(3), y=labels
    )
    found = losses.build(options(class_weights="balanced"), SHARES).weights
    np.testing.assert_allclose(found, expected)
    assert losses.build(options(class_weights="cat=2, ant=0.5"), SHARES).weights == (0.5, 1, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "focl"}, "did you mean 'focal'"),
        ({"label_smoothing": 0.6}, r"label_smoothing=0\.6"),
        ({"label_smoothing": float("nan")}, "label_smoothing=nan"),
        ({"focal_gamma": -1.0}, "focal_gamma=-1"),
        ({"class_weights": "dog=2"}, "'dog=2' is not NAME=W.*ant, bee, cat"),
        ({"class_weights": "ant=2,ant=3"}, "'ant=3' is not NAME=W"),
        ({"class_weights": "ant=0"}, "'0' is not a number above 0"),
        ({"class_weights": "ant=x"}, "'x' is not a number"),
        ({"class_weights": ""}, "'' is not NAME=W"),
        ({"class_weights": "balanced"}, "no training record is of class bee"),
    ],
)
def test_wrong_losses_are_explained(changes, message):
    shares = {"ant": 1.0, "bee": 0.0} if "no training record" in message else SHARES
    with refused(message):
        losses.build(options(**changes), shares)


@pytest.mark.slow
def test_validation_is_the_plain_cross_entropy_whatever_is_trained(tiny_config, tmp_path):
    """With a rate that changes nothing, the runs differ only in the loss of the training."""
    rows = []
    for changes in ({}, {"loss": "focal", "label_smoothing": 0.2, "class_weights": "dog=5"}):
        folder = tmp_path / changes.get("loss", "crossentropy")
        options = {"run_dir": str(folder), "epochs": 1, "learning_rate": 1e-12, **changes}
        train.main(tiny_config(**CACHED, **options))
        rows += log_of(folder)
    assert float(rows[0]["val_loss"]) == pytest.approx(float(rows[1]["val_loss"]), abs=1e-6)
    assert abs(float(rows[0]["loss"]) - float(rows[1]["loss"])) > 0.01
