"""Divides records among shards, in a shuffled order that the seed and the images alone decide."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from tfpipe.building import tasks
from tfpipe.building.survey import Runner
from tfpipe.building.tasks import PARTS, WRITTEN, Entry, Job, Part, write_part, write_shard
from tfpipe.core import remote, storage
from tfpipe.core.errors import ResumableError
from tfpipe.records.manifest import Shard

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

    def shard(self, **written: Any) -> Shard:
        """Returns the shard as it is on disk, of `bytes` and `sha256`."""
        return Shard(self.name, self.split, len(self.entries), **written)


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
    task, suffix, kind = (write_shard, WRITTEN, _Whole) if whole else (write_part, "", _Joined)
    there = set(storage.names_in(f"{job.work}/{PARTS}"))
    targets, owner, todo = [], {}, []
    for each in plans:
        pieces = [Part(each.name, each.entries)] if whole else each.parts()
        is_joined = not whole and (folder / each.name).exists()
        left = [p for p in pieces if not is_joined and p.name + suffix not in there]
        missing = {piece.name for piece in left}
        targets.append(kind(folder, job.work, each, [p.name for p in pieces], missing))
        owner |= {piece.name: targets[-1] for piece in left}
        todo += left
    advance(sum(len(each.entries) for each in plans) - sum(len(part.entries) for part in todo))
    try:
        for target in targets:
            target.take()
        for part in _run(runner, task, todo, job):
            advance(len(part.entries))
            owner[part.name].take(part.name)
    except OSError as error:
        raise ResumableError(f"cannot write to {folder}: {error.strerror or error}") from None
    return [target.shard for target in targets]


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


@dataclasses.dataclass
class _Whole:
    """A shard that a task writes in one go.

    Attributes:
        folder: where it is to be.
        work: the work folder.
        plan: the shard.
        pieces: the names of its pieces, in their order; here there is one.
        missing: those that are not written yet.
        shard: what it is on disk, once nothing is missing.
    """

    folder: remote.Path
    work: str
    plan: Plan
    pieces: list[str]
    missing: set[str]
    shard: Shard | None = None

    def take(self, piece: str = "") -> None:
        """Goes on with a piece that was written now; without one, with what is there already."""
        self.missing.discard(piece)
        if self.missing:
            return
        written = tasks.load_written(self.work, self.plan.name)
        if written is None:
            raise ResumableError(
                f"{self.plan.name} is gone from {self.work}/{PARTS}: run the command again"
            )
        if not storage.exists(self.folder / self.plan.name):
            storage.rename(f"{self.work}/{PARTS}/{self.plan.name}", self.folder / self.plan.name)
        self.shard = self.plan.shard(**written)


@dataclasses.dataclass
class _Joined(_Whole):
    """A shard that is joined here of its pieces, while further ones are being written."""

    joined: int = 0
    bytes: int = 0
    digest: Any = dataclasses.field(default_factory=hashlib.sha256)

    def take(self, piece: str = "") -> None:
        """Does as `_Whole.take` says, with the pieces that follow those before."""
        self.missing.discard(piece)
        path = self.folder / self.plan.name
        if not piece and path.exists():
            self._read(path, None)
        else:
            partial = pathlib.Path(self.work, PARTS, self.plan.name)
            while self.joined < len(self.pieces):
                name = self.pieces[self.joined]
                if name in self.missing:
                    return
                with open(partial, "ab" if self.joined else "wb") as target:
                    self._read(pathlib.Path(self.work, PARTS, name), target)
                self.joined += 1
            os.replace(partial, path)
        for name in self.pieces:
            pathlib.Path(self.work, PARTS, name).unlink(missing_ok=True)
        self.shard = self.plan.shard(bytes=self.bytes, sha256=self.digest.hexdigest())

    def _read(self, path: pathlib.Path, target: BinaryIO | None) -> None:
        with open(path, "rb") as source:
            while block := source.read(_BLOCK_BYTES):
                self.digest.update(block)
                self.bytes += len(block)
                if target:
                    target.write(block)


def _order_key(entry: Entry, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:order:{entry.found.sha256}".encode()).digest()
