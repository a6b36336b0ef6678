"""How TensorFlow runs the pipelines: with numbers that are given, not found by its tuner.

The tuner of tf.data is a thread that looks at a pipeline after 10, 20, 40 ms and so on, and sleeps
between. TensorFlow 2.15 wakes it before it says that the iterator is done with
(`CancellationManager::StartCancel` calls first and sets `is_cancelled_` then), so every other time
it goes back to sleep, and whoever lets the iterator go waits until it looks again: a pass over the
records that takes 5.2 s takes 10.4 (docs/benchmarks.md).
"""

import os

import tensorflow as tf

# Elements that are made before they are asked for.
AHEAD = 2


def cores() -> int:
    """Returns how many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0))


def without_autotune(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset that runs without the tuner.

    Args:
        dataset: the whole pipeline, as it is iterated over. It must not use tf.data.AUTOTUNE, which
            no one would replace by a number.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
