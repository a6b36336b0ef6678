"""The records of shards as a `tf.data.Dataset`: a disk is read by TensorFlow, a URL by Python.

TensorFlow has no file system for most object stores, and waits for each of its requests. Python
requests the next blocks of a shard while it reads one (`tfpipe.core.read_ahead`).
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from tfpipe.core import remote, storage
from tfpipe.core.errors import UserError
from tfpipe.input.python_calls import until_exit
from tfpipe.records import tfrecord
from tfpipe.records.subset import ShardPiece

# Shards read at once; their records alternate, which mixes neighbours.
READERS = 4

_BLOCK = 8  # records of a shard at a time; cheaper than single ones

_CHUNK = 16  # records that Python hands to TensorFlow at a time

Columns = tuple[tf.Tensor, tf.Tensor, tf.Tensor]  # paths, string [P]; firsts, counts, int64 [P]


def in_order(pieces: Sequence[ShardPiece], *, worker: int = 0, workers: int = 1) -> tf.data.Dataset:
    """Return the records of pieces of shards, string scalars, in their order.

    With several workers each has consecutive ones, and together they have all, once.
    """
    path, first, count = columns = _columns(pieces)
    if workers > 1:
        total = tf.reduce_sum(count)
        columns = _between(columns, worker * total // workers, (worker + 1) * total // workers)
        if not len(columns[0]):
            columns = path[:1], first[:1], tf.zeros([1], tf.int64)
    return tf.data.Dataset.from_tensor_slices(columns).flat_map(_reader(pieces))


def shuffled(
    pieces: Sequence[ShardPiece],
    key: tf.Tensor,
    *,
    worker: int = 0,
    workers: int = 1,
    repeats: tf.Tensor | None = None,
    by_tensorflow: bool = False,
) -> tf.data.Dataset:
    """Return the records of pieces in an order that `key`, int64 [2], determines.

    `READERS` pieces are read at once. With several workers each has the same number of records:
    together they have all, and up to `workers` - 1 records twice.

    With `repeats`, each record comes as often as it says, with the number of its repetition, int64.

    Args:
        pieces: of shards.
        key: of the order, in any graph.
        worker: index of this worker, from 0.
        workers: number of workers.
        repeats: int64 [N], for the N records of all pieces in their order, for one worker.
        by_tensorflow: call no Python, as a data service needs it.

    Raises:
        UserError: TensorFlow cannot read the shards, and must.
    """
    order = tf.random.experimental.stateless_shuffle(tf.range(len(pieces)), key)
    columns, read = _columns(pieces), _reader(pieces, by_tensorflow=by_tensorflow)
    if repeats is not None:
        offset = tf.cumsum(columns[-1], exclusive=True)
        columns, read = (*columns, offset), _repeated(read, repeats)
    columns = tuple(tf.gather(column, order) for column in columns)
    if workers > 1:
        total = tf.reduce_sum(columns[-1])
        begin = worker * total // workers
        columns = _between(columns, begin, begin - -total // workers)
    return tf.data.Dataset.from_tensor_slices(columns).interleave(
        read,
        cycle_length=READERS,
        block_length=_BLOCK,
        num_parallel_calls=READERS,
    )


def _columns(pieces: Sequence[ShardPiece]) -> Columns:
    types = (tf.string, tf.int64, tf.int64)
    return tuple(tf.constant([each[i] for each in pieces], kind) for i, kind in enumerate(types))


def _between(columns: Columns, begin: tf.Tensor, end: tf.Tensor) -> Columns:
    """Return the pieces that hold records `begin` to `end` - 1 of all."""
    path, first, count = columns
    stop = tf.cumsum(count)
    start = stop - count
    low, high = tf.maximum(start, begin), tf.minimum(stop, end)
    columns = path, first + low - start, high - low
    return tuple(tf.boolean_mask(column, high > low) for column in columns)


def _reader(
    pieces: Sequence[ShardPiece], *, by_tensorflow: bool = False
) -> Callable[..., tf.data.Dataset]:
    """Return a function from a piece's path, first record and count, tensors, to its records."""
    urls = [piece.path for piece in pieces if remote.is_remote(piece.path)]
    if not by_tensorflow:
        return _by_python if urls else _by_tensorflow
    foreign = next((url for url in urls if not remote.is_tensorflows(url)), None)
    if foreign:
        raise UserError(
            f"{foreign}: the workers of a data service read by TensorFlow, which has no file system"
            " for this URL: leave out `data_service`, or copy the records to a disk"
        )
    return _by_tensorflow


def _repeated(
    read: Callable[..., tf.data.Dataset], repeats: tf.Tensor
) -> Callable[..., tf.data.Dataset]:
    """Return a function from a piece, and its place among all records, to its repeated records."""

    @tf.autograph.experimental.do_not_convert
    def repeat(record: tf.Tensor, times: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.range(times).map(lambda occurrence: (record, occurrence))

    @tf.autograph.experimental.do_not_convert
    def piece(path: tf.Tensor, first: tf.Tensor, count: tf.Tensor, offset: tf.Tensor):
        times = tf.data.Dataset.from_tensor_slices(repeats[offset : offset + count])
        return tf.data.Dataset.zip((read(path, first, count), times)).flat_map(repeat)

    return piece


@tf.autograph.experimental.do_not_convert
def _by_tensorflow(path: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path).skip(first).take(count)


@tf.autograph.experimental.do_not_convert
def _by_python(path: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
    chunks = tf.data.Dataset.from_generator(
        _chunks, args=(path, first, count), output_signature=tf.TensorSpec([None], tf.string)
    )
    return chunks.unbatch()


def _chunks(path: bytes, first: int, count: int) -> Iterator[list[bytes]]:
    """Yield the records of a piece, some at a time."""

    def read() -> Iterator[list[bytes]]:
        with storage.open_to_read(path.decode(), sequential=True) as file:
            records = itertools.islice(tfrecord.read(file), first, first + count)
            found = (record for _, record in records)
            while chunk := list(itertools.islice(found, _CHUNK)):
                yield chunk

    advance = until_exit(next, lambda chunks, end: end)
    return iter(functools.partial(advance, read(), None), None)
