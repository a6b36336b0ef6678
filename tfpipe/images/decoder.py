"""The images of training records on the host, as fast as libjpeg-turbo decodes them.

The same as `tfpipe.images.preprocess` by other means. TensorFlow's own operation takes 1.4 times as
long for the same pixels of the same library, and its resize five times as long as OpenCV's
(`tools/bench/input.py`). Both release Python's lock, so that threads decode at once.
"""

import io

import cv2
import numpy as np
import PIL.Image
import simplejpeg

from tfpipe.images.preprocess import CHANNELS, JPEG_FACTORS
from tfpipe.records.example import ImageExample

# The pipeline has a thread on each core already.
cv2.setNumThreads(1)

# A part of a picture: its top, left, height and width as fractions of the whole.
Window = np.ndarray

WHOLE = np.array([0.0, 0.0, 1.0, 1.0], np.float32)


def square(image: ImageExample, size: int, into: np.ndarray, window: Window = WHOLE) -> None:
    """Decodes an image and resizes it to a square, as `preprocess.decode_record` does.

    Args:
        image: of a record.
        size: the side of the square in pixels.
        into: uint8 [size, size, 3], gets the pixels, RGB in 0..255.
        window: the part of the picture that is wanted, to whole pixels.

    Raises:
        ValueError: the image is damaged.
    """
    fits = window is WHOLE and (image.height, image.width, CHANNELS) == into.shape
    pixels = _inside(decode(image, size, window, into.reshape(-1) if fits else None), window)
    if pixels.shape == into.shape:
        if not np.may_share_memory(pixels, into):
            into[:] = pixels
    else:
        _resize(pixels, into)


def canvas(image: ImageExample, size: int, into: np.ndarray) -> tuple[int, int]:
    """Decodes an image, to be resized on the device.

    Args:
        image: of a record.
        size: the side that it will have there, in pixels.
        into: uint8 [P, 3], gets the pixels of row after row, RGB in 0..255; others stay.

    Returns:
        The height and width of the picture, of at most P pixels: one of more is made smaller.

    Raises:
        ValueError: the image is damaged.
    """
    pixels = decode(image, size, buffer=into.reshape(-1))
    height, width, _ = pixels.shape
    if height * width > len(into):
        scale = (len(into) / (height * width)) ** 0.5
        # Of an extreme proportion one side remains 1, and the other is as long as will do.
        height = min(max(1, int(height * scale)), len(into))
        width = min(max(1, int(width * scale)), len(into) // height)
        height = min(height, len(into) // width)
        _resize(pixels, into[: height * width].reshape(height, width, CHANNELS))
    elif not np.may_share_memory(pixels, into):
        into[: height * width] = pixels.reshape(-1, CHANNELS)
    return height, width


def decode(
    image: ImageExample, size: int, window: Window = WHOLE, buffer: np.ndarray | None = None
) -> np.ndarray:
    """Decodes an image, to no more than is needed for a square of side `size` of the window.

    Args:
        image: of a record.
        size: in pixels.
        window: the part of the picture that is wanted.
        buffer: uint8 [any], where the result may lie if it fits.

    Returns:
        uint8 [H, W, 3], RGB in 0..255, all of the picture; perhaps not to be written to.
    """
    if image.format == "raw":
        shape = image.height, image.width, CHANNELS
        return np.frombuffer(image.encoded, np.uint8).reshape(shape)
    if image.format != "jpeg":
        picture = PIL.Image.open(io.BytesIO(image.encoded), formats=("PNG",))
        return np.asarray(picture.convert("RGB"))
    height, width = image.height, image.width
    shorter = min(height * window[2], width * window[3])
    factor = next(f for f in JPEG_FACTORS if -(-shorter // f) >= size or f == 1)
    height, width = -(-height // factor), -(-width // factor)
    fits = buffer is not None and height * width * CHANNELS <= len(buffer)
    return simplejpeg.decode_jpeg(
        image.encoded,
        fastdct=True,
        fastupsample=True,
        min_height=height,
        min_width=width,
        buffer=buffer if fits else None,
        strict=False,  # as TensorFlow is; what a build lets pass has nothing to be strict about
    )


def _resize(pixels: np.ndarray, into: np.ndarray) -> None:
    """Resizes a picture to the shape of `into`, which gets it."""
    height, width, _ = into.shape
    if pixels.shape[0] > 2 * height or pixels.shape[1] > 2 * width:
        picture = PIL.Image.fromarray(pixels)
        into[:] = picture.resize((width, height), PIL.Image.Resampling.BILINEAR)
    else:
        cv2.resize(pixels, (width, height), dst=into, interpolation=cv2.INTER_LINEAR)


def _inside(pixels: np.ndarray, window: Window) -> np.ndarray:
    if window is WHOLE:
        return pixels
    height, width, _ = pixels.shape
    top, left, bottom, right = (
        round(float(part * side))
        for part, side in zip(
            (window[0], window[1], window[0] + window[2], window[1] + window[3]),
            (height, width, height, width),
            strict=True,
        )
    )
    top, left = min(top, height - 1), min(left, width - 1)
    return pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
