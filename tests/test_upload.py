"""Images that clients send: each judged alone. `test_pixels` compares their pixels."""

import io
import struct
import tarfile

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from conftest import SHARED, draw
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import add_scans, png, save

from tfpipe.core.errors import Rejected
from tfpipe.images import gif, preprocess, strict, upload

SIDE = 32
READ = ("JPEG", "PNG", "GIF", "BMP")

graph = tf.function(
    lambda files: upload.decode(files, SIDE), input_signature=[tf.TensorSpec([None], tf.string)]
)


def decoded(files):
    images, errors = graph(tf.constant(files, tf.string))
    assert images.dtype == np.uint8
    assert images.shape == (len(files), SIDE, SIDE, 3)
    return images.numpy(), [error.decode() for error in errors.numpy()]


def smooth(mode="RGB", size=(64, 48)):
    """So smooth that JPEG keeps it."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    rgba = np.stack([250 * x, 250 * y, 200 - 100 * x - 90 * y, 127 * (x + y)], -1)
    return PIL.Image.fromarray(rgba.astype(np.uint8)[..., : 4 if mode == "RGBA" else 3]).convert(
        mode
    )


def animation():
    frames = [smooth().quantize(32), PIL.Image.new("P", (64, 48), 3)]
    return save(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)


FILES = {
    "JPEG": save(smooth(), "JPEG"),
    "progressive JPEG": save(smooth(), "JPEG", progressive=True),
    "CMYK JPEG": save(smooth("CMYK"), "JPEG"),
    "PNG": save(smooth(), "PNG"),
    "alpha": save(smooth("RGBA"), "PNG"),
    "GIF": save(smooth().quantize(32), "GIF"),
    "transparent GIF": save(smooth().quantize(32), "GIF", transparency=3),
    "animation": animation(),
    "BMP": save(smooth(), "BMP"),
}


def test_a_damaged_image_costs_its_neighbours_nothing():
    good = list(FILES.values())
    cut = FILES["JPEG"][: len(FILES["JPEG"]) // 2]
    bad = [cut, b"", b"no image", FILES["PNG"][:-40], FILES["animation"][:200]]
    mixed = [file for pair in zip(good, bad * 4, strict=False) for file in pair]
    images, errors = decoded(mixed)
    alone, none = decoded(good)
    assert none == [""] * len(good)
    np.testing.assert_array_equal(images[::2], alone)
    assert not images[1::2].any()
    reasons = [upload.DAMAGED, upload.EMPTY, upload.NO_IMAGE, upload.DAMAGED, upload.DAMAGED]
    assert errors == [text for one in (reasons * 4)[: len(good)] for text in ("", one)]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_all_may_be_damaged_or_none_there(count):
    images, errors = decoded([b"x"] * count)
    assert not images.any()
    assert errors == [upload.NO_IMAGE] * count


def test_a_batch_is_its_images():
    files = [save(draw("dog", number), "JPEG") for number in range(40)]
    images, errors = decoded(files)
    assert not any(errors)
    for file, image in zip(files, images, strict=True):
        np.testing.assert_array_equal(image, preprocess.decode_image(file, SIDE))


def large_png(side):
    """A header that promises more than there is."""
    return png(side, side, 1, 0, [], compressed=b"")


def large_gif(side, screen=1):
    """One picture of a colour, without data."""
    head = b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0, 0, 0)
    return head + b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x01\x44\x00;"


def bmp(depth=24, compression=0, width=4, height=4):
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, compression, 0, 0, 0, 0, 0)
    body = bytes(16 * depth)
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + head + body


REFUSED = {
    "WebP": (save(smooth(), "WEBP"), upload.NO_IMAGE),
    "TIFF": (save(smooth(), "TIFF"), upload.NO_IMAGE),
    "PNG of 10^8 pixels": (large_png(10_000), upload.TOO_LARGE),
    "PNG of 2^31 a side": (large_png(2**31 - 1), upload.TOO_LARGE),
    "GIF of a large screen": (large_gif(1, 65535), upload.TOO_LARGE),
    "GIF of a large picture": (large_gif(65535), upload.TOO_LARGE),
    "BMP of 10^8 pixels": (bmp(width=10_000, height=-10_000), upload.TOO_LARGE),
    "BMP of 8 bits": (bmp(8), upload.UNKNOWN_BMP),
    "compressed BMP": (bmp(32, compression=3), upload.UNKNOWN_BMP),
    "scans": (add_scans(FILES["progressive JPEG"], upload.MAX_SCANS), upload.TOO_MANY_SCANS),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_beforehand(name):
    data, reason = REFUSED[name]
    images, errors = decoded([FILES["PNG"], data])
    assert errors == ["", reason]
    assert not images[1].any()


def test_a_usual_number_of_scans_is_read():
    assert decoded([add_scans(FILES["progressive JPEG"], 10)])[1] == [""]


def test_of_an_animation_only_the_first_picture_is_unpacked():
    """A megabyte of such pictures would need 100 times that."""
    frame = large_gif(1)[13:-1]
    first = save(smooth().quantize(32), "GIF")
    many = first[:-1] + frame * 1000 + b";"
    found, pixels = gif.first_picture(tf.constant(many))
    assert found.numpy() == first
    assert pixels.numpy() == 64 * 48


@pytest.mark.parametrize("data", [b"", b"GIF89a", FILES["GIF"][:-30], large_gif(4)[:-4]])
def test_a_gif_without_end_is_only_cut(data):
    found, _ = gif.first_picture(tf.constant(data))
    assert found.numpy() == data + b";"


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(FILES)),
    st.binary(min_size=1, max_size=60),
    st.floats(0, 1),
    st.booleans(),
)
def test_damage_is_never_an_error_of_the_batch(name, noise, where, cut):
    data = bytearray(FILES[name])
    at = int(where * len(data))
    data[at : at + len(noise)] = noise
    data = bytes(data[: at + 1] if cut else data)
    images, errors = decoded([FILES["PNG"], data])
    assert errors[0] == ""
    np.testing.assert_array_equal(images[0], decoded([FILES["PNG"]])[0][0])
    assert not (errors[1] and images[1].any())


def malformed():
    """Yields (kind, name, data) of the real malformed files."""
    corpus = SHARED / "data/bad-inputs/images.tar"
    if not corpus.is_file():
        pytest.skip("needs the malformed images in ../shared, which are not here")
    with tarfile.open(corpus) as tar:
        for member in tar:
            if member.isfile() and not member.name.endswith((".csv", "README.txt")):
                yield member.name, tar.extractfile(member).read()


def test_malformed_files_from_everywhere():
    """None crashes, and what records take is taken, with the same picture."""
    names, files = zip(*malformed(), strict=True)
    images, errors = decoded(list(files))
    compared = 0
    for name, data, image, error in zip(names, files, images, errors, strict=True):
        try:
            picture = strict.decode(data)
            with PIL.Image.open(io.BytesIO(data)) as opened:
                kind = "JPEG" if opened.format == "MPO" else opened.format
        except (Rejected, PIL.UnidentifiedImageError):
            continue
        if kind not in READ or error == upload.UNKNOWN_BMP:
            continue
        if picture.converted == strict.MENDED and error:  # nobody can tell there what it lacks
            assert error == upload.DAMAGED
            continue
        assert error == "", name
        compared += 1
        if picture.file:
            alone = preprocess.decode_image(picture.file, SIDE)
            np.testing.assert_array_equal(image, alone, name)
        elif "xmp_tags" not in name:  # what XMP says of a PNG is not read here
            expected = preprocess.resize(tf.constant(picture.pixels), SIDE).numpy()
            # JPEG is decoded to an eighth of its size, with a faster transform.
            assert np.abs(image - expected.astype(int)).mean() < 12, name
    assert compared > 40
