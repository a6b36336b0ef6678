"""Features of frozen layers on the disk, computed once for every record.

    FOLDER/KEY/
      features0.npy ...    tensors at the split layer, a row for each record
      label.npy ...        fields of the records
      meta.json            the cache key, and the CRC-32C of each file

KEY is a digest of all that the values depend on, with the versions of tfpipe and TensorFlow, so an
entry never becomes stale. An entry appears whole or not at all; opening it verifies the checksums.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any

import google_crc32c
import numpy as np
import tensorflow as tf

import tfpipe
from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError

META = "meta.json"

# Raise it when the values or the order of the columns change for the same cache key.
FORMAT = 2

# Names of entries, and of nothing else that a user may keep in the folder.
_ENTRIES = "[0-9a-f]" * 16

# Bytes that a verification reads at a time.
_CHUNK_BYTES = 2**24

# Bytes left free on the disk for checkpoints and weights.
_SPARE_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class Column:
    """One array of an entry: the name of its file, the shape of a row, TensorFlow's dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def stored(self) -> np.dtype:
        """The dtype in the file. NumPy's format has no bfloat16, so the file has its bits."""
        return np.dtype(np.uint16 if self.dtype == "bfloat16" else self.dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.shape)) * self.stored.itemsize

    def bits(self, values: np.ndarray) -> np.ndarray:
        """Return values as the file stores them."""
        return np.ascontiguousarray(values).view(self.stored)

    def tensor(self, rows: np.ndarray) -> tf.Tensor:
        """Return stored rows as a tensor."""
        values = tf.convert_to_tensor(rows)
        return tf.bitcast(values, self.dtype) if self.dtype == "bfloat16" else values


class FeatureCache:
    """A folder of entries, which several runs may share, of at most `limit_gb` together.

    Entries that this object has read or written stay. When another one needs the room, the others
    are removed, those first that were not used for longest.
    """

    def __init__(self, folder: pathlib.Path, limit_gb: float):
        """Open a folder, which `get` creates if needed; `limit_gb` is in 10^9 bytes."""
        self._folder = folder
        self._limit = limit_gb * 1e9
        self._reserved: dict[str, int] = {}
        self._used: set[pathlib.Path] = set()

    @property
    def left_gb(self) -> float:
        """The part of the limit that is not reserved, in 10^9 bytes."""
        return (self._limit - sum(self._reserved.values())) / 1e9

    def reserve(self, name: str, columns: list[Column], rows: int) -> bool:
        """Reserve room for rows; return whether the limit allows them beside all other names."""
        others = sum(needed for key, needed in self._reserved.items() if key != name)
        if others + size(columns, rows) > self._limit:
            return False
        self._reserved[name] = size(columns, rows)
        return True

    def get(
        self,
        cache_key: dict[str, Any],
        columns: list[Column],
        rows: int,
        compute: Iterable[list[np.ndarray]],
    ) -> list[np.ndarray]:
        """Return the arrays of an entry; compute it first if it is missing or damaged.

        Args:
            cache_key: what the values depend on beside the code, JSON-able.
            columns: of the entry.
            rows: number of rows, at least 1.
            compute: yields some rows of every column at a time.

        Returns:
            For each column an array [rows, ...] as stored, mapped into memory.

        Raises:
            UserError: the disk is full, or cannot be written to; or another run removes the entry.
        """
        found = self.find(cache_key, columns, rows)
        if found is None:
            path = self._path(cache_key, columns, rows)
            self._write(path, cache_key, columns, rows, iter(compute))
            found = self.find(cache_key, columns, rows)
            if found is None:
                raise UserError(
                    f"`feature_cache`: {path} is gone or damaged as soon as it was written: give"
                    " each run its own folder, or all of them a larger `feature_gb`"
                )
        return found

    def find(
        self, cache_key: dict[str, Any], columns: list[Column], rows: int
    ) -> list[np.ndarray] | None:
        """Return the arrays of an entry like `get`, or None if it is missing or damaged."""
        path = self._path(cache_key, columns, rows)
        if not path.exists():
            return None
        try:
            _check(path, columns)
            arrays = [np.load(path / f"{each.name}.npy", mmap_mode="r") for each in columns]
        except (OSError, ValueError, KeyError, TypeError) as error:
            if path.exists():  # else another run has removed it
                terminal.warn(f"{path} is damaged ({error}) and is computed again")
            return None
        self._used.add(path)
        with contextlib.suppress(OSError):  # a folder that cannot be written to needs no order
            os.utime(path / META)
        return arrays

    def _path(self, cache_key: dict, columns: list[Column], rows: int) -> pathlib.Path:
        versions = FORMAT, tfpipe.__version__, tf.__version__
        shapes = [dataclasses.astuple(each) for each in columns]
        text = json.dumps([versions, cache_key, shapes, rows], sort_keys=True)
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:16]

    def _write(self, path, cache_key, columns, rows, compute) -> None:
        # Before the eviction: it marks the entries that it is computed from as used.
        first = next(compute)
        needed = size(columns, rows)
        self._make_room(needed)
        advice = (
            f"the features take {needed / 1e9:.1f} GB: make room, give `feature_cache` a folder on"
            " another disk, or give `feature_gb=0` to compute them in each epoch"
        )
        there = next(each for each in (path, *path.parents) if each.exists())
        free = shutil.disk_usage(there).free
        if needed + _SPARE_BYTES > free:
            raise UserError(
                f"`feature_cache`: {self._folder} has {free / 1e9:.1f} GB free: {advice}"
            )
        try:
            with storage.atomic_folder(path, replace=True) as work:
                parts = itertools.chain([first], compute)
                sums = _write_columns(work, columns, rows, parts)
                storage.write_json(work / META, {"cache_key": cache_key, "crc32c": sums})
        except OSError as error:
            raise UserError(
                f"`feature_cache`: cannot write {path} ({error.strerror or error}): {advice}"
            ) from None

    def _make_room(self, needed: int) -> None:
        """Remove entries until `needed` bytes are within the limit; tell how many."""
        sizes = {path: _folder_bytes(path) for path in self._folder.glob(_ENTRIES)}
        excess = sum(sizes.values()) + needed - self._limit
        removed = []
        for path in sorted(sizes.keys() - self._used, key=_last_use):
            if sum(removed) >= excess:
                break
            try:
                shutil.rmtree(path)
            except OSError as error:
                terminal.warn(f"`feature_cache`: cannot remove {path} ({error.strerror or error})")
            else:
                removed.append(sizes[path])
        if removed:
            terminal.say(
                f"features in {self._folder}: {len(removed)} not used for longest,"
                f" {sum(removed) / 1e9:.1f} GB, are removed to keep within the"
                f" {self._limit / 1e9:g} GB of feature_gb"
            )


