"""One damaged shard: which of its records are good, which are lost, and a copy of the good ones."""

import collections
import contextlib
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from tfpipe.core import storage
from tfpipe.core.errors import ResumableError
from tfpipe.records import example, resync, tfrecord, verify
from tfpipe.records.manifest import Manifest, Shard

_BLOCK_BYTES = 2**20


class Lost(NamedTuple):
    """One record that cannot be read any more.

    Attributes:
        shard: the name of its shard.
        record: its number there, from 0; None where it cannot be told.
        offset: the byte at which it starts; None where it cannot be told.
        filename: of its image, "" where it cannot be told.
    """

    shard: str
    record: int | None
    offset: int | None
    filename: str


@dataclasses.dataclass(frozen=True)
class Salvage:
    """What is left of one damaged shard.

    Attributes:
        shard: as the manifest has it.
        clean: the same with nothing but its good records.
        runs: where these are in the damaged file, (begin, end) in bytes.
        images: how many of them have a class and are, or are not, copies: (text, copy).
        lost: the others.
    """

    shard: Shard
    clean: Shard
    runs: tuple[tuple[int, int], ...]
    images: collections.Counter
    lost: tuple[Lost, ...]


def salvage(manifest: Manifest, shard: Shard) -> Salvage:
    """Finds the good records of a damaged shard; none if it is missing, or not the manifest's."""
    path = manifest.folder / shard.name
    # ValueError: the shard has an impossible name, or a record is none of this data set.
    with contextlib.suppress(OSError, ValueError):
        size = storage.size(path)
        with storage.open_to_read(path) as file:
            # If only something was appended, it ends where the manifest says.
            is_whole = size > shard.bytes and _prefix_sha256(file, shard.bytes) == shard.sha256
            if size <= shard.bytes or is_whole:
                found = _sort(file, shard, manifest.classes, min(size, shard.bytes))
                if found and _is_own(found, manifest, is_whole=is_whole, is_cut=size < shard.bytes):
                    return found
    lost = tuple(Lost(shard.name, number, None, "") for number in range(shard.records))
    nothing = dataclasses.replace(shard, records=0, bytes=0, sha256=hashlib.sha256().hexdigest())
    return Salvage(shard, nothing, (), collections.Counter(), lost)


def copy(source: os.PathLike | str, found: Salvage, path: pathlib.Path) -> None:
    """Writes the good records of a shard, byte for byte, unless they are there already.

    Args:
        source: the damaged shard.
        found: what `salvage` found there.
        path: where the clean one appears, whole.

    Raises:
        UserError: it cannot be written, or the damaged shard has changed.
    """
    if path.is_file() and verify.sha256(path) == found.clean.sha256:
        return
    digest = hashlib.sha256()
    with storage.atomic_file(path, "wb") as target:
        with storage.open_to_read(source) as file:
            for begin, end in found.runs:
                file.seek(begin)
                for block in _blocks(file, end - begin):
                    digest.update(block)
                    target.write(block)
        if digest.hexdigest() != found.clean.sha256:
            raise ResumableError(f"{source} has changed while it was read: run the command again")


def _is_own(found: Salvage, manifest: Manifest, *, is_whole: bool, is_cut: bool) -> bool:
    """Returns whether damage alone explains how a shard differs from what it should be."""
    if is_whole or not found.lost:
        return is_whole and not found.lost
    # With nothing but good records, and fewer than it should have, it is cut between two of them,
    # or another shard was copied over it.
    others = {shard.sha256 for shard in manifest.shards}
    return found.clean.sha256 not in others and (is_cut or found.lost[0].offset is not None)


def _sort(file: BinaryIO, shard: Shard, classes: Sequence[str], end: int) -> Salvage | None:
    """Divides a shard up to a byte into good and lost records.

    Returns:
        None if it holds more than the records that it should have.

    Raises:
        ValueError: a good record is none of this data set.
    """
    digest, images = hashlib.sha256(), collections.Counter()
    runs, damaged = [], []  # damaged: (begin, end, number of its first record)
    good = 0
    for begin, after, record in resync.stretches(file, end):
        if good + len(damaged) == shard.records:
            return None
        if record is None:
            damaged.append((begin, after, good + len(damaged)))
            continue
        fields = example.deserialize(record)
        if fields.label is None or classes[fields.label : fields.label + 1] != (fields.text,):
            raise ValueError(f"{fields.text!r} is not class {fields.label}")
        images[fields.text, fields.copy] += 1
        good += 1
        digest.update(tfrecord.frame(record))
        if runs and runs[-1][1] == begin:
            begin = runs.pop()[0]
        runs.append((begin, after))
    size = sum(after - begin for begin, after in runs)
    clean = dataclasses.replace(shard, records=good, bytes=size, sha256=digest.hexdigest())
    lost = _number(file, shard, damaged, good, end)
    return Salvage(shard, clean, tuple(runs), images, tuple(lost))


def _number(
    file: BinaryIO, shard: Shard, damaged: list[tuple[int, int, int]], good: int, end: int
) -> Iterator[Lost]:
    """Yields the lost records of a shard, each with its number as far as that is certain.

    A damaged stretch holds one record, or more where lengths are damaged. How many more there are
    is known; where they are only if there is one place for them.
    """
    hidden = shard.records - good - len(damaged)
    at_the_end = end < shard.bytes and not (damaged and damaged[-1][1] == end)
    for index, (begin, after, number) in enumerate(damaged):
        certain = index == 0 or not hidden
        name = _filename(file, begin, after)
        yield Lost(shard.name, number if certain else None, begin, name)
    certain = len(damaged) + at_the_end == 1
    first = damaged[0][2] + 1 if damaged else good
    for number in range(first, first + hidden):
        yield Lost(shard.name, number if certain else None, None, "")


def _filename(file: BinaryIO, begin: int, end: int) -> str:
    """Returns the file name in a damaged frame if the damage is certainly elsewhere, or ""."""
    file.seek(begin)
    frame = file.read(end - begin)
    record = frame[tfrecord.HEADER_BYTES : -tfrecord.CRC_BYTES]
    try:
        fields = example.deserialize(record)
    except ValueError:
        return ""
    is_whole = tfrecord.frame(record)[-tfrecord.CRC_BYTES :] == frame[-tfrecord.CRC_BYTES :]
    damage_in_image = hashlib.sha256(fields.encoded).hexdigest() != fields.sha256
    return fields.filename if is_whole or damage_in_image else ""


def _prefix_sha256(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    for block in _blocks(file, size):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yields the next `size` bytes of a file, fewer if it ends before."""
    while size > 0 and (block := file.read(min(size, _BLOCK_BYTES))):
        yield block
        size -= len(block)
