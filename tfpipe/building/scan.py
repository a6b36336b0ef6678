"""Decode and describe every file of a build; resume an earlier build of the same."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tfpipe.building.job import Job, Limit, Runner
from tfpipe.core import storage
from tfpipe.core.errors import Rejected, ResumableError
from tfpipe.images import perceptual_hash
from tfpipe.images.image_info import ImageInfo, ImageRef, describe
from tfpipe.images.image_table import ImageTable
from tfpipe.records.rejects import UNREADABLE, Reject
from tfpipe.sources import retry

_FOLDER = "scan"  # in the work folder

# Enough to hide the cost of a task; a progress bar moves; a build that is killed loses little.
_CHUNK = 32

_END = b'"end"\n'  # the last line of a scan file; without it the file is incomplete


class Chunk(NamedTuple):
    """Files that one task decodes.

    Attributes:
        first: the number of the first one.
        refs: the files.
    """

    first: int
    refs: tuple[ImageRef, ...]

    @property
    def name(self) -> str:
        """The name of its scan file, without the suffix."""
        return f"{self.first:09d}-{len(self.refs)}"

    def singles(self) -> list["Chunk"]:
        """Return a chunk for each of the files."""
        return [Chunk(self.first + i, (ref,)) for i, ref in enumerate(self.refs)]


def scan(
    job: Job,
    runner: Runner,
    files: ImageTable,
    advance: Callable[[int, str], object] = lambda n, note: None,
    max_unreadable: int = 0,
) -> tuple[ImageTable, list[Reject]]:
    """Decode and describe files.

    Args:
        job: the build.
        runner: runs the tasks.
        files: their rows, which are filled.
        max_unreadable: files that may be rejected because reading them failed.
        advance: called with the number of further files that are done, and a note for a person.

    Returns:
        The good images and the rejects, each in the order of `files`.

    Raises:
        UserError: the results cannot be written, no process stays alive, or more than
            `max_unreadable` files cannot be read.
    """
    there = set(storage.names_in(f"{job.work}/{_FOLDER}"))
    rejects: dict[int, Reject] = {}
    converted = 0

    def take(chunk: Chunk, again: bool = False) -> bool:
        nonlocal converted
        loaded = load_outcomes(job.work, chunk)
        if loaded is None:
            return False
        # An earlier build could not read them; perhaps this one can.
        if again and any(getattr(each, "reason", "") == UNREADABLE for each in loaded):
            return False
        outcomes = dict(enumerate(loaded, start=chunk.first))
        found = {i: each for i, each in outcomes.items() if isinstance(each, ImageInfo)}
        files.describe(list(found), list(found.values()))
        rejects.update({i: each for i, each in outcomes.items() if i not in found})
        converted += sum(bool(info.converted) for info in found.values())
        advance(len(loaded), f"{len(rejects):,} rejected, {converted:,} converted")
        return True

    def is_done(chunk: Chunk) -> bool:
        return f"{chunk.name}.jsonl" in there and take(chunk, again=True)

    def pending() -> Iterator[Chunk]:
        for first in range(0, len(files), _CHUNK):
            numbers = range(first, min(first + _CHUNK, len(files)))
            chunk = Chunk(first, tuple(map(files.ref, numbers)))
            if is_done(chunk):
                continue
            left = [single for single in chunk.singles() if not is_done(single)]
            yield from [chunk] if len(left) == len(chunk.refs) else left

    waiting = pending()  # one by one: all of them would take 150 bytes for each file
    while (first := next(waiting, None)) is not None:
        again = []
        for chunk, lost in runner.run(scan_chunk, itertools.chain([first], waiting)):
            if take(chunk):  # it may be complete even if its process was lost
                continue
            if lost is None:
                raise ResumableError(
                    f"the work folder {job.work} lacks the result of a finished task: run the"
                    " command again when nothing else writes there"
                )
            if len(chunk.refs) > 1:  # to find the one at fault
                again += chunk.singles()
            else:
                save_outcomes(job.work, chunk, [Reject(job.locate(chunk.refs[0]), *lost)])
                take(chunk)
        waiting = iter(again)
    rejected = [reject for _, reject in sorted(rejects.items())]
    _check_readable(rejected, max_unreadable)
    good = np.ones(len(files), bool)
    good[list(rejects)] = False
    return files.take(good) if rejects else files, rejected


def _check_readable(rejects: Sequence[Reject], most: int) -> None:
    unreadable = [reject for reject in rejects if reject.reason == UNREADABLE]
    if len(unreadable) > most:
        files = "1 file" if len(unreadable) == 1 else f"{len(unreadable):,} files"
        raise ResumableError(
            f"{files} cannot be read, the first {unreadable[0].path} ({unreadable[0].detail}): make"
            " them readable and run the command again, which only tries these again; or build"
            f" without them, by `max_rejects={len(unreadable)}`"
        )


def scan_chunk(job: Job, chunk: Chunk, limit: Limit = contextlib.nullcontext) -> None:
    """Decode the files of a chunk and write their descriptions; a task.

    Args:
        job: the build.
        chunk: the files.
        limit: each file is decoded in such a context; reading has no limit.
    """
    outcomes: list[ImageInfo | Reject] = []
    thumbnails = []
    spool, size = f"{_FOLDER}/{chunk.name}.spool", 0
    waits = iter(
        retry.WAITS
    )  # for all files together: storage that is gone does not hold up the build
    with contextlib.ExitStack() as stack:
        for ref in chunk.refs:
            try:
                data = job.read(ref, waits)
                with limit():
                    info, stored, thumbnail = describe(ref, data, job.store)
            except Rejected as rejected:
                outcomes.append(Reject(job.locate(ref), rejected.reason, rejected.detail))
                continue
            except MemoryError:
                outcomes.append(
                    Reject(job.locate(ref), "too large", "not enough memory to store it")
                )
                continue
            if stored:  # written at once, as the next image may need all the memory
                if not size:
                    file = stack.enter_context(storage.whole_file(f"{job.work}/{spool}"))
                file.write(stored)
                info = info.replace(spool=spool, offset=size)
                size += len(stored)
            outcomes.append(info)
            thumbnails.append(thumbnail)
    hashes = iter(perceptual_hash.hash_images(thumbnails))
    outcomes = [
        outcome.replace(**next(hashes)._asdict()) if isinstance(outcome, ImageInfo) else outcome
        for outcome in outcomes
    ]
    save_outcomes(job.work, chunk, outcomes)


def save_outcomes(work: str, chunk: Chunk, outcomes: Sequence[ImageInfo | Reject]) -> None:
    """Write the descriptions of the files of a chunk."""
    lines = (
        json.dumps(outcome.values() if isinstance(outcome, ImageInfo) else outcome._asdict())
        for outcome in outcomes
    )
    data = "".join(f"{line}\n" for line in lines).encode() + _END
    storage.write_whole(f"{work}/{_FOLDER}/{chunk.name}.jsonl", data)


def load_outcomes(work: str, chunk: Chunk) -> list[ImageInfo | Reject] | None:
    """Read the descriptions of the files of a chunk; None if they are missing or incomplete."""
    data = storage.read_whole(f"{work}/{_FOLDER}/{chunk.name}.jsonl")
    if data is None or not data.endswith(_END):
        return None
    rows = json.loads(b"[%s]" % b",".join(data.splitlines()[:-1]))  # half the time of one by one
    return [
        Reject(**row) if isinstance(row, dict) else ImageInfo(ref, *row)
        for ref, row in zip(chunk.refs, rows, strict=True)
    ]
