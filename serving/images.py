"""Image files on their way to a server: what is worth sending, and how much at a time."""

import os
import stat
from collections.abc import Iterator, Sequence

from serving import cli

# How the files of the formats begin that a model decodes.
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
MAX_IMAGE_BYTES = 32 << 20
# A request stays below the 64 MiB that the embedded server takes unless told otherwise.
MAX_BATCH_BYTES = 48 << 20


def batches(paths: Sequence[str], size: int) -> Iterator[list[tuple[str, bytes]]]:
    """Reads image files, a batch at a time.

    Args:
        paths: the files. One that `read_image` refuses is reported and left out.
        size: the most images in a batch; large ones make it smaller, to `MAX_BATCH_BYTES`.

    Yields:
        The path and the content of each image of a batch.
    """
    batch, batch_bytes = [], 0
    for path in paths:
        try:
            image = read_image(path)
        except cli.UserError as error:
            cli.error(error)
            continue
        if batch and (len(batch) == size or batch_bytes + len(image) > MAX_BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append((path, image))
        batch_bytes += len(image)
    if batch:
        yield batch


def read_image(path: str) -> bytes:
    """Reads an image file of at most `MAX_IMAGE_BYTES`, judging it by its first bytes.

    Raises:
        UserError: it cannot be read, is too large, or is no image of a known format.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise cli.UserError(f"{path} is not a regular file")
            image = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise cli.UserError(f"cannot read {path}: {error.strerror}") from None
    if len(image) > MAX_IMAGE_BYTES:
        raise cli.UserError(f"{path} is larger than {MAX_IMAGE_BYTES >> 20} MiB")
    if not image.startswith(IMAGE_MAGIC):
        raise cli.UserError(f"{path} is not an image: a JPEG, PNG, GIF or BMP file is expected")
    return image


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a file; a named pipe that nobody writes to would hold up the caller for ever."""
    return os.open(path, flags | os.O_NONBLOCK)
