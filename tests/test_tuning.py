"""No pipeline runs TensorFlow's autotuner, which can delay the end of an iterator."""

import pytest
import tensorflow as tf

import tfpipe
from tfpipe import evaluate, train
from tfpipe.input import tuning
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset
from tfpipe.reporting import record_images


@pytest.fixture
def tuned(monkeypatch):
    """For each dataset that was iterated over, whether the autotuner runs."""
    begin, found = tf.data.Dataset.__iter__, []

    def record(dataset):
        found.append(dataset.options().autotune.enabled is not False)
        return begin(dataset)

    monkeypatch.setattr(tf.data.Dataset, "__iter__", record)
    return found


def test_it_is_noticed(tuned):
    dataset = tf.data.Dataset.range(3)
    assert list(dataset.as_numpy_iterator()) == [0, 1, 2]
    assert list(tuning.without_autotune(dataset).as_numpy_iterator()) == [0, 1, 2]
    assert tuned == [True, False]


@pytest.mark.parametrize("cache", ["none", pytest.param("decoded", marks=pytest.mark.slow)])
def test_training_and_evaluating(cache, tiny_config, tuned):
    config = tiny_config(cache=cache, epochs=1)
    train.main(config)
    evaluate.main(evaluate.Options(run_dir=config.run_dir))
    assert len(tuned) >= 3  # of the epoch, the validation, the evaluation
    assert not any(tuned)


@pytest.mark.slow
def test_frozen_features(tiny_config, tuned):
    train.main(tiny_config(stages="head", epochs=1, feature_views=2))
    assert len(tuned) >= 3  # of two views and the validation
    assert not any(tuned)


def test_a_report_and_a_screen(records, tuned):
    part = Subset(manifests.load(records), ("val",))
    assert sum(count for _, count in record_images.batches(part.records(), 32)) == part.count
    assert tuned == [False]


def test_a_dataset_for_a_model_of_ones_own(records, tuned):
    batches = tfpipe.load_records(records).as_dataset("val", image_size=32, batch_size=8)
    doubled = batches.map(lambda images, labels: (2 * images, labels), tf.data.AUTOTUNE)
    assert sum(len(labels) for _, labels in doubled) == 16
    assert tuned == [False]
