"""Samples a batch of images bilinearly, once, where a matrix for each sends the output's pixels.

Made for XLA on CPUs, where the gathers take the time. A pixel's three channels are packed in one
word, so that a pixel of the output costs four gathers of a word instead of twelve of a float, and
the result leaves the loop over pixels as one word too, which lets the compiler vectorise it.
"""

from collections.abc import Sequence

import tensorflow as tf

from tfpipe.augment.barrier import barrier

# A word of 32 bits holds a pixel's channels, from the lowest bit on. Sampled ones are fixed-point
# numbers: of red and green an eighth of a level is kept, of blue, to which the eye is blindest, a
# quarter, so that what is rounded off is an eighth of a level at most. A picture resized on the
# host loses up to half a level. Whole levels, which strength 0 gives, are exact.
_PIXEL = (8, 8, 8)
_SAMPLE = (11, 11, 10)
_ONES = tuple(2.0 ** (sample - pixel) for sample, pixel in zip(_SAMPLE, _PIXEL, strict=True))


def warp(
    images: tf.Tensor,
    matrix: tf.Tensor,
    side: int,
    sizes: tf.Tensor | None = None,
    windows: tf.Tensor | None = None,
) -> tf.Tensor:
    """Resizes and transforms each image with one bilinear interpolation.

    The resize maps the picture's rectangle to the output's, with half-pixel centres and without
    antialias, as tf.image.resize does. Outside the picture its nearest edge pixel is taken.

    Args:
        images: uint8 [N, H, W, 3], or with `sizes` [N, P, 3].
        matrix: float32 [N, 3, 3], affine, from output to input pixels (x, y, 1) about the output's
            centre, before the resize.
        side: of the result, in pixels.
        sizes: int32 [N, 2], height and width of pictures whose pixels `images` has row by row, and
            then others.
        windows: float32 [N, 4], top, left, height and width, as fractions of a picture, of the
            part to whose edges those outside are moved; None for all of it.

    Returns:
        float32 [N, side, side, 3] in 0..255; what tf.image.resize gives where the matrix is the
        identity, to an eighth of a level.
    """
    if sizes is None:
        shape = tf.shape(images)
        sizes = tf.broadcast_to(shape[1:3], [shape[0], 2])
        images = tf.reshape(images, [shape[0], -1, 3])
    extent = tf.cast(sizes, tf.float32)
    low, high = tf.zeros_like(extent), extent - 1.0
    if windows is not None:
        low = extent * windows[:, :2]
        high = tf.maximum(low + extent * windows[:, 2:] - 1.0, low)
    sources = _sources(matrix, side, extent), low, high
    words = barrier(_pack(images), matrix)
    sampled = barrier(_sample(words, tf.shape(images)[1], sources, sizes, side), matrix)
    return tf.reshape(_unpack(sampled), [-1, side, side, 3])


def _sources(matrix: tf.Tensor, side: int, sizes: tf.Tensor) -> tf.Tensor:
    """Returns the map from output to input pixels, both counted from the upper left corner.

    Args:
        matrix: float32 [N, 3, 3], about the output's centre.
        side: of the output.
        sizes: float32 [N, 2], height and width of the input.

    Returns:
        float32 [N, 2, 3]: x and y in the input, 0 at a pixel's centre, as sums of x and y in the
        output, 0.5 at a pixel's centre, and 1. So it is, for the identity, the formula of
        tf.image.resize to the bit.
    """
    scale = tf.reverse(sizes, [1]) / side
    linear, shift = matrix[:, :2, :2], matrix[:, :2, 2]
    shift += (1.0 - linear[:, :, 0] - linear[:, :, 1]) * (side / 2)
    return tf.concat(
        [linear * scale[..., tf.newaxis], (shift * scale - 0.5)[..., tf.newaxis]], axis=2
    )


def _pack(images: tf.Tensor) -> tf.Tensor:
    """Packs uint8 [N, P, 3] into uint32 [N * P].

    Flat, or XLA would take each index of the gathers apart into image, row and column.
    """
    return tf.reshape(_join([images[..., channel] for channel in range(3)], _PIXEL), [-1])


