"""What the tests of training share: logs, weights, comparisons, and a backbone with BatchNorm."""

import csv

import numpy as np
import pytest
import tf_keras

from tfpipe.training import run_folder

# Options of a run whose epochs take milliseconds: a head on cached features. Without views the
# calibration takes these too.
CACHED = {
    "stages": "head",
    "augment": "",
    "pooling": "avg",
    "head": "dense(16)|dropout(0.5)",
    "tta": "",
}


def log_of(folder):
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def val_losses(folder):
    return [float(row["val_loss"]) for row in log_of(folder)]


def weights_of(folder):
    return run_folder.load(str(folder)).restore_classifier().model.get_weights()


def check_same_run(one, other, *, within=1e-5):
    """Checks that two runs have the same epochs and the same weights."""
    volatile = ("seconds", "images_per_s", "input_wait", "stage")
    for a, b in zip(log_of(one), log_of(other), strict=True):
        assert a["stage"] == b["stage"]
        for key in set(a) - set(volatile):
            assert float(a[key]) == pytest.approx(float(b[key]), abs=within), key
    for a, b in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_allclose(a, b, atol=within)


def save_backbone(folder):
    """Saves a small backbone with BatchNorm and without dropout; returns its name as an option."""
    layers = tf_keras.layers
    image = layers.Input([32, 32, 3])
    x = layers.Rescaling(1 / 127.5, -1)(image)
    for number in (1, 2):
        x = layers.Conv2D(8, 3, padding="same", name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"norm{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(x)
        x = layers.MaxPooling2D(4, name=f"pool{number}")(x)
    tf_keras.Model(image, x).save(folder / "plain.keras")
    return f"{folder / 'plain.keras'}@pool2"
