"""One definition of the model's pixels: host, graph and upload agree, and are right.

Images are drawn as arrays, so the right pixels are known without any decoder.
"""

import itertools

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import tensorflow as tf
from pictures import TURNED, draw, exif, png, save

from tfpipe.images import pixels as rules
from tfpipe.images import preprocess, preprocess_host, upload
from tfpipe.images.store import ORIGINAL, Store, parse
from tfpipe.records import example

SIDE = 32
SIZES = [(48, 64), (300, 200), (641, 47), (3000, 1), (1, 3000), (1, 1), (SIDE, SIDE)]


def grey(pixels):
    luma = np.round(pixels @ np.array(rules.LUMA)).astype(np.uint8)
    return np.repeat(luma[..., None], 3, -1)


def half_transparent(pixels):
    alpha = np.linspace(0, 255, pixels.shape[1]).astype(np.uint8)
    alpha = np.broadcast_to(alpha[:, None], (*pixels.shape[:2], 1))
    data = save(np.concatenate([pixels, alpha], -1), "PNG")
    return data, 255 + (pixels.astype(float) - 255) * alpha / 255


def palette(pixels, kind, clear=None):
    """16 vertical stripes, one of them perhaps transparent."""
    index = np.broadcast_to(np.arange(pixels.shape[1]) * 16 // pixels.shape[1], pixels.shape[:2])
    colours = np.arange(48, dtype=np.uint8).reshape(16, 3) * 5
    image = PIL.Image.fromarray(index.astype(np.uint8))
    image.putpalette(colours.tobytes())
    data = save(image, kind, **({} if clear is None else {"transparency": clear}))
    return data, np.where((index == clear)[..., None], 255, colours[index])


def sixteen_bit(pixels):
    values = pixels[..., 0].astype(np.uint16) * 256 + 77
    unused = 2 ** (16 - int(np.log2(values.max())) - 1)  # the factor to the full range
    return save(values, "PNG"), np.repeat(values[..., None] * unused // 256, 3, -1)


def turned(pixels, orientation):
    pixels = TURNED[orientation](pixels)
    return save(pixels, "JPEG", quality=95, subsampling=0, exif=exif(orientation))


def jpeg(**options):
    return lambda p: (save(p, "JPEG", quality=95, subsampling=0, **options), p)


# For each kind of file a function from pixels to a file, and to the pixels that are right for it.
KINDS = {
    "JPEG": jpeg(),
    "progressive JPEG": jpeg(progressive=True),
    "grey JPEG": lambda p: (save(p, "JPEG", "L", quality=95), grey(p)),
    "CMYK JPEG": lambda p: (save(p, "JPEG", "CMYK", quality=95), p),
    **{f"JPEG turned by {n}": lambda p, n=n: (turned(p, n), p) for n in range(2, 9)},
    "PNG": lambda p: (save(p, "PNG"), p),
    "grey PNG": lambda p: (save(p, "PNG", "L"), grey(p)),
    "alpha": half_transparent,
    "16 bit": sixteen_bit,
    "palette": lambda p: palette(p, "PNG"),
    "transparent palette": lambda p: palette(p, "PNG", 3),
    "GIF": lambda p: palette(p, "GIF"),
    "transparent GIF": lambda p: palette(p, "GIF", 3),
    "BMP": lambda p: (save(p, "BMP"), p),
}


def resized(pixels, height, width):
    """Rule 3 by other libraries than ours; float64 [height, width, 3]."""
    old_height, old_width = pixels.shape[:2]
    if old_height > 2 * height or old_width > 2 * width:
        image = PIL.Image.fromarray(np.round(pixels).astype(np.uint8))
        return np.asarray(image.resize((width, height), PIL.Image.Resampling.BILINEAR), float)
    rows = (np.arange(height) + 0.5) * old_height / height - 0.5
    columns = (np.arange(width) + 0.5) * old_width / width - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    channels = [
        scipy.ndimage.map_coordinates(pixels[..., c].astype(float), grid, order=1, mode="nearest")
        for c in range(3)
    ]
    return np.stack(channels, -1)


def as_fields(stored):
    """A stored image as the host and as the graph read it from a record."""
    rest = {"label": 0, "text": "", "filename": "a", "sha256": "", "fold": -1, "copy": False}
    host = example.ImageExample(
        stored.encoded, format=stored.format, height=stored.height, width=stored.width, **rest
    )
    graph = {
        "image/encoded": tf.constant(stored.encoded),
        "image/format": tf.constant(stored.format),
        "image/height": tf.constant(stored.height, tf.int64),
        "image/width": tf.constant(stored.width, tf.int64),
    }
    return host, graph


decode_record = tf.function(lambda fields: preprocess.decode_record(fields, SIDE))
decode_upload = tf.function(
    lambda files: upload.decode(files, SIDE), input_signature=[tf.TensorSpec([None], tf.string)]
)


def on_host(fields, window=preprocess_host.WHOLE):
    into = np.empty((SIDE, SIDE, 3), np.uint8)
    preprocess_host.square(fields, SIDE, into, window)
    return into.astype(int)


def levels(stored, side=SIDE):
    """How far host and graph may be apart: 1, or 2 where they average."""
    shorter = min(stored.height, stored.width)
    factor = rules.jpeg_factor(shorter, side) if stored.format == "jpeg" else 1
    return 1 + (-(-max(stored.height, stored.width) // factor) > 2 * side)


def combinations():
    """Every size for every kind, but only one size for six of the turned JPEGs."""
    for kind in KINDS:
        is_turned = "turned" in kind and not kind.endswith("6")
        yield from ((kind, size) for size in (SIZES[1:2] if is_turned else SIZES))


@pytest.mark.parametrize(("kind", "size"), combinations(), ids=str)
def test_host_graph_and_upload_agree_and_are_right(kind, size):
    data, right = KINDS[kind](draw(*size))
    stored = ORIGINAL.convert(data)
    fields, graph_fields = as_fields(stored)
    host, graph = on_host(fields), decode_record(graph_fields).numpy().astype(int)
    images, errors = decode_upload(tf.constant([data]))
    assert errors.numpy().tolist() == [b""]
    assert np.abs(host - graph).max() <= levels(stored)
    is_jpeg = "JPEG" in kind
    difference = np.abs(images.numpy()[0] - graph)
    if stored.encoded is data:
        assert difference.max() == 0
    else:  # a JPEG was coded again
        assert difference.max() <= (12 if is_jpeg else 0)
    reference = resized(right, SIDE, SIDE)
    assert np.abs(graph - reference).mean() < (4 if is_jpeg else 1)
    assert np.abs(graph - reference).max() <= (24 if is_jpeg else 2)


@pytest.mark.parametrize("depth16", rules.DEPTHS)
def test_16_bit_greys_are_served_as_they_are_stored(depth16):
    decode = tf.function(
        lambda files: upload.decode(files, SIDE, depth16),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    files = []
    tops = (0, 1, 200, 255, 256, 1023, 3000, 4095, 4096, 32767, 32768, 65535)
    for top, clear in itertools.product(tops, (None, 0, 65535)):
        values = np.linspace(min(top, 150), top, 30 * 40).astype(np.uint16).reshape(30, 40)
        if clear is not None:
            values[::7] = clear
        rows = [row.astype(">u2").tobytes() for row in values]
        extra = [] if clear is None else [(b"tRNS", clear.to_bytes(2, "big"))]
        files.append(png(40, 30, 16, 0, rows, *extra))
    noise = np.random.default_rng(3).integers(0, 4096, (30, 40, 4)).astype(">u2")
    for kind, channels in ((2, 3), (4, 2), (6, 4)):
        some = noise[..., :channels].copy()
        some[..., 3:] *= 15
        files.append(png(40, 30, 16, kind, [row.tobytes() for row in some]))
    store = Store(depth16=depth16)
    stored = [decode_record(as_fields(store.convert(file))[1]) for file in files]
    images, errors = decode(tf.constant(files))
    assert set(errors.numpy()) == {b""}
    np.testing.assert_array_equal(images, stored)


def rare():
    """Kinds of files whose right pixels `test_strict` knows."""
    image = PIL.Image.fromarray(draw(48, 64))
    luma = image.convert("L")
    both = luma.copy()
    both.putalpha(luma)
    few = image.quantize(32)
    frames = {"save_all": True, "append_images": [PIL.Image.new("P", (64, 48), 3)], "duration": 50}
    yield "two colours", save(image, "PNG", "1")
    yield "four greys", save(luma.quantize(4).convert("L"), "PNG", bits=2)
    yield "transparent grey", save(luma.point(lambda v: v // 64 * 64), "PNG", transparency=64)
    yield "grey and alpha", save(both, "PNG")
    yield "animation", save(few, "GIF", **frames)
    yield "BMP of 32 bits", save(image, "BMP", "RGBA")


@pytest.mark.parametrize(("kind", "data"), rare(), ids=[kind for kind, _ in rare()])
def test_uploads_of_rare_kinds_are_what_records_hold(kind, data):
    images, errors = decode_upload(tf.constant([data]))
    assert errors.numpy().tolist() == [b""]
    graph = decode_record(as_fields(ORIGINAL.convert(data))[1])
    np.testing.assert_array_equal(images[0], graph, kind)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("form", ["resized:40", "resized:50x40", "raw:40", "raw:3000x1"])
def test_stores_agree(form, size):
    stored = parse(form).convert(save(draw(*size), "PNG"))
    fields, graph_fields = as_fields(stored)
    graph = decode_record(graph_fields).numpy().astype(int)
    assert np.abs(on_host(fields) - graph).max() <= levels(stored)
    small = PIL.Image.fromarray(draw(*size)).resize(
        (stored.width, stored.height), PIL.Image.Resampling.BILINEAR
    )
    assert np.abs(graph - resized(np.asarray(small), SIDE, SIDE)).mean() < 4


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("window", [(0, 0, 0.9, 0.9), (0.3, 0.25, 0.5, 0.6), (0.99, 0.99, 0, 0)])
def test_crops_agree(kind, size, window):
    data, right = KINDS[kind](draw(*size))
    fields, graph_fields = as_fields(ORIGINAL.convert(data))
    host = on_host(fields, np.array(window, np.float32))
    height, width = size
    top, left = (min(round(a * b), b - 1) for a, b in zip(window[:2], size, strict=True))
    bottom = max(round((window[0] + window[2]) * height), top + 1)
    right_edge = max(round((window[1] + window[3]) * width), left + 1)
    part = right[top:bottom, left:right_edge]
    expected = preprocess.resize(tf.constant(part), SIDE).numpy().astype(int)
    shrinks = max(part.shape) > 2 * SIDE
    # A JPEG is cut at an eighth, quarter or half of its size: to whole pixels of that.
    assert np.abs(host - expected).max() <= (24 if kind == "JPEG" else 1 + shrinks)
    assert np.abs(host - expected).mean() < 5
    graph = preprocess.decode_record(graph_fields, SIDE, tf.constant(window, tf.float32))
    assert np.abs(host - graph.numpy().astype(int)).max() <= 1 + shrinks
    most = 48 * 48
    into = np.zeros((most, 3), np.uint8)
    sides = preprocess_host.canvas(fields, SIDE, into, np.array(window, np.float32))
    pixels, shape = preprocess.record_canvas(
        graph_fields, SIDE, most, tf.constant(window, tf.float32)
    )
    assert tuple(shape.numpy()) == sides
    used = np.prod(sides)
    assert np.abs(into[:used].astype(int) - pixels.numpy()[:used]).max() <= 2


@pytest.mark.parametrize(
    "size", [*SIZES, (900, 100), (49, 48), (3000, 1), (1, 3000), (2305, 1), (7, 2311)], ids=str
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_canvases_agree(kind, size):
    data, right = KINDS[kind](draw(*size))
    most = 48 * 48
    stored = ORIGINAL.convert(data)
    fields, graph_fields = as_fields(stored)
    into = np.full((most, 3), 9, np.uint8)
    height, width = preprocess_host.canvas(fields, SIDE, into)
    pixels, shape = preprocess.record_canvas(graph_fields, SIDE, most)
    assert shape.numpy().tolist() == [height, width]
    assert min(most, height * width) == height * width
    if size[0] * size[1] > 4 * most and kind == "PNG":
        assert height * width > most / 2
    host = into[: height * width].reshape(height, width, 3).astype(int)
    graph = pixels.numpy()[: height * width].reshape(height, width, 3)
    assert np.abs(host - graph).max() <= 2
    assert (into[height * width :] == 9).all()
    assert np.abs(host - resized(right, height, width)).mean() < 4


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_host_and_graph_agree_on_noise(kind, size):
    noise = np.random.default_rng(2).uniform(0, 255, (*size, 3))
    noise = scipy.ndimage.gaussian_filter(noise, (2, 2, 0)) * 2 - 128
    stored = ORIGINAL.convert(save(noise.clip(0, 255).astype(np.uint8), kind))
    fields, graph_fields = as_fields(stored)
    graph = decode_record(graph_fields).numpy().astype(int)
    assert np.abs(on_host(fields) - graph).max() <= levels(stored)


def test_eager_is_graph_and_damage_is_an_error():
    data = save(draw(90, 70), "JPEG")
    eager = preprocess.decode_image(tf.constant(data), SIDE)
    graph = tf.function(preprocess.decode_image)(tf.constant(data), SIDE)
    np.testing.assert_array_equal(eager, graph)
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocess.decode_image(b"GIF87 no, text", 8)