def size(columns: list[Column], rows: int) -> int:
    """Return the bytes of this number of rows."""
    return rows * sum(each.row_bytes for each in columns)


def _write_columns(work, columns, rows, compute) -> dict[str, int]:
    """Write the file of each column; return their checksums."""
    files = [open(work / f"{each.name}.npy", "wb") for each in columns]  # noqa: SIM115
    try:
        for column, file in zip(columns, files, strict=True):
            header = {
                "descr": np.lib.format.dtype_to_descr(column.stored),
                "fortran_order": False,
                "shape": (rows, *column.shape),
            }
            np.lib.format.write_array_header_2_0(file, header)
        for part in compute:
            for column, file, values in zip(columns, files, part, strict=True):
                file.write(column.bits(values).data)
    finally:
        for file in files:
            file.close()
    return {each.name: _crc32c(work / f"{each.name}.npy") for each in columns}


def _check(path: pathlib.Path, columns: list[Column]) -> None:
    """Raise ValueError, or what reading raises, if an entry is not what was written."""
    sums = json.loads((path / META).read_text(encoding="utf-8"))["crc32c"]
    for column in columns:
        if _crc32c(path / f"{column.name}.npy") != sums[column.name]:
            raise ValueError(f"{column.name}.npy has another checksum")


def _folder_bytes(path: pathlib.Path) -> int:
    try:
        return sum(file.stat().st_size for file in path.iterdir())
    except OSError:  # another run has removed it
        return 0


def _last_use(path: pathlib.Path) -> float:
    """Return when an entry was used last, in seconds; 0 for one without `META`."""
    try:
        return (path / META).stat().st_mtime
    except OSError:
        return 0.0


def _crc32c(path: pathlib.Path) -> int:
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum.update(chunk)
    return int.from_bytes(checksum.digest(), "big")
