"""Draw images, and write the files that no library writes."""

import io
import struct
import zlib

import numpy as np
import PIL.Image

# How a camera stores an image that is to be turned by this orientation (EXIF 2.32, 4.6.5).
TURNED = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def draw(height, width):
    """Smooth, so that JPEG keeps it, and different in every corner; uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    return np.stack([20 + 200 * x, 20 + 200 * y, 220 - 100 * x - 90 * y], -1).astype(np.uint8)


def save(pixels, kind, mode=None, **options):
    """Returns pixels, or a PIL image, as a file."""
    is_image = isinstance(pixels, PIL.Image.Image)
    image = pixels if is_image else PIL.Image.fromarray(np.ascontiguousarray(pixels))
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def exif(orientation):
    """EXIF data that hold an orientation."""
    data = PIL.Image.Exif()
    data[0x0112] = orientation
    return data


def png(width, height, depth, colour, rows, *extra, compressed=None):
    """Writes a PNG file by hand: Pillow writes neither 16-bit RGB nor 2-bit grey."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    if compressed is None:
        compressed = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", compressed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def add_scans(jpeg, count):
    """Repeats the last scan of a progressive JPEG."""
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * count + jpeg[-2:]
