"""Decode the images that clients send: of any kind and size, damaged or hostile.

Each image is judged alone: a bad one costs only its sender the prediction. The pixels follow the
rules in `pixels`, as those of a build do, so a prediction does not depend on the image's path.

A graph has no exceptions. Files that are seen to be unusable are refused with a reason. If a
decoder fails, the other images of the batch are still classified (`ignore_errors`).
"""

import functools

import tensorflow as tf

from tfpipe.images import gif, orientation, preprocess
from tfpipe.images import pixels as rules
from tfpipe.images.byte_reader import ByteReader
from tfpipe.images.pixels import CHANNELS, MAX_PIXELS, MAX_SCANS

# Scans times pixels. A JPEG of `MAX_PIXELS` may have the usual ten scans.
MAX_SCANNED = 10 * MAX_PIXELS

EMPTY = "the file is empty"
NO_IMAGE = "not a JPEG, PNG, GIF or BMP file"
TOO_LARGE = f"more than {MAX_PIXELS:,} pixels"
TOO_MANY_SCANS = f"a JPEG with more than {MAX_SCANS} scans, or too many for its size"
UNKNOWN_BMP = "a BMP file other than of 24 or 32 bits without compression: convert it"
DAMAGED = "damaged"

_PNG_MAGIC, _GIF_MAGIC, _BMP_MAGIC = b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM"
_BMP_DEPTH_AT = 28  # bits of a pixel
_PNG_DEPTH_AT = 24  # of its header: bits of a channel
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(5)  # APP14, "transform" 0
_SCAN = b"\xff\xda"  # the first bytes of a scan

# Images of a batch that are decoded at a time.
_PARALLEL = 16


def decode(encoded: tf.Tensor, size: int, depth16: str = rules.AUTO) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode a batch of image files and resize each to a square.

    Args:
        encoded: string [N], JPEG, PNG, GIF or BMP files of any sizes.
        size: the side of the result in pixels, S.
        depth16: how 16-bit greys become 8-bit ones, one of `pixels.DEPTHS`.

    Returns:
        uint8 [N, S, S, 3], RGB in 0..255, black for an unreadable image; and string [N], the reason
        why it is unreadable, one of this module's constants, or "".
    """

    @tf.autograph.experimental.do_not_convert
    def judged(index: tf.Tensor, file: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return index, *_judged(file, size, depth16)

    count = tf.size(encoded)
    # The last one is always readable: no batch is empty, and unreadable images get its pixels.
    files = tf.concat([encoded, [""]], 0)
    dataset = tf.data.Dataset.from_tensor_slices((tf.range(count + 1), files))
    dataset = dataset.map(judged, num_parallel_calls=_PARALLEL, deterministic=True)
    dataset = dataset.ignore_errors().batch(tf.cast(count + 1, tf.int64))
    # Each call would optimize the data set, which takes longer than decoding an image.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    indices, images, errors = dataset.with_options(options).get_single_element()
    last = tf.size(indices) - 1
    errors = tf.concat([errors[:-1], [DAMAGED]], 0)
    places = tf.tensor_scatter_nd_update(
        tf.fill([count], last), indices[:-1, tf.newaxis], tf.range(last)
    )
    images = tf.ensure_shape(images, [None, size, size, CHANNELS])
    return tf.gather(images, places), tf.gather(errors, places)


def _judged(encoded: tf.Tensor, size: int, depth16: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the square of an image and "", or a black one and what is wrong with it.

    Each branch becomes a function that is optimized when a model is loaded, so the shared steps
    follow the branches.

    Raises:
        tf.errors.InvalidArgumentError: a decoder finds damage.
    """
    head = ByteReader(encoded, 64)
    starts = (_PNG_MAGIC, _GIF_MAGIC, _BMP_MAGIC)
    known = [tf.io.is_jpeg(encoded), *map(head.starts_with, starts), tf.constant(True)]
    kind = tf.argmax(tf.cast(tf.stack(known), tf.int32), output_type=tf.int32)  # the first
    checks = [_check_jpeg, _check_png, _check_gif, _check_bmp, _check_other]
    plain, error = tf.switch_case(
        kind, [functools.partial(check, encoded, head) for check in checks]
    )
    decoders = [
        lambda: preprocess.decode_pixels(plain, size),
        lambda: _on_white(plain, head, depth16),
        lambda: tf.io.decode_image(plain, channels=CHANNELS, expand_animations=False),
        lambda: _decode_bmp(plain, head),
        lambda: tf.zeros([1, 1, CHANNELS], tf.uint8),
    ]
    others = len(decoders) - 1
    pixels = tf.switch_case(tf.where(error == "", kind, others), decoders)
    image = preprocess.resize(tf.ensure_shape(pixels, [None, None, CHANNELS]), size)
    # After the resize, because a small square is faster to turn.
    image = orientation.upright(image, orientation.orientation(encoded))
    return tf.ensure_shape(image, [size, size, CHANNELS]), error


