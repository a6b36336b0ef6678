"""What a records folder says of itself: `manifest.json`."""

import dataclasses
import os
import pathlib
from typing import Any

import tfpipe
from tfpipe.core import remote, storage
from tfpipe.core.errors import UserError
from tfpipe.records.rejects import REJECTS

MANIFEST = "manifest.json"

# Every split, wherever a split is asked for; so no split may have this name.
ALL_SPLITS = "all"

# Raised when a field is added, renamed or changes its meaning.
SCHEMA_VERSION = 2

_WHAT = "a records manifest of tfpipe"
_REBUILD = "build the data set again with `python -m tfpipe.build_records --overwrite`"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file.

    Attributes:
        name: its file name, in the manifest's folder.
        split: the split its records belong to.
        records: how many.
        bytes: its size.
        sha256: hex digest of the whole file.
    """

    name: str
    split: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A data set: its classes, its counts and its shards.

    Attributes:
        arguments: the options it was built with, as far as they decide its contents.
        input_fingerprint: hex digest of the inputs' names, sizes, and times or checksums.
        classes: sorted, or as `--classes` orders them; a record's label is an index into it.
        splits: records by split and class; every class is there, with 0 if need be.
        accepted: images in all, without copies.
        converted: how many of them were converted, by reason (`decode.Picture.converted`).
        rejected: files that are in `rejects.csv`, by reason.
        fingerprint: hex digest of the contents, label and split of every image, in any order.
        mean_record_bytes: bytes of the shards for one record, on average.
        shards: by split, then number.
        copies: transformed copies among the records, by split and class; only those that have any.
        folds: images by fold ("0", "1", ...) and class; empty without folds.
        duplicates: counts of what `duplicates.csv` lists.
        screens: suspects that each screen found, by its name.
        statistics: of the image files, as `statistics.describe` gives them.
        files: names of what else is in the folder, sorted.
        schema_version: of this file's form.
        tfpipe_version: that built it.
        folder: where it was loaded from; not in the file.
    """

    arguments: dict[str, Any]
    input_fingerprint: str
    classes: tuple[str, ...]
    splits: dict[str, dict[str, int]]
    accepted: int
    converted: dict[str, int]
    rejected: dict[str, int]
    fingerprint: str
    mean_record_bytes: float
    shards: tuple[Shard, ...]
    copies: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    folds: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    duplicates: dict[str, int] = dataclasses.field(default_factory=dict)
    screens: dict[str, int] = dataclasses.field(default_factory=dict)
    statistics: dict[str, Any] = dataclasses.field(default_factory=dict)
    files: tuple[str, ...] = (REJECTS,)
    schema_version: int = SCHEMA_VERSION
    tfpipe_version: str = tfpipe.__version__
    folder: remote.Path = dataclasses.field(default=pathlib.Path(), compare=False)

    def count(self, split: str = ALL_SPLITS) -> int:
        """Returns the number of records in a split, or in "all"."""
        return sum(sum(self.splits[name].values()) for name in self._names(split))

    def images(self, split: str = ALL_SPLITS) -> int:
        """Returns the number of images in a split, or in "all": its records without copies."""
        copies = (sum(self.copies.get(name, {}).values()) for name in self._names(split))
        return self.count(split) - sum(copies)

    def shards_of(self, split: str = ALL_SPLITS) -> list[Shard]:
        """Returns the shards of a split, or of "all"."""
        names = self._names(split)
        return [shard for shard in self.shards if shard.split in names]

    def paths(self, split: str = ALL_SPLITS) -> list[str]:
        """Returns where the shards of a split, or of "all", lie: absolute paths, or URLs."""
        paths = [self.folder / shard.name for shard in self.shards_of(split)]
        # Absolute, because the workers of a data service have other working folders.
        return [os.path.abspath(path) if isinstance(path, pathlib.Path) else path for path in paths]

    def check(self) -> None:
        """Checks that every shard is there and has its size; its contents are not read.

        Raises:
            UserError: one is missing or has another size.
        """
        for shard in self.shards:
            path = self.folder / shard.name
            try:
                size = storage.size(path)
            except OSError as error:
                raise UserError(
                    f"{path}: {error.strerror}, though {MANIFEST} lists it: {_REBUILD}"
                ) from None
            if size != shard.bytes:
                raise UserError(
                    f"{path} is damaged: it has {size} bytes and should have {shard.bytes},"
                    f" as {MANIFEST} says: {_REBUILD}"
                )

    def save(self, folder: remote.Path) -> None:
        """Writes `manifest.json` into a folder, atomically."""
        value = dataclasses.asdict(self)
        del value["folder"]
        storage.write_json(folder / MANIFEST, value)

    def _names(self, split: str) -> list[str]:
        if split == ALL_SPLITS:
            return list(self.splits)
        if split not in self.splits:
            raise UserError(
                f"{self.folder} has no split {split!r}; it has {', '.join(self.splits)} and"
                f" {ALL_SPLITS!r}"
            )
        return [split]


