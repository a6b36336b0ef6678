"""Looks into every file of a build, going on where an earlier build of the same was ended."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from tfpipe.building import tasks
from tfpipe.building.tasks import SCAN, Chunk, Job
from tfpipe.core import storage
from tfpipe.core.errors import ResumableError
from tfpipe.images.found import Found, Item
from tfpipe.records.rejects import Reject

# Enough to hide the cost of a task; a progress bar moves; a build that is killed loses little.
_CHUNK = 32


class Runner(Protocol):
    """What runs tasks: `workers.Pool` here, `beam.Runner` beyond one machine."""

    def run(self, function: Callable, items: Iterable) -> Iterator[tuple]:
        """Runs a task for each item, as `workers.Pool.run` says."""


def survey(
    job: Job,
    runner: Runner,
    items: Sequence[Item],
    advance: Callable[[int, str], object] = lambda n, note: None,
) -> tuple[list[Found], list[Reject]]:
    """Looks into many files.

    Args:
        job: the build.
        runner: runs the tasks.
        items: the files.
        advance: called with the number of further files that are done, and a note for a person.

    Returns:
        The good images and the others, each in the order of `items`.

    Raises:
        UserError: nothing can be written, or no process stays alive.
    """
    there = set(storage.names_in(f"{job.work}/{SCAN}"))
    outcomes: dict[int, list[Found | Reject]] = {}
    counts = {Found: 0, Reject: 0}
    converted = 0

    def take(chunk: Chunk) -> bool:
        nonlocal converted
        loaded = tasks.load_outcomes(job.work, chunk)
        if loaded is None:
            return False
        outcomes[chunk.first] = loaded
        for outcome in loaded:
            counts[type(outcome)] += 1
            converted += bool(getattr(outcome, "converted", ""))
        advance(len(loaded), f"{counts[Reject]:,} rejected, {converted:,} converted")
        return True

    pending = []
    for chunk in _chunks(items):
        if _file(chunk) in there:
            if not take(chunk):
                pending.append(chunk)
            continue
        singles = _singles(chunk) if there else []
        if any(_file(single) in there for single in singles):
            pending += [
                single for single in singles if not (_file(single) in there and take(single))
            ]
        else:
            pending.append(chunk)
    while pending:
        again = []
        for chunk, lost in runner.run(tasks.scan_chunk, pending):
            if take(chunk):  # it may be whole even if its process was lost
                continue
            if lost is None:
                raise ResumableError(
                    f"the work folder {job.work} lacks the result of a task that was done: run the"
                    " command again when nothing else writes there"
                )
            if len(chunk.items) > 1:  # which one was it?
                again += _singles(chunk)
            else:
                reject = Reject(job.locate(chunk.items[0]), *lost)
                tasks.save_outcomes(job.work, chunk, [reject])
                take(chunk)
        pending = again
    ordered = list(itertools.chain.from_iterable(outcomes[first] for first in sorted(outcomes)))
    return (
        [outcome for outcome in ordered if isinstance(outcome, Found)],
        [outcome for outcome in ordered if isinstance(outcome, Reject)],
    )


def _chunks(items: Sequence[Item]) -> Iterator[Chunk]:
    for first in range(0, len(items), _CHUNK):
        yield Chunk(first, tuple(items[first : first + _CHUNK]))


def _singles(chunk: Chunk) -> list[Chunk]:
    return [Chunk(chunk.first + i, (item,)) for i, item in enumerate(chunk.items)]


def _file(chunk: Chunk) -> str:
    return f"{chunk.name}.jsonl"
