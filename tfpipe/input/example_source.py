"""Where the examples of training come from: the shards, in each epoch anew, or memory.

Both sources yield a `tf.data.Dataset` of keys in epoch order; `get` resolves keys to examples. If
classes are not sampled naturally, it is one of pairs: a key, and its number among the repetitions
of this key in the epoch, int64 [].
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfpipe.core import terminal
from tfpipe.input import cache, sampling, stateless_random, stored_records, tuning
from tfpipe.input.cache import DecodedImages, Examples
from tfpipe.input.input_config import InputConfig, aligned
from tfpipe.records import example
from tfpipe.records.subset import Subset


class RecordSource:
    """Examples that are read from the shards in each epoch.

    Attributes:
        own_shards: whether the keys are those of this worker alone, from its own shards.
    """

    def __init__(self, part: Subset, config: InputConfig):
        self._part, self._config = part, config
        self._sampler = config.sampler(part.stored_labels)
        enough = len(part.pieces) >= stored_records.READERS * config.workers
        # With a fold, nobody knows how many of a shard's records belong to the part.
        is_whole = part.fold is None and self._sampler is None
        self.own_shards = config.workers > 1 and enough and config.shuffle and is_whole
        room = int(config.shuffle_mb * 2**20 * part.count / part.bytes)
        self._buffer = max(1, min(part.count, room))

    def keys(self, key: tf.Tensor) -> tf.data.Dataset:
        """Return the records, string scalars, shuffled by `key`, int64 [2], unless in order."""
        pieces, config = self._part.pieces, self._config
        if not config.shuffle:
            return of_part(stored_records.in_order(pieces), self._part)
        given = {"worker": config.worker, "workers": config.workers} if self.own_shards else {}
        if self._sampler:
            given = {"repeats": sampling.counts_of(self._sampler, key[1])}
        records = stored_records.shuffled(pieces, key, by_tensorflow=bool(config.service), **given)
        seed = tf.random.stateless_uniform([], key, None, None, tf.int64)
        records = records if self._sampler else of_part(records, self._part)
        return records.shuffle(self._buffer, seed=seed, reshuffle_each_iteration=False)

    def get(self, records: Sequence[bytes]) -> Examples:
        """Return the examples of these records."""
        # TensorFlow's own parser takes three times as long.
        images = [example.deserialize_image(record) for record in records]
        example_id = np.array(
            [stateless_random.example_id(image.sha256) for image in images], np.int64
        )
        return Examples(example_id, self._part.manifest.encoding.encode(images), images)


class CachedSource:
    """Examples that were read into memory once."""

    own_shards = False

    def __init__(self, part: Subset, config: InputConfig):
        cache.check(config.cache, part, int(np.prod(config.shape)))
        records = of_part(stored_records.in_order(part.pieces), part)
        records = tuning.without_autotune(records).as_numpy_iterator()
        with terminal.progress(f"reading {part.name} into memory", part.count) as advance:
            encoding = part.manifest.encoding
            self._kept = cache.load(
                config.cache, records, part.count, encoding, config.decode, advance
            )
        self._shuffle = config.shuffle
        self._sampler = config.sampler(lambda: self._kept.label)

    def keys(self, key: tf.Tensor) -> tf.data.Dataset:
        """Return each example's row, int64 scalars, shuffled by `key`, int64 [2], or in order."""
        rows = tf.range(len(self._kept.label), dtype=tf.int64)
        if self._sampler:
            rows, occurrence = sampling.rows_of(self._sampler, key[1])
            order = tf.random.experimental.stateless_shuffle(tf.range(len(self._kept.label)), key)
            columns = tf.gather(rows, order), tf.gather(occurrence, order)
            return tf.data.Dataset.from_tensor_slices(columns)
        if self._shuffle:
            rows = tf.random.experimental.stateless_shuffle(rows, key)
        return tf.data.Dataset.from_tensor_slices(rows)

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


def open_source(part: Subset, config: InputConfig) -> RecordSource | CachedSource:
    """Return where the examples come from; a cache is filled now."""
    return (RecordSource if config.cache == cache.NONE else CachedSource)(part, config)


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
