"""What damaged shards still hold: their good records in clean shards, and a manifest of just those.

Every byte that a training will read is verified before its first step. A record is lost when its
frame fails a checksum; where a length is damaged too, the next frame is searched for by the
checksum of its own. Only records that the manifest knows are kept: a shard that holds others,
whatever their checksums say, is lost as a whole.
"""

import collections
import contextlib
import csv
import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

from tfpipe.core import storage, terminal
from tfpipe.core.errors import ResumableError, UserError, one_line
from tfpipe.records import damaged, example, tfrecord, verify
from tfpipe.records.damaged import Lost, Salvage
from tfpipe.records.manifest import Manifest, Shard

LOST = "lost.csv"

# How many damaged shards an error names.
_NAMED = 3

_RESTORE = (
    "restore what is damaged from a copy, build the data set again with `python -m"
    " tfpipe.build_records --overwrite`"
)

# What TensorFlow puts around the message of an error.
_TF_NOISE = re.compile(r"\{\{.*?\}\} *| *\[Op:.*$", re.DOTALL)


def readable(
    manifest: Manifest, splits: Sequence[str], *, max_corrupt: int, folder: pathlib.Path
) -> Manifest:
    """Verifies all shards of some splits, and returns a manifest of the records that are whole.

    The result follows from the bytes on the disk alone, so a run that goes on sees the records that
    it saw before. What is damaged is told, a line for each shard.

    Args:
        manifest: of the folder, as `manifest.load` gives it.
        splits: those that will be read, "all" among them or not.
        max_corrupt: how many records may be lost.
        folder: gets clean shards in place of the damaged ones, and `lost.csv`, which lists the lost
            records; it is made only if it is needed.

    Returns:
        `manifest` itself if nothing is damaged. Otherwise one whose shards, counts of these splits
        and fingerprint are those of the records that are left; a clean shard has its absolute path
        as its name. `folds` and `statistics` remain those of the whole data set.

    Raises:
        UserError: more than `max_corrupt` records are lost, or all of a split; or the folder cannot
            be written.
    """
    if max_corrupt < 0:
        raise UserError(f"--max_corrupt={max_corrupt}: give the number of records, 0 or more")
    verify.check_fields(manifest)
    read = {shard.split for split in splits for shard in manifest.shards_of(split)}
    shards = [shard for shard in manifest.shards if shard.split in read]
    with terminal.progress("verifying", sum(map(verify.blocks, shards)), "MB") as advance:
        problems = dict(verify.find_damaged_shards(manifest, shards, advance))
    salvages = [damaged.salvage(manifest, shard) for shard in shards if shard.name in problems]
    for each in salvages:
        lost = f"{len(each.lost):,} of {each.shard.records:,} records lost"
        terminal.warn(f"{each.shard.name}: {problems[each.shard.name]}; {lost}")
    _check_bound(manifest, _records(shards), problems, salvages, max_corrupt)
    left = _without(manifest, salvages, folder) if salvages else manifest
    _write(manifest, salvages, folder)
    return left


@contextlib.contextmanager
def explained(manifest: Manifest) -> Iterator[None]:
    """Says in a line what it means that reading fails in the block, after all was verified.

    Args:
        manifest: as `readable` returned it.

    Raises:
        ResumableError: a dataset that reads the manifest's shards could not.
    """
    import tensorflow as tf

    try:
        yield
    except (
        tf.errors.NotFoundError,
        tf.errors.FailedPreconditionError,
        tf.errors.DataLossError,
        tf.errors.UnavailableError,
    ) as error:
        where = next((p for p in manifest.paths() if p in error.message), manifest.folder)
        reason = one_line(_TF_NOISE.sub("", error.message)).removeprefix(f"{where}; ")
        raise ResumableError(
            f"{where} cannot be read any more ({reason}), though it was whole before the first"
            " step: look after the disk or the network, and run the same command again, which"
            " names every damaged shard and goes on from the last checkpoint"
        ) from None


