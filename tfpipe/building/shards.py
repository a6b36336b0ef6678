"""Divide examples among shards in a shuffled order, and write the shards."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tfpipe.building import balance
from tfpipe.building.job import Job, Limit, Runner
from tfpipe.core import remote, storage
from tfpipe.core.errors import Rejected, ResumableError, UserError
from tfpipe.images import strict
from tfpipe.images.image_info import ImageInfo, store_again
from tfpipe.images.image_table import DIGEST, ImageTable, to_hex
from tfpipe.images.store import RAW, StoredImage, png
from tfpipe.images.strict import DecodedImage
from tfpipe.records import example, label_set, tfrecord
from tfpipe.records.manifest import Shard
from tfpipe.records.rejects import UNREADABLE

_FOLDER = "shards"  # in the work folder

# What a record adds to its encoded image: keys, names, lengths and checksums.
_OVERHEAD_BYTES = 350

_BLOCK = 2**12  # records whose descriptions are in memory at once


class ExampleSpec(NamedTuple):
    """One image that will be a record; `ImageTable` holds many.

    Attributes:
        info: the image.
        text: its label, as of `label_set`.
        split: its split.
        fold: the number of its fold; -1 without folds.
        copy: the number, from 1, of a transformed copy; 0 for the image itself.
    """

    info: ImageInfo
    text: str
    split: str
    fold: int = -1
    copy: int = 0


class ShardPlan(NamedTuple):
    """One shard to be written.

    Attributes:
        name: of its file.
        split: the split of its records.
        examples: all records of the data set.
        rows: int64, the indices of its own, in their order.
    """

    name: str
    split: str
    examples: ImageTable
    rows: np.ndarray


def plan(
    examples: ImageTable,
    splits: Iterable[str],
    *,
    seed: int,
    shards: int,
    shard_bytes: int,
) -> list[ShardPlan]:
    """Decide which record goes into which shard; only the seed and the images decide.

    Args:
        examples: the records, those of equal images in the order of their names.
        splits: the names of the splits, in the order of the result.
        seed: of the order.
        shards: the number of shards of each split, at most its number of records; 0 for as many as
            keep each near `shard_bytes`.
        shard_bytes: see `shards`.

    Returns:
        The shards; each split has its records spread evenly, in a globally shuffled order.
    """
    # Sorting by a hash shuffles whatever the given order, and needs no random state.
    keys = np.empty(len(examples), DIGEST)
    for i, digest in enumerate(examples.rows["sha256"]):
        keys[i] = hashlib.sha256(f"{seed}:order:{to_hex(digest)}".encode()).digest()
    order = np.lexsort((examples.rows["copy"], examples.rows["name"], keys))
    del keys
    split_of = examples.rows["split"][order]
    plans = []
    for split in splits:
        chosen = order[split_of == examples.number(split)]
        total = int(examples.rows["bytes"][chosen].sum()) + _OVERHEAD_BYTES * len(chosen)
        count = max(1, min(shards or -(-total // shard_bytes), len(chosen)))
        bounds = [len(chosen) * i // count for i in range(count + 1)]
        for i in range(count):
            name = f"{split}-{i:05d}-of-{count:05d}.tfrecord"
            plans.append(ShardPlan(name, split, examples, chosen[bounds[i] : bounds[i + 1]]))
    return plans


def write(
    folder: remote.Path,
    job: Job,
    runner: Runner,
    plans: Sequence[ShardPlan],
    advance: Callable[[int], object] = lambda n: None,
) -> list[Shard]:
    """Write the shards that are not written yet.

    Args:
        folder: the folder to put them in.
        job: the build.
        runner: runs the tasks.
        plans: from `plan`.
        advance: called with the number of further records that are done.

    Returns:
        The shards as they are on disk.

    Raises:
        UserError: the disk is full, or an image has changed or is unreadable by now.
    """
    there = set(storage.names_in(f"{job.work}/{_FOLDER}"))
    pending = [each for each in plans if f"{each.name}.json" not in there]
    advance(sum(len(p.rows) for p in plans) - sum(len(p.rows) for p in pending))
    for each in pending:
        _save_plan(job, each)
    for each in _run(runner, pending, job):
        advance(len(each.rows))
    try:
        return [_take(folder, job.work, each) for each in plans]
    except OSError as error:
        raise ResumableError(f"cannot write to {folder}: {error.strerror or error}") from None


def write_shard(job: Job, name: str, limit: Limit = contextlib.nullcontext) -> None:
    """Write a shard, and then its size and digest; a task.

    Args:
        job: the build.
        name: of the shard, whose plan is in the work folder.
        limit: each image is decoded in such a context; reading has no limit.

    Raises:
        UserError: a file has changed since the scan, or the disk is full.
    """
    digest, size = hashlib.sha256(), 0
    path = f"{job.work}/{_FOLDER}/{name}"
    with storage.whole_file(path) as file:
        for each in _load_plan(job, name):
            frame = tfrecord.frame(_record(job, each, limit))
            file.write(frame)
            digest.update(frame)
            size += len(frame)
    written = {"bytes": size, "sha256": digest.hexdigest()}
    storage.write_whole(f"{path}.json", json.dumps(written).encode())


def _save_plan(job: Job, shard: ShardPlan) -> None:
    """Write the records of a shard in blocks, so that neither side holds all of them twice."""
    with storage.whole_file(f"{job.work}/{_FOLDER}/{shard.name}.plan") as file:
        for first in range(0, len(shard.rows), _BLOCK):
            shard.examples.take(shard.rows[first : first + _BLOCK]).save(file)


def _load_plan(job: Job, name: str) -> Iterator[ExampleSpec]:
    """Yield the records of a shard."""
    with storage.open_to_read(f"{job.work}/{_FOLDER}/{name}.plan") as file:
        while file.peek(1):
            table = ImageTable.load(file)
            texts = [table.texts(column) for column in ("label", "split")]
            numbers = [table.rows[name].tolist() for name in ("fold", "copy")]
            for columns in zip(table, *texts, *numbers, strict=True):
                yield ExampleSpec(*columns)


def read_stored(job: Job, info: ImageInfo, limit: Limit = contextlib.nullcontext) -> bytes:
    """Return the stored image of a file that was scanned.

    Args:
        job: the build.
        info: of the file.
        limit: as for `write_shard`.

    Raises:
        UserError: the file has changed since, or cannot be read any more.
    """
    if info.spool:
        data = storage.read_whole(f"{job.work}/{info.spool}", info.offset, info.bytes)
        if data is not None and hashlib.sha256(data).hexdigest() == info.sha256:
            return data
    try:
        data = job.read(info.ref)
        with limit():
            return store_again(data, info, job.store)
    except Rejected as rejected:
        if rejected.reason == UNREADABLE:
            raise ResumableError(
                f"{job.locate(info.ref)!r} cannot be read any more ({rejected.detail}): make it"
                " readable and run the command again"
            ) from None
        raise UserError(
            f"{job.locate(info.ref)!r} changed while the data set was built: run the command again"
            " when nothing writes to `source`"
        ) from None


def read_encoded(job: Job, info: ImageInfo) -> bytes:
    """Return the stored image as a JPEG or PNG file; raise as `read_stored` does."""
    stored = read_stored(job, info)
    return png(_bare(info, stored)) if info.format == RAW else stored


def _run(runner: Runner, pending: list[ShardPlan], job: Job) -> Iterator[ShardPlan]:
    """Yield each shard when it is written; try a lost one once more."""
    shard_of = {each.name: each for each in pending}
    names = list(shard_of)
    for attempt in (1, 2):
        lost_ones = []
        for name, lost in runner.run(write_shard, names) if names else ():
            if lost is None:
                yield shard_of[name]
            elif attempt == 1:  # killed by mistake, or for lack of memory
                lost_ones.append(name)
            else:
                first = job.locate(shard_of[name].examples.ref(shard_of[name].rows[0]))
                raise ResumableError(
                    f"writing {name} failed ({lost.reason}: {lost.detail}), at or after"
                    f" {first!r}: run the command again with fewer `workers`"
                )
        names = lost_ones


def _take(folder: remote.Path, work: str, shard: ShardPlan) -> Shard:
    """Move a written shard to `folder`, unless it is there already."""
    path = f"{work}/{_FOLDER}/{shard.name}"
    written = storage.read_whole(f"{path}.json")
    if written is None:
        raise ResumableError(f"{shard.name} is gone from {work}/{_FOLDER}: run the command again")
    if not storage.exists(folder / shard.name):
        storage.rename(path, folder / shard.name)
    return Shard(shard.name, shard.split, len(shard.rows), **json.loads(written))


def _record(job: Job, spec: ExampleSpec, limit: Limit) -> bytes:
    info = spec.info
    encoded = read_stored(job, info, limit)
    image, sha256 = info, info.sha256
    if spec.copy:
        with limit():
            image = _copy(job, encoded, spec)
        encoded, sha256 = image.encoded, image.sha256
    return example.serialize(
        encoded,
        format=image.format,
        height=image.height,
        width=image.width,
        sha256=sha256,
        label=sorted(job.class_numbers[name] for name in label_set.names(spec.text)),
        text=spec.text,
        filename=info.ref.name,
        fold=spec.fold,
        copy=bool(spec.copy),
    )


def _copy(job: Job, encoded: bytes, spec: ExampleSpec) -> StoredImage:
    """Return a transformed copy of an image, stored as the others are."""
    info = spec.info
    pixels = _bare(info, encoded) if info.format == RAW else strict.decode(encoded).pixels
    pixels = balance.transform(pixels, info.file_sha256, spec.copy, job.seed)
    return job.store.apply(DecodedImage(pixels, "jpeg", "copy"), b"")


def _bare(info: ImageInfo, stored: bytes) -> np.ndarray:
    """Return the uint8 [H, W, 3] of a "raw" image."""
    return np.frombuffer(stored, np.uint8).reshape(info.height, info.width, 3)
