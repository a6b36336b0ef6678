"""Files and folders that appear whole or not at all."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from tfpipe.errors import UserError

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
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
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
        raise UserError(f"cannot write to {path.parent}: {error.strerror or error}") from error
    work = pathlib.Path(work)
    try:
        work.chmod(0o755)  # mkdtemp makes folders that only their owner may read
        yield work
        for file in work.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
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
