"""Records as a `tf.data.Dataset` of batches, on the decoder of the training.

records -> shuffled as encoded bytes -> decoded by threads, outside TensorFlow
        -> augmented, compiled by XLA -> (images, labels)
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.augment import Augment
from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.images.preprocess import CHANNELS
from tfpipe.input import cache, pipeline, tuning
from tfpipe.input.input_config import InputConfig
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
    one_hot: bool = option("labels as float32 [B, C] instead of int64 [B]", False)
    dtype: str = option("of the images; always in 0..255", FLOAT32, (FLOAT32, UINT8))
    drop_remainder: bool = option("leave out the last batch if it is smaller", False)
    cache: str = option(
        "images kept in memory after they are read: none, encoded or decoded",
        cache.NONE,
        (cache.NONE, cache.ENCODED, cache.DECODED),
    )
    shuffle_mb: int = option("size of the shuffle buffer, in MB of encoded images", 256, minimum=1)
    decode_threads: int = option("threads that decode, 0 for one on each core", 0, minimum=0)
    buffer_mb: int = option(
        "memory that buffers may take, in MB; 0 for half of what is free", 0, minimum=0
    )


def dataset(part: Subset, options: DatasetOptions) -> tf.data.Dataset:
    """Return a dataset of (images, labels), or with weights (images, labels, weights).

    Raises:
        UserError: an option is wrong.
    """
    augment = Augment(options.augment)
    if augment.mixes and not options.one_hot:
        raise UserError(
            f"`augment={options.augment}` mixes the labels of two images: give `one_hot=True`"
        )
    size = min(options.batch_size, part.count)
    whole, rest = divmod(part.count, options.batch_size)
    if options.drop_remainder and not whole:
        raise UserError(
            f"`batch_size={options.batch_size}`: {part.name} has {part.count} records, so"
            " `drop_remainder` leaves no batch"
        )
    config = InputConfig(
        image_size=options.image_size,
        batch_size=size,
        seed=options.seed,
        shuffle=options.shuffle,
        shuffle_mb=options.shuffle_mb,
        cache=options.cache,
        threads=options.decode_threads,
        ram_mb=options.buffer_mb,
    )
    augment = Augment(options.augment, crop_on_host=config.crops)
    side = options.image_size
    batches = tf.data.Dataset.from_generator(
        _epochs(part, config, augment),
        output_signature=(
            tf.TensorSpec([size, side, side, CHANNELS], tf.uint8),
            tf.TensorSpec([size], tf.int64),
            tf.TensorSpec([size, augment.num_random], tf.float32),
            tf.TensorSpec([], tf.int64),
        ),
    )
    steps = whole if options.drop_remainder else whole + bool(rest)
    batches = batches.take(steps).apply(tf.data.experimental.assert_cardinality(steps))
    batches = batches.map(_finisher(part, options, augment)).prefetch(tuning.AHEAD)
    own = tf.data.Options()
    # A generator waits for its threads in a thread of the pool, which a model's step may need.
    own.threading.private_threadpool_size = config.cores
    return batches.with_options(own)


def _epochs(part: Subset, config: InputConfig, augment: Augment) -> Callable[[], Iterator[tuple]]:
    """Return a function that yields the next epoch in each call.

    It yields images uint8 [B, S, S, 3], labels int64 [B], random numbers float32 [B, D], and the
    number of rows that are no padding.
    """
    numbers = itertools.count()
    source = functools.cache(lambda: pipeline.open_source(part, config))

    def epoch() -> Iterator[tuple]:
        number = next(numbers)
        rows: Any = pipeline.train_batches(  # a generator, which has to be closed
            part,
            config,
            augment=augment,
            first_epoch=number,
            epochs=number + 1,
            as_arrays=True,
            source=source(),
        )
        with contextlib.closing(rows):
            for batch in rows:
                count = np.count_nonzero(batch["sample_weight"])
                yield batch["image"], batch["label"], batch["random"], np.int64(count)

    return functools.partial(_logged, epoch)


def _logged(epoch: Callable[[], Iterator[tuple]]) -> Iterator[tuple]:
    """Yield the batches of an epoch; what it says goes to the log, in any thread."""
    rows: Any = epoch()
    with contextlib.closing(rows):
        while True:
            with terminal.logged():
                batch = next(rows, None)
            if batch is None:
                return
            yield batch


def _finisher(part: Subset, options: DatasetOptions, augment: Augment) -> Callable[..., Any]:
    """Return a function from what `_epochs` yields to the elements of the dataset."""
    classes, side = len(part.manifest.classes), options.image_size
    augment_batch = tf.function(augment, autograph=False, jit_compile=True)
    weights = class_weights(part, options.class_weights)

    @tf.autograph.experimental.do_not_convert
    def finish(images: tf.Tensor, labels: tf.Tensor, u: tf.Tensor, count: tf.Tensor) -> tuple:
        each = None if weights is None else tf.gather(tf.constant(weights), labels)
        if options.one_hot:
            labels = tf.one_hot(labels, classes)
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
    """Return the weight of each class, as in the training's loss; None for 1."""
    shares = {name: count / part.count for name, count in part.class_counts.items()}
    return losses.class_weights(weights, shares)
