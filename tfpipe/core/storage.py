"""Files and folders that appear whole or not at all, on this machine or at a URL."""

import contextlib
import errno
import functools
import io
import json
import os
import pathlib
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from typing import IO, Any, BinaryIO

from tfpipe.core import remote
from tfpipe.core.errors import ResumableError, UserError

# Files and folders that hold a piece of work in progress start with this; nothing reads them.
PARTIAL_PREFIX = ".partial-"


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing; it gets its name only if the block ends without an error.

    Args:
        path: where the file appears, replacing an older one. Its folder must exist. The contents
            for a URL are held in memory until the end.
        mode: "w" (UTF-8 text, newlines as written) or "wb".

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    if remote.is_remote(path):
        buffer = io.BytesIO() if "b" in mode else io.StringIO()
        yield buffer
        data = buffer.getvalue()
        write_whole(path, data.encode() if isinstance(data, str) else data)
        return
    path = pathlib.Path(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    partial = path.with_name(f"{PARTIAL_PREFIX}{path.name}-{os.getpid()}")
    try:
        with open(partial, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.filename is None or os.fspath(error.filename) == os.fspath(partial):
            raise ResumableError(f"cannot write {path}: {error.strerror or error}") from error
        raise
    finally:
        with contextlib.suppress(OSError):  # a read-only file system refuses even a missing file
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike, *, replace: bool = False) -> Iterator[pathlib.Path]:
    """Yield an empty folder; it gets the name `path` only if the block ends without an error.

    It lies beside `path`, whose missing parents are made, so publishing it is one rename. With
    `replace`, an existing folder is removed after the new one is complete.

    Raises:
        UserError: `path` exists and `replace` is not set, or its parent cannot be written to.
    """
    path = pathlib.Path(path)
    if path.exists() and not replace:
        raise UserError(f"{path} exists already: name another folder, or remove it first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = tempfile.mkdtemp(prefix=f"{PARTIAL_PREFIX}{path.name}-", dir=path.parent)
    except OSError as error:
        raise ResumableError(f"cannot write to {path.parent}: {error.strerror or error}") from error
    work = pathlib.Path(work)
    try:
        work.chmod(0o755)  # mkdtemp makes folders that only their owner may read
        yield work
        for file in work.rglob("*"):
            if file.is_file():
                sync_file(file)
        if path.exists():
            old = path.with_name(f"{PARTIAL_PREFIX}{path.name}-old-{os.getpid()}")
            path.rename(old)
            work.rename(path)
            shutil.rmtree(old)
        else:
            work.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def sync_folder(path: str | os.PathLike) -> None:
    """Make a rename inside the folder `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: str | os.PathLike) -> None:
    """Make a file's contents survive a power cut."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON, atomically; floats are written exactly."""
    with atomic_file(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: str | os.PathLike, *, what: str, hint: str) -> Any:
    """Read a JSON file; messages call it `what`, such as "a records manifest".

    Raises:
        UserError: the file is missing, unreadable, or not JSON; `hint` says what to do then.
    """
    try:
        data = read_whole(path)
        if data is None:
            raise UserError(f"{path} does not exist; expected {what}: {hint}")
        return json.loads(data.decode("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not {what} ({error}): {hint}") from None


def open_to_read(path: str | os.PathLike, *, sequential: bool = False) -> BinaryIO:
    """Open a local or remote file for reading; raises OSError.

    `sequential` says that it will be read to its end: a remote one is requested ahead at once.
    """
    if remote.is_remote(path):
        return remote.open_to_read(os.fspath(path), sequential=sequential)
    return open(path, "rb")


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Open a file for writing; it gets its name only if the block ends without an error.

    Missing folders are made. Unlike a file of `atomic_file`, it may not survive a power cut, and
    several machines may write it at once: one of them wins.

    Raises:
        UserError: it cannot be written.
    """
    folder, name = os.path.split(path)
    partial = os.path.join(folder, f"{PARTIAL_PREFIX}{name}-{uuid.uuid4().hex}")
    try:
        make_folder(folder or ".")
        if remote.is_remote(path):
            with remote.gfile(partial) as files, files.GFile(partial, "wb") as file:
                yield file
        else:
            with open(partial, "wb") as file:
                yield file
        rename(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            remove(partial)
        if isinstance(error, OSError):
            raise ResumableError(f"cannot write {path}: {error.strerror or error}") from None
        raise


def write_whole(path: str | os.PathLike, data: bytes) -> None:
    """Write a file through `whole_file`."""
    with whole_file(path) as file:
        file.write(data)


def read_whole(path: str | os.PathLike, offset: int = 0, size: int = -1) -> bytes | None:
    """Read a file from an offset on, up to `size` bytes, -1 for all; None if it is missing."""
    try:
        with open_to_read(path) as file:
            file.seek(offset)
            return file.read(size)
    except FileNotFoundError:
        return None


def names_in(path: str | os.PathLike) -> list[str]:
    """Return the names in a local or remote folder; none if there is no such folder."""
    try:
        with _files(path) as files:
            return [name.rstrip("/") for name in files.listdir(path)]
    except FileNotFoundError:
        return []


def exists(path: str | os.PathLike) -> bool:
    """Return whether a local or remote file or folder exists."""
    with _files(path) as files:
        return files.exists(path)


def size(path: str | os.PathLike) -> int:
    """Return the size of a local or remote file in bytes; raises OSError if it is no file."""
    if remote.is_remote(path):
        with remote.gfile(path) as files:
            status = files.stat(path)
            if not status.is_directory:
                return status.length
    else:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            return status.st_size
    raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def stamp(path: str | os.PathLike) -> tuple[int, int]:
    """Return the size and the modification time (ns) of a local or remote file; raises OSError."""
    if remote.is_remote(path):
        with remote.gfile(path) as files:
            status = files.stat(path)
            return status.length, status.mtime_nsec
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def make_folder(path: str | os.PathLike) -> None:
    """Make a local or remote folder and its parents, unless it exists; raises OSError."""
    with _files(path) as files:
        files.makedirs(path)


def rename(path: str | os.PathLike, to: str | os.PathLike) -> None:
    """Rename a file within its file system, replacing an older one; raises OSError."""
    with _files(path) as files:
        files.rename(path, to, overwrite=True)


def remove(path: str | os.PathLike) -> None:
    """Remove a local or remote file; raises OSError."""
    with _files(path) as files:
        files.remove(path)


def remove_tree(path: str | os.PathLike) -> None:
    """Remove a local or remote folder and its contents, as far as possible."""
    with contextlib.suppress(OSError), _files(path) as files:
        files.rmtree(path)


class _LocalFiles:
    """The functions of `tf.io.gfile` that are used here, for local paths."""

    listdir = staticmethod(os.listdir)
    exists = staticmethod(os.path.exists)
    makedirs = staticmethod(functools.partial(os.makedirs, exist_ok=True))
    rename = staticmethod(lambda path, to, overwrite: os.replace(path, to))
    remove = staticmethod(os.unlink)
    rmtree = staticmethod(functools.partial(shutil.rmtree, ignore_errors=True))


def _files(path: str | os.PathLike) -> contextlib.AbstractContextManager:
    """Return a context whose value has these functions for a path."""
    is_remote = remote.is_remote(path)
    return remote.gfile(os.fspath(path)) if is_remote else contextlib.nullcontext(_LocalFiles)
