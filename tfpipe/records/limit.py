"""Draw a few records of each split, for a training that is a first try.

The draw keeps the shares of the classes, or of each set of classes, as they are. A hash of seed and
image chooses, whatever the order of the records. The result is a records folder of its own, with
one shard for each split.
"""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Mapping

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.records import class_counts, example, label_set, manifest, tfrecord, verify
from tfpipe.records.class_counts import RecordKind
from tfpipe.records.example import ImageExample
from tfpipe.records.manifest import Manifest, Shard
from tfpipe.records.subset import Subset


def draw(whole: Manifest, most: int, seed: int, folder: pathlib.Path) -> Manifest:
    """Write at most `most` records of each split to a folder, unless they are there.

    Args:
        whole: the records; without damage.
        most: number of records, at least 1.
        seed: of the draw.
        folder: to be written.

    Returns:
        The manifest of the drawn records; `whole` itself if no split has more.

    Raises:
        UserError: the folder cannot be written.
    """
    if all(whole.count(split) <= most for split in whole.splits):
        return whole
    digest = hashlib.sha256(f"{whole.fingerprint} {most} {seed}".encode()).hexdigest()
    if (folder / manifest.MANIFEST).is_file():
        there = manifest.load(folder)
        if there.fingerprint == digest:
            there.check()
            return there
    drawn: dict[str, list[ImageExample]] = {}
    with storage.atomic_folder(folder, replace=True) as work:
        shards = []
        for split in filter(whole.count, whole.splits):
            chosen = _choose(Subset(whole, (split,)), most, seed)
            name = f"{split}-00000-of-00001{verify.SHARD_SUFFIX}"
            drawn[split] = []
            with open(work / name, "wb") as file:
                for number, (record, fields) in enumerate(_records(Subset(whole, (split,)))):
                    if number in chosen:
                        file.write(tfrecord.frame(record))
                        drawn[split].append(fields._replace(encoded=b""))
            size = (work / name).stat().st_size
            shards.append(Shard(name, split, len(chosen), size, verify.sha256(work / name)))
        _describe(whole, drawn, tuple(shards), digest).save(work)
    counts = ", ".join(f"{len(found):,} of {whole.count(s):,} {s}" for s, found in drawn.items())
    terminal.say(f"limit={most}: {counts} records, in {folder}")
    return manifest.load(folder)


def _choose(part: Subset, most: int, seed: int) -> set[int]:
    """Return the numbers of the records to take, with about each class's share of them."""
    members = collections.defaultdict(list)
    with terminal.progress(f"drawing from {part.name}", part.count, "records") as advance:
        for number, fields in enumerate(part.records()):
            key = f"{seed} {fields.sha256} {fields.copy}".encode()
            members[fields.text].append((hashlib.sha256(key).digest(), number))
            advance()
    counts = {name: len(found) for name, found in members.items()}
    most = min(most, sum(counts.values()))
    every = part.manifest.labels == label_set.ONE and most >= len(members)
    quota = _with_every_class(counts, most) if every else _by_chance(counts, most, seed)
    return {number for name, found in members.items() for _, number in sorted(found)[: quota[name]]}


def _with_every_class(counts: Mapping[str, int], most: int) -> dict[str, int]:
    """Return how many records of each class to take, at least one."""
    total = sum(counts.values())
    exact = {name: most * count / total for name, count in counts.items()}
    # The largest remainders get the rest.
    quota = {name: max(1, int(share)) for name, share in exact.items()}
    by_rest = sorted(quota, key=lambda name: (quota[name] - exact[name], name))
    while sum(quota.values()) < most:
        name = by_rest.pop(0)
        quota[name] += 1
    while sum(quota.values()) > most:
        name = max(quota, key=lambda name: (quota[name] - exact[name], quota[name], name))
        quota[name] -= 1
    return quota


def _by_chance(counts: Mapping[str, int], most: int, seed: int) -> dict[str, int]:
    """Return how many records of each label to take, where some may get none.

    Systematic sampling (Madow 1949, "On the Theory of Systematic Sampling, II"): each number is the
    exact share rounded up or down, by chance, so that all records are equally likely. Images with
    several classes have many labels, most of them rare.
    """
    total, before, quota = sum(counts.values()), 0, {}
    start = int(hashlib.sha256(str(seed).encode()).hexdigest(), 16) % total
    for name in sorted(counts):
        after = before + counts[name]
        quota[name] = (after * most + start) // total - (before * most + start) // total
        before = after
    return quota


def _records(part: Subset) -> Iterator[tuple[bytes, ImageExample]]:
    for path in part.paths:
        try:
            with storage.open_to_read(path) as file:
                for _, record in tfrecord.read(file):
                    yield record, example.deserialize(record)
        except (OSError, ValueError, tfrecord.FrameError) as error:
            raise UserError(f"{path} cannot be read any more ({error}): check the disk") from None


def _describe(
    whole: Manifest, drawn: dict[str, list[ImageExample]], shards: tuple[Shard, ...], digest: str
) -> Manifest:
    """Return the manifest of the drawn records."""
    kinds = collections.Counter(
        RecordKind(split, each.text, each.fold, each.copy)
        for split, found in drawn.items()
        for each in found
    )
    counted = class_counts.describe(
        kinds, whole.classes, list(drawn), labels=whole.labels, has_folds=bool(whole.folds)
    )
    count = sum(shard.records for shard in shards)
    # The fractions of the splits are those of the whole set.
    arguments = {name: value for name, value in whole.arguments.items() if name != "splits"}
    return dataclasses.replace(
        whole,
        arguments=arguments,
        **counted,
        accepted=sum(count for kind, count in kinds.items() if not kind.copy),
        fingerprint=digest,
        shards=shards,
        mean_record_bytes=sum(shard.bytes for shard in shards) / count,
        converted={},
        rejected={},
        duplicates={},
        screens={},
        statistics={},
        files=(),
    )
