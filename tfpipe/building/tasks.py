"""What worker processes do: look into files, and write records. The same here and under Beam.

A task writes its result to the work folder, under a name that the task alone decides, and the name
appears only when the file is whole. So a task that is lost is simply done again, and a build that
was killed goes on where it was:

    scan/000000064-32.jsonl    what images 64 to 95 are, one a line, in their order
    scan/000000064-32.spool    what is stored of those that were converted or resized
    parts/train-00000-of-00002.tfrecord-000    a piece of a shard
    parts/train-00000-of-00002.tfrecord        a whole one, and, written after it,
    parts/train-00000-of-00002.tfrecord.json   its size and digest
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfpipe.building import balance
from tfpipe.core import remote, storage
from tfpipe.core.errors import Rejected, UserError
from tfpipe.images import perceptual, scan
from tfpipe.images.decode import Picture, decode
from tfpipe.images.found import Found, Item
from tfpipe.images.store import RAW, Store, png
from tfpipe.records import example, tfrecord
from tfpipe.records.rejects import Reject
from tfpipe.sources import Source

SCAN, PARTS = "scan", "parts"  # folders in the work folder
WRITTEN = ".json"  # follows a whole shard's name in that of the file that describes it

_END = "end"  # the last line of a scan file; without it the file is not whole


@dataclasses.dataclass(frozen=True)
class Job:
    """What all tasks of a build share.

    Attributes:
        sources: what the items' indices refer to.
        work: the work folder.
        store: what of an image is stored.
        seed: of the transformed copies.
    """

    sources: tuple[Source, ...]
    work: str
    store: Store
    seed: int

    def __setstate__(self, state: dict[str, Any]) -> None:
        # To load TensorFlow, which reads and writes URLs, is no part of the time and memory that a
        # worker has for an image: it is done when the worker is given the job.
        vars(self).update(state)
        if remote.is_remote(self.work):
            storage.exists(self.work)

    def locate(self, item: Item) -> str:
        """Returns where a file is, for a person."""
        return self.sources[item.source].locate(item.name)

    def read(self, item: Item) -> bytes:
        """Returns the contents of a file; raises Rejected if it cannot be read."""
        return self.sources[item.source].read(item.name)


class Chunk(NamedTuple):
    """Files to look into in one go.

    Attributes:
        first: the number of the first one.
        items: the files.
    """

    first: int
    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        """The name of its scan file, less the suffix."""
        return f"{self.first:09d}-{len(self.items)}"


class Entry(NamedTuple):
    """One image that will be a record.

    Attributes:
        found: the image.
        label: the index of its class.
        text: the name of its class.
        split: the split it belongs to.
        fold: the number of its fold; -1 without folds.
        copy: the number, from 1, of a transformed copy; 0 for the image itself.
    """

    found: Found
    label: int
    text: str
    split: str
    fold: int = -1
    copy: int = 0


class Part(NamedTuple):
    """A piece of a shard, or a whole one, to be written in one go.

    Attributes:
        name: of its file.
        entries: its records, in their order.
    """

    name: str
    entries: tuple[Entry, ...]


def scan_chunk(job: Job, chunk: Chunk, before_each: Callable[[], object] = lambda: None) -> None:
    """Looks into files and writes what they are.

    Args:
        job: the build.
        chunk: the files.
        before_each: called before each file.
    """
    outcomes: list[Found | Reject] = []
    thumbnails = []
    spool, size = f"{SCAN}/{chunk.name}.spool", 0
    with contextlib.ExitStack() as stack:
        for item in chunk.items:
            before_each()
            try:
                found, stored, thumbnail = scan.describe(item, job.read(item), job.store)
            except Rejected as rejected:
                outcomes.append(Reject(job.locate(item), rejected.reason, rejected.detail))
                continue
            except MemoryError:
                detail = "not enough memory to store it"
                outcomes.append(Reject(job.locate(item), "too large", detail))
                continue
            if stored:  # written at once, as the next image may need all the memory
                if not size:
                    file = stack.enter_context(storage.whole_file(f"{job.work}/{spool}"))
                file.write(stored)
                found = found._replace(spool=spool, offset=size)
                size += len(stored)
            outcomes.append(found)
            thumbnails.append(thumbnail)
    looks = iter(perceptual.looks(thumbnails))
    outcomes = [
        outcome._replace(**next(looks)._asdict()) if isinstance(outcome, Found) else outcome
        for outcome in outcomes
    ]
    save_outcomes(job.work, chunk, outcomes)


def save_outcomes(work: str, chunk: Chunk, outcomes: Sequence[Found | Reject]) -> None:
    """Writes what the files of a chunk are."""
    lines = [
        json.dumps(outcome[1:] if isinstance(outcome, Found) else outcome._asdict())
        for outcome in outcomes
    ]
    text = "".join(f"{line}\n" for line in [*lines, json.dumps(_END)])
    storage.write_whole(f"{work}/{SCAN}/{chunk.name}.jsonl", text.encode())


def load_outcomes(work: str, chunk: Chunk) -> list[Found | Reject] | None:
    """Reads what the files of a chunk are; None if that is not there, or not whole."""
    data = storage.read_whole(f"{work}/{SCAN}/{chunk.name}.jsonl")
    if data is None or not data.endswith(json.dumps(_END).encode() + b"\n"):
        return None
    # Equal strings are one object: there is a description in memory for every image.
    strings: dict[str, str] = {}
    rows = json.loads(b"[%s]" % b",".join(data.splitlines()[:-1]))  # half the time of one by one
    return [
        Reject(**row) if isinstance(row, dict) else _found(item, row, strings)
        for item, row in zip(chunk.items, rows, strict=True)
    ]


def _found(item: Item, row: list, strings: dict[str, str]) -> Found:
    values = (strings.setdefault(v, v) if type(v) is str else v for v in row)
    return Found(item, *(tuple(v) if type(v) is list else v for v in values))


def write_part(job: Job, part: Part, before_each: Callable[[], object] = lambda: None) -> None:
    """Writes a piece of a shard.

    Raises:
        UserError: a file is not what it was when it was looked into, or the disk is full.
    """
    frames = list(_frames(job, part, before_each))
    storage.write_whole(f"{job.work}/{PARTS}/{part.name}", b"".join(frames))


def write_shard(job: Job, part: Part, before_each: Callable[[], object] = lambda: None) -> None:
    """Writes a whole shard, without holding it in memory, and then its size and digest.

    Raises:
        UserError: as `write_part` does.
    """
    digest, size = hashlib.sha256(), 0
    path = f"{job.work}/{PARTS}/{part.name}"
    with storage.whole_file(path) as file:
        for frame in _frames(job, part, before_each):
            file.write(frame)
            digest.update(frame)
            size += len(frame)
    written = {"bytes": size, "sha256": digest.hexdigest()}
    storage.write_whole(f"{path}{WRITTEN}", json.dumps(written).encode())


def load_written(work: str, name: str) -> dict[str, Any] | None:
    """Returns "bytes" and "sha256" of a shard that `write_shard` wrote; None if it did not."""
    data = storage.read_whole(f"{work}/{PARTS}/{name}{WRITTEN}")
    return None if data is None else json.loads(data)


def _frames(job: Job, part: Part, before_each: Callable[[], object]) -> Iterator[bytes]:
    for entry in part.entries:
        before_each()
        yield tfrecord.frame(_record(job, entry))


def _record(job: Job, entry: Entry) -> bytes:
    found = entry.found
    encoded = read_stored(job, found)
    described = {
        "format": found.format,
        "height": found.height,
        "width": found.width,
        "sha256": found.sha256,
    }
    if entry.copy:
        image = _copy(job, encoded, entry)
        encoded = image.encoded
        described = {name: getattr(image, name) for name in described}
    return example.serialize(
        encoded,
        **described,
        label=entry.label,
        text=entry.text,
        filename=found.item.name,
        fold=entry.fold,
        copy=bool(entry.copy),
    )


def _copy(job: Job, encoded: bytes, entry: Entry) -> scan.Image:
    """Returns a transformed copy of an image, stored as the others are."""
    found = entry.found
    pixels = _bare(found, encoded) if found.format == RAW else decode(encoded).pixels
    pixels = balance.transform(pixels, found.file_sha256, entry.copy, job.seed)
    stored = job.store.apply(Picture(pixels, "jpeg", "copy"), b"")
    return scan.Image(*stored, hashlib.sha256(stored.encoded).hexdigest(), "copy")


def read_stored(job: Job, found: Found) -> bytes:
    """Returns what is stored of an image that was looked into before.

    Raises:
        UserError: its file is not what it was then.
    """
    if found.spool:
        data = storage.read_whole(f"{job.work}/{found.spool}", found.offset, found.bytes)
        if data is not None and hashlib.sha256(data).hexdigest() == found.sha256:
            return data
    try:
        return scan.repeat(job.read(found.item), found, job.store)
    except Rejected:
        raise UserError(
            f"{job.locate(found.item)!r} changed while the data set was built: run the command"
            " again when nothing writes to --source"
        ) from None


def read_encoded(job: Job, found: Found) -> bytes:
    """Does the same, with a PNG file in place of bare pixels."""
    stored = read_stored(job, found)
    if found.format != RAW:
        return stored
    return png(_bare(found, stored))


def _bare(found: Found, stored: bytes) -> np.ndarray:
    """Returns the uint8 [H, W, 3] that is stored of a "raw" image."""
    return np.frombuffer(stored, np.uint8).reshape(found.height, found.width, 3)
