"""The work folder of a build: a build that was ended resumes in it.

Other commands that take long keep their work in such a folder too.

It lies beside the data set, on the same file system, so that publishing is one rename:

    records/.partial-NAME-1f2e3d4c5b6a/
      lock       held by the build that is running
      scan/ shards/    results of tasks, see `job.Job`
      result/    becomes records/NAME when it is complete

A folder at a URL has no lock: nothing keeps two builds from writing one data set at once, and what
other builds left stays. Its files are moved one by one, and manifest.json last, because no reader
takes a folder without it for a data set.
"""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence

from tfpipe.core import remote, storage, terminal
from tfpipe.core.errors import ResumableError, UserError
from tfpipe.records import manifest
from tfpipe.records.manifest import MANIFEST

_KEY_DIGITS = 12
_LOCK = "lock"


def check_out(out: str, sources: Sequence[str]) -> remote.Path:
    """Check, before hours of work, that a data set can be written.

    Args:
        out: the folder or URL for it.
        sources: the paths of the sources, which must not hold it.

    Returns:
        The folder to write; where `out` leads to if it is a link.

    Raises:
        UserError: it lies in a source, or nothing can be written there.
    """
    path = remote.to_path(out)
    is_remote = remote.is_remote(out)
    for source in sources:
        if is_remote:
            inside = path.startswith(f"{source.rstrip('/')}/")
        else:
            inside = path.resolve().is_relative_to(os.path.realpath(source))
        if inside:
            raise UserError(
                f"`out={out}` lies in `source={source}`, where the next build would read it as"
                " input: name a folder elsewhere"
            )
    if not is_remote:
        path = path.resolve() if path.is_symlink() else path
        parent = next((each for each in path.resolve().parents if each.exists()), path)
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(
                f"`out={out}`: nothing can be written to {parent}: name a folder elsewhere"
            )
        return path
    if not path.name or path.parent.endswith("/"):
        raise UserError(f"`out={out}` is no folder: name one, as in gs://bucket/folder")
    try:
        storage.exists(path)
    except OSError as error:
        raise UserError(
            f"`out={out}` cannot be reached ({error.strerror}): name another folder"
        ) from None
    return path


@contextlib.contextmanager
def open_work(out: remote.Path, key: str, what: str = "build") -> Iterator[remote.Path]:
    """Yield the work folder of a build; it stays if the same build can resume later.

    Args:
        out: the folder of the data set.
        key: hex digest of all that decides the result; only a build with the same key resumes.
        what: what messages call the build.

    Raises:
        UserError: another build is running there, or nothing can be written.
    """
    work = _work_folder(out, key)
    try:
        remove_leftovers(out, keep=work, what=what)
        storage.make_folder(work / "result")
        names = {*storage.names_in(work)} - {_LOCK, "result"}
        # A build that was killed before it did anything left nothing to resume from.
        resumed = bool(names or storage.names_in(work / "result"))
        lock = contextlib.nullcontext() if remote.is_remote(out) else _lock(work, out, what)
    except OSError as error:
        raise ResumableError(f"cannot write to {out.parent}: {error.strerror or error}") from None
    with lock:
        trusted = remote.is_remote(out) or _is_trusted(work)
        if resumed and not trusted:
            terminal.say(f"starting over in {work}, because the machine was restarted since")
            for name in {*storage.names_in(work)} - {_LOCK}:
                storage.remove_tree(work / name)
            storage.make_folder(work / "result")
        elif resumed:
            terminal.say(f"resuming in {work}, which an earlier {what} left")
            for name in storage.names_in(work / "result"):
                if name.startswith(storage.PARTIAL_PREFIX):  # a file that was half written
                    storage.remove(work / "result" / name)
        try:
            yield work
        except (ResumableError, KeyboardInterrupt):
            terminal.say(f"{work} keeps what is done; the same command resumes from there")
            raise
        except UserError:
            storage.remove_tree(work)
            raise


def _lock(work: pathlib.Path, out: pathlib.Path, what: str) -> contextlib.ExitStack:
    """Return what holds the lock until it is closed."""
    lock = os.open(work / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"`out={out}`: another {what} writes there now: wait for it, or give another `out`"
            ) from None
        return stack.pop_all()


def _is_trusted(work: pathlib.Path) -> bool:
    """Return whether the files in a work folder surely have what was written to them.

    They are not synced to the disk, which would take as long as the work, so a power cut may damage
    them. The lock therefore holds the boot id of the machine.
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
    """Give the complete data set its name and remove the work folder.

    An older data set of that name is replaced after the new one is safe on the disk.
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
    """Publish at a URL; it may be ended and done again."""
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
    """Publish what the same build had completed at a URL before it was ended.

    Args:
        out: the folder of the data set. On this machine publishing is one step, so nothing remains
            to be done.
        key: as for `open_work`.

    Returns:
        Whether there was anything to publish.
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
    """Remove what other builds of the same data set left.

    Args:
        out: the folder of the data set.
        keep: the work folder that stays.
        what: what messages call a build.

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
