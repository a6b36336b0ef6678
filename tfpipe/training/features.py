"""What frozen layers make of every record, computed once and kept on the disk.

    FOLDER/KEY/
      boundary0.npy ...    the tensors at the boundary, a row for each record
      label.npy ...        what the records say of themselves
      meta.json            what the values follow from, and the CRC-32C of each file

The key is a digest of all that the values follow from, so what has become stale is never found. An
entry appears whole or not at all, and is verified when it is opened.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np
import tensorflow as tf

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError

META = "meta.json"

# Of a file at a time, when it is verified.
_CHUNK_BYTES = 2**24

# Left free on the disk: a training writes checkpoints and weights too.
_SPARE_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class Column:
    """One array of an entry.

    Attributes:
        name: of its file, without the ending.
        shape: of a row.
        dtype: of the values, as TensorFlow names it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def stored(self) -> np.dtype:
        """The dtype in the file: NumPy's format has no bfloat16, so its bits are kept."""
        return np.dtype(np.uint16 if self.dtype == "bfloat16" else self.dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.shape)) * self.stored.itemsize

    def bits(self, values: np.ndarray) -> np.ndarray:
        """Returns values as they are stored."""
        return np.ascontiguousarray(values).view(self.stored)

    def tensor(self, rows: np.ndarray) -> tf.Tensor:
        """Returns stored rows as a tensor."""
        values = tf.convert_to_tensor(rows)
        return tf.bitcast(values, self.dtype) if self.dtype == "bfloat16" else values


class Cache:
    """A folder of entries.

    Attributes:
        folder: may be shared by several runs.
    """

    def __init__(self, folder: pathlib.Path, limit_gb: float):
        """Opens a folder; it is made when something is kept.

        Args:
            folder: where.
            limit_gb: how much one stage may keep, in 10^9 bytes.
        """
        self.folder = folder
        self._limit = limit_gb * 1e9

    def fits(self, columns: list[Column], rows: int) -> bool:
        """Tells whether so many rows are within the limit."""
        return size(columns, rows) <= self._limit

    def get(
        self,
        causes: dict[str, Any],
        columns: list[Column],
        rows: int,
        compute: Iterator[list[np.ndarray]],
    ) -> list[np.ndarray]:
        """Returns the arrays of an entry, which is computed if it is not there.

        Args:
            causes: all that the values follow from, JSON-able.
            columns: of the entry.
            rows: how many there are to be.
            compute: yields some rows of every column at a time.

        Returns:
            For each column an array [rows, ...] as it is stored, mapped into memory.

        Raises:
            UserError: the disk is full, or cannot be written to.
        """
        found = self.find(causes, columns, rows)
        if found is None:
            self._write(self._path(causes, columns, rows), causes, columns, rows, compute)
            found = self.find(causes, columns, rows)
        return found

    def find(
        self, causes: dict[str, Any], columns: list[Column], rows: int
    ) -> list[np.ndarray] | None:
        """Returns the arrays of an entry, as `get` does, or None if it is not there or damaged."""
        path = self._path(causes, columns, rows)
        if not path.exists():
            return None
        problem = _problem(path, columns)
        if problem:
            terminal.warn(f"{path} is damaged ({problem}) and is computed again")
            return None
        return [np.load(path / f"{each.name}.npy", mmap_mode="r") for each in columns]

    def _path(self, causes: dict[str, Any], columns: list[Column], rows: int) -> pathlib.Path:
        shapes = [dataclasses.astuple(each) for each in columns]
        text = json.dumps([causes, shapes, rows], sort_keys=True)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:16]

    def _write(self, path, causes, columns, rows, compute) -> None:
        self._check_space(size(columns, rows))
        try:
            with storage.atomic_folder(path, replace=True) as work:
                sums = _write_columns(work, columns, rows, compute)
                storage.write_json(work / META, {"causes": causes, "crc32c": sums})
        except OSError as error:
            raise UserError(
                f"--feature_cache: cannot write {path} ({error.strerror or error}):"
                f" {self._advice(size(columns, rows))}"
            ) from None

    def _check_space(self, needed: int) -> None:
        there = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        free = shutil.disk_usage(there).free
        if needed + _SPARE_BYTES > free:
            raise UserError(
                f"--feature_cache: {self.folder} has {free / 1e9:.1f} GB free:"
                f" {self._advice(needed)}"
            )

    def _advice(self, needed: int) -> str:
        return (
            f"the features take {needed / 1e9:.1f} GB; make room, give --feature_cache=FOLDER on"
            " another disk, or --feature_gb=0 to compute them in each epoch"
        )


def size(columns: list[Column], rows: int) -> int:
    """Returns the bytes of so many rows."""
    return rows * sum(each.row_bytes for each in columns)


def _write_columns(work, columns, rows, compute) -> dict[str, int]:
    """Writes each column's file; returns their checksums."""
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


def _problem(path: pathlib.Path, columns: list[Column]) -> str:
    """Returns what is wrong with an entry; empty if nothing is."""
    try:
        sums = json.loads((path / META).read_text(encoding="utf-8"))["crc32c"]
        for column in columns:
            if _crc32c(path / f"{column.name}.npy") != sums[column.name]:
                return f"{column.name}.npy has another checksum"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _crc32c(path: pathlib.Path) -> int:
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum.update(chunk)
    return int.from_bytes(checksum.digest(), "big")
