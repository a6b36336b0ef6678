"""Decode records for models outside training, such as screens and reports."""

from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from tfpipe.core.cores import cores
from tfpipe.core.errors import UserError, one_line
from tfpipe.images import preprocess
from tfpipe.input import pipeline

# The features of a record that `preprocess.decode_record` reads.
_KEYS = ("image/encoded", "image/format", "image/height", "image/width")

Image = tuple[bytes, str, int, int]  # encoded, format as in a record, height, width


def decode(image: Image, size: int) -> tf.Tensor:
    """Decode an image as evaluation does: uint8 [size, size, 3]."""
    features = {key: tf.constant(value) for key, value in _features(image).items()}
    return preprocess.decode_record(features, size)


def batches(images: Iterable[Image], size: int, batch_size: int) -> Iterator[tuple[tf.Tensor, int]]:
    """Decode images to `size` pixels as evaluation does, in parallel and in order.

    Yields:
        uint8 [B, S, S, 3], and the number of its images; the other rows are padding.

    Raises:
        UserError: `images` raised it, or an image cannot be decoded.
    """
    failures: list[UserError] = []

    def read() -> Iterator[dict[str, object]]:
        try:
            for image in images:
                yield _features(image)
        except UserError as error:  # TensorFlow would turn it into its own error
            failures.append(error)

    @tf.autograph.experimental.do_not_convert
    def decode_features(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        weight = tf.constant(1, tf.int64)
        return {"image": preprocess.decode_record(features, size), "sample_weight": weight}

    text, number = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)
    signature = dict(zip(_KEYS, (text, text, number, number), strict=True))
    dataset = tf.data.Dataset.from_generator(read, output_signature=signature)
    dataset = dataset.map(decode_features, cores(), deterministic=True)
    try:
        for batch in pipeline.padded_batches(dataset, batch_size):
            yield batch["image"], int(tf.reduce_sum(batch["sample_weight"]))
    except tf.errors.InvalidArgumentError as error:
        raise UserError(f"an image cannot be decoded ({one_line(error.message)[:200]})") from None
    if failures:
        raise failures[0]


def _features(image: Image) -> dict[str, object]:
    encoded, kind, height, width = image
    return dict(zip(_KEYS, (encoded, kind, np.int64(height), np.int64(width)), strict=True))
