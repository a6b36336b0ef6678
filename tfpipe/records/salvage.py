"""Train on what damaged shards still hold: copy their good records to clean shards.

A record that fails its checksum is skipped by its length. After a broken length the rest of the
shard is lost, because no frame after it can be found.
"""

import collections
import contextlib
import csv
import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from tfpipe.core import storage, terminal
from tfpipe.core.errors import ResumableError, UserError, one_line
from tfpipe.records import example, label_set, tfrecord, verify
from tfpipe.records.manifest import Manifest, Shard
from tfpipe.records.subset import Subset
from tfpipe.records.verified import VerifiedShards

LOST = "lost.csv"

_NAMED = 3  # damaged shards that an error names
_RESTORE = (
    "restore the damaged files from a copy, build the data set again with `python -m"
    " tfpipe.build_records --overwrite`"
)

# What TensorFlow puts around the message of an error.
_TF_NOISE = re.compile(r"\{\{.*?\}\} *| *\[Op:.*$", re.DOTALL)


class LostRecord(NamedTuple):
    """One record that cannot be read.

    Attributes:
        shard: name of its shard.
        record: its number in the shard, from 0.
        offset: byte where it starts; None if unknown.
    """

    shard: str
    record: int
    offset: int | None


class Salvage(NamedTuple):
    """The result of reading one damaged shard.

    Attributes:
        shard: the shard in the manifest.
        clean: the shard with only its good records.
        lost: the other records.
    """

    shard: Shard
    clean: Shard
    lost: tuple[LostRecord, ...]


def readable(
    manifest: Manifest, splits: Sequence[str], *, max_corrupt: int, folder: pathlib.Path
) -> Manifest:
    """Verify the shards of some splits, and return a manifest of their good records.

    A shard that was whole before is only looked up by its size and time (`verified`).

    The result depends only on the bytes on the disk, so a resumed run sees the same records.
    Prints one warning for each damaged shard.

    Args:
        manifest: from `manifest.load`.
        splits: names of splits, or "all".
        max_corrupt: number of records that may be lost.
        folder: for the clean shards and `lost.csv`; created only if a shard is damaged.

    Returns:
        `manifest` itself if nothing is damaged. Otherwise a manifest whose shards, counts and
        fingerprint describe the good records. The name of a clean shard is its absolute path.
        `folds` and `statistics` still describe the whole data set.

    Raises:
        UserError: more than `max_corrupt` records are lost, or all records of a split, or `folder`
            cannot be written.
    """
    if max_corrupt < 0:
        raise UserError(f"`max_corrupt={max_corrupt}`: give the number of records, 0 or more")
    names = {shard.name for split in splits for shard in manifest.shards_of(split)}
    shards = [shard for shard in manifest.shards if shard.name in names]
    problems = _problems(manifest, shards)
    salvages = [_examine(manifest, shard) for shard in shards if shard.name in problems]
    for each in salvages:
        lost = f"{len(each.lost):,} of {each.shard.records:,} records lost"
        terminal.warn(f"{each.shard.name}: {problems[each.shard.name]}; {lost}")
    lost = sum(len(each.lost) for each in salvages)
    if lost > max_corrupt:
        named = [f"{name} ({problem})" for name, problem in list(problems.items())[:_NAMED]]
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise UserError(
            f"{manifest.folder} is damaged: {lost:,} of {_records(shards):,} records are lost, more"
            f" than `max_corrupt={max_corrupt}`, in {', '.join(named)}{more}: {_RESTORE}, or"
            f" continue without these records with `max_corrupt={lost}`"
        )
    left = _replace_shards(manifest, salvages, folder) if salvages else manifest
    _write(manifest, salvages, folder)
    return _count(manifest, left, salvages) if salvages else manifest


def _problems(manifest: Manifest, shards: Sequence[Shard]) -> dict[str, str]:
    """Return the problem of each damaged shard; hash only those that are not known to be whole."""
    verified = VerifiedShards()
    states = verified.states(manifest, shards)
    known = verified.known(states)
    paths = {shard.name: manifest.path_of(shard) for shard in shards}
    rest = [shard for shard in shards if paths[shard.name] not in known]
    if not rest:
        return {}
    with terminal.progress("verifying", sum(map(verify.blocks, rest)), "MB") as advance:
        problems = dict(verify.find_damaged_shards(manifest, rest, advance))
    whole = [paths[shard.name] for shard in rest if shard.name not in problems]
    verified.add({path: states[path] for path in whole if path in states})
    return problems


@contextlib.contextmanager
def explained(manifest: Manifest) -> Iterator[None]:
    """Turn a read error of TensorFlow in the block into an error of one line.

    Args:
        manifest: from `readable`.

    Raises:
        ResumableError: a dataset could not read the manifest's shards.
    """
    import tensorflow as tf

    try:
        yield
    except (
        tf.errors.NotFoundError,
        tf.errors.FailedPreconditionError,
        tf.errors.DataLossError,
        tf.errors.UnavailableError,
        tf.errors.UnknownError,  # an error of Python, which reads URLs
    ) as error:
        where = next((p for p in manifest.paths() if p in error.message), manifest.folder)
        reason = one_line(_TF_NOISE.sub("", error.message)).removeprefix(f"{where}; ")
        raise ResumableError(
            f"{where} cannot be read any more ({reason}), though it was whole before the first"
            " step: check the disk or the network, and run the same command again; it names every"
            " damaged shard and resumes from the last checkpoint"
        ) from None


