"""Image files for a server: finds, reads and checks them, and groups them into requests."""

import dataclasses
import itertools
import os
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from google.protobuf.message import DecodeError

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.protocol.generated import Example

# The first bytes of the formats that a model decodes.
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
MAX_IMAGE_BYTES = 32 << 20
# Below the embedded server's default limit of 64 MiB for a request.
MAX_BATCH_BYTES = 48 << 20

STDIN = "-"
RECORDS = ".tfrecord"

# A frame of a TFRecord file: length, its checksum, the record, its checksum.
_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4


class ImageFile(NamedTuple):
    """The name and the whole file."""

    name: str
    data: bytes


@dataclasses.dataclass
class ImagePaths:
    """The files behind the names on a command line.

    Attributes:
        paths: files and `STDIN`, in the order of sending.
        missing: number of names without a readable file.
        seen: images read so far, including rejected ones.
    """

    paths: list[str]
    missing: int = 0
    seen: int = 0

    @property
    def count(self) -> int | None:
        """Number of images; None if it is known only after reading."""
        return None if any(path.endswith(RECORDS) for path in self.paths) else len(self.paths)

    def images(self) -> Iterator[ImageFile]:
        """Yield the images; report and skip those that cannot be sent."""
        for path in self.paths:
            reader = _records if path.endswith(RECORDS) else _file
            try:
                for image in reader(path):
                    self.seen += 1
                    try:
                        _check(image)
                    except UserError as error:
                        terminal.error(error)
                        continue
                    yield image
            except UserError as error:
                self.missing += 1
                terminal.error(error)


def find(names: Sequence[str]) -> ImagePaths:
    """Return the files behind `names`; report folders without files.

    Args:
        names: files, folders (searched recursively), or `STDIN`.
    """
    found = ImagePaths([])
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
            terminal.error(f"{name} is a folder without files")
    return found


def batches(found: ImagePaths, size: int) -> Iterator[list[ImageFile]]:
    """Yield the images in batches of at most `size` images and `MAX_BATCH_BYTES`."""
    batch, batch_bytes = [], 0
    for image in found.images():
        if batch and (len(batch) == size or batch_bytes + len(image.data) > MAX_BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(image)
        batch_bytes += len(image.data)
    if batch:
        yield batch


def _check(image: ImageFile) -> None:
    if len(image.data) > MAX_IMAGE_BYTES:
        raise UserError(f"{image.name} is larger than {MAX_IMAGE_BYTES >> 20} MiB")
    if not image.data.startswith(IMAGE_MAGIC):
        raise UserError(f"{image.name} is not an image: a JPEG, PNG, GIF or BMP file is expected")


def _file(path: str) -> Iterator[ImageFile]:
    """Yield the one image of a file."""
    if path == STDIN:
        yield ImageFile(STDIN, sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1))
        return
    with _opened(path) as file:
        yield ImageFile(path, file.read(MAX_IMAGE_BYTES + 1))


def _records(path: str) -> Iterator[ImageFile]:
    """Yield the images of a TFRecord file of tf.Examples, as tfpipe.build_records writes it."""
    with _opened(path) as file:
        for number in itertools.count():
            header = file.read(_HEADER.size)
            if not header:
                return
            try:
                length, _ = _HEADER.unpack(header)
                if length > 2 * MAX_IMAGE_BYTES:
                    raise ValueError("too long")
                features = Example.FromString(file.read(length)).features.feature
                (data,) = features["image/encoded"].bytes_list.value
            except (ValueError, DecodeError, struct.error):
                raise UserError(
                    f"{path} is no TFRecord file of images, or damaged, at record {number}"
                ) from None
            file.read(_FOOTER_BYTES)
            names = features["image/filename"].bytes_list.value
            name = names[0].decode(errors="backslashreplace") if names else str(number)
            yield ImageFile(f"{path}:{name}", data)


def _opened(path: str) -> BinaryIO:
    """Open a regular file; raises UserError."""
    try:
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{path} is not a regular file")
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file without blocking, as a named pipe without a writer would."""
    return os.open(path, flags | os.O_NONBLOCK)
