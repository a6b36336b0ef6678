"""EXIF orientation is read and applied as Pillow does, whoever wrote it."""

import io
import struct

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.images.orientation import orientation, upright

graph = tf.function(orientation, input_signature=[tf.TensorSpec([], tf.string)])


def picture():
    """Different in every corner, and so smooth that JPEG keeps it."""
    y, x = np.mgrid[0:48, 0:64]
    return PIL.Image.fromarray(np.stack([3 * y, 3 * x, 250 - y - x], -1).astype(np.uint8))


def jpeg(exif=b"", **options):
    file = io.BytesIO()
    picture().save(file, "JPEG", quality=95, subsampling=0, exif=exif, **options)
    return file.getvalue()


def tiff(order, entries, second=()):
    """EXIF data by hand: a first directory, and perhaps a second, of (tag, type, value)."""

    def directory(rows, following):
        body = b"".join(
            struct.pack(order + "HHI", tag, kind, 1)
            + struct.pack(order + ("HH" if kind == 3 else "I"), *((v, 0) if kind == 3 else (v,)))
            for tag, kind, v in rows
        )
        return struct.pack(order + "H", len(rows)) + body + struct.pack(order + "I", following)

    first_size = 2 + 12 * len(entries) + 4
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    following = 8 + first_size if second else 0
    rest = directory(second, 0) if second else b""
    return b"Exif\0\0" + head + directory(entries, following) + rest


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_reads_either_byte_order(order, turn):
    data = jpeg(tiff(order, [(0x010F, 3, 7), (0x0112, 3, turn)]))
    assert graph(tf.constant(data)).numpy() == turn


@pytest.mark.parametrize("turn", range(1, 9))
def test_turns_what_is_not_square(turn):
    pixels = np.asarray(picture())
    image = picture()
    image.getexif()[0x0112] = turn
    expected = np.asarray(PIL.ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(upright(tf.constant(pixels), tf.constant(turn)), expected)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        jpeg(),
        jpeg(tiff("<", [(0x0112, 3, 0)])),
        jpeg(tiff("<", [(0x0112, 3, 9)])),
        jpeg(tiff("<", [(0x010F, 3, 6)])),
        jpeg(tiff("<", [(0x010F, 3, 1)], second=[(0x0112, 3, 6)])),  # of the thumbnail
        jpeg(b"Exif\0\0II*\0\xff\xff\xff\xff"),
        jpeg(tiff("<", [(0x0112, 3, 6)]))[:25],
        b"\x89PNG" + jpeg(tiff("<", [(0x0112, 3, 6)])),
    ],
)
def test_upright_where_nothing_is_said(data):
    assert graph(tf.constant(data)).numpy() == 1


def test_other_segments_may_come_first():
    data = jpeg(tiff(">", [(0x0112, 3, 6)]), comment=b"x" * 60_000)
    segment = b"\xff\xe2" + struct.pack(">H", 50_002) + bytes(50_000)
    assert graph(tf.constant(data[:2] + segment + data[2:])).numpy() == 6


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80), st.sampled_from("<>"), st.integers(0, 60))
def test_damage_is_no_error(noise, order, at):
    data = bytearray(jpeg(tiff(order, [(0x0112, 3, 6)]))[:150])
    data[at : at + len(noise)] = noise
    assert 1 <= graph(tf.constant(bytes(data))).numpy() <= 8
