"""Settings of tf.data pipelines: fixed numbers instead of its autotuner.

The autotuner is a thread that looks at a pipeline after 10, 20, 40 ms and so on. TensorFlow wakes
it before it marks the iterator as cancelled (`CancellationManager::StartCancel`), so it often goes
back to sleep, and whoever deletes the iterator waits (docs/benchmarks.md).
"""

import tensorflow as tf

AHEAD = 2  # elements to prefetch


def without_autotune(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return a whole pipeline without the autotuner."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
