"""Callbacks of tf_keras in `tfpipe.fit`."""

import csv

import numpy as np
import pytest
import tf_keras
from conftest import TINY

import tfpipe
from tfpipe.training import run_folder

callbacks = tf_keras.callbacks


@pytest.fixture
def fit(records, tmp_path):
    """Returns a function from callbacks and changed options to a trained run."""

    def make(*given, **changes):
        flags = TINY | {"image_size": 24, "augment": "", "tta": "", "stages": "all:from=all"}
        return tfpipe.fit(str(records), tmp_path / "run", callbacks=given, **flags | changes)

    return make


class Recorder(callbacks.Callback):
    """Keeps what it is called with."""

    def __init__(self):
        super().__init__()
        self.calls, self.logs = [], []

    def on_train_begin(self, logs=None):
        self.calls.append("begin")

    def on_train_end(self, logs=None):
        self.calls.append("end")

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(f"epoch {epoch}")

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(f"epoch {epoch} done")
        self.logs.append(dict(logs))

    def on_train_batch_begin(self, batch, logs=None):
        self.calls.append(batch)

    def on_test_begin(self, logs=None):
        self.calls.append("test")


def test_calls_are_those_of_keras(fit):
    recorder = Recorder()
    run = fit(recorder, epochs=2, batch_size=32)
    epoch = [0, 1, "test"]  # 64 training images
    expected = ["begin"]
    for number in (0, 1):
        expected += [f"epoch {number}", *epoch, f"epoch {number} done"]
    assert recorder.calls == [*expected, "end"]
    assert recorder.params["epochs"] == 2
    assert recorder.params["steps"] == 2
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert [logs[name] for logs in recorder.logs] == run.history[name]


@pytest.mark.slow
def test_the_usual_ones_work(fit, tmp_path):
    log, weights = (str(tmp_path / name) for name in ("log.csv", "best.weights.h5"))
    run = fit(
        callbacks.CSVLogger(log),
        callbacks.ModelCheckpoint(weights, save_weights_only=True, save_best_only=True),
        callbacks.TensorBoard(tmp_path / "board"),
        callbacks.TerminateOnNaN(),
        callbacks.ReduceLROnPlateau(patience=1),
        callbacks.History(),
        epochs=2,
    )
    with open(log, newline="") as file:
        logged = [float(row["val_loss"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(logged, run.history["val_loss"])
    loaded = run_folder.load(str(run.path))
    best = loaded.restore_classifier().model.get_weights()
    loaded.best_weights.write_bytes((tmp_path / "best.weights.h5").read_bytes())
    saved = loaded.restore_classifier().model.get_weights()
    for one, other in zip(saved, best, strict=True):
        np.testing.assert_array_equal(one, other)
    assert list((tmp_path / "board").glob("train/events*"))


def test_one_may_stop_the_training(fit):
    run = fit(callbacks.EarlyStopping(min_delta=100.0, patience=1), epochs=9, patience=9)
    assert run.history["epoch"] == [1, 2]
    assert run.predict(np.zeros([9, 9, 3], np.uint8))[0].label in run.class_names


@pytest.mark.slow
def test_one_may_set_the_learning_rate(fit):
    """With a rate of 0 after the first epoch, weights and so the validation loss stay."""
    run = fit(
        callbacks.LearningRateScheduler(lambda epoch, rate: 0.0 if epoch else rate),
        epochs=3,
        patience=9,
    )
    losses = run.history["val_loss"]
    assert losses[1] == losses[0]
    assert losses[2] == losses[0]
