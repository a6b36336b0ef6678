"""Find the first image of a GIF file without decoding it.

TensorFlow's decoder unpacks all images of an animation, also to return only the first. A megabyte
may hold gigabytes of them.
"""

import tensorflow as tf

from tfpipe.images.byte_reader import ByteReader

# The most blocks of at most 255 bytes that are read.
_MAX_BLOCKS = 2**16

# GIF89a, sections 17 to 27.
_SCREEN_AT, _COLORS_AT, _HEADER_BYTES = 6, 10, 13
_EXTENSION, _PICTURE, _END = 0x21, 0x2C, b";"
_CONTROL, _WHITE = 0xF9, b"\xff\xff\xff"
_AT_BLOCK, _IN_EXTENSION, _IN_PICTURE, _DONE = range(4)
_BYTES = [bytes([value]) for value in range(256)]


def first_picture(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Find the first image of a GIF file.

    Args:
        encoded: string scalar, the file.

    Returns:
        The file up to the end of that image, string scalar, with the transparent colour made white;
        TensorFlow would show it as black. If the image has no end, or too many blocks, the file is
        cut somewhere, and a decoder refuses it. And the pixels that a decoder needs memory for,
        float32 scalar: of the whole screen, or of the image if that claims to be larger.
    """
    head = ByteReader(encoded, -1)

    def colors(packed: tf.Tensor) -> tf.Tensor:  # the bytes of a colour table
        return tf.where(packed >= 0x80, 3 * 2 ** (packed % 8 + 1), 0)

    def step(
        at: tf.Tensor, state: tf.Tensor, picture: tf.Tensor, control: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        value = head.byte(at)
        is_block = state == _AT_BLOCK
        is_extension, is_picture = value == _EXTENSION, value == _PICTURE
        length = tf.where(is_extension, 2, 11 + colors(head.byte(at + 9)))
        begun = tf.where(is_extension, _IN_EXTENSION, tf.where(is_picture, _IN_PICTURE, _DONE))
        ended = tf.where(state == _IN_EXTENSION, _AT_BLOCK, _DONE)
        return (
            at + tf.where(is_block, length, 1 + value),
            tf.where(is_block, begun, tf.where(value == 0, ended, state)),
            tf.where(is_block & is_picture, at, picture),
            tf.where(is_block & is_extension & (head.byte(at + 1) == _CONTROL), at, control),
        )

    first = _HEADER_BYTES + colors(head.byte(_COLORS_AT))
    at, _, picture, control = tf.while_loop(
        lambda at, state, *_: (state != _DONE) & (at < head.size),
        step,
        (first, tf.constant(_AT_BLOCK), tf.constant(0), tf.constant(0)),
        maximum_iterations=_MAX_BLOCKS,
        parallel_iterations=1,
    )

    def area(at: tf.Tensor) -> tf.Tensor:
        width, height = (tf.cast(head.number(at + i, 2), tf.float32) for i in (0, 2))
        return width * height

    screen = area(tf.constant(_SCREEN_AT))
    pixels = tf.where(picture > 0, tf.maximum(screen, area(picture + 5)), screen)
    cut = tf.strings.substr(encoded, 0, at) + _END
    return _on_white(cut, head, picture, control), pixels


def _on_white(
    encoded: tf.Tensor, head: ByteReader, picture: tf.Tensor, control: tf.Tensor
) -> tf.Tensor:
    """Make the transparent colour white and opaque.

    Args:
        encoded: the file.
        head: its bytes.
        picture: the position of its first image.
        control: the position of its graphic control extension, 0 without one.
    """
    flags, index = head.byte(control + 3), head.byte(control + 6)
    is_local = head.byte(picture + 9) >= 0x80
    table = tf.where(is_local, picture + 10, _HEADER_BYTES)
    packed = head.byte(tf.where(is_local, picture + 9, _COLORS_AT))
    known = (packed >= 0x80) & (index < 2 ** (packed % 8 + 1))

    def white() -> tf.Tensor:
        opaque = tf.gather(_BYTES, flags - flags % 2)
        return _replaced(_replaced(encoded, control + 3, opaque), table + 3 * index, _WHITE)

    return tf.cond((control > 0) & (flags % 2 == 1) & known, white, lambda: encoded)


def _replaced(text: tf.Tensor, at: tf.Tensor, by: tf.Tensor | bytes) -> tf.Tensor:
    after = at + tf.strings.length(by)
    rest = tf.strings.substr(text, after, tf.strings.length(text) - after)
    return tf.strings.substr(text, 0, at) + by + rest
