"""Files at URLs that fsspec opens, such as s3://bucket/folder, by the names of `tf.io.gfile`.

Their errors are OSError with the URL, whatever the library of a file system raises.
"""

import datetime
import errno
import functools
import io
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, ParamSpec, TypeVar

from tfpipe.core.errors import UserError, one_line

P = ParamSpec("P")
R = TypeVar("R")

# USER:PASSWORD@ of a URL.
_LOGIN = re.compile(r"(?<=://)[^/@]*:[^/@]*@")

_INSTALL = "pip install 'tfpipe[cloud]' has what s3:// needs; name another path, or a local copy"


class FileStatus(NamedTuple):
    """What `tf.io.gfile.stat` returns, as far as it is used."""

    length: int  # bytes
    mtime_nsec: int  # 0 if the file system does not say
    is_directory: bool


def _as_os_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Return a method of a URL whose errors are OSError of it."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        url = str(args[1])
        try:
            return function(*args, **kwargs)
        except OSError as error:
            known = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
            number = error.errno or known.get(type(error), errno.EIO)
            reason = error.strerror or (os.strerror(number) if type(error) in known else error)
            raise OSError(number, one_line(reason), url) from None
        except Exception as error:  # of the client of a store
            raise OSError(errno.EIO, one_line(error) or type(error).__name__, url) from None

    return call


def _literal(url: str) -> str:
    """Return a URL; raise OSError if fsspec would take it as a pattern of other names."""
    if set("*?[") & set(url):
        raise OSError(errno.EINVAL, "a name that is written has no *, ? or [: give another")
    return url


class _WrittenFile(io.RawIOBase):
    """A file that is written; its errors, also those of a store's client, are OSError."""

    def __init__(self, url: str, file: Any) -> None:
        self._url, self._file = url, file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._call(self._url, self._file.write, data)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        self._call(self._url, self._file.close)

    @_as_os_errors
    def _call(self, url: str, method: Callable[..., R], *args: Any) -> R:
        return method(*args)


class FsspecFiles:
    """The functions of `tf.io.gfile` that are used here, of one file system of fsspec."""

    def __init__(self, url: str):
        """Find the file system of a URL.

        Raises:
            UserError: fsspec has none, a package is missing, or the URL has a password.
        """
        scheme = url.partition("://")[0]
        if _LOGIN.search(url):
            raise UserError(
                f"{_LOGIN.sub('', url)}: leave user and password out of the URL, which files and"
                f" messages name: set them in variables, as FSSPEC_{scheme.upper()}_PASSWORD or"
                " those of the store's own tools"
            )
        try:
            import fsspec

            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            reason = one_line(error).rstrip(".")
            raise UserError(f"{url}: {scheme}:// needs a package ({reason}): {_INSTALL}") from None
        except ValueError:
            raise UserError(
                f"{url}: neither TensorFlow nor fsspec opens {scheme}://: give gs:// or s3://, or a"
                " path of this machine"
            ) from None
        self._split = fsspec.url_to_fs
        self._of(url)

    @_as_os_errors
    def _of(self, url: str) -> None:
        # A listing in memory would be older than what other processes write.
        try:
            self._fs, _ = self._split(url, use_listings_cache=False)
        except TypeError:  # as of sftp, which keeps no listings and knows no such option
            self._fs, _ = self._split(url)

    @_as_os_errors
    def read(self, url: str, offset: int, size: int) -> bytes:
        """Return a part of a file by one request."""
        return self._fs.cat_file(url, start=offset, end=offset + size)

    @_as_os_errors
    def GFile(self, url: str, mode: str) -> Any:  # noqa: N802 (as TensorFlow calls it)
        """Open a file for writing."""
        return _WrittenFile(url, self._fs.open(url, mode))

    @_as_os_errors
    def listdir(self, url: str) -> list[str]:
        """Return the names in a folder."""
        _, folder = self._split(url)
        paths = (path.rstrip("/") for path in self._fs.ls(url, detail=False))
        # Some stores have an empty object that stands for the folder.
        return [path.rpartition("/")[2] for path in paths if path != folder.rstrip("/")]

    @_as_os_errors
    def exists(self, url: str) -> bool:
        """Return whether there is a file or folder."""
        return self._fs.exists(url)

    @_as_os_errors
    def isdir(self, url: str) -> bool:
        """Return whether there is a folder."""
        return self._fs.isdir(url)

    @_as_os_errors
    def stat(self, url: str) -> FileStatus:
        """Return the status of a file or folder."""
        info = self._fs.info(url)
        names = ("LastModified", "last_modified", "mtime", "updated", "created")
        time = next((info[name] for name in names if info.get(name)), 0)
        seconds = time.timestamp() if isinstance(time, datetime.datetime) else time
        number = int(seconds * 1e9) if isinstance(seconds, int | float) else 0
        is_directory = info["type"] == "directory"
        if info["size"] is None and not is_directory:
            raise OSError(errno.EIO, "the server does not say how large the file is: copy it here")
        return FileStatus(info["size"] or 0, number, is_directory)

    @_as_os_errors
    def makedirs(self, url: str) -> None:
        """Make a folder and its parents."""
        self._fs.makedirs(url, exist_ok=True)

    @_as_os_errors
    def rename(self, url: str, to: str, overwrite: bool) -> None:
        """Move a file; one that is there is always replaced, as `overwrite` asks."""
        del overwrite
        self._fs.mv(_literal(url), _literal(to))

    @_as_os_errors
    def remove(self, url: str) -> None:
        """Remove a file."""
        self._fs.rm_file(url)

    @_as_os_errors
    def rmtree(self, url: str) -> None:
        """Remove a folder and its contents."""
        self._fs.rm(_literal(url), recursive=True)

    def walk(self, url: str) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield each folder's URL, the names of its folders, and those of its files."""
        return iter(self._walked(url))

    @_as_os_errors
    def _walked(self, url: str) -> list[tuple[str, list[str], list[str]]]:
        _, top = self._split(url)
        return [
            # As in `listdir`, an object that stands for its folder is no file; its name is "".
            (
                f"{url.rstrip('/')}/{path[len(top) :].strip('/')}".rstrip("/"),
                folders,
                [*filter(None, files)],
            )
            for path, folders, files in self._fs.walk(url, on_error="raise")
        ]
