"""Images on their way to a server: where they are, what is worth sending, how much at a time."""

import dataclasses
import os
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from google.protobuf.message import DecodeError

from serving import cli
from serving.protocol import Example

# How the files of the formats begin that a model decodes.
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
MAX_IMAGE_BYTES = 32 << 20
# A request stays below the 64 MiB that the embedded server takes unless told otherwise.
MAX_BATCH_BYTES = 48 << 20

STDIN = "-"
RECORDS = ".tfrecord"

# A frame of a TFRecord file: length, its checksum, the record, its checksum.
_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4


class Image(NamedTuple):
    """A name to tell it by, and the whole file."""

    name: str
    data: bytes


@dataclasses.dataclass
class Found:
    """What the names on a command line lead to.

    Attributes:
        paths: files and `STDIN`, in the order in which they are sent.
        missing: how many names lead to nothing.
        seen: images read so far, those that were refused included.
    """

    paths: list[str]
    missing: int = 0
    seen: int = 0

    @property
    def count(self) -> int | None:
        """How many images there are; None if that shows only while they are read."""
        return None if any(path.endswith(RECORDS) for path in self.paths) else len(self.paths)

    def images(self) -> Iterator[Image]:
        """Reads them; one that cannot be sent is reported and left out."""
        for path in self.paths:
            reader = _records if path.endswith(RECORDS) else _file
            try:
                for image in reader(path):
                    self.seen += 1
                    try:
                        _check(image)
                    except cli.UserError as error:
                        cli.error(error)
                        continue
                    yield image
            except cli.UserError as error:
                self.missing += 1
                cli.error(error)


def find(names: Sequence[str]) -> Found:
    """Looks into folders, and reports those that hold no file.

    Args:
        names: of files, of folders, which are searched to their depth, or `STDIN`.
    """
    found = Found([])
    for name in names:
        if name == STDIN or not os.path.isdir(name):
            found.paths.append(name)
            continue
        inside = [
            os.path.join(parent, file)
            for parent, _, files in os.walk(name)
            for file in files
            if not file.startswith(".")
        ]
        found.paths += sorted(inside)
        if not inside:
            found.missing += 1
            cli.error(f"{name} is a folder without files")
    return found


def batches(found: Found, size: int) -> Iterator[list[Image]]:
    """Reads images, a batch at a time.

    Args:
        found: where they are.
        size: the most images in a batch; large ones make it smaller, to `MAX_BATCH_BYTES`.
    """
    batch, batch_bytes = [], 0
    for image in found.images():
        if batch and (len(batch) == size or batch_bytes + len(image.data) > MAX_BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(image)
        batch_bytes += len(image.data)
    if batch:
        yield batch


def read_image(path: str) -> bytes:
    """Reads an image file of at most `MAX_IMAGE_BYTES`, judging it by its first bytes.

    Raises:
        UserError: it cannot be read, is too large, or is no image of a known format.
    """
    (image,) = _file(path)
    _check(image)
    return image.data


def _check(image: Image) -> None:
    if len(image.data) > MAX_IMAGE_BYTES:
        raise cli.UserError(f"{image.name} is larger than {MAX_IMAGE_BYTES >> 20} MiB")
    if not image.data.startswith(IMAGE_MAGIC):
        raise cli.UserError(
            f"{image.name} is not an image: a JPEG, PNG, GIF or BMP file is expected"
        )


def _file(path: str) -> Iterator[Image]:
    """Yields the one image of a file."""
    if path == STDIN:
        yield Image(STDIN, sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1))
        return
    with _opened(path) as file:
        yield Image(path, file.read(MAX_IMAGE_BYTES + 1))


def _records(path: str) -> Iterator[Image]:
    """Yields the images of a TFRecord file of tf.Examples, as tfpipe.build_records writes it."""
    with _opened(path) as file:
        number = 0
        while header := file.read(_HEADER.size):
            record = b""
            if len(header) == _HEADER.size:
                length, _ = _HEADER.unpack(header)
                if length <= 2 * MAX_IMAGE_BYTES:
                    record = file.read(length)
                    file.read(_FOOTER_BYTES)
            try:
                if not record:
                    raise ValueError
                features = Example.FromString(record).features.feature
                (data,) = features["image/encoded"].bytes_list.value
            except (ValueError, DecodeError):
                raise cli.UserError(
                    f"{path} is no TFRecord file of images, or damaged, at record {number}"
                ) from None
            names = features["image/filename"].bytes_list.value
            name = names[0].decode(errors="backslashreplace") if names else str(number)
            yield Image(f"{path}:{name}", data)
            number += 1


def _opened(path: str) -> BinaryIO:
    """Opens a regular file; raises UserError."""
    try:
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115
    except OSError as error:
        raise cli.UserError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise cli.UserError(f"{path} is not a regular file")
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a file; a named pipe that nobody writes to would hold up the caller for ever."""
    return os.open(path, flags | os.O_NONBLOCK)
