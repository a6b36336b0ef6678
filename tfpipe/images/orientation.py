"""Read the EXIF orientation of a JPEG file and turn its image, within a graph.

Cameras store a photo as the sensor was held and note how to turn it. TensorFlow ignores the note.
Records hold upright images only (`strict`), so a served model has to turn what clients send. A note
in XMP or in a PNG file is ignored here.
"""

import tensorflow as tf

from tfpipe.images.byte_reader import ByteReader
from tfpipe.images.pixels import TURNS

# EXIF data follow the start of a file, perhaps after other segments of at most 64 KiB each.
_HEAD_BYTES = 2**17
_MAX_SEGMENTS = 32
_MAX_ENTRIES = 256

_EXIF_MARKER, _EXIF = 0xE1, b"Exif\0\0"  # of its segment, and the first bytes of its contents
_TAG, _SHORT = 0x0112, 3  # TIFF 6.0: Orientation, and the type of its value


def orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Read the EXIF orientation of a JPEG file.

    Args:
        encoded: string scalar, a file of any kind, whole or not.

    Returns:
        int32 scalar, 1 to 8 as in TIFF; 1 (upright) if the file has none.
    """
    head = ByteReader(encoded, _HEAD_BYTES)
    byte = head.byte

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        return (byte(at + 1) == _EXIF_MARKER) & head.starts_with(_EXIF, at + 4)

    def is_skipped(at: tf.Tensor) -> tf.Tensor:
        marker = byte(at + 1)
        is_header = (marker >= 0xE0) & (marker <= 0xEF) | (marker == 0xFE)
        return (byte(at) == 0xFF) & is_header & ~is_exif(at)

    at = tf.while_loop(
        is_skipped,
        lambda at: (at + 2 + head.number(at + 2, 2, big=True),),
        (tf.constant(2),),
        maximum_iterations=_MAX_SEGMENTS,
    )[0]
    found = (byte(0) == 0xFF) & (byte(1) == 0xD8) & (byte(at) == 0xFF) & is_exif(at)
    return tf.where(found, _in_tiff(head, at + 10), 1)


def upright(image: tf.Tensor, turn: tf.Tensor) -> tf.Tensor:
    """Turn an image upright.

    Args:
        image: uint8 [H, W, C].
        turn: int32 scalar, from `orientation`.

    Returns:
        uint8 [H, W, C] or [W, H, C].
    """
    # No branches: each would be a function that is optimized when a model is loaded.
    transposed, *reversed_ = tf.unstack(tf.gather(list(TURNS.values()), turn - 1))
    turned = tf.transpose(image, tf.where(transposed, [1, 0, 2], [0, 1, 2]))
    return tf.raw_ops.Reverse(tensor=turned, dims=tf.stack([*reversed_, False]))


def _in_tiff(head: ByteReader, start: tf.Tensor) -> tf.Tensor:
    """Return the orientation in the first directory of the TIFF data at `start`, or 1."""
    is_big = head.byte(start) == ord("M")

    def number(at: tf.Tensor, length: int) -> tf.Tensor:
        return head.number(at, length, big=is_big)

    # Clipped, because an offset far beyond the head would overflow.
    directory = start + tf.clip_by_value(number(start + 4, 4), 0, _HEAD_BYTES)
    count = tf.minimum(number(directory, 2), _MAX_ENTRIES)
    entries = directory + 2 + 12 * tf.range(count)
    matches = (number(entries, 2) == _TAG) & (number(entries + 2, 2) == _SHORT)
    values = tf.boolean_mask(number(entries + 8, 2), matches)
    first = tf.concat([values, [1]], 0)[0]
    return tf.where((first >= 1) & (first <= 8), first, 1)
