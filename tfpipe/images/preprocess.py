"""The model's pixels as a TensorFlow graph: `pixels`' rules, for evaluation and export.

The host decodes and resizes to one square of uint8, the smallest type that loses nothing on the
way to the device. Each backbone's own resize and normalisation are layers of the model
(`tfpipe.model.backbones`), so they run where the model runs and are exported with it.

`preprocess_host` does the same for training, faster and outside TensorFlow.
"""

import functools

import tensorflow as tf

from tfpipe.images import pixels as rules
from tfpipe.images.pixels import CHANNELS, JPEG_FACTORS, LUMA


def decode_image(encoded: tf.Tensor, size: int) -> tf.Tensor:
    """Decode one image and resize it to a square.

    Args:
        encoded: string scalar, a JPEG, PNG, GIF (first frame) or BMP that a build would store as
            it is; `upload` reads all others.
        size: the side of the result in pixels.

    Returns:
        uint8 [size, size, 3], RGB in 0..255.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not such an image.
    """
    return resize(decode_pixels(encoded, size), size)


def decode_pixels(encoded: tf.Tensor, size: int, window: tf.Tensor | None = None) -> tf.Tensor:
    """Decode one image at the size that a square of side `size` of the window needs.

    Args:
        encoded: as for `decode_image`.
        size: in pixels.
        window: as for `decode_record`.

    Returns:
        uint8 [H, W, 3], RGB in 0..255, the whole image.
    """
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: _decode_jpeg(encoded, size, window),
        lambda: tf.io.decode_image(encoded, channels=CHANNELS, expand_animations=False),
    )
    image.set_shape([None, None, CHANNELS])
    return image


def decode_record(
    fields: dict[str, tf.Tensor], size: int, window: tf.Tensor | None = None
) -> tf.Tensor:
    """Decode the image of a record and resize it to a square.

    Args:
        fields: of one record, from `tfpipe.records.example.parse`.
        size: the side of the result in pixels.
        window: the part of the image to use, rounded to whole pixels: float32 [4], its top, left,
            height and width as fractions of the whole; None for all of it.

    Returns:
        uint8 [size, size, 3], RGB in 0..255.
    """
    return resize(record_pixels(fields, size, window), size)


def record_pixels(
    fields: dict[str, tf.Tensor], size: int, window: tf.Tensor | None = None
) -> tf.Tensor:
    """Decode the image of a record, a file or bare pixels, as `decode_pixels` does.

    Args:
        fields: of one record, from `tfpipe.records.example.parse`.
        size: in pixels.
        window: as for `decode_record`.

    Returns:
        uint8 [H, W, 3], RGB in 0..255, of the window.
    """
    image = tf.cond(
        tf.equal(fields["image/format"], "raw"),
        lambda: tf.reshape(
            tf.io.decode_raw(fields["image/encoded"], tf.uint8),
            [fields["image/height"], fields["image/width"], CHANNELS],
        ),
        lambda: decode_pixels(fields["image/encoded"], size, window),
    )
    image.set_shape([None, None, CHANNELS])
    return image if window is None else _crop(image, window)


def record_canvas(
    fields: dict[str, tf.Tensor], size: int, pixels: int, window: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode the image of a record for a resize on the device.

    Args:
        fields: of one record, from `tfpipe.records.example.parse`.
        size: the side that the device will resize it to, in pixels.
        pixels: the most pixels that the result holds, P; a larger image is made smaller.
        window: as for `decode_record`.

    Returns:
        uint8 [P, 3], the pixels row by row, then zeros; and int32 [2], their height and width.
    """
    image = record_pixels(fields, size, window)
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float64))
    image = tf.cond(
        height * width > pixels,
        lambda: _resize(image, *rules.fit(height, width, float(pixels), tf)),
        lambda: image,
    )
    shape = tf.shape(image)[:2]
    flat = tf.reshape(image, [-1, CHANNELS])
    flat = tf.pad(flat, [[0, pixels - tf.shape(flat)[0]], [0, 0]])
    return tf.ensure_shape(flat, [pixels, CHANNELS]), shape


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resize uint8 [H, W, 3] to uint8 [size, size, 3]."""
    resized = _resize(image, size, size)
    resized.set_shape([size, size, CHANNELS])
    return resized


def brightness(image: tf.Tensor) -> tf.Tensor:
    """Return the mean luma of uint8 [H, W, 3], float32, in 0..255."""
    return tf.tensordot(tf.reduce_mean(tf.cast(image, tf.float32), [0, 1]), tf.constant(LUMA), 1)


def _resize(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    size = tf.cast(tf.stack([height, width]), tf.int32)
    old = tf.shape(image)
    resized = tf.cond(
        rules.is_antialiased(old[0], old[1], size[0], size[1]),
        lambda: tf.image.resize(image, size, antialias=True),
        lambda: tf.image.resize(image, size),
    )
    return tf.cast(resized + 0.5, tf.uint8)  # both are averages, so within 0..255


def _crop(image: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Return a window of uint8 [H, W, 3], at least one pixel, like the one of the host."""
    last = tf.shape(image)[:2]
    extent = tf.cast(last, tf.float32)
    begin = tf.cast(tf.round(window[:2] * extent), tf.int32)
    end = tf.cast(tf.round((window[:2] + window[2:]) * extent), tf.int32)
    begin = tf.minimum(begin, last - 1)
    end = tf.minimum(tf.maximum(end, begin + 1), last)
    return image[begin[0] : end[0], begin[1] : end[1]]


def _decode_jpeg(encoded: tf.Tensor, size: int, window: tf.Tensor | None = None) -> tf.Tensor:
    def at(factor: int) -> tf.Tensor:
        return tf.io.decode_jpeg(
            encoded, CHANNELS, factor, fancy_upscaling=False, dct_method="INTEGER_FAST"
        )

    # `rules.jpeg_factor` for a tensor.
    sides = tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.float32)
    shorter = tf.reduce_min(sides if window is None else sides * window[2:])
    covers = tf.stack([tf.math.ceil(shorter / f) >= size for f in JPEG_FACTORS[:-1]] + [True])
    largest = tf.argmax(tf.cast(covers, tf.int32), output_type=tf.int32)  # the first that does
    return tf.switch_case(largest, [functools.partial(at, factor) for factor in JPEG_FACTORS])
