"""Writes records in a shuffled order that depends on the seed and the images alone."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tfpipe.errors import UserError
from tfpipe.ingest.manifest import Shard
from tfpipe.ingest.workers import Found

# What a record adds to its encoded image: keys, names, lengths and checksums.
_OVERHEAD_BYTES = 350


class Entry(NamedTuple):
    """One image that will be a record.

    Attributes:
        found: the image.
        label: the name of its class.
        split: the split it belongs to.
    """

    found: Found
    label: str
    split: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """One shard to be written."""

    name: str
    split: str
    entries: tuple[Entry, ...]


def plan(
    entries: Iterable[Entry], splits: Iterable[str], *, seed: int, shards: int, shard_bytes: int
) -> list[Plan]:
    """Decides which record goes where.

    Args:
        entries: the images, in any order.
        splits: the names of the splits, in the order of the result.
        seed: another seed, another order.
        shards: the number of shards of each split, but not more than it has records; 0 for as
            many as keep each near `shard_bytes`.
        shard_bytes: see `shards`.

    Returns:
        The shards; each split has its records spread evenly, in a globally shuffled order.
    """
    # Sorting by a hash shuffles, needs no random state, and does not depend on the order given.
    order = sorted(entries, key=lambda entry: (_order_key(entry, seed), entry.found.item))
    plans = []
    for split in splits:
        chosen = [entry for entry in order if entry.split == split]
        total = sum(entry.found.size + _OVERHEAD_BYTES for entry in chosen)
        count = max(1, min(shards or -(-total // shard_bytes), len(chosen)))
        bounds = [len(chosen) * i // count for i in range(count + 1)]
        for i in range(count):
            name = f"{split}-{i:05d}-of-{count:05d}.tfrecord"
            plans.append(Plan(name, split, tuple(chosen[bounds[i] : bounds[i + 1]])))
    return plans


def write(
    folder: pathlib.Path, plans: Sequence[Plan], serialized: Callable[[Entry], bytes]
) -> list[Shard]:
    """Writes shards into a folder.

    Args:
        folder: an empty one.
        plans: from `plan`.
        serialized: returns the record of an entry.

    Returns:
        The shards as they are on disk.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    return [_write_one(folder, each, serialized) for each in plans]


def _write_one(folder: pathlib.Path, plan: Plan, serialized: Callable[[Entry], bytes]) -> Shard:
    import tensorflow as tf  # here, because planning needs nothing of it

    path = folder / plan.name
    try:
        with tf.io.TFRecordWriter(os.fspath(path)) as writer:
            for entry in plan.entries:
                writer.write(serialized(entry))
    except tf.errors.OpError as error:
        raise UserError(f"cannot write {plan.name}: {error.message}") from None
    # Read back, as TensorFlow's writer does not show the frames it puts around the records.
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return Shard(plan.name, plan.split, len(plan.entries), path.stat().st_size, digest.hexdigest())


def _order_key(entry: Entry, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:order:{entry.found.image.sha256}".encode()).digest()