def _check_jpeg(encoded: tf.Tensor, head: ByteReader) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a file for the decoder, string scalar, and what is wrong with it, or ""."""
    shape = tf.io.extract_jpeg_shape(encoded)
    pixels = _area(shape[0], shape[1])
    # tf.strings.split takes ten times as many operations.
    parts = tf.raw_ops.StringSplitV2(input=[encoded], sep=_SCAN).values
    scans = tf.size(parts) - 1
    many = (scans > MAX_SCANS) | (pixels * tf.cast(scans, tf.float32) > MAX_SCANNED)
    plain = tf.where(shape[2] == 4, _as_adobe(encoded), encoded)
    return plain, tf.where(many, TOO_MANY_SCANS, _size_error(pixels))


def _check_png(encoded: tf.Tensor, head: ByteReader) -> tuple[tf.Tensor, tf.Tensor]:
    width, height = head.number(16, 4, big=True), head.number(20, 4, big=True)
    return encoded, _size_error(_area(width, height))


def _check_gif(encoded: tf.Tensor, head: ByteReader) -> tuple[tf.Tensor, tf.Tensor]:
    first, pixels = gif.first_picture(encoded)
    return first, _size_error(pixels)


def _check_bmp(encoded: tf.Tensor, head: ByteReader) -> tuple[tf.Tensor, tf.Tensor]:
    width, height = head.number(18, 4), head.number(22, 4)  # negative from the top down
    depth = head.number(_BMP_DEPTH_AT, 2)
    known = (head.number(14, 4) >= 40) & (head.number(30, 4) == 0)
    known &= (depth == 24) | (depth == 32)
    return encoded, tf.where(known, _size_error(_area(width, height)), UNKNOWN_BMP)


def _check_other(encoded: tf.Tensor, head: ByteReader) -> tuple[tf.Tensor, tf.Tensor]:
    return encoded, tf.where(head.size == 0, EMPTY, NO_IMAGE)


def _decode_bmp(encoded: tf.Tensor, head: ByteReader) -> tf.Tensor:
    return tf.cond(
        head.number(_BMP_DEPTH_AT, 2) == 24,
        lambda: tf.io.decode_bmp(encoded, channels=3),
        lambda: tf.io.decode_bmp(encoded, channels=4)[..., :CHANNELS],
    )


def _area(width: tf.Tensor, height: tf.Tensor) -> tf.Tensor:
    return tf.abs(tf.cast(width, tf.float32)) * tf.abs(tf.cast(height, tf.float32))


def _size_error(pixels: tf.Tensor) -> tf.Tensor:
    return tf.where(pixels > MAX_PIXELS, TOO_LARGE, "")


def _as_adobe(encoded: tf.Tensor) -> tf.Tensor:
    """Add Adobe's marker to a CMYK JPEG, so that TensorFlow reads its inks as inverted.

    Adobe writes them inverted, and all other decoders read them so. The file's own marker wins,
    because it follows.
    """
    return tf.strings.substr(encoded, 0, 2) + _ADOBE + tf.strings.substr(encoded, 2, 2**31 - 1)


def _on_white(encoded: tf.Tensor, head: ByteReader, depth16: str) -> tf.Tensor:
    """Decode a PNG to uint8 [H, W, 3], on white."""
    depth = head.byte(_PNG_DEPTH_AT)
    image = tf.cond(
        (depth == 16) & (depth16 != rules.FULL),
        lambda: _eight_bit(encoded, depth16),
        lambda: tf.io.decode_png(encoded, channels=4),
    )
    # For an opaque file of less than 8 bits TensorFlow sets alpha to the largest value of its bits.
    alpha = tf.cast(image[..., 3:], tf.int32)
    least, most = tf.reduce_min(alpha), tf.reduce_max(alpha)
    opaque = (least == 255) | (least == most) & (most == tf.bitwise.left_shift(1, depth) - 1)

    def mixed() -> tf.Tensor:
        color = tf.cast(image[..., :CHANNELS], tf.int32)
        return tf.cast(rules.on_white(color, alpha), tf.uint8)

    return tf.cond(opaque, lambda: image[..., :CHANNELS], mixed)


def _eight_bit(encoded: tf.Tensor, depth16: str) -> tf.Tensor:
    """Decode a PNG of 16 bits to uint8 [H, W, 4], its color as `pixels.to_8_bits` does."""
    image = tf.cast(tf.io.decode_png(encoded, channels=4, dtype=tf.uint16), tf.int32)
    color, alpha = image[..., :CHANNELS], image[..., CHANNELS:] // 256
    least = tf.reduce_min(tf.where(alpha > 0, color, 2**16 - 1))
    most = tf.reduce_max(tf.where(alpha > 0, color, 0))
    if depth16 == rules.MINMAX:
        span = tf.maximum(most - least, 1)
        color = ((color - least) * 255 + span // 2) // span
    else:
        further_bits = tf.cast(most >= [2**bits for bits in range(8, 16)], tf.int32)
        color = tf.bitwise.right_shift(color, tf.reduce_sum(further_bits))
    # Transparent values may be out of the range; they become white.
    color = tf.clip_by_value(color, 0, 255)
    return tf.cast(tf.concat([color, alpha], -1), tf.uint8)