def load(folder: str | os.PathLike) -> Manifest:
    """Reads the manifest of a records folder.

    Raises:
        UserError: there is none, it is damaged, or a newer tfpipe wrote it.
    """
    folder = remote.to_path(folder)
    path = folder / MANIFEST
    value = storage.read_json(
        path, what=_WHAT, hint="name a folder that tfpipe.build_records wrote, or " + _REBUILD
    )
    version = value.get("schema_version") if isinstance(value, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path} is not {_WHAT}: it has no schema_version: {_REBUILD}")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, and this tfpipe reads up to {SCHEMA_VERSION}:"
            " use the tfpipe that wrote it, or a newer one"
        )
    try:
        shards = tuple(Shard(**shard) for shard in value.pop("shards"))
        classes = tuple(value.pop("classes"))
        files = tuple(value.pop("files", (REJECTS,)))  # version 1 has no others
        manifest = Manifest(**value, shards=shards, classes=classes, files=files, folder=folder)
        _check_consistency(manifest)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): {_REBUILD}") from None
    return manifest


def is_current(
    folder: remote.Path,
    arguments: dict[str, Any],
    input_fingerprint: str,
    *,
    replace: bool,
) -> bool:
    """Returns whether a folder holds, whole, what a build would write there.

    If not, the folder may be written: it is missing, empty, or a data set that is to be replaced.

    Args:
        folder: where the build is to go, `--out` in messages.
        arguments: as in `Manifest`.
        input_fingerprint: as in `Manifest`.
        replace: whether a data set that is there is to be replaced, whatever it is.

    Raises:
        UserError: it holds something else, which is not to be deleted.
    """
    names = _names_in(folder)
    if not names:
        return False
    if MANIFEST not in names:
        raise UserError(
            f"--out={folder} exists and is not a data set of tfpipe, so it is left alone: name"
            " another folder"
        )
    there = load(folder)
    if replace:
        own = {MANIFEST, *there.files, *(shard.name for shard in there.shards)}
        strange = sorted(names - own)
        if strange:
            raise UserError(
                f"--out={folder} holds {strange[0]!r}, which is not part of the data set, so it is"
                " left alone: move that file away, or name another folder"
            )
        return False
    there.check()
    if (there.arguments, there.input_fingerprint) == (arguments, input_fingerprint):
        return True
    changed = [f"--{key}" for key in arguments if there.arguments.get(key) != arguments[key]]
    other = f"options ({', '.join(changed)})" if changed else "images"
    raise UserError(
        f"--out={folder} holds a data set built from other {other}: replace it with --overwrite, or"
        " name another folder"
    )


def _names_in(folder: remote.Path) -> set[str]:
    """Returns the names in a folder, none if it does not exist."""
    try:
        return set(storage.names_in(folder))
    except OSError as error:
        raise UserError(f"--out={folder}: {error.strerror}: name another folder") from None


def _check_consistency(manifest: Manifest) -> None:
    """Raises ValueError where the manifest contradicts itself, as after an edit by hand."""
    for shard in manifest.shards:
        if os.path.basename(shard.name) != shard.name:  # nothing outside the folder is read
            raise ValueError(f"{shard.name!r} is not a plain file name")
    for split, counts in manifest.splits.items():
        if sorted(counts) != sorted(manifest.classes):
            raise ValueError(f"split {split!r} does not have the classes of the data set")
        records = sum(shard.records for shard in manifest.shards_of(split))
        if records != sum(counts.values()):
            raise ValueError(f"split {split!r} has {records} records in its shards, counts differ")
    if manifest.images() != manifest.accepted:
        raise ValueError("the splits do not add up to the accepted images and their copies")
