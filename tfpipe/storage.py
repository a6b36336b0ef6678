"""Files and folders that appear whole or not at all."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from tfpipe.errors import ResumableError, UserError

# Folders that hold a piece of work in progress start with this; nothing reads them.
PARTIAL_PREFIX = ".partial-"


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Opens a file for writing that takes its name only when the block ends without an error.

    Args:
        path: where the file appears, replacing one that is there. Its folder must exist.
        mode: "w" (UTF-8 text, newlines as written) or "wb".

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
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
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike, *, replace: bool = False) -> Iterator[pathlib.Path]:
    """Yields an empty folder that takes the name `path` only when the block ends without an error.

    The folder lies beside `path`, on the same file system, so that publishing it is one rename.

    Args:
        path: where the folder appears. Missing parents are made.
        replace: whether a folder that is there already gives way; it is removed after the new one
            is complete.

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
    """Makes a rename inside the folder `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: str | os.PathLike) -> None:
    """Makes a file's contents survive a power cut."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; floats are written exactly."""
    with atomic_file(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: str | os.PathLike, *, what: str, hint: str) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        what: what the file is, for the message, as in "a records manifest".
        hint: what to do if it is missing or damaged.

    Raises:
        UserError: the file is missing, unreadable, or not JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; expected {what}: {hint}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not {what} ({error}): {hint}") from None


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path is a URL, as gs://bucket/folder, which `tf.io.gfile` opens."""
    return "://" in os.fspath(path)


def write_whole(path: str, data: bytes) -> None:
    """Writes a file that appears whole or not at all; it may not outlast a power cut.

    Args:
        path: local or remote; missing folders are made.
        data: the contents.

    Raises:
        UserError: it cannot be written.
    """
    if is_remote(path):
        return _write_remote(path, data)
    partial = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(partial, "wb") as file:
            file.write(data)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise ResumableError(f"cannot write {path}: {error.strerror or error}") from None
    return None


def read_whole(path: str, offset: int = 0, size: int = -1) -> bytes | None:
    """Reads a file, local or remote, or a part of it.

    Args:
        path: the file.
        offset: where to begin, in bytes.
        size: how much to read, in bytes; -1 for all.

    Returns:
        The contents, or None if there is no such file.
    """
    if is_remote(path):
        return _read_remote(path, offset, size)
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    except FileNotFoundError:
        return None


def names_in(path: str) -> list[str]:
    """Returns the names in a folder, local or remote; none if there is no such folder."""
    if is_remote(path):
        import tensorflow as tf

        try:
            return [name.rstrip("/") for name in tf.io.gfile.listdir(path)]
        except tf.errors.NotFoundError:
            return []
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _write_remote(path: str, data: bytes) -> None:
    import tensorflow as tf  # here, because it takes seconds to start

    partial = f"{path}.{os.getpid()}"
    try:
        tf.io.gfile.makedirs(os.path.dirname(path))
        with tf.io.gfile.GFile(partial, "wb") as file:
            file.write(data)
        tf.io.gfile.rename(partial, path, overwrite=True)
    except tf.errors.OpError as error:
        raise ResumableError(f"cannot write {path}: {error.message}") from None


def _read_remote(path: str, offset: int, size: int) -> bytes | None:
    import tensorflow as tf

    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    except tf.errors.NotFoundError:
        return None