def _check_bound(
    manifest: Manifest,
    records: int,
    problems: dict[str, str],
    salvages: Sequence[Salvage],
    max_corrupt: int,
) -> None:
    lost = sum(len(each.lost) for each in salvages)
    if lost > max_corrupt:
        named = [f"{name} ({problem})" for name, problem in list(problems.items())[:_NAMED]]
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise UserError(
            f"{manifest.folder} is damaged: {lost:,} of {records:,} records are lost, more than"
            f" --max_corrupt={max_corrupt}, in {', '.join(named)}{more}: {_RESTORE}, or go on"
            f" without them with --max_corrupt={lost}"
        )


def _write(manifest: Manifest, salvages: Sequence[Salvage], folder: pathlib.Path) -> None:
    """Writes the clean shards and the list of what is lost; nothing remains if nothing is."""
    try:
        if not salvages:
            (folder / LOST).unlink(missing_ok=True)  # of an earlier run
            return
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResumableError(f"cannot write to {folder}: {error.strerror or error}") from None
    with storage.atomic_file(folder / LOST) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Lost._fields)
        for each in salvages:
            writer.writerows(lost._replace(filename=one_line(lost.filename)) for lost in each.lost)
    for each in salvages:
        if each.runs:
            damaged.copy(manifest.folder / each.shard.name, each, folder / each.shard.name)


def _without(manifest: Manifest, salvages: Sequence[Salvage], folder: pathlib.Path) -> Manifest:
    """Returns the manifest of what is left, with clean shards in `folder`."""
    by_name = {each.shard.name: each for each in salvages}
    shards = []
    for shard in manifest.shards:
        if shard.name not in by_name:
            shards.append(shard)
        elif by_name[shard.name].runs:
            path = os.path.abspath(folder / shard.name)
            shards.append(dataclasses.replace(by_name[shard.name].clean, name=path))
    splits, copies = dict(manifest.splits), dict(manifest.copies)
    for split in dict.fromkeys(each.shard.split for each in salvages if each.lost):
        images = _count(manifest, split, by_name)
        if not images:
            raise UserError(
                f"{manifest.folder}: no record of split {split!r} is left: {_RESTORE}, or name"
                " another split"
            )
        splits[split] = {c: images[c, False] + images[c, True] for c in manifest.classes}
        if split in copies:
            copies[split] = {c: images[c, True] for c in manifest.classes}
    left = dataclasses.replace(
        manifest,
        shards=tuple(shards),
        splits=splits,
        copies=copies,
        fingerprint=_fingerprint(manifest, salvages),
        mean_record_bytes=sum(shard.bytes for shard in shards) / _records(shards),
    )
    return dataclasses.replace(left, accepted=left.images())


def _count(manifest: Manifest, split: str, salvages: dict[str, Salvage]) -> collections.Counter:
    """Returns how many records of a split are left, by (text, copy)."""
    images = collections.Counter()
    with terminal.progress(f"counting {split}", manifest.count(split), "records") as advance:
        for shard in manifest.shards_of(split):
            if shard.name in salvages:
                images += salvages[shard.name].images
                advance(shard.records)
                continue
            path = manifest.folder / shard.name
            try:
                with storage.open_to_read(path) as file:
                    for _, record in tfrecord.read(file):
                        fields = example.deserialize(record)
                        images[fields.text, fields.copy] += 1
                        advance()
            except (OSError, tfrecord.FrameError) as error:
                raise ResumableError(
                    f"{path} has changed since it was verified ({error}): run the command again"
                ) from None
    return images


def _fingerprint(manifest: Manifest, salvages: Sequence[Salvage]) -> str:
    """Returns another fingerprint for other records: that of all, and what is left of each."""
    left = [f"{each.shard.name} {each.clean.sha256}" for each in salvages if each.lost]
    if not left:
        return manifest.fingerprint
    return hashlib.sha256("\n".join([manifest.fingerprint, *left]).encode()).hexdigest()


def _records(shards: Iterable[Shard]) -> int:
    return sum(shard.records for shard in shards)
