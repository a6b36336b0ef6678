"""Records as a `tf.data.Dataset` of batches, on the decoder of the training.

records -> shuffled as encoded bytes -> batches, decoded by Python on threads of tf.data
-> augmented, compiled by XLA -> (images, labels)
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.augment import Augment
from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.images.preprocess import CHANNELS
from tfpipe.input import cache, example_source, pipeline, stateless_random, tuning
from tfpipe.input.input_config import InputConfig, aligned
from tfpipe.input.python_calls import until_exit
from tfpipe.records.label_encoding import LabelEncoding
from tfpipe.records.subset import Subset
from tfpipe.training import losses

FLOAT32, UINT8 = "float32", "uint8"


@dataclasses.dataclass(frozen=True)
class DatasetOptions:
    """The keywords of `Records.as_dataset`; most are flags of `tfpipe.train` too."""

    image_size: int = option("side of the images in pixels", 224, minimum=1)
    batch_size: int = option("images in a batch", 32, minimum=1)
    shuffle: bool = option("another order in each epoch; else the order of the shards", False)
    seed: int = option("of the order and of the augmentation", 0)
    augment: str = option("augmentation, as for `tfpipe.train`; empty for none", "")
    class_weights: str = option(
        "weight of each class, as for `tfpipe.train`: none, balanced, or NAME=W,NAME=W; gives a"
        " third element, the weights of the images",
        losses.NO_WEIGHTS,
    )
    one_hot: bool = option(
        "labels as float32 [B, C] instead of int64 [B]; where images may have several classes, they"
        " always are",
        False,
    )
    dtype: str = option("of the images; always in 0..255", FLOAT32, (FLOAT32, UINT8))
    drop_remainder: bool = option("leave out the last batch if it is smaller", False)
    cache: str = option(
        "images kept in memory after they are read: none, encoded or decoded",
        cache.NONE,
        (cache.NONE, cache.ENCODED, cache.DECODED),
    )
    shuffle_mb: int = option("size of the shuffle buffer, in MB of encoded images", 256, minimum=1)
    decode_threads: int = option("threads that decode, 0 for one on each core", 0, minimum=0)


def dataset(part: Subset, options: DatasetOptions) -> tf.data.Dataset:
    """Return a dataset of (images, labels), or with weights (images, labels, weights).

    Raises:
        UserError: an option is wrong.
    """
    many = part.manifest.encoding.many
    if Augment(options.augment).mixes and not (options.one_hot or many):
        raise UserError(
            f"`augment={options.augment}` mixes the labels of two images: give `one_hot=True`"
        )
    whole, rest = divmod(part.count, options.batch_size)
    if options.drop_remainder and not whole:
        raise UserError(
            f"`batch_size={options.batch_size}`: {part.name} has {part.count} records, so"
            " `drop_remainder` leaves no batch"
        )
    config = InputConfig(
        image_size=options.image_size,
        batch_size=min(options.batch_size, part.count),
        seed=options.seed,
        shuffle=options.shuffle,
        shuffle_mb=options.shuffle_mb,
        cache=options.cache,
        threads=options.decode_threads,
    )
    augment = Augment(options.augment, crop_on_host=True)
    config.check(augment)
    source = example_source.open_source(part, config)
    load = _loader(source, config, augment, part.manifest.encoding)
    finish = _finisher(part, options, augment)

    @tf.autograph.experimental.do_not_convert
    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        tf.random.set_seed(1)  # in this graph only, as in `pipeline.train_batches`
        keys = source.keys(tf.stack([tf.constant(options.seed, tf.int64), epoch]))
        keys = keys.batch(config.batch_size, drop_remainder=options.drop_remainder)
        return keys.map(lambda batch: load(epoch, batch), config.cores, deterministic=True)

    # Another number in each iteration, and the same numbers by seed.
    epochs = tf.data.Dataset.random(options.seed, rerandomize_each_iteration=True).take(1)
    batches = epochs.flat_map(one_epoch)
    steps = whole if options.drop_remainder else whole + bool(rest)
    batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
    own = tf.data.Options()
    # Decoding holds a thread of the pool, which a model's step may need.
    own.threading.private_threadpool_size = config.cores
    # The caller's AUTOTUNE is then a thread on each core.
    return tuning.without_autotune(batches.map(finish).prefetch(tuning.AHEAD)).with_options(own)


def _loader(
    source: Any,  # of `example_source.open_source`
    config: InputConfig,
    augment: Augment,
    encoding: LabelEncoding,
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]:
    """Return a function from an epoch and keys of `source` to a padded batch.

    It returns images uint8 [B, S, S, 3], labels as of `encoding`, random numbers float32 [B, D],
    and the number of rows that are no padding, int64 [].
    """
    size = config.batch_size
    label_shape = [size, *encoding.shape]
    shapes: list[list[int]] = [[size, *config.shape], label_shape, [size, augment.num_random], []]
    types = tf.uint8, tf.as_dtype(encoding.dtype), tf.float32, tf.int64

    def load(epoch: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, ...]:
        rows, weight = pipeline.pad_batch(keys, size)
        with terminal.logged():
            found = source.get(rows)
            u = stateless_random.uniform(
                config.seed, int(epoch), found.example_id, augment.num_random
            )
            windows = augment.window(u).numpy() if augment.crops_on_host else None
            pictures = found.pictures or config.decode(found.images, windows)
        return pictures.image, found.label, u, np.int64(np.count_nonzero(weight))

    def nothing(epoch: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, ...]:
        label = np.zeros(label_shape, encoding.dtype)
        u = np.zeros([size, augment.num_random], np.float32)
        return aligned((size, *config.shape)), label, u, np.int64(0)

    call = until_exit(load, nothing)

    def batch(epoch: tf.Tensor, keys: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = tf.numpy_function(call, [epoch, keys], types)
        return tuple(tf.ensure_shape(one, shape) for one, shape in zip(found, shapes, strict=True))

    return batch


def _finisher(part: Subset, options: DatasetOptions, augment: Augment) -> Callable[..., Any]:
    """Return a function from what `_loader` returns to the elements of the dataset."""
    encoding, side = part.manifest.encoding, options.image_size
    augment_batch = tf.function(augment, autograph=False, jit_compile=True)
    weights = class_weights(part, options.class_weights)

    @tf.autograph.experimental.do_not_convert
    def finish(images: tf.Tensor, labels: tf.Tensor, u: tf.Tensor, count: tf.Tensor) -> tuple:
        each = None if weights is None else tf.gather(tf.constant(weights), labels)
        if options.one_hot:
            labels = encoding.shares(labels)
        if augment:
            images, labels = augment_batch(images, labels, u)
        if weights is not None and augment.mixes:
            each = tf.linalg.matvec(labels, tf.constant(weights))
        if options.dtype == UINT8 and images.dtype != tf.uint8:
            images = tf.saturate_cast(tf.round(images), tf.uint8)
        images = tf.cast(images, options.dtype)
        found = (images, labels) if each is None else (images, labels, each)
        if options.drop_remainder:
            return found
        shape = [None, side, side, CHANNELS]
        images, *others = (tensor[:count] for tensor in found)
        return tf.ensure_shape(images, shape), *others

    return finish


def class_weights(part: Subset, weights: str) -> tuple[float, ...] | None:
    """Return the weight of each class, as in the training's loss; None for 1.

    Raises:
        UserError: an image may have several classes, so it has no weight of its own.
    """
    if part.manifest.encoding.many and weights != losses.NO_WEIGHTS:
        raise UserError(
            f"`class_weights={weights}`: an image may have several classes, so it has no weight of"
            " its own: weight the terms of your loss, or train with `tfpipe.train`"
        )
    shares = {name: count / part.count for name, count in part.class_counts.items()}
    return losses.class_weights(weights, shares)
