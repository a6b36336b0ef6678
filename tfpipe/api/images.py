"""Images that a program has: paths, bytes, arrays, Pillow's; each becomes a file in memory.

So all of them meet the checks and the pixels of a file, whose path is one of the forms.
"""

import io
import os
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from tfpipe.core import remote, storage
from tfpipe.core.errors import UserError

_FORMS = "a path, bytes of a file, a Pillow image, or an array uint8 [H, W], [H, W, 3] or [H, W, 4]"
_CHANNELS = (1, 3, 4)

# Modes that a PNG file holds without loss; others are converted.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def listed(images: Any) -> list[Any]:
    """Return images as a list; a single one is a list of one.

    Raises:
        UserError: `images` is no image and cannot be iterated over.
    """
    if isinstance(images, str | os.PathLike | bytes | PIL.Image.Image):
        return [images]
    if hasattr(images, "ndim") and images.ndim in (2, 3):
        return [images]
    try:
        return list(images)
    except TypeError:
        raise UserError(f"{type(images).__name__} is no list of images: give {_FORMS}") from None


def name_of(image: Any, position: int) -> str:
    """Return the path of an image, or its position in the list, as "image 3"."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {position}"


def encoded(image: Any) -> bytes:
    """Return an image as the bytes of a file.

    Raises:
        UserError: the image has none of the known forms, or its file cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        return _read(os.fspath(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, PIL.Image.Image):
        return _png(image)
    if hasattr(image, "__array__"):
        return _png(_from_array(np.asarray(image)))
    raise UserError(f"{type(image).__name__} is no image: give {_FORMS}")


def _read(path: str) -> bytes:
    try:
        with storage.open_to_read(remote.to_path(path)) as file:
            return file.read()
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: give its files") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None


def _from_array(array: np.ndarray) -> PIL.Image.Image:
    shape = array.shape
    fits = len(shape) == 2 or (len(shape) == 3 and shape[2] in _CHANNELS)
    if not fits or 0 in shape:
        raise UserError(f"an array of shape {list(shape)} is no image: give uint8 [H, W, 3]")
    if array.dtype == np.uint16 and len(shape) == 2:
        return PIL.Image.fromarray(array)
    if array.dtype != np.uint8:
        raise UserError(
            f"an array of {array.dtype} may be of 0..1 or 0..255: give uint8, as of"
            " (255 * array).round().astype('uint8')"
        )
    return PIL.Image.fromarray(array[..., 0] if len(shape) == 3 and shape[2] == 1 else array)


def _png(image: PIL.Image.Image) -> bytes:
    """Return the upright image as a PNG file."""
    upright = PIL.ImageOps.exif_transpose(image)
    if upright.mode not in _PNG_MODES:
        if upright.mode in ("I", "F"):
            raise UserError(
                f"a Pillow image of mode {upright.mode} has no fixed range: convert it to L or RGB"
            )
        upright = upright.convert("RGB")
    file = io.BytesIO()
    # Without its profiles and texts, which the prediction does not need.
    upright.info = {k: v for k, v in upright.info.items() if k == "transparency"}
    upright.save(file, "PNG", compress_level=1)
    return file.getvalue()
