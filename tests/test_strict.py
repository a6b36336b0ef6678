"""The build's strict check: which files are good, and that TensorFlow reads what is stored right.

Images are drawn as arrays, so that the right pixels are known without any decoder.
"""

import csv
import hashlib
import pathlib
import random
import struct
import tarfile
import zlib

import numpy as np
import PIL.features
import PIL.Image
import pytest
import tensorflow as tf
from pictures import TURNED, add_scans, exif, png, save

from tfpipe.core.errors import Rejected
from tfpipe.images import store as stores
from tfpipe.images import strict
from tfpipe.images.image_info import ImageRef, describe, store_again
from tfpipe.images.pixels import MAX_SCANS
from tfpipe.images.store import ORIGINAL

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
    assert "0x" not in caught.value.detail  # an address would differ from run to run
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


def test_damaged_exif_does_not_matter():
    data = save(smooth(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert ORIGINAL.convert(data).encoded == data


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


def test_16_bit_tiff():
    values = np.array([[0, 0x1234, 0xFFFF]], np.uint16)
    for order in ("<", ">"):
        picture = PIL.Image.fromarray(values.astype(f"{order}u2"))
        image = ORIGINAL.convert(save(picture, "TIFF"))
        assert decode(image)[0, :, 1].tolist() == [0, 0x12, 255]


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


def test_format_is_told_by_content():
    assert rejected(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "not an image"
    assert rejected(b"") == "not an image"
    assert rejected(b"P6 1 1 255 abc") == "not an image"  # Pillow could, and is not to
    assert rejected(b"\0\0\0\x1cftypavif" + bytes(20)) == "unsupported"
    for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 ", b"GIF89a"):
        assert rejected(magic) == "damaged"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_cut_is_noticed(kind):
    data = save(smooth(20, 20), kind)
    end = len(data) - 2 if kind == "GIF" else len(data)  # its end mark says nothing of the pixels
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
    assert rejected(data[:-12]) == "damaged"  # no end chunk
    assert rejected(data[:-1] + b"x") == "damaged"  # its checksum
    unfinished = zlib.compress(bytes(7))[:-4]
    assert rejected(png(2, 1, 8, 2, [], compressed=unfinished)) == "damaged"
    jpeg = save(smooth(), "JPEG")
    assert rejected(jpeg[:-2]) == "damaged"
    assert rejected(jpeg[:-2] + bytes(2)) == "damaged"


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
        found = found._replace(spool="x" if stored else "")
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
