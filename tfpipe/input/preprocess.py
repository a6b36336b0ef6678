"""The one way from encoded bytes to the model's input, in training, evaluation and serving.

The host decodes and resizes to one square of uint8, the smallest type that loses nothing on the
way to the device; each backbone's own resize and normalisation are layers of the model
(`tfpipe.model.backbones`), so they run where the model runs and are part of what is exported.
"""

import tensorflow as tf

from tfpipe.input import orientation

CHANNELS = 3


def decode_image(encoded: tf.Tensor, size: int, *, turn: bool = False) -> tf.Tensor:
    """Decodes one image and resizes it to a square.

    The proportion is not kept, as in the published recipes. Shrinking averages over the pixels
    that fall together (antialias), so a large photograph keeps no moire.

    Args:
        encoded: string scalar, a JPEG, PNG, GIF (first frame) or BMP.
        size: the side of the result in pixels.
        turn: whether to turn a JPEG upright as its EXIF data say; those of records are upright.

    Returns:
        uint8 [size, size, 3], RGB in 0..255.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not such an image.
    """
    image = tf.io.decode_image(encoded, channels=CHANNELS, expand_animations=False)
    image.set_shape([None, None, CHANNELS])
    image = _resize(image, size)
    if turn:  # a square, which is small and stays one
        image = orientation.upright(image, orientation.orientation(encoded))
        image.set_shape([size, size, CHANNELS])
    return image


def decode_record(fields: dict[str, tf.Tensor], size: int) -> tf.Tensor:
    """Does the same with the image of a record, which may also be bare pixels.

    Args:
        fields: of one record, as from `ingest.example.parse`.
        size: the side of the result in pixels.

    Returns:
        uint8 [size, size, 3], RGB in 0..255.
    """

    def bare() -> tf.Tensor:
        shape = [fields["image/height"], fields["image/width"], CHANNELS]
        return _resize(tf.reshape(tf.io.decode_raw(fields["image/encoded"], tf.uint8), shape), size)

    return tf.cond(
        tf.equal(fields["image/format"], "raw"),
        bare,
        lambda: decode_image(fields["image/encoded"], size),
    )


def decode_batch(encoded: tf.Tensor, size: int) -> tf.Tensor:
    """Decodes a batch of images of any sizes, as `decode_image` does each, and turns them upright.

    Args:
        encoded: string [N].
        size: the side of the result in pixels.

    Returns:
        uint8 [N, size, size, 3].
    """
    spec = tf.TensorSpec([size, size, CHANNELS], tf.uint8)
    return tf.map_fn(
        lambda one: decode_image(one, size, turn=True), encoded, fn_output_signature=spec
    )


def _resize(image: tf.Tensor, size: int) -> tf.Tensor:
    image = tf.image.resize(image, [size, size], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)
