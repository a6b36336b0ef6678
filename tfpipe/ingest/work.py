"""The folder where a data set is made: a build that was ended goes on in it.

It lies beside the data set, on the same file system, so that publishing is one rename:

    records/.partial-NAME-1f2e3d4c5b6a/
      lock       held by the build that is running
      scan/ parts/    results of tasks, see `tasks`
      result/    becomes records/NAME when it is complete
"""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from tfpipe import storage, terminal
from tfpipe.errors import ResumableError, UserError

_KEY_DIGITS = 12


@contextlib.contextmanager
def open_work(out: pathlib.Path, key: str) -> Iterator[pathlib.Path]:
    """Yields the work folder of a build, which stays if the same build can go on later.

    Args:
        out: where the data set will be.
        key: hex digest of all that decides what is built; another build never goes on here.

    Raises:
        UserError: another build is running there, or nothing can be written.
    """
    work = out.parent / f"{_prefix(out)}{key[:_KEY_DIGITS]}"
    try:
        remove_leftovers(out, keep=work)
        resumed = work.is_dir()
        (work / "result").mkdir(parents=True, exist_ok=True)
        lock = os.open(work / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ResumableError(f"cannot write to {out.parent}: {error.strerror or error}") from None
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"--out={out}: another build writes there now: wait for it, or name another folder"
            ) from None
        if resumed:
            terminal.say(f"going on in {work}, which an earlier build left")
        try:
            yield work
        except (ResumableError, KeyboardInterrupt):
            terminal.say(f"what is done is kept in {work}; the same command goes on from there")
            raise
        except UserError:
            shutil.rmtree(work, ignore_errors=True)
            raise


def publish(work: pathlib.Path, out: pathlib.Path) -> None:
    """Gives the complete data set its name and removes the work folder.

    A data set that is there already gives way after the new one is safe on the disk.
    """
    result = work / "result"
    try:
        for path in result.rglob("*"):
            if path.is_file():
                storage.sync_file(path)
        storage.sync_folder(result)
        old = work / "old"
        if out.exists():
            out.rename(old)
        result.rename(out)
        storage.sync_folder(out.parent)
    except OSError as error:
        raise ResumableError(f"cannot write {out}: {error.strerror or error}") from None
    shutil.rmtree(work, ignore_errors=True)


def remove_leftovers(out: pathlib.Path, keep: pathlib.Path | None = None) -> None:
    """Removes what other builds of the same data set left, unless they are running.

    Args:
        out: where the data set is, or will be.
        keep: the work folder that stays.
    """
    pattern = re.compile(re.escape(_prefix(out)) + rf"[0-9a-f]{{{_KEY_DIGITS}}}")
    for name in storage.names_in(os.fspath(out.parent)):
        path = out.parent / name
        if path == keep or not pattern.fullmatch(name):
            continue
        with contextlib.suppress(OSError), open(path / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            terminal.say(f"removing {path}, which an earlier build left")
            shutil.rmtree(path)


def _prefix(out: pathlib.Path) -> str:
    return f"{storage.PARTIAL_PREFIX}{out.name}-"
