"""Divides records among shards, in a shuffled order that the seed and the images alone decide."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from tfpipe import remote, storage
from tfpipe.errors import ResumableError
from tfpipe.ingest import tasks
from tfpipe.ingest.manifest import Shard
from tfpipe.ingest.survey import Runner
from tfpipe.ingest.tasks import PARTS, WRITTEN, Entry, Job, Part, write_part, write_shard

# What a record adds to its encoded image: keys, names, lengths and checksums.
_OVERHEAD_BYTES = 350

# A piece of a shard is what one process writes in one go, and holds in memory.
PART_BYTES = 2 * 2**20

_BLOCK_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Plan:
    """One shard to be written.

    Attributes:
        name: of its file.
        split: the split its records belong to.
        entries: the records, in their order.
    """

    name: str
    split: str
    entries: tuple[Entry, ...]

    def parts(self) -> list[Part]:
        """Returns the pieces of the shard, in their order, each of about `PART_BYTES`."""
        pieces, begin, size = [], 0, 0
        for end, entry in enumerate(self.entries, start=1):
            size += entry.found.bytes + _OVERHEAD_BYTES
            if size >= PART_BYTES or end == len(self.entries):
                pieces.append(Part(f"{self.name}-{len(pieces):05d}", self.entries[begin:end]))
                begin, size = end, 0
        return pieces


def plan(
    entries: Iterable[Entry], splits: Iterable[str], *, seed: int, shards: int, shard_bytes: int
) -> list[Plan]:
    """Decides which record goes where.

    Args:
        entries: the records, in any order.
        splits: the names of the splits, in the order of the result.
        seed: another seed, another order.
        shards: the number of shards of each split, but not more than it has records; 0 for as
            many as keep each near `shard_bytes`.
        shard_bytes: see `shards`.

    Returns:
        The shards; each split has its records spread evenly, in a globally shuffled order.
    """
    # Sorting by a hash shuffles, needs no random state, and does not depend on the order given.
    order = sorted(entries, key=lambda e: (_order_key(e, seed), e.found.item, e.copy))
    plans = []
    for split in splits:
        chosen = [entry for entry in order if entry.split == split]
        total = sum(entry.found.bytes + _OVERHEAD_BYTES for entry in chosen)
        count = max(1, min(shards or -(-total // shard_bytes), len(chosen)))
        bounds = [len(chosen) * i // count for i in range(count + 1)]
        for i in range(count):
            name = f"{split}-{i:05d}-of-{count:05d}.tfrecord"
            plans.append(Plan(name, split, tuple(chosen[bounds[i] : bounds[i + 1]])))
    return plans


def write(
    folder: remote.Path,
    job: Job,
    runner: Runner,
    plans: Sequence[Plan],
    advance: Callable[[int], object] = lambda n: None,
    *,
    whole: bool = False,
) -> list[Shard]:
    """Writes shards, those that are not there yet.

    Args:
        folder: where they are to be.
        job: the build.
        runner: runs the tasks.
        plans: from `plan`.
        advance: called with the number of further records that are done.
        whole: whether a task writes a shard. If not, it writes a piece, so that a few shards keep
            many processes busy, and the pieces are joined here, where all bytes pass.

    Returns:
        The shards as they are on disk.

    Raises:
        UserError: the disk is full, an image has changed, or cannot be read any more.
    """
    task, suffix, finish = (write_shard, WRITTEN, _take) if whole else (write_part, "", _join)
    there = set(storage.names_in(f"{job.work}/{PARTS}"))
    parts, missing, owner, todo = {}, {}, {}, []
    for each in plans:
        pieces = [Part(each.name, each.entries)] if whole else each.parts()
        is_joined = not whole and (folder / each.name).exists()
        left = [p for p in pieces if not is_joined and p.name + suffix not in there]
        parts[each.name], missing[each.name] = pieces, len(left)
        owner |= {piece.name: each for piece in left}
        todo += left
    advance(sum(len(each.entries) for each in plans) - sum(len(part.entries) for part in todo))
    written = {
        each.name: finish(folder, job.work, each, parts[each.name])
        for each in plans
        if not missing[each.name]
    }
    for part in _run(runner, task, todo, job):
        advance(len(part.entries))
        each = owner[part.name]
        missing[each.name] -= 1
        if not missing[each.name]:  # while the pieces of others are being written
            written[each.name] = finish(folder, job.work, each, parts[each.name])
    return [written[each.name] for each in plans]


def _run(runner: Runner, task: Callable, todo: Sequence[Part], job: Job) -> Iterator[Part]:
    """Yields each piece when it is written; one that is lost is tried once more."""
    for attempt in ("first", "last"):
        again = []
        for part, lost in runner.run(task, todo) if todo else ():
            if lost is None:
                yield part
            elif attempt == "first":  # it may have been killed by mistake, or for lack of memory
                again.append(part)
            else:
                first = job.locate(part.entries[0].found.item)
                raise ResumableError(
                    f"writing {part.name} failed ({lost.reason}: {lost.detail}), at or soon after"
                    f" {first!r}: run the command again with fewer --workers"
                )
        todo = again


def _take(folder: remote.Path, work: str, plan: Plan, _: Sequence[Part]) -> Shard:
    """Takes a whole shard that a task wrote, unless an earlier build did so."""
    path = folder / plan.name
    try:
        written = tasks.load_written(work, plan.name)
        if written is None:
            raise ResumableError(f"{plan.name} is gone from {work}/{PARTS}: run the command again")
        if not storage.exists(path):
            storage.rename(f"{work}/{PARTS}/{plan.name}", path)
    except OSError as error:
        raise ResumableError(f"cannot write {path}: {error.strerror or error}") from None
    return Shard(plan.name, plan.split, len(plan.entries), **written)


def _join(folder: pathlib.Path, work: str, plan: Plan, parts: Sequence[Part]) -> Shard:
    """Makes a shard of its pieces, which are removed, unless it is there already."""
    path = folder / plan.name
    pieces = [os.path.join(work, PARTS, part.name) for part in parts]
    digest, size = hashlib.sha256(), 0
    partial = pathlib.Path(work, PARTS, plan.name)
    is_new = not path.exists()
    try:
        with open(partial, "wb") if is_new else contextlib.nullcontext() as target:
            for name in pieces if is_new else [path]:
                with open(name, "rb") as source:
                    while block := source.read(_BLOCK_BYTES):
                        digest.update(block)
                        size += len(block)
                        if is_new:
                            target.write(block)
        if is_new:
            os.replace(partial, path)
        for piece in pieces:
            pathlib.Path(piece).unlink(missing_ok=True)
    except OSError as error:
        raise ResumableError(f"cannot write {path}: {error.strerror or error}") from None
    return Shard(plan.name, plan.split, len(plan.entries), size, digest.hexdigest())


def _order_key(entry: Entry, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:order:{entry.found.sha256}".encode()).digest()
