"""The folder where a data set is made: a build that was ended goes on in it.

Other commands that write what takes long keep their work in such a folder too.

It lies beside the data set, on the same file system, so that publishing is one rename:

    records/.partial-NAME-1f2e3d4c5b6a/
      lock       held by the build that is running
      scan/ parts/    results of tasks, see `tasks`
      result/    becomes records/NAME when it is complete

At a URL there are no locks: nothing keeps two builds from writing one data set at once, and what
other builds left stays. Nor is a folder renamed at once, so files are moved one by one, and
manifest.json last: no reader takes a folder without it for a data set.
"""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from tfpipe.core import remote, storage, terminal
from tfpipe.core.errors import ResumableError, UserError
from tfpipe.records import manifest
from tfpipe.records.manifest import MANIFEST

_KEY_DIGITS = 12
_LOCK = "lock"


@contextlib.contextmanager
def open_work(out: remote.Path, key: str, what: str = "build") -> Iterator[remote.Path]:
    """Yields the work folder of a build, which stays if the same build can go on later.

    Args:
        out: where the data set will be.
        key: hex digest of all that decides what is built; another build never goes on here.
        what: what a build is called in messages.

    Raises:
        UserError: another build is running there, or nothing can be written.
    """
    work = _work_folder(out, key)
    try:
        remove_leftovers(out, keep=work, what=what)
        storage.make_folder(work / "result")
        names = {*storage.names_in(work)} - {_LOCK, "result"}
        # Of one that was killed before it did anything there is nothing to go on from.
        resumed = bool(names or storage.names_in(work / "result"))
        lock = contextlib.nullcontext() if remote.is_remote(out) else _lock(work, out, what)
    except OSError as error:
        raise ResumableError(f"cannot write to {out.parent}: {error.strerror or error}") from None
    with lock:
        trusted = remote.is_remote(out) or _is_trusted(work)
        if resumed and not trusted:
            terminal.say(f"beginning anew in {work}, as the machine went down since")
            for name in {*storage.names_in(work)} - {_LOCK}:
                storage.remove_tree(work / name)
            storage.make_folder(work / "result")
        elif resumed:
            terminal.say(f"going on in {work}, which an earlier {what} left")
            for name in storage.names_in(work / "result"):
                if name.startswith(storage.PARTIAL_PREFIX):  # it was killed while it wrote that
                    storage.remove(work / "result" / name)
        try:
            yield work
        except (ResumableError, KeyboardInterrupt):
            terminal.say(f"what is done is kept in {work}; the same command goes on from there")
            raise
        except UserError:
            storage.remove_tree(work)
            raise


def _lock(work: pathlib.Path, out: pathlib.Path, what: str) -> contextlib.ExitStack:
    """Returns what holds the lock until it is closed."""
    lock = os.open(work / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"--out={out}: another {what} writes there now: wait for it, or give another --out"
            ) from None
        return stack.pop_all()


def _is_trusted(work: pathlib.Path) -> bool:
    """Returns whether what is in a work folder is surely what was written there.

    Nothing in it is made to survive a power cut, which would take as long as the work, so the lock
    says since when the machine has been running.
    """
    try:
        now = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:  # not on Linux
        now = ""
    lock = work / _LOCK
    before = lock.read_text()
    lock.write_text(now)
    return before == now


def publish(work: remote.Path, out: remote.Path) -> None:
    """Gives the complete data set its name and removes the work folder.

    A data set that is there already gives way after the new one is safe on the disk.
    """
    result = work / "result"
    try:
        if remote.is_remote(out):
            return _move_files(work, result, out)
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
    return storage.remove_tree(work)


def _move_files(work: remote.Url, result: remote.Url, out: remote.Url) -> None:
    """Publishes at a URL; may be ended and done again."""
    new = manifest.load(result)
    own = {*new.files, *(shard.name for shard in new.shards)}
    for name in sorted({*storage.names_in(out)} - own, key=lambda name: name != MANIFEST):
        storage.remove(out / name)
    storage.make_folder(out)
    for name in sorted(own.intersection(storage.names_in(result))):
        storage.rename(result / name, out / name)
    storage.rename(result / MANIFEST, out / MANIFEST)
    storage.remove_tree(work)


def finish(out: remote.Path, key: str) -> bool:
    """Publishes what the same build had completed when it was ended; returns whether it did.

    Args:
        out: where the data set will be. On this machine it is published at once, so that nothing
            remains to be done.
        key: as of `open_work`.
    """
    if not remote.is_remote(out):
        return False
    work = _work_folder(out, key)
    complete = storage.exists(work / "result" / MANIFEST)
    if complete:
        publish(work, out)
    return complete


def remove_leftovers(
    out: remote.Path, keep: remote.Path | None = None, what: str = "build"
) -> None:
    """Removes what other builds of the same data set left.

    Args:
        out: where the data set is, or will be.
        keep: the work folder that stays.
        what: what a build is called in messages.

    Raises:
        UserError: one of them is running.
    """
    pattern = re.compile(re.escape(_prefix(out)) + rf"[0-9a-f]{{{_KEY_DIGITS}}}")
    for name in storage.names_in(out.parent):
        path = out.parent / name
        if path == keep or not pattern.fullmatch(name):
            continue
        if remote.is_remote(path):
            terminal.say(f"{path} is left of an earlier {what}: remove it, unless that still runs")
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), _lock(path, out, what):
            terminal.say(f"removing {path}, which an earlier {what} left")
            shutil.rmtree(path, ignore_errors=True)


def _work_folder(out: remote.Path, key: str) -> remote.Path:
    return out.parent / f"{_prefix(out)}{key[:_KEY_DIGITS]}"


def _prefix(out: remote.Path) -> str:
    return f"{storage.PARTIAL_PREFIX}{out.name}-"
