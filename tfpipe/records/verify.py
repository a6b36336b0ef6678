"""Find damage in a records folder: changed bytes, and shards cut, emptied, missing or added.

SHA-256 decides whether a shard is whole. If it is not, the checksums in its frames locate the first
damaged record.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tfpipe.core import storage
from tfpipe.core.cores import cores
from tfpipe.core.errors import UserError
from tfpipe.records import rejects, tfrecord
from tfpipe.records.manifest import MANIFEST, Manifest, Shard

SHARD_SUFFIX = ".tfrecord"

# Files are read in blocks of this size; progress advances after each.
BLOCK_BYTES = 10**6

# Shards read at once. SHA-256 keeps one core busy for each; disks and networks add waiting.
READERS = max(4, cores())


class Finding(NamedTuple):
    """One file of a records folder that differs from the manifest.

    Attributes:
        name: file name in the folder.
        problem: a phrase for a person.
    """

    name: str
    problem: str


def blocks(shard: Shard) -> int:
    """Return the number of blocks of a whole shard."""
    return -(-shard.bytes // BLOCK_BYTES)


def find_damage(manifest: Manifest, advance: Callable[[], object] = lambda: None) -> list[Finding]:
    """Read every shard and return each file that is damaged, missing or unknown.

    Args:
        manifest: from `manifest.load`.
        advance: called after each block, `blocks(shard)` times for a whole shard.

    Returns:
        The shards in the manifest's order, then unknown shards, then `rejects.csv`.
    """
    found = find_damaged_shards(manifest, manifest.shards, advance)
    known = {shard.name for shard in manifest.shards}
    there = sorted(
        name for name in storage.names_in(manifest.folder) if name.endswith(SHARD_SUFFIX)
    )
    found += [Finding(name, f"{MANIFEST} does not list it") for name in there if name not in known]
    return found + _examine_rejects(manifest)


def find_damaged_shards(
    manifest: Manifest, shards: Iterable[Shard], advance: Callable[[], object] = lambda: None
) -> list[Finding]:
    """Read shards in parallel and return those that are damaged or missing, in their order.

    Args:
        manifest: as for `find_damage`.
        shards: shards of the manifest.
        advance: as for `find_damage`; never called concurrently.
    """
    lock = threading.Lock()

    def advance_alone() -> None:
        with lock:
            advance()

    def find(shard: Shard) -> Finding | None:
        try:
            problem = _examine(manifest.folder / shard.name, shard, advance_alone)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            problem = getattr(error, "strerror", None) or str(error)
        return Finding(shard.name, problem) if problem else None

    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        return [found for found in pool.map(find, shards) if found]


def _examine(path: os.PathLike | str, shard: Shard, advance: Callable[[], object]) -> str:
    """Return what is wrong with a shard, or ""."""
    there = storage.size(path)  # refuses a pipe, which would block
    if there == 0 and shard.bytes:
        return f"empty, should have {shard.records} records"
    if there == shard.bytes and sha256(path, advance) == shard.sha256:
        records = _count_frames(path)
        if records != shard.records:
            return f"whole with {records} records, but {MANIFEST} says {shard.records}"
        return ""
    size = f"{there} bytes instead of {shard.bytes}" if there != shard.bytes else "SHA-256 differs"
    return f"{size}; {_localise(path, shard)}"


def sha256(path: os.PathLike | str, advance: Callable[[], object] = lambda: None) -> str:
    """Return the hex digest of a file; raises OSError.

    Args:
        path: local or remote.
        advance: called after each block.
    """
    digest = hashlib.sha256()
    with storage.open_to_read(path, sequential=True) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            advance()
    return digest.hexdigest()


def _count_frames(path: os.PathLike | str) -> int:
    """Return the number of records, without reading them."""
    count = 0
    with storage.open_to_read(path) as file, contextlib.suppress(tfrecord.FrameError):
        for _ in tfrecord.frames(file):
            count += 1
    return count


def _localise(path: os.PathLike | str, shard: Shard) -> str:
    """Return where the first damage of a shard is; records count from 0."""
    count = 0
    try:
        with storage.open_to_read(path) as file:
            for _ in tfrecord.read(file):
                count += 1
    except tfrecord.FrameError as error:
        if error.cut and count >= shard.records:
            return f"{storage.size(path) - error.offset} bytes follow the last record"
        how = "cut inside record {}, which starts at byte {}"
        if not error.cut:
            how = "record {}, which starts at byte {}, fails its checksum"
        return how.format(count, error.offset)
    if count < shard.records:
        return f"cut after record {count - 1}: {count} records instead of {shard.records}"
    if count > shard.records:
        return f"{count} records instead of {shard.records}, all with correct checksums"
    return "every record has a correct checksum, so this is the shard of another data set"


def _examine_rejects(manifest: Manifest) -> list[Finding]:
    try:
        listed = rejects.load(manifest.folder)
    except UserError:
        return [Finding(rejects.REJECTS, "missing or damaged")]
    if collections.Counter(reject.reason for reject in listed) != manifest.rejected:
        return [Finding(rejects.REJECTS, f"{MANIFEST} counts other lines")]
    return []
