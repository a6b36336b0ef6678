"""The build's strict check: which files are good, and that TensorFlow reads what is stored right.

Images are drawn as arrays, so that the right pixels are known without any decoder.
"""

import csv
import hashlib
import io
import pathlib
import random
import re
import struct
import tarfile
import zlib

import numpy as np
import PIL.features
import PIL.Image
import pytest
import simplejpeg
import tensorflow as tf
from pictures import TURNED, add_scans, exif, png, save

from tfpipe.core.errors import Rejected
from tfpipe.images import store as stores
from tfpipe.images import strict
from tfpipe.images.image_info import ImageRef, describe, store_again
from tfpipe.images.pixels import MAX_SCANS
from tfpipe.images.store import ORIGINAL, Store

IMAGES = pathlib.Path(__file__).parents[2] / "shared/data/bad-inputs/images.tar"

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")


def smooth(height=48, width=32):
    """A picture that JPEG keeps nearly, different in every corner; uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([40 + 4 * y, 40 + 6 * x, 250 - 2 * x - 2 * y], axis=-1).astype(np.uint8)


def decode(image):
    """Returns what TensorFlow makes of an image, and checks the description on the way."""
    read = tf.io.decode_jpeg if image.format == "jpeg" else tf.io.decode_png
    pixels = read(image.encoded, channels=3).numpy()
    assert pixels.shape == (image.height, image.width, 3)
    assert hashlib.sha256(image.encoded).hexdigest() == image.sha256
    anyhow = tf.io.decode_image(image.encoded, channels=3, expand_animations=False).numpy()
    np.testing.assert_array_equal(anyhow, pixels)
    return pixels


def assert_near(pixels, expected, levels=8):
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < levels


def rejected(data):
    with pytest.raises(Rejected) as caught:
        ORIGINAL.convert(data)
    assert caught.value.detail
    assert not re.search(
        "0x[0-9a-f]{6}", caught.value.detail
    )  # an address would differ from run to run
    return caught.value.reason


@pytest.mark.parametrize(
    ("kind", "mode", "options", "converted"),
    [
        ("JPEG", None, {}, ""),
        ("JPEG", None, {"progressive": True, "subsampling": 0}, ""),
        ("JPEG", None, {"comment": b"hello", "icc_profile": b"x" * 99}, ""),
        ("JPEG", "L", {}, "grey"),
        ("PNG", None, {}, ""),
        ("PNG", "L", {}, "grey"),
    ],
)
def test_plain_files_pass_byte_for_byte(kind, mode, options, converted):
    data = save(smooth(), kind, mode, **options)
    image = ORIGINAL.convert(data)
    assert image.encoded == data
    assert (image.format, image.height, image.width) == (kind.lower(), 48, 32)
    assert image.converted == converted
    expected = smooth()
    if mode == "L":  # the weights of ITU-R 601
        grey = expected @ [0.299, 0.587, 0.114]
        expected = np.stack([grey] * 3, axis=-1)
    assert_near(decode(image), expected, 3)


def test_interlaced_png_passes():
    rows = smooth(8, 8)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4)]
    passes += [(1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b"".join(
        b"\0" + rows[y, x0::dx].tobytes() for x0, y0, dx, dy in passes for y in range(y0, 8, dy)
    )
    data = bytearray(png(8, 8, 8, 2, [], compressed=zlib.compress(raw)))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    image = ORIGINAL.convert(bytes(data))
    assert image.converted == ""
    np.testing.assert_array_equal(decode(image), rows)


AVIF = ["AVIF"] if PIL.features.check("avif") else []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", *AVIF])
@pytest.mark.parametrize("orientation", [1, *TURNED, 9])  # 9 is no value of the standard
def test_exif_orientation_is_applied(kind, orientation):
    stored = TURNED.get(orientation, np.copy)(smooth())
    image = ORIGINAL.convert(save(stored, kind, exif=exif(orientation).tobytes()))
    assert (image.height, image.width) == (48, 32)
    assert_near(decode(image), smooth(), 5)
    if kind in ("JPEG", "PNG"):
        assert image.converted == ("rotated" if 2 <= orientation <= 8 else "")


def test_orientation_in_xmp_is_applied():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    data = save(smooth()[::-1, ::-1], "JPEG", xmp=xmp)
    image = ORIGINAL.convert(data)
    assert image.converted == "rotated"
    assert_near(decode(image), smooth(), 5)
    assert b"Orientation" not in image.encoded


BROKEN_EXIF = [
    b"Exif\0\0II*\0\xff\xff\xff\x7f",  # a directory far beyond the end
    b"Exif\0\0" + bytes(range(40)),
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x63\xff\xff\xff\xff",
    exif(6).tobytes()[:-9],
]


@pytest.mark.parametrize("broken", BROKEN_EXIF)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_damaged_exif_does_not_matter(kind, broken):
    # In a TIFF it is a pointer to a directory beyond the end of the file.
    options = {"tiffinfo": {0x8769: 2**31}} if kind == "TIFF" else {"exif": broken}
    data = save(smooth(), kind, **options)
    image = ORIGINAL.convert(data)
    assert_near(decode(image), smooth(), 5)
    if kind in ("JPEG", "PNG"):
        assert image.encoded == data


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def after_soi(more):
    return lambda data: data[:2] + more + data[2:]


def before_last(marker, more):
    def insert(data):
        at = data.rindex(marker)
        return data[:at] + more + data[at:]

    return insert


ICC = segment(0xE2, b"ICC_PROFILE\0\x07\x02" + bytes(50))  # chunk 7 of 2
JUNK = bytes(range(200)) + bytes(100)
# What libjpeg complains about although no pixel is lost, and whether the file itself is stored.
HARMLESS = {
    "before the end": (before_last(b"\xff\xd9", JUNK), False),
    "between segments": (before_last(b"\xff\xc4", b"\x00\x01\x02\xff\x00"), False),
    "in the header": (after_soi(b"junk"), False),
    "no end": (lambda data: data[:-2], False),
    "half an end": (lambda data: data[:-1], False),
    "profile": (after_soi(ICC), False),
    "after the end": (lambda data: data + JUNK, True),
    "JFIF 9.9": (lambda data: data.replace(b"JFIF\0\x01\x01", b"JFIF\0\x09\x09"), False),
    "Adobe 77": (after_soi(segment(0xEE, b"Adobe\0\x64\0\0\0\0\x4d")), True),
    "scan": (lambda data: data.replace(b"\0\x3f\0", b"\0\x00\0"), True),
}
CODED = {
    "baseline": {},
    "grey": {"mode": "L"},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
}


def coded(options):
    return save(smooth(96, 80), "JPEG", quality=90, **options)


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("name", HARMLESS)
def test_warnings_that_lose_no_pixel_are_no_damage(name, coding):
    whole = coded(CODED[coding])
    change, is_stored = HARMLESS[name]
    data = change(whole)
    if coding == "progressive" and (name == "scan" or name.endswith("end")):
        if name in ("no end", "half an end"):  # its last scans may be missing
            assert rejected(data) == "damaged"
        return
    image = ORIGINAL.convert(data)
    np.testing.assert_array_equal(decode(image), decode(ORIGINAL.convert(whole)))
    assert (image.encoded == data) == is_stored
    assert image.converted == ("mended" if not is_stored else "grey" if coding == "grey" else "")
    simplejpeg.decode_jpeg(image.encoded, strict=not is_stored)  # as training decodes


@pytest.mark.parametrize("marker", [b"\xff\xd0", b"\xff\xd1"])
def test_extraneous_bytes_before_a_restart(marker):
    whole = coded(CODED["restarts"])
    image = ORIGINAL.convert(before_last(marker, JUNK)(whole))
    np.testing.assert_array_equal(decode(image), decode(ORIGINAL.convert(whole)))
    assert image.converted == "mended"


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_warning_hides_no_damage(name, coding):
    """libjpeg tells only the first of its warnings."""
    data = coded(CODED[coding])
    data = data[: 2 * len(data) // 3] + b"\xff\xd9"
    if name != "after the end":
        data = HARMLESS[name][0](data)
    assert rejected(data) == "damaged"


@pytest.mark.parametrize("options", [{"exif": exif(6)}, {"mode": "CMYK"}])
def test_damage_of_what_is_converted_is_noticed(options):
    data = coded(options)
    assert ORIGINAL.convert(data).converted in ("rotated", "cmyk")
    assert rejected(data[: len(data) // 2] + b"\xff\xd9") == "damaged"
    mended = ORIGINAL.convert(before_last(b"\xff\xd9", JUNK)(data))
    np.testing.assert_array_equal(decode(mended), decode(ORIGINAL.convert(data)))


def chunk(kind, body, checksum=None):
    crc = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


@pytest.mark.parametrize(
    "broken",
    [
        chunk(b"tEXt", b"Comment\0hello", 1),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"x"), 1),
        chunk(b"iCCP", b"profile\0\x07nothing"),
        chunk(b"iCCP", b"profile\0\0no zlib stream"),
        chunk(b"zTXt", b"key\0\x09text"),
        chunk(b"pHYs", b"\0\0"),
        chunk(b"cHRM", b"\0\0\0"),
        chunk(b"gAMA", b"\0"),
        chunk(b"tIME", b"", 0),
        chunk(b"acTL", b"\0", 1),
        chunk(b"eXIf", b"II*\0\xff\xff\xff\x7f", 1),
    ],
)
@pytest.mark.parametrize("place", [33, -12], ids=["before", "after"])
def test_damaged_chunks_without_pixels_are_no_damage(broken, place):
    whole = save(smooth(), "PNG")
    data = whole[:place] + broken + whole[place:]
    image = ORIGINAL.convert(data)
    np.testing.assert_array_equal(decode(image), smooth())
    assert image.converted == ("mended" if image.encoded != data else "")
    # Also libraries that are less patient than TensorFlow read what is stored.
    PIL.Image.open(io.BytesIO(image.encoded)).load()


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("cut", [4, 12, -3])
def test_a_webp_that_is_cut_in_its_metadata_is_no_damage(cut, lossless):
    whole = save(smooth(), "WEBP", exif=exif(1).tobytes(), lossless=lossless, quality=95)
    start = whole.index(b"EXIF")
    image = ORIGINAL.convert(whole[: start + cut if cut > 0 else cut])
    np.testing.assert_array_equal(decode(image), decode(ORIGINAL.convert(whole)))
    assert rejected(whole[: start - 9]) == "damaged"


def test_a_damaged_chunk_of_pixels_is_damage():
    clear = chunk(b"tRNS", bytes(6), 1)
    whole = save(smooth(), "PNG")
    assert rejected(whole[:33] + clear + whole[33:]) == "damaged"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(("GIF", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})),
        *(("WEBP", {"lossless": True}), ("WEBP", {"quality": 90})),
        *((kind, {"quality": 90}) for kind in AVIF),
    ],
)
def test_other_formats_become_png(kind, options):
    image = ORIGINAL.convert(save(smooth(), kind, **options))
    assert (image.format, image.converted) == ("png", kind.lower())
    # A GIF has 256 colours and lossy WebP loses; the others are exact.
    lossy = kind == "GIF" or "quality" in options
    assert_near(decode(image), smooth(), 8 if lossy else 1e-9)


def test_cmyk_jpeg_has_the_right_polarity():
    for ink, expected in [((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 255, 0), (255, 255, 0))]:
        image = ORIGINAL.convert(save(PIL.Image.new("CMYK", (16, 16), ink), "JPEG"))
        assert (image.format, image.converted) == ("jpeg", "cmyk")
        assert_near(decode(image), np.full((16, 16, 3), expected), 4)


def test_transparent_becomes_white():
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[..., 3] = [[0, 255, 255], [255, 0, 255]]
    expected = np.where(pixels[..., 3:] == 0, 255, pixels[..., :3])
    for kind, options in [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]:
        image = ORIGINAL.convert(save(pixels, kind, **options))
        np.testing.assert_array_equal(decode(image), expected)
    assert ORIGINAL.convert(save(pixels, "PNG")).converted == "alpha"


def test_half_transparent_is_blended():
    pixels = np.array([[[100, 0, 200, 51]]], np.uint8)  # a fifth
    blended = [[[224, 204, 244]]]  # 255 + (c - 255) / 5
    assert np.abs(decode(ORIGINAL.convert(save(pixels, "PNG"))).astype(int) - blended).max() <= 1


def test_palette():
    picture = PIL.Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putdata([1, 0])
    image = ORIGINAL.convert(save(picture, "PNG"))
    assert image.converted == "palette"
    assert decode(image).tolist() == [[[200, 100, 50], [10, 20, 30]]]
    image = ORIGINAL.convert(save(picture, "PNG", transparency=1))
    assert image.converted == "alpha"
    assert decode(image).tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize(
    ("depth", "row", "clear", "expected"),
    [
        # Grey values as stored, the transparent one, and what they are in 8 bits.
        (1, b"\x40", None, [0, 255, 0, 0]),
        (1, b"\x40", 0, [255, 255, 255, 255]),
        (2, b"\x1b", None, [0, 85, 170, 255]),
        (2, b"\x1b", 1, [0, 255, 170, 255]),
        (4, b"\x02\x8f", None, [0, 34, 136, 255]),
        (4, b"\x02\x8f", 8, [0, 34, 255, 255]),
        (8, b"\x00\x22\x88\xff", 0x22, [0, 255, 136, 255]),
        (16, b"\x00\xff\x22\x00\x88\x80\xff\xff", None, [0, 34, 136, 255]),
        (16, b"\x00\xff\x22\x00\x88\x80\xff\xff", 0x2200, [0, 255, 136, 255]),
    ],
)
def test_grey_png_of_any_depth(depth, row, clear, expected):
    extra = [] if clear is None else [(b"tRNS", struct.pack(">H", clear))]
    image = ORIGINAL.convert(png(4, 1, depth, 0, [row], *extra))
    assert decode(image)[0, :, 0].tolist() == expected
    if clear is None:
        assert image.converted == ("16 bit" if depth == 16 else "bit depth")
    else:
        assert image.converted == "alpha"


def test_rgb_png_of_16_bits():
    row = struct.pack(">6H", 0x1000, 0x2000, 0x30FF, 0xFFFF, 0, 0x80)
    image = ORIGINAL.convert(png(2, 1, 16, 2, [row]))
    assert decode(image).tolist() == [[[16, 32, 48], [255, 0, 0]]]
    clear = (b"tRNS", struct.pack(">3H", 0x1000, 0x2000, 0x30FF))
    image = ORIGINAL.convert(png(2, 1, 16, 2, [row], clear))
    assert decode(image).tolist() == [[[255, 255, 255], [255, 0, 0]]]


DEEP = {
    "PNG": lambda values: save(PIL.Image.fromarray(values), "PNG"),
    "TIFF": lambda values: save(PIL.Image.fromarray(values), "TIFF"),
    "big-endian TIFF": lambda values: save(PIL.Image.fromarray(values.astype(">u2")), "TIFF"),
    "PGM": lambda values: b"P5 %d %d 65535\n" % values.shape[::-1] + values.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize(
    ("values", "depth16", "expected", "converted"),
    [
        ([0, 0x1234, 0xFFFF], "auto", [0, 0x12, 255], ""),
        ([0, 0x1234, 0x8000], "auto", [0, 0x12, 128], ""),
        ([0, 2048, 4095], "auto", [0, 128, 255], "16 bit scaled"),
        ([512, 513, 1023], "auto", [128, 128, 255], "16 bit scaled"),
        ([0, 16383, 3], "auto", [0, 255, 0], "16 bit scaled"),
        ([0, 100, 255], "auto", [0, 100, 255], "16 bit scaled"),
        ([0, 0, 0], "auto", [0, 0, 0], "16 bit scaled"),
        ([0, 2048, 4095], "full", [0, 8, 15], ""),
        ([1000, 1500, 2000], "minmax", [0, 128, 255], "16 bit scaled"),
        ([7, 7, 7], "minmax", [0, 0, 0], "16 bit scaled"),
    ],
)
def test_16_bit_greys_are_scaled_to_what_they_use(kind, values, depth16, expected, converted):
    image = Store(depth16=depth16).convert(DEEP[kind](np.array([values], np.uint16)))
    assert (decode(image)[0] == np.array(expected)[:, None]).all()
    reason = {"PNG": "16 bit", "PGM": "ppm"}.get(kind, "tiff")
    assert image.converted == (converted or reason)


@pytest.mark.parametrize(
    ("color", "values", "expected"),
    [
        (2, [0, 2048, 4095], [0, 128, 255]),
        (2, [0, 2048, 65535], [0, 8, 255]),
        (4, [2048, 65535], [128] * 3),
        (6, [0, 2048, 4095, 65535], [0, 128, 255]),
        (6, [0, 2048, 4095, 0], [255] * 3),
    ],
)
def test_16_bit_color_is_scaled_too(color, values, expected):
    row = struct.pack(f">{len(values)}H", *values)
    rest = {4: [4095, 65535], 6: [4095] * 3 + [65535]}.get(color, [])
    row = row + struct.pack(f">{len(rest)}H", *rest)
    image = ORIGINAL.convert(png(2 if rest else 1, 1, 16, color, [row]))
    assert decode(image)[0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("clear", "expected"), [(65535, [0, 128, 255, 255]), (0, [255, 8, 15, 255])]
)
def test_a_transparent_value_is_not_part_of_the_range(clear, expected):
    values = np.array([[0, 2048, 4095, 65535]], ">u2")
    data = png(4, 1, 16, 0, [values.tobytes()], (b"tRNS", struct.pack(">H", clear)))
    assert decode(ORIGINAL.convert(data))[0, :, 0].tolist() == expected


def test_pixels_without_a_fixed_scale_are_refused():
    for mode in ("I", "F"):
        assert rejected(save(PIL.Image.new(mode, (4, 4)), "TIFF")) == "unsupported"


def test_animations_give_their_first_picture():
    red, blue = (PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    for kind, options in [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]:
        data = save(red, kind, save_all=True, append_images=[blue], **options)
        image = ORIGINAL.convert(data)
        assert decode(image)[0, 0].tolist() == [255, 0, 0]
        assert image.converted == ("animated" if kind == "PNG" else kind.lower())


def test_converted_files_carry_no_metadata():
    secret = exif(6)
    secret[0x010E] = "SECRET"
    data = save(smooth(), "JPEG", exif=secret, comment=b"SECRET", icc_profile=b"SECRET" * 9)
    image = ORIGINAL.convert(data)
    assert image.converted == "rotated"
    assert b"SECRET" not in image.encoded


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image", "PostScript"),
        (b"", "not an image", "empty"),
        (bytes(300), "not an image", "zeros"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "not an image", "git lfs pull"),
        (b"\n <!DOCTYPE html><html>", "not an image", "web page"),
        (b"\xef\xbb\xbf<HTML lang='en'>", "not an image", "web page"),
        (b'<?xml version="1.0"?><svg width="9">', "not an image", "SVG"),
        (b'{"error": 1}', "not an image", "JSON"),
        (b"%PDF-1.4", "not an image", "PDF"),
        (b"PK\3\4" + bytes(30), "not an image", "zip"),
        ("Über Füchse\n".encode() * 30, "not an image", "text"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "unsupported", "HEIC"),
        (b"\0\0\0\x18ftypisom" + bytes(99), "not an image", "video"),
        (b"\xff\x0a" + bytes(20), "unsupported", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "unsupported", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "unsupported", "JPEG 2000"),
        (save(PIL.Image.new("RGB", (9, 7)), "TGA"), "unsupported", "TGA"),
        (bytes(128) + b"DICM" + bytes(40), "unsupported", "DICOM"),
        (b"BM and other brands of cars", "not an image", "text"),
        (b"P1 is the first of ours", "not an image", "text"),
        (b"\x07\x9c\x81" * 30, "not an image", "begins with"),
        (b"\xff\xd8\xff", "damaged", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "damaged", "PNG"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "damaged", ""),
        (b"GIF89a", "damaged", "GIF"),
        (b"\0\0\0\x1cftypavif" + bytes(20), "damaged", "AVIF"),
    ],
)
def test_what_is_no_image_is_told_by_its_contents(data, reason, words, monkeypatch):
    monkeypatch.setattr(strict, "_has_heif", lambda: False)
    with pytest.raises(Rejected) as caught:
        ORIGINAL.convert(data)
    assert caught.value.reason == reason
    assert words in caught.value.detail


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_portable_pixmaps(mode):
    picture = PIL.Image.fromarray(smooth()).convert(mode)
    image = ORIGINAL.convert(save(picture, "PPM"))
    assert image.converted == "ppm"
    np.testing.assert_array_equal(decode(image), np.asarray(picture.convert("RGB")))
    assert rejected(save(picture, "PPM")[:-1]) == "damaged"


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_read_where_its_package_is(orientation):
    heif = pytest.importorskip("pillow_heif", reason="needs the extra `heic`")
    stored = PIL.Image.fromarray(TURNED.get(orientation, np.copy)(smooth()))
    made = heif.from_pillow(stored)
    made.add_from_pillow(PIL.Image.new("RGB", (64, 64), "blue"))
    file = io.BytesIO()
    made.save(file, exif=exif(orientation).tobytes(), quality=95)
    image = ORIGINAL.convert(file.getvalue())
    assert (image.format, image.converted) == ("png", "heic")
    assert_near(decode(image), smooth(), 6)
    assert rejected(file.getvalue()[: len(file.getvalue()) // 2]) == "damaged"


@pytest.mark.parametrize("orientation", [1, 6])
def test_mpo_gives_its_first_picture(orientation):
    other = PIL.Image.new("RGB", (32, 48), "blue")
    stored = TURNED.get(orientation, np.copy)(smooth())
    data = save(stored, "MPO", save_all=True, append_images=[other], exif=exif(orientation))
    image = ORIGINAL.convert(data)
    assert image.converted == ("" if orientation == 1 else "rotated")
    assert_near(decode(image), smooth(), 5)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_cut_is_noticed(kind):
    data = save(smooth(20, 20), kind)
    # The end marks of these say nothing of the pixels.
    end = len(data) - {"GIF": 2, "JPEG": 2, "PNG": 12}.get(kind, 0)
    for length in range(0, end, 7):
        rejected(data[:length])
    rejected(data[: end - 1])


def test_progressive_cut_is_noticed():
    data = save(smooth(), "JPEG", progressive=True)
    for length in range(0, len(data), 9):
        rejected(data[:length])
    assert ORIGINAL.convert(data + b"trailing bytes").format == "jpeg"


def test_missing_ends_are_noticed():
    """Pillow has all its pixels before it sees these, and TensorFlow refuses them."""
    data = png(2, 1, 8, 2, [bytes(6)])
    assert ORIGINAL.convert(data).converted == ""
    for cut in (data[:-12], data[:-5], data[:-1] + b"x"):  # only the end chunk
        assert ORIGINAL.convert(cut).encoded == data
    assert rejected(data[:-13]) == "damaged"
    unfinished = zlib.compress(bytes(7))[:-4]
    assert rejected(png(2, 1, 8, 2, [], compressed=unfinished)) == "damaged"
    assert rejected(save(smooth(), "JPEG", progressive=True)[:-2]) == "damaged"


def test_damage_that_passes_is_read_by_tensorflow():
    rng = random.Random(0)
    whole = [save(smooth(), "JPEG"), save(smooth(), "JPEG", "L", progressive=True)]
    whole += [save(smooth(9, 9), "PNG"), save(smooth(9, 9), "PNG", "L")]
    passed = 0
    for _ in range(600):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.choice([1, 1, 2, 6])):
            at = rng.randrange(len(data))
            if rng.random() < 0.7:
                data[at] ^= 1 << rng.randrange(8)
            else:
                data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        try:
            image = ORIGINAL.convert(bytes(data))
        except Rejected:
            continue
        decode(image)
        passed += 1
    assert passed > 50


def test_bombs_are_refused_by_their_header():
    huge = png(30_000, 30_000, 1, 0, [], compressed=zlib.compress(bytes(1000)))
    webp = bytes.fromhex(  # 38 bytes that unpack to 12,000 x 12,000 pixels
        "524946461e000000574542505650384c110000002fdfeeb70b0750bc2a14b9ff8188e87f0000"
    )
    for data in (huge, webp):
        assert rejected(data) == "too many pixels"
    scans = add_scans(save(smooth(), "JPEG", progressive=True), MAX_SCANS)
    assert rejected(scans) == "too many scans"
    excess = png(2, 1, 8, 2, [], compressed=zlib.compress(bytes(2**23)))
    assert rejected(excess) == "damaged"


@pytest.mark.parametrize("form", ["original", "resized:20", "raw:16"])
def test_repeat_gives_the_same_and_notices_a_change(form):
    store = stores.parse(form)
    for data in (save(smooth(), "JPEG"), save(smooth(), "GIF")):
        found, stored, _ = describe(ImageRef(0, "x"), data, store)
        found = found.replace(spool="x" if stored else "")
        assert store_again(data, found, store) == (stored or data)
        assert hashlib.sha256(stored or data).hexdigest() == found.sha256
        with pytest.raises(Rejected):
            store_again(save(smooth()[:-1], "JPEG"), found, store)


@pytest.mark.filterwarnings("ignore")
def test_malformed_images(tmp_path):
    """All of the corpus, in this process: one time bomb is among them and must not go off."""
    if not IMAGES.is_file():
        pytest.skip(f"{IMAGES} is not there")
    with tarfile.open(IMAGES) as archive:
        archive.extractall(tmp_path, filter="data")
    rows = list(csv.DictReader((tmp_path / "index.csv").open(encoding="utf-8", newline="")))
    assert len(rows) == 125
    wrong = {"firm": [], "lenient": []}
    for row in rows:
        try:
            image = ORIGINAL.convert((tmp_path / row["path"]).read_bytes())
        except Rejected:
            image = None
        verdict = "reject"
        if image is not None:
            verdict = "accept_converted" if image.converted else "accept"
            pixels = decode(image)
            if row["expected_upright_hw"]:
                assert f"{image.height}x{image.width}" == row["expected_upright_hw"], row["path"]
            if row["ref_rgb_8x8_hex"]:
                expected = np.frombuffer(bytes.fromhex(row["ref_rgb_8x8_hex"]), np.uint8)
                small = PIL.Image.fromarray(pixels).resize((8, 8), PIL.Image.Resampling.BOX)
                assert_near(np.asarray(small), expected.reshape(8, 8, 3).astype(int))
        allowed = [row["expected"]]
        if row["confidence"] == "lenient":
            allowed += row["also_ok"].split(";")
        if verdict not in allowed:
            wrong[row["confidence"]].append(row["path"])
    # Grey counts as converted in the index too, but for this file.
    assert wrong["firm"] == ["icc_and_metadata/jpg-srgb-icc.jpg"]
    # What a file's name says is judged elsewhere.
    assert wrong["lenient"] == ["wrong_extension/jpeg_named.txt"]


def damaged(data, seed):
    """Some bytes of a file's second half set at random, or its end cut off or replaced."""
    draw = random.Random(seed)
    data = bytearray(data)
    for _ in range(draw.choice([1, 2, 8])):
        data[draw.randrange(len(data) // 2, len(data))] = draw.randrange(256)
    if seed % 5 == 0:
        data = data[: draw.randrange(len(data) // 2, len(data))] + bytearray(b"\xff\xd9")
    return bytes(data)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_a_smaller_version_tells_the_same_damage(options, subsampling):
    """What is only looked at is not brought to its full size; no damage may hide there."""
    noise = np.random.default_rng(1).integers(0, 40, (300, 520, 3), np.uint8)
    pixels = noise + np.linspace(0, 200, 520, dtype=np.uint8)[None, :, None]
    data = save(pixels, "JPEG", subsampling=subsampling, **options)
    outcomes = {}
    for seed in range(30):
        for min_side in (0, 64, 32):
            try:
                picture = strict.decode(damaged(data, seed), min_side=min_side)
                outcome = picture.height, picture.width, picture.converted
            except Rejected as rejected:
                outcome = rejected.reason, rejected.detail
            assert outcomes.setdefault(seed, outcome) == outcome
    assert len({outcome[0] for outcome in outcomes.values()}) > 1, "both kinds"


@pytest.mark.parametrize(
    ("size", "min_side", "expected"),
    [
        ((300, 520), 0, (300, 520)),
        ((300, 520), 64, (75, 130)),
        ((301, 523), 64, (76, 131)),
        ((520, 300), 32, (65, 38)),
        ((125, 900), 64, (125, 900)),
        ((127, 900), 64, (64, 450)),
        ((9, 7), 64, (9, 7)),
    ],
)
def test_a_smaller_version_is_the_picture(size, min_side, expected):
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    pixels = np.stack([y * 255 // size[0], x * 255 // size[1], 0 * x], -1).astype(np.uint8)
    picture = strict.decode(save(pixels, "JPEG", quality=95, subsampling=0), min_side=min_side)
    assert (picture.height, picture.width) == size
    assert picture.pixels.shape == (*expected, 3)
    box = PIL.Image.fromarray(pixels).resize(expected[::-1], PIL.Image.Resampling.BOX)
    assert_near(picture.pixels, np.asarray(box), 3)
