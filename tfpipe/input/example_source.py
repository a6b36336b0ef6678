"""Where the examples of training come from: the shards, in each epoch anew, or memory.

Both sources yield a `tf.data.Dataset` of keys in epoch order; `get` resolves keys to examples. If
classes are not sampled naturally, it is one of pairs: a key, and its number among the repetitions
of this key in the epoch, int64 [].
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfpipe.core import terminal
from tfpipe.input import cache, sampling, stateless_random, tuning
from tfpipe.input.cache import DecodedImages, Examples
from tfpipe.input.input_config import InputConfig, aligned
from tfpipe.input.sampling import Sampler
from tfpipe.records import example
from tfpipe.records.subset import ShardPiece, Subset

# Shards read at once; their records alternate, which mixes neighbours.
READERS = 4

_BLOCK = 8  # records of a shard at a time; cheaper than single ones


class RecordSource:
    """Examples that are read from the shards in each epoch."""

    def __init__(self, part: Subset, config: InputConfig):
        self._part = part
        self._sampler = None
        if config.sampling != sampling.NATURAL and config.shuffle:
            labels = part.piece_labels()
            self._offsets = np.cumsum([0, *map(len, labels)])[:-1]
            self._sampler = Sampler(
                np.concatenate(labels).astype(np.int64), config.sampling, config.seed
            )
        room = int(config.shuffle_mb * 2**20 * part.count / part.bytes)
        self._buffer = max(1, min(part.count, room))
        self._shuffle = config.shuffle

    def keys(self, key: tf.Tensor) -> tf.data.Dataset:
        """Return the records, string scalars, shuffled by `key`, int64 [2], unless in order."""
        pieces = self._part.pieces
        if not self._shuffle:
            return of_part(stored_records(pieces), self._part)
        order = tf.random.experimental.stateless_shuffle(tf.range(len(pieces)), key)
        columns, read = _columns(pieces), _piece_records
        if self._sampler:
            counts = sampling.counts_of(self._sampler, key[1])
            columns, read = (*columns, tf.constant(self._offsets)), _drawn_from(counts)
        columns = tuple(tf.gather(column, order) for column in columns)
        records = tf.data.Dataset.from_tensor_slices(columns).interleave(
            read,
            cycle_length=READERS,
            block_length=_BLOCK,
            num_parallel_calls=READERS,
        )
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
        return Examples(example_id, np.array([image.label for image in images], np.int64), images)


class CachedSource:
    """Examples that were read into memory once."""

    def __init__(self, part: Subset, config: InputConfig):
        cache.check(config.cache, part, int(np.prod(config.shape)))
        records = of_part(stored_records(part.pieces), part)
        records = tuning.without_autotune(records).as_numpy_iterator()
        with terminal.progress(f"reading {part.name} into memory", part.count) as advance:
            self._kept = cache.load(config.cache, records, part.count, config.decode, advance)
        self._shuffle = config.shuffle
        self._sampler = None
        if config.sampling != sampling.NATURAL and config.shuffle:
            self._sampler = Sampler(self._kept.label, config.sampling, config.seed)

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


def stored_records(pieces: Sequence[ShardPiece]) -> tf.data.Dataset:
    """Return the records of pieces of shards, string scalars, in their order."""
    return tf.data.Dataset.from_tensor_slices(_columns(pieces)).flat_map(_piece_records)


def _columns(pieces: Sequence[ShardPiece]) -> tuple[tf.Tensor, ...]:
    """Return the paths, string [P], and first records and counts, int64 [P]."""
    types = (tf.string, tf.int64, tf.int64)
    return tuple(tf.constant([each[i] for each in pieces], kind) for i, kind in enumerate(types))


def _drawn_from(counts: tf.Tensor) -> Callable[..., tf.data.Dataset]:
    """Return a function from a piece to its records and the numbers of their repetitions.

    `counts` says how often to repeat each record of all pieces, int64 [N].
    """

    @tf.autograph.experimental.do_not_convert
    def repeat(record: tf.Tensor, times: tf.Tensor) -> tf.data.Dataset:
        occurrences = tf.data.Dataset.range(times)
        return occurrences.map(lambda occurrence: (record, occurrence))

    @tf.autograph.experimental.do_not_convert
    def read(path: tf.Tensor, first: tf.Tensor, count: tf.Tensor, offset: tf.Tensor):
        own = tf.data.Dataset.from_tensor_slices(counts[offset : offset + count])
        return tf.data.Dataset.zip((_piece_records(path, first, count), own)).flat_map(repeat)

    return read


@tf.autograph.experimental.do_not_convert
def _piece_records(path: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path).skip(first).take(count)


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
