"""Where the examples of training come from: the shards, in each epoch anew, or memory.

Both sources yield a `tf.data.Dataset` of keys in epoch order; `get` resolves keys to examples.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfpipe.core import terminal
from tfpipe.input import cache, stateless_random, tuning
from tfpipe.input.cache import DecodedImages, Examples
from tfpipe.input.input_config import InputConfig, aligned
from tfpipe.records import example
from tfpipe.records.subset import Subset

# Shards read at once; their records alternate, which mixes neighbours.
READERS = 4

_BLOCK = 8  # records of a shard at a time; cheaper than single ones


class RecordSource:
    """Examples that are read from the shards in each epoch."""

    def __init__(self, part: Subset, config: InputConfig):
        self._part = part
        room = int(config.shuffle_mb * 2**20 * part.count / part.bytes)
        self._buffer = max(1, min(part.count, room))

    def keys(self, key: tf.Tensor) -> tf.data.Dataset:
        """Return the records, string scalars, shuffled by `key`, int64 [2]."""
        order = tf.random.experimental.stateless_shuffle(tf.constant(self._part.paths), key)
        records = tf.data.Dataset.from_tensor_slices(order).interleave(
            tf.data.TFRecordDataset,
            cycle_length=READERS,
            block_length=_BLOCK,
            num_parallel_calls=READERS,
        )
        seed = tf.random.stateless_uniform([], key, None, None, tf.int64)
        records = of_part(records, self._part)
        return records.shuffle(self._buffer, seed=seed, reshuffle_each_iteration=False)

    def get(self, records: Sequence[bytes]) -> Examples:
        """Return the examples of these records."""
        # TensorFlow's own parser takes three times as long.
        images = [example.deserialize_image(record) for record in records]
        example_id = np.array(
            [stateless_random.example_id(image.sha256) for image in images], np.int64
        )
        return Examples(example_id, np.array([image.label for image in images], np.int64), images)


class CachedSource:
    """Examples that were read into memory once."""

    def __init__(self, part: Subset, config: InputConfig):
        cache.check(config.cache, part, int(np.prod(config.shape)))
        records = of_part(tf.data.TFRecordDataset(part.paths), part)
        records = tuning.without_autotune(records).as_numpy_iterator()
        with terminal.progress(f"reading {part.name} into memory", part.count) as advance:
            self._kept = cache.load(config.cache, records, part.count, config.decode, advance)

    def keys(self, key: tf.Tensor) -> tf.data.Dataset:
        """Return the row of each example, int64 scalars, shuffled by `key`, int64 [2]."""
        rows = tf.range(len(self._kept.label), dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices(
            tf.random.experimental.stateless_shuffle(rows, key)
        )

    def get(self, rows: np.ndarray) -> Examples:
        """Return the examples in these rows."""
        kept = self._kept
        example_id, label = kept.example_id[rows], kept.label[rows]
        if kept.pictures is None:
            return Examples(example_id, label, [kept.images[row] for row in rows])
        image, size = kept.pictures
        into = aligned((len(rows), *image.shape[1:]))
        np.take(image, rows, axis=0, out=into, mode="clip")  # "raise" would copy through a buffer
        return Examples(example_id, label, [], DecodedImages(into, size[rows]))


def of_part(records: tf.data.Dataset, part: Subset, *, copies: bool = True) -> tf.data.Dataset:
    """Return the records of a part from those of its shards, with or without transformed copies."""
    without_copies = not copies and part.images < part.count
    if part.fold is None and not without_copies:
        return records

    @tf.autograph.experimental.do_not_convert
    def stays(record: tf.Tensor) -> tf.Tensor:
        fields = example.parse(record, ("image/fold", "image/copy"))
        fold, copy = fields["image/fold"], fields["image/copy"]
        return part.holds(fold, copy) & ((copy == 0) | (not without_copies))

    return records.filter(stays)
