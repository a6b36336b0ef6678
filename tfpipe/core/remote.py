"""Files at URLs, such as gs://bucket/folder: what TensorFlow or fsspec opens.

Errors are those of local files: OSError, FileNotFoundError. TensorFlow takes seconds to import, so
the first of its URLs imports it, and local paths never do.
"""

import contextlib
import errno
import functools
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from tfpipe.core.errors import one_line
from tfpipe.core.fsspec_files import FsspecFiles
from tfpipe.core.read_ahead import BLOCK_BYTES, ReadAhead

# Schemes that TensorFlow opens. For others it would need tensorflow-io, which has no release for
# TensorFlow 2.17 and later.
_TENSORFLOW = ("file", "gs", "ram")


class Url(str):
    """A URL that joins names by `/`, as `pathlib.Path` does, but keeps its "//"."""

    __slots__ = ()

    def __truediv__(self, name: str) -> "Path":
        # An absolute path replaces what precedes it, as with pathlib.
        return pathlib.Path(name) if name.startswith("/") else Url(f"{self.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self.rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        """What precedes the last slash."""
        return Url(self.rpartition("/")[0])


# A path that a user named.
Path = pathlib.Path | Url


def is_remote(path: str | os.PathLike) -> bool:
    """Return whether a path is a URL such as gs://bucket/folder."""
    return "://" in os.fspath(path)


def to_path(text: str | os.PathLike) -> Path:
    """Return a local or remote path that joins names by `/`."""
    return Url(os.fspath(text).rstrip("/")) if is_remote(text) else pathlib.Path(text)


@contextlib.contextmanager
def gfile(url: str) -> Iterator[Any]:
    """Yield the functions of `tf.io.gfile` for a URL; its errors leave the block as OSError of it.

    Raises:
        UserError: nothing here opens URLs of this scheme.
    """
    if not is_tensorflows(url):
        yield FsspecFiles(url)
        return
    import tensorflow as tf  # here, because it takes seconds to start

    try:
        yield tf.io.gfile
    except tf.errors.NotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from None
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, one_line(error.message), url) from None


def is_tensorflows(path: str | os.PathLike) -> bool:
    """Return whether TensorFlow's own operations read a path or URL."""
    scheme, colon, _ = os.fspath(path).partition("://")
    return not colon or scheme in _TENSORFLOW


def open_to_read(url: str, *, sequential: bool = False) -> BinaryIO:
    """Open a file at a URL for reading, by one thread at a time; raises OSError.

    Args:
        url: of the file.
        sequential: whether it will be read from its beginning to its end.
    """
    with gfile(url) as files:
        status = files.stat(url)
    if status.is_directory:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), url)
    read = functools.partial(_read, url)
    return io.BufferedReader(ReadAhead(read, status.length, sequential=sequential), BLOCK_BYTES)


def _read(url: str, offset: int, size: int) -> bytes:
    """Return a part of a file; raise OSError if the answer has another size."""
    with gfile(url) as files:
        if isinstance(files, FsspecFiles):
            data = files.read(url, offset, size)
        else:
            with files.GFile(url, "rb") as file:
                file.seek(offset)
                data = file.read(size)
    if len(data) != size:
        reason = "it changed, or its server cannot send a part of a file: copy it here"
        raise OSError(errno.EIO, f"{len(data)} bytes came in place of {size} ({reason})", url)
    return data
