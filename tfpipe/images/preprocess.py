"""The one way from encoded bytes to the model's input, in training, evaluation and serving.

The host decodes and resizes to one square of uint8, the smallest type that loses nothing on the
way to the device; each backbone's own resize and normalisation are layers of the model
(`tfpipe.model.backbones`), so they run where the model runs and are part of what is exported.

Here it is a graph, for evaluation and export. `tfpipe.images.decoder` does the same to
training images, outside TensorFlow and faster: the same pixels of the same library, and a resize
that rounds at most one level apart.
"""

import functools

import tensorflow as tf

CHANNELS = 3

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, of R, G and B as they are stored

# A JPEG file's inverse transform can give the picture at these fractions of its size, which
# averages over the pixels that fall together and takes less time than the whole.
JPEG_FACTORS = (8, 4, 2, 1)


def decode_image(encoded: tf.Tensor, size: int) -> tf.Tensor:
    """Decodes one image of a record and resizes it to a square.

    The proportion is not kept, as in the published recipes. A large JPEG is decoded at the smallest
    of an eighth, a quarter, half or all of its size that covers the square. The rest is bilinear,
    with the pixels' centres at halves; where it still shrinks a side to less than half, it averages
    over the pixels that fall together (antialias), so that no large picture has moire.

    Args:
        encoded: string scalar, a JPEG, PNG, GIF (first frame) or BMP; `tfpipe.images.upload` is for
            those that `tfpipe.building` has not made plain.
        size: the side of the result in pixels.

    Returns:
        uint8 [size, size, 3], RGB in 0..255.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not such an image.
    """
    return resize(decode_pixels(encoded, size), size)


def decode_pixels(encoded: tf.Tensor, size: int) -> tf.Tensor:
    """Decodes one image, to no more than is needed for a square of side `size`.

    Args:
        encoded: as for `decode_image`.
        size: in pixels.

    Returns:
        uint8 [H, W, 3], RGB in 0..255.
    """
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: _decode_jpeg(encoded, size),
        lambda: tf.io.decode_image(encoded, channels=CHANNELS, expand_animations=False),
    )
    image.set_shape([None, None, CHANNELS])
    return image


def decode_record(fields: dict[str, tf.Tensor], size: int) -> tf.Tensor:
    """Does as `decode_image` with the image of a record, which may also be bare pixels.

    Args:
        fields: of one record, as from `ingest.example.parse`.
        size: the side of the result in pixels.

    Returns:
        uint8 [size, size, 3], RGB in 0..255.
    """
    return resize(record_pixels(fields, size), size)


def record_pixels(fields: dict[str, tf.Tensor], size: int) -> tf.Tensor:
    """Does as `decode_pixels` with the image of a record, which may also be bare pixels.

    Args:
        fields: of one record, as from `ingest.example.parse`.
        size: in pixels.

    Returns:
        uint8 [H, W, 3], RGB in 0..255.
    """
    image = tf.cond(
        tf.equal(fields["image/format"], "raw"),
        lambda: tf.reshape(
            tf.io.decode_raw(fields["image/encoded"], tf.uint8),
            [fields["image/height"], fields["image/width"], CHANNELS],
        ),
        lambda: decode_pixels(fields["image/encoded"], size),
    )
    image.set_shape([None, None, CHANNELS])
    return image


def record_canvas(
    fields: dict[str, tf.Tensor], size: int, pixels: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Does as `record_pixels` with a picture that the device resizes.

    Args:
        fields: of one record, as from `ingest.example.parse`.
        size: the side that it will have there, in pixels.
        pixels: how many it may have at most, P; one of more is made smaller.

    Returns:
        uint8 [P, 3], the pixels row by row and then others; and int32 [2], their height and width.
    """
    image = record_pixels(fields, size)
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.minimum(1.0, tf.sqrt(float(pixels) / tf.reduce_prod(shape)))
    height, width = tf.unstack(tf.maximum(1, tf.cast(shape * scale, tf.int32)))
    height = tf.minimum(height, pixels // width)  # of an extreme proportion
    image = tf.cond(
        scale < 1.0,
        lambda: tf.cast(tf.image.resize(image, [height, width], antialias=True) + 0.5, tf.uint8),
        lambda: image,
    )
    shape = tf.shape(image)[:2]
    flat = tf.reshape(image, [-1, CHANNELS])
    flat = tf.pad(flat, [[0, pixels - tf.shape(flat)[0]], [0, 0]])
    return tf.ensure_shape(flat, [pixels, CHANNELS]), shape


def brightness(image: tf.Tensor) -> tf.Tensor:
    """Returns the mean luma of uint8 [H, W, 3], float32, in 0..255."""
    return tf.tensordot(tf.reduce_mean(tf.cast(image, tf.float32), [0, 1]), tf.constant(LUMA), 1)


def _decode_jpeg(encoded: tf.Tensor, size: int) -> tf.Tensor:
    # The fast transform and upsampling are at most a few levels off, and a quarter faster.
    def at(factor: int) -> tf.Tensor:
        return tf.io.decode_jpeg(
            encoded, CHANNELS, factor, fancy_upscaling=False, dct_method="INTEGER_FAST"
        )

    shorter = tf.reduce_min(tf.io.extract_jpeg_shape(encoded)[:2])
    covers = tf.stack([(shorter + f - 1) // f >= size for f in JPEG_FACTORS[:-1]] + [True])
    largest = tf.argmax(tf.cast(covers, tf.int32), output_type=tf.int32)  # the first that does
    return tf.switch_case(largest, [functools.partial(at, factor) for factor in JPEG_FACTORS])


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes uint8 [H, W, 3] to uint8 [size, size, 3], as `decode_image` says."""
    shape = tf.shape(image)
    shrinks = tf.reduce_max(shape[:2]) > 2 * size
    resized = tf.cond(
        shrinks,
        lambda: tf.image.resize(image, [size, size], antialias=True),
        lambda: tf.image.resize(image, [size, size]),
    )
    resized.set_shape([size, size, CHANNELS])
    return tf.cast(resized + 0.5, tf.uint8)  # both are averages, so within 0..255
