"""Describe a data set: `manifest.json` of a records folder."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import tfpipe
from tfpipe.core import remote, storage
from tfpipe.core.errors import UserError
from tfpipe.records.label_encoding import LabelEncoding
from tfpipe.records.label_set import MANY, ONE
from tfpipe.records.rejects import REJECTS

MANIFEST = "manifest.json"

# Selects every split; no split may have this name.
ALL_SPLITS = "all"

# Increased when a field is added, renamed or gets another meaning.
SCHEMA_VERSION = 4

_WHAT = "a records manifest of tfpipe"
_REBUILD = "build the data set again with `python -m tfpipe.build_records --overwrite`"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file.

    Attributes:
        name: file name in the manifest's folder.
        split: name of the split.
        records: number of records.
        bytes: size of the file.
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
        arguments: build options that affect the contents.
        input_fingerprint: hex digest of the inputs' names, sizes, and times or checksums.
        classes: names of the classes, in the order of `classes`; a label is an index into them.
        splits: number of records by split and class, including zeros. A record counts for each of
            its classes.
        accepted: number of images, without copies.
        converted: number of converted images by reason (`decode.Picture.converted`).
        rejected: number of files in `rejects.csv` by reason.
        fingerprint: hex digest of the contents, label and split of all images, in any order.
        mean_record_bytes: bytes of all shards divided by the number of records.
        shards: in the order of split and number.
        copies: number of transformed copies by split and class; only splits that have copies.
        folds: number of images by fold ("0", "1", ...) and class; empty without folds.
        fold_records: number of records by split, fold, class, and "images" or "copies"; empty
            without folds, and in data sets of schema version 2. If `labels` is "many", the class ""
            counts all records.
        duplicates: counts of the clusters in `duplicates.csv`.
        screens: number of suspects by screen.
        statistics: of the image files, from `statistics.describe`.
        files: sorted names of the other files in the folder.
        labels: how many classes an image has: "one", or "many" for any number of them.
        schema_version: version of this format.
        tfpipe_version: version that built the data set.
        folder: folder of the data set; not in the file.
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
    fold_records: dict[str, dict[str, dict[str, dict[str, int]]]] = dataclasses.field(
        default_factory=dict
    )
    duplicates: dict[str, int] = dataclasses.field(default_factory=dict)
    screens: dict[str, int] = dataclasses.field(default_factory=dict)
    statistics: dict[str, Any] = dataclasses.field(default_factory=dict)
    files: tuple[str, ...] = (REJECTS,)
    labels: str = ONE
    schema_version: int = SCHEMA_VERSION
    tfpipe_version: str = tfpipe.__version__
    folder: remote.Path = dataclasses.field(default=pathlib.Path(), compare=False)

    @property
    def encoding(self) -> LabelEncoding:
        """How labels become numbers."""
        return LabelEncoding(len(self.classes), self.labels == MANY)

    def count(self, split: str = ALL_SPLITS) -> int:
        """Return the number of records in a split, or in "all"."""
        if self.labels == MANY:
            return sum(shard.records for shard in self.shards_of(split))
        return sum(sum(self.splits[name].values()) for name in self._names(split))

    def images(self, split: str = ALL_SPLITS) -> int:
        """Return the number of images in a split, or in "all": records without copies."""
        copies = (sum(self.copies.get(name, {}).values()) for name in self._names(split))
        return self.count(split) - sum(copies)

    def shards_of(self, split: str = ALL_SPLITS) -> list[Shard]:
        """Return the shards of a split, or of "all"."""
        names = self._names(split)
        return [shard for shard in self.shards if shard.split in names]

    def paths(self, split: str = ALL_SPLITS) -> list[str]:
        """Return absolute paths or URLs of the shards of a split, or of "all"."""
        return [self.path_of(shard) for shard in self.shards_of(split)]

    def path_of(self, shard: Shard) -> str:
        """Return the absolute path of a shard, or its URL."""
        path = self.folder / shard.name
        # Workers of a data service may have other working folders.
        return os.path.abspath(path) if isinstance(path, pathlib.Path) else path

    def check(self) -> None:
        """Check that every shard exists and has its size, without reading it.

        Raises:
            UserError: a shard is missing or has another size.
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
        """Write `manifest.json` into a folder, atomically."""
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
    """Read the manifest of a records folder.

    Raises:
        UserError: the manifest is missing or damaged, or a newer tfpipe wrote it.
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
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> bool:
    """Return whether a folder already holds the complete result of a build.

    If not, the build may write the folder: it is missing, empty, or a data set to be replaced.

    Args:
        folder: output of the build, `out` in messages.
        arguments: as in `Manifest`; only those that decide the contents.
        input_fingerprint: as in `Manifest`.
        replace: whether the build replaces any data set in the folder.
        defaults: values of arguments that the data set lacks, because it was built before they
            existed. Arguments that no longer exist are ignored.

    Raises:
        UserError: the folder holds something else, which must not be deleted.
    """
    names = _names_in(folder)
    if not names:
        return False
    if MANIFEST not in names:
        raise UserError(
            f"`out={folder}` exists and is not a data set of tfpipe: name another folder"
        )
    there = load(folder)
    if replace:
        own = {MANIFEST, *there.files, *(shard.name for shard in there.shards)}
        strange = sorted(names - own)
        if strange:
            raise UserError(
                f"`out={folder}` holds {strange[0]!r}, which is not part of the data set: move that"
                " file away, or name another folder"
            )
        return False
    there.check()
    before = {**defaults, **there.arguments}
    changed = [f"`{key}`" for key, value in arguments.items() if before.get(key) != value]
    if not changed and there.input_fingerprint == input_fingerprint:
        return True
    other = f"options ({', '.join(changed)})" if changed else "images"
    raise UserError(
        f"`out={folder}` holds a data set built from other {other}: replace it with `overwrite`, or"
        " name another folder"
    )


def _names_in(folder: remote.Path) -> set[str]:
    """Return the names in a folder; empty if the folder does not exist."""
    try:
        return set(storage.names_in(folder))
    except OSError as error:
        raise UserError(f"`out={folder}`: {error.strerror}: name another folder") from None


def _check_consistency(manifest: Manifest) -> None:
    """Raise ValueError if the manifest contradicts itself, for example after an edit by hand."""
    for shard in manifest.shards:
        for field in dataclasses.fields(Shard):
            value = getattr(shard, field.name)
            if type(value) is not field.type or (field.type is int and value < 0):
                raise ValueError(f"the {field.name} of shard {shard.name!r} is {value!r}")
        if os.path.basename(shard.name) != shard.name:  # read nothing outside the folder
            raise ValueError(f"{shard.name!r} is not a plain file name")
        if shard.split not in manifest.splits:
            raise ValueError(f"shard {shard.name!r} is of the unknown split {shard.split!r}")
    if len({shard.name for shard in manifest.shards}) < len(manifest.shards):
        raise ValueError("a shard is listed twice")
    if manifest.labels not in (ONE, MANY):
        raise ValueError(f"labels is {manifest.labels!r}, neither {ONE!r} nor {MANY!r}")
    for split, counts in manifest.splits.items():
        if sorted(counts) != sorted(manifest.classes):
            raise ValueError(f"split {split!r} does not have the classes of the data set")
        records = sum(shard.records for shard in manifest.shards_of(split))
        fits = records == sum(counts.values())
        if manifest.labels == MANY:
            fits = records >= max(counts.values(), default=0)
        if not fits:
            raise ValueError(
                f"split {split!r} has {records} records in its shards, but other counts"
            )
    if manifest.images() != manifest.accepted:
        raise ValueError("the splits do not add up to the accepted images and their copies")
    # build_records divides the same numbers, so the results are equal to the last bit.
    size = sum(shard.bytes for shard in manifest.shards)
    if not manifest.count() or manifest.mean_record_bytes != size / manifest.count():
        raise ValueError(
            f"mean_record_bytes is {manifest.mean_record_bytes!r}, not bytes per record"
        )
