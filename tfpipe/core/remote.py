"""Files at URLs, such as gs://bucket/folder: whatever `tf.io.gfile` opens.

Errors are those of local files: OSError, FileNotFoundError. TensorFlow takes seconds to import, so
the first URL imports it, and local paths never do.
"""

import contextlib
import errno
import importlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from tfpipe.core.errors import UserError, one_line

# One request for a megabyte costs hardly more than one for a kilobyte.
_BLOCK_BYTES = 2**20


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
    """Yield `tf.io.gfile`; its errors leave the block as OSError of the URL.

    Raises:
        UserError: TensorFlow has no file system of the URL's scheme.
    """
    import tensorflow as tf  # here, because it takes seconds to start

    try:
        _check_scheme(url, tf)
        yield tf.io.gfile
    except tf.errors.NotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from None
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, one_line(error.message), url) from None


def _check_scheme(url: str, tf: Any) -> None:
    scheme = url.partition("://")[0]
    if scheme in tf.io.gfile.get_registered_schemes():
        return
    with contextlib.suppress(ImportError):
        importlib.import_module("tensorflow_io")  # registers more file systems
    there = sorted(filter(None, tf.io.gfile.get_registered_schemes()))
    if scheme not in there:
        raise UserError(
            f"{url}: TensorFlow has no file system for {scheme}:// here, only for"
            f" {', '.join(f'{each}://' for each in there)}: install what adds it (tensorflow-io for"
            " s3:// and hdfs://, which also needs libhdfs), or name another path"
        )


class _RemoteFile(io.RawIOBase):
    """A file at a URL, open for reading."""

    def __init__(self, url: str):
        self._url = url
        with gfile(url) as files:
            self._file = files.GFile(url, "rb")
            self._size = self._file.size()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset  # may lie beyond the end; a GFile would refuse that
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._read(self._size)

    def _read(self, most: int) -> bytes:
        left = self._size - self._position
        if left <= 0:
            return b""
        with gfile(self._url):
            self._file.seek(self._position)
            data = self._file.read(min(most, left))
        self._position += len(data)
        return data

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_to_read(url: str) -> BinaryIO:
    """Open a file at a URL for reading; raises OSError."""
    return io.BufferedReader(_RemoteFile(url), _BLOCK_BYTES)