def _examine(manifest: Manifest, shard: Shard) -> Salvage:
    """Find the good records of a damaged shard.

    There are none if the shard is missing or holds other records: a record has an unknown class,
    or every checksum is right although SHA-256 is not.
    """
    path = manifest.folder / shard.name
    digest, size, lost = hashlib.sha256(), 0, []
    # ValueError: the shard's name is impossible, or a record is not of this data set.
    with contextlib.suppress(OSError, ValueError):
        storage.size(path)  # refuses a pipe, which would block
        with storage.open_to_read(path) as file:
            for number, (offset, record) in enumerate(_records_of(file, shard)):
                if record is None:
                    lost.append(LostRecord(shard.name, number, offset))
                    continue
                fields = example.deserialize(record)
                known = [name for i in fields.labels for name in manifest.classes[i : i + 1]]
                if not fields.text or fields.text != label_set.join(known):
                    raise ValueError(f"{fields.text!r} is not of the classes {fields.labels}")
                frame = tfrecord.frame(record)
                digest.update(frame)
                size += len(frame)
        # If the digest is right, bytes were only appended.
        failed = any(each.offset is not None for each in lost)
        if failed or digest.hexdigest() == shard.sha256:
            records = shard.records - len(lost)
            clean = dataclasses.replace(
                shard, records=records, bytes=size, sha256=digest.hexdigest()
            )
            return Salvage(shard, clean, tuple(lost))
    lost = tuple(LostRecord(shard.name, number, None) for number in range(shard.records))
    return Salvage(shard, dataclasses.replace(shard, records=0, bytes=0, sha256=""), lost)


def _records_of(file: BinaryIO, shard: Shard) -> Iterator[tuple[int | None, bytes | None]]:
    """Yield offset and contents of each record that a shard should have; None if it is lost."""

    def frames() -> Iterator[tuple[int | None, bytes | None]]:
        try:
            for offset, _ in tfrecord.frames(file):
                try:
                    record = tfrecord.read_at(file, offset)
                except tfrecord.FrameError:
                    record = None
                yield offset, record
        except tfrecord.FrameError as error:
            yield error.offset, None
        yield from itertools.repeat((None, None))

    return itertools.islice(frames(), shard.records)


def _replace_shards(
    manifest: Manifest, salvages: Sequence[Salvage], folder: pathlib.Path
) -> Manifest:
    """Return the manifest with clean shards in `folder`; the counts are still the old ones."""
    clean = {each.shard.name: each.clean for each in salvages}
    shards = []
    for shard in manifest.shards:
        left = clean.get(shard.name)
        if left and left.records:
            shard = dataclasses.replace(left, name=os.path.abspath(folder / shard.name))
        if not left or left.records:
            shards.append(shard)
    for split in sorted({each.shard.split for each in salvages}):
        if not any(shard.split == split for shard in shards):
            raise UserError(
                f"{manifest.folder}: no record of split {split!r} is left: {_RESTORE}, or name"
                " another split"
            )
    # A run on fewer records must not pass for one on all of them.
    fewer = [f"{each.shard.name} {each.clean.sha256}" for each in salvages if each.lost]
    digest = hashlib.sha256("\n".join([manifest.fingerprint, *fewer]).encode()).hexdigest()
    return dataclasses.replace(
        manifest,
        shards=tuple(shards),
        fingerprint=digest if fewer else manifest.fingerprint,
        mean_record_bytes=sum(shard.bytes for shard in shards) / _records(shards),
    )


def _write(manifest: Manifest, salvages: Sequence[Salvage], folder: pathlib.Path) -> None:
    """Write the clean shards, byte for byte, and `lost.csv`; remove an old list if all is well."""
    try:
        if not salvages:
            (folder / LOST).unlink(missing_ok=True)
            return
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResumableError(f"cannot write to {folder}: {error.strerror or error}") from None
    with storage.atomic_file(folder / LOST) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(LostRecord._fields)
        writer.writerows(lost for each in salvages for lost in each.lost)
    for shard, clean, _ in salvages:
        path = folder / shard.name
        if not clean.records or (path.is_file() and verify.sha256(path) == clean.sha256):
            continue
        source = manifest.folder / shard.name
        digest = hashlib.sha256()
        with storage.atomic_file(path, "wb") as target, storage.open_to_read(source) as file:
            for _, record in _records_of(file, shard):
                if record is not None:
                    frame = tfrecord.frame(record)
                    digest.update(frame)
                    target.write(frame)
            if digest.hexdigest() != clean.sha256:
                raise ResumableError(f"{source} changed while it was read: run the command again")


def _count(manifest: Manifest, left: Manifest, salvages: Sequence[Salvage]) -> Manifest:
    """Read the splits that lost records, and return `left` with their new counts."""
    counted, copies = dict(manifest.splits), dict(manifest.copies)
    for split in sorted({each.shard.split for each in salvages if each.lost}):
        images = collections.Counter()
        with terminal.progress(f"counting {split}", manifest.count(split), "records") as advance:
            for record in Subset(left, (split,)).records():
                for name in label_set.names(record.text):
                    images[name, record.copy] += 1
                advance()
        counted[split] = {c: images[c, False] + images[c, True] for c in manifest.classes}
        if split in copies:
            copies[split] = {c: images[c, True] for c in manifest.classes}
    # The counts of folds are of the whole data set; without them a subset counts its records.
    left = dataclasses.replace(left, splits=counted, copies=copies, fold_records={})
    return dataclasses.replace(left, accepted=left.images())


def _records(shards: Iterable[Shard]) -> int:
    return sum(shard.records for shard in shards)