def _sample(
    words: tf.Tensor,
    pixels: tf.Tensor,
    sources: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
    sizes: tf.Tensor,
    side: int,
) -> tf.Tensor:
    """Returns the samples, row by row, as uint32 [N, side * side].

    Args:
        words: uint32 [N * P].
        pixels: P.
        sources: as from `_sources`, and between which rows and columns they are to be, float32
            [N, 2] twice.
        sizes: int32 [N, 2], height and width of each picture.
        side: of the result.
    """
    maps, low, high = sources
    last, width = sizes - 1, sizes[:, 1:]
    left, right, along_x = _neighbours(maps[:, 0], low[:, 1:], high[:, 1:], last[:, 1:], side)
    top, bottom, along_y = _neighbours(maps[:, 1], low[:, :1], high[:, :1], last[:, :1], side)
    first = tf.range(tf.shape(last)[0])[:, tf.newaxis] * pixels
    upper, lower = first + top * width, first + bottom * width
    corners = (
        _split(tf.gather(words, index))
        for index in (upper + left, upper + right, lower + left, lower + right)
    )
    samples = [
        tf.cast(_mix(_mix(a, b, along_x), _mix(c, d, along_x), along_y) * one + 0.5, tf.int32)
        for a, b, c, d, one in zip(*corners, _ONES, strict=True)
    ]
    return _join(samples, _SAMPLE)


def _neighbours(
    source: tf.Tensor, low: tf.Tensor, high: tf.Tensor, last: tf.Tensor, side: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Finds where each pixel of the output comes from, along one axis.

    Args:
        source: float32 [N, 3], of `_sources`.
        low: float32 [N, 1], the least it is to be.
        high: float32 [N, 1], the most.
        last: int32 [N, 1], the last pixel of the input.
        side: of the output.

    Returns:
        The pixels before and after, int32 [N, side * side], and the way between them, 0..1.
    """
    index = tf.range(side * side)
    x, y = (tf.cast(each, tf.float32)[tf.newaxis] + 0.5 for each in (index % side, index // side))
    place = source[:, :1] * x + source[:, 1:2] * y + source[:, 2:]
    place = tf.clip_by_value(place, low, high)
    floor = tf.floor(place)
    before = tf.cast(floor, tf.int32)
    return before, tf.minimum(before + 1, last), place - floor


def _mix(first: tf.Tensor, second: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    return first + (second - first) * share


def _join(channels: Sequence[tf.Tensor], bits: Sequence[int]) -> tf.Tensor:
    """Packs three whole numbers, of so many bits each, into uint32."""
    red, green, blue = (tf.cast(channel, tf.uint32) for channel in channels)
    return red + green * 2 ** bits[0] + blue * 2 ** (bits[0] + bits[1])


def _split(words: tf.Tensor) -> list[tf.Tensor]:
    """Unpacks the channels of pixels; each float32 of the shape of `words`."""
    return [_field(words, *place) for place in _places(_PIXEL)]


def _unpack(samples: tf.Tensor) -> tf.Tensor:
    """Unpacks uint32 [...] of `_sample` into float32 [..., 3] in 0..255.

    All channels at once: to put three tensors side by side takes XLA half as long again.
    """
    shifts, masks = zip(*_places(_SAMPLE), strict=True)
    return _field(samples[..., tf.newaxis], shifts, masks) / _ONES


def _places(bits: Sequence[int]) -> list[tuple[int, int]]:
    """Returns by how many bits each channel is to be shifted, and its mask then."""
    return [(sum(bits[:channel]), 2**each - 1) for channel, each in enumerate(bits)]


def _field(words: tf.Tensor, shift: int | Sequence[int], mask: int | Sequence[int]) -> tf.Tensor:
    shifted = tf.bitwise.right_shift(words, tf.constant(shift, tf.uint32))
    field = tf.bitwise.bitwise_and(shifted, tf.constant(mask, tf.uint32))
    # Through int32, for which a CPU has an instruction.
    return tf.cast(tf.cast(field, tf.int32), tf.float32)
