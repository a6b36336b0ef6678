"""The model's pixels on the host: `pixels`' rules by simplejpeg, OpenCV and Pillow.

TensorFlow's own operation takes 1.4 times as long for the same pixels of the same library, and its
resize five times as long as OpenCV's (`tools/bench_input.py`). Both libraries release Python's
lock, so that threads decode at once.
"""

import contextlib
import io
from collections.abc import Iterator

import cv2
import numpy as np
import PIL.Image
import simplejpeg

from tfpipe.images import pixels as rules
from tfpipe.images.pixels import CHANNELS
from tfpipe.records.example import ImageExample

# A part of an image: its top, left, height and width as fractions of the whole.
Window = np.ndarray

WHOLE = np.array([0.0, 0.0, 1.0, 1.0], np.float32)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let OpenCV use one thread in the block: the pipeline has one on each core already."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def square(image: ImageExample, size: int, into: np.ndarray, window: Window = WHOLE) -> None:
    """Decode the image of a record and resize it to a square, as `preprocess.decode_record` does.

    Args:
        image: the fields of the record.
        size: the side of the square in pixels.
        into: uint8 [size, size, 3], which gets the pixels, RGB in 0..255.
        window: the part of the image to use, rounded to whole pixels.

    Raises:
        ValueError: the image is damaged.
    """
    fits = window is WHOLE and (image.height, image.width, CHANNELS) == into.shape
    pixels = _crop(decode(image, size, window, into.reshape(-1) if fits else None), window)
    if pixels.shape == into.shape:
        if not np.may_share_memory(pixels, into):
            into[:] = pixels
    else:
        _resize(pixels, into)


def canvas(
    image: ImageExample, size: int, into: np.ndarray, window: Window = WHOLE
) -> tuple[int, int]:
    """Decode the image of a record for a resize on the device.

    Args:
        image: the fields of the record.
        size: the side that the device will resize it to, in pixels.
        into: uint8 [P, 3], which gets the pixels row by row, RGB in 0..255; the rest stays.
        window: the part of the image to use, rounded to whole pixels.

    Returns:
        The height and width of the window. One of more than P pixels is made smaller.

    Raises:
        ValueError: the image is damaged.
    """
    buffer = into.reshape(-1) if window is WHOLE else None
    pixels = _crop(decode(image, size, window, buffer), window)
    height, width, _ = pixels.shape
    if height * width > len(into):
        height, width = map(int, rules.fit(height, width, len(into)))
        _resize(pixels, into[: height * width].reshape(height, width, CHANNELS))
    elif not np.may_share_memory(pixels, into):
        into[: height * width] = pixels.reshape(-1, CHANNELS)
    return height, width


def decode(
    image: ImageExample, size: int, window: Window = WHOLE, buffer: np.ndarray | None = None
) -> np.ndarray:
    """Decode an image at the size that a square of side `size` of the window needs.

    Args:
        image: the fields of the record.
        size: in pixels.
        window: the part of the image that will be used.
        buffer: uint8 [any], where the result may lie if it fits.

    Returns:
        uint8 [H, W, 3], RGB in 0..255, the whole image; it may be read-only.
    """
    if image.format == "raw":
        shape = image.height, image.width, CHANNELS
        return np.frombuffer(image.encoded, np.uint8).reshape(shape)
    if image.format != "jpeg":
        opened = PIL.Image.open(io.BytesIO(image.encoded), formats=("PNG",))
        return np.asarray(opened.convert("RGB"))
    factor = rules.jpeg_factor(min(image.height * window[2], image.width * window[3]), size)
    height, width = -(-image.height // factor), -(-image.width // factor)
    fits = buffer is not None and height * width * CHANNELS <= len(buffer)
    return simplejpeg.decode_jpeg(
        image.encoded,
        fastdct=True,
        fastupsample=True,
        min_height=height,
        min_width=width,
        buffer=buffer if fits else None,
        strict=False,  # as TensorFlow; the build has found what is damaged
    )


def _resize(pixels: np.ndarray, into: np.ndarray) -> None:
    """Resize an image to the shape of `into`, and write it there."""
    height, width, _ = into.shape
    if rules.is_antialiased(*pixels.shape[:2], height, width):
        image = PIL.Image.fromarray(pixels)
        into[:] = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
    else:
        cv2.resize(pixels, (width, height), dst=into, interpolation=cv2.INTER_LINEAR)


def _crop(pixels: np.ndarray, window: Window) -> np.ndarray:
    if window is WHOLE:
        return pixels
    height, width, _ = pixels.shape
    edges = window[0], window[1], window[0] + window[2], window[1] + window[3]
    top, left, bottom, right = (
        round(float(edge * side))
        for edge, side in zip(edges, (height, width, height, width), strict=True)
    )
    top, left = min(top, height - 1), min(left, width - 1)
    return pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
