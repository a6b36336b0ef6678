"""What is stored of a picture: its form, its size, its pixels, and that training reads them."""

import io

import numpy as np
import PIL.Image
import pytest
import simplejpeg
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import exif, save

from tfpipe import build_records, verify_records
from tfpipe.core.errors import UserError
from tfpipe.images.store import Store, parse
from tfpipe.images.strict import DecodedImage
from tfpipe.input import pipeline
from tfpipe.records import manifest
from tfpipe.records.subset import Subset


def smooth(height, width):
    """A picture that changes slowly; uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 12)], axis=-1)
    return (127.5 + 120 * waves).astype(np.uint8)


def opened(encoded):
    return np.asarray(PIL.Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("original", ("original", 0, 0)),
        ("resized:320", ("resized", 0, 320)),
        ("resized:300x200", ("resized", 300, 200)),
        ("raw:256", ("raw", 256, 256)),
        ("raw:320x240", ("raw", 320, 240)),
        ("raw:1", ("raw", 1, 1)),
        ("resized:4096", ("resized", 0, 4096)),
    ],
)
def test_forms(text, expected):
    store = parse(text, 80)
    assert (store.form, store.width, store.height, store.quality) == (*expected, 80)


@pytest.mark.parametrize(
    "text",
    [
        *["", "raw", "resized", "original:3", "small:3", "RAW:3", " raw:3", "raw:3 ", "raw:3\n"],
        *["raw:0", "raw:4097", "resized:320x0", "raw:99999", "raw:123456", "raw:-1", "raw:1.5"],
        *["raw:3x", "raw:x3", "raw:3x4x5", "raw:3X4", "raw:", "raw:1_0", "raw:³", "raw:٣"],
    ],
)
def test_wrong_forms_are_one_line(text):
    with pytest.raises(UserError) as caught:
        parse(text)
    assert caught.value.status == 2
    assert str(caught.value).startswith(f"`store={text}`")
    for allowed in ("original", "resized:320", "raw:256"):
        assert allowed in str(caught.value)


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_wrong_quality_is_one_line(quality):
    with pytest.raises(UserError, match=rf"jpeg_quality={quality}. .* 1 to 100$") as caught:
        parse("original", quality)
    assert caught.value.status == 2


SIDE = st.integers(1, 90)


@settings(deadline=None)
@given(SIDE, SIDE, SIDE)
def test_shorter_side(height, width, side):
    """The proportions stay, but for rounding, and nothing is enlarged."""
    pixels = smooth(height, width)
    picture = DecodedImage(pixels, "jpeg", "", file=b"the file")
    stored = parse(f"resized:{side}").apply(picture, b"the file")
    assert min(stored.height, stored.width) == min(side, height, width)
    scale = min(1, side / min(height, width))
    assert abs(stored.height - height * scale) <= 0.5
    assert abs(stored.width - width * scale) <= 0.5
    if scale == 1:
        assert stored.encoded == b"the file"
    else:
        assert simplejpeg.decode_jpeg_header(stored.encoded)[:2] == (stored.height, stored.width)


@settings(deadline=None)
@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from(["jpeg", "png"]))
def test_exact_sizes(height, width, new_height, new_width, kind):
    picture = DecodedImage(smooth(height, width), kind, "", file=b"the file")
    size = f"{new_width}x{new_height}"
    raw = parse(f"raw:{size}").apply(picture, b"the file")
    assert raw[1:4] == ("raw", new_height, new_width)
    assert len(raw.encoded) == new_height * new_width * 3
    resized = parse(f"resized:{size}").apply(picture, b"the file")
    assert resized[2:4] == (new_height, new_width)
    if (height, width) == (new_height, new_width):
        assert (resized.encoded, resized.format) == (b"the file", kind)
        assert raw.encoded == picture.pixels.tobytes()
    else:
        assert resized.format == "jpeg"
        assert opened(resized.encoded).shape == (new_height, new_width, 3)


@pytest.mark.parametrize("form", ["original", "resized:40", "resized:50x40", "resized:50"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_has_the_size_passes_byte_for_byte(form, kind):
    data = save(smooth(40, 50), kind)
    image = parse(form).convert(data)
    assert image.encoded == data
    assert (image.format, image.height, image.width) == (kind.lower(), 40, 50)


@pytest.mark.parametrize("form", ["original", "resized:400"])
def test_what_is_converted_is_written_anew(form):
    """A rotated JPEG as a JPEG, others without loss unless they are resized."""
    pixels = smooth(40, 50)
    turned = parse(form).convert(save(pixels, "JPEG", exif=exif(3), quality=95))
    assert (turned.format, turned.converted) == ("jpeg", "rotated")
    assert np.abs(opened(turned.encoded) - pixels[::-1, ::-1]).mean() < 3
    gif = save(pixels, "GIF")
    image = parse(form).convert(gif)
    assert image.format == ("jpeg" if form.startswith("resized") else "png")
    assert np.abs(opened(image.encoded) - opened(gif)).mean() <= (3 if "resized" in form else 0)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_raw_of_the_same_size_is_pillows_decode(kind):
    data = save(smooth(33, 47), kind)
    raw = parse("raw:47x33").convert(data)
    assert raw.encoded == PIL.Image.open(io.BytesIO(data)).tobytes()


def test_quality():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    picture = DecodedImage(pixels, "jpeg", "rotated")
    sizes, errors = [], []
    for quality in (1, 30, 60, 95, 100):
        stored = parse("original", quality).apply(picture, b"")
        assert simplejpeg.decode_jpeg_header(stored.encoded)[2:] == ("YCbCr", "444")
        sizes.append(len(stored.encoded))
        errors.append(np.abs(opened(stored.encoded) - pixels).mean())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1.5
    assert parse("original") == Store()
    assert Store().quality == 95


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("JPEG", {"subsampling": "4:2:0"}, "420"),
        ("JPEG", {"subsampling": "4:2:2"}, "444"),
        ("JPEG", {"subsampling": "4:4:4"}, "444"),
        ("PNG", {}, "444"),
    ],
)
def test_a_smaller_copy_has_no_coarser_chroma_than_its_file(kind, options, expected):
    data = save(smooth(90, 120), kind, **options)
    for form in ("resized:60x50", "resized:45"):
        stored = parse(form).convert(data).encoded
        assert simplejpeg.decode_jpeg_header(stored)[2:] == ("YCbCr", expected)
        mine, file = opened(stored).astype(int), PIL.Image.open(io.BytesIO(data))
        size = mine.shape[1::-1]
        wanted = np.asarray(file.convert("RGB").resize(size, PIL.Image.Resampling.BILINEAR))
        assert np.abs(mine - wanted).mean() < 3


@pytest.mark.parametrize(
    ("store", "sizes"),
    [
        ("resized:24", lambda h, w: (round(h * 24 / min(h, w)), round(w * 24 / min(h, w)))),
        ("raw:30x20", lambda h, w: (20, 30)),
    ],
)
def test_the_command_and_training(image_folder, tmp_path, store, sizes):
    out = tmp_path / "out"
    options = {"source": (str(image_folder),), "out": str(out), "workers": 2, "report": False}
    build_records.main(build_records.Options(**options, store=store))
    verify_records.main(verify_records.Options(records=str(out)))
    m = manifest.load(out)
    assert m.accepted == 80
    assert m.arguments["store"] == store
    seen = 0
    for batch in pipeline.eval_batches(Subset(m, ("all",)), image_size=20, batch_size=16):
        names, weights = batch["name"].numpy(), batch["sample_weight"].numpy()
        for name, image, weight in zip(names, batch["image"].numpy(), weights, strict=True):
            if not weight:
                continue
            seen += 1
            original = PIL.Image.open(image_folder / name.decode())
            height, width = sizes(*original.size[::-1])
            # Twice resized, once by Pillow, the second time as TensorFlow does.
            small = np.asarray(original.resize((width, height), PIL.Image.Resampling.BILINEAR))
            shrinks = max(height, width) > 2 * 20
            expected = tf.image.resize(small, [20, 20], antialias=shrinks).numpy()
            difference = np.abs(image - expected)
            if store.startswith("raw"):
                assert difference.max() <= 0.51
            else:  # another JPEG coding, whose chroma is as coarse as the file's
                assert difference.mean() < 8
                luma = np.abs((image - expected) @ [0.299, 0.587, 0.114])
                assert luma.mean() < 4
    assert seen == 80
