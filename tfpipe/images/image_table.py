"""The files of a build in columns: one row of 200 bytes for each, where objects take 1 kB.

    names    cat/0.jpg | cat/1.jpg | dog/0.jpg        packed, with the place where each ends
    rows     source, name, label, ..., width, sha256  a NumPy array with named fields

Every step of a build reads and fills columns of the same rows. A text that many rows share, such as
a label, is a number in its column, and the text itself is kept once.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from tfpipe.images.image_info import ImageInfo, ImageRef

# A SHA-256, or a perceptual hash. NumPy compares all 32 bytes, but a single element that it returns
# lacks zeros at its end, so `to_hex` adds them.
DIGEST = np.dtype("S32")

_BLOCK = 2**12  # digests that are copied at once, and rows that become objects

# The fields of `ImageInfo` after `ref`, in its order.
_TEXTS = ("format", "converted", "spool")
_DIGESTS = ("sha256", "file_sha256", "hash")
_COLORS = ("red", "green", "blue")
_SIZES = ("height", "width", "bytes", "file_bytes", "file_height", "file_width")
_TEXT_COLUMNS = ("label", "group", "split", *_TEXTS)
_DESCRIPTION = (*_TEXTS, *_SIZES, "offset", *_COLORS, *_DIGESTS)

ROW = np.dtype(
    [
        *((name, np.uint32) for name in ("source", "name", *_TEXT_COLUMNS)),
        *((name, np.int32) for name in ("fold", "copy", "cluster")),
        *((name, np.uint32) for name in _SIZES),
        ("offset", np.uint64),
        *((name, np.float64) for name in _COLORS),
        *((name, DIGEST) for name in _DIGESTS),
    ]
)


def to_hex(digest: bytes) -> str:
    """Return an element of a `DIGEST` array in hexadecimal digits."""
    return digest.ljust(DIGEST.itemsize, b"\0").hex()


def rank(digests: np.ndarray | Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rank digests; `np.unique` does, too, but copies them four times.

    Args:
        digests: a `DIGEST` array, or anything else that sorts.

    Returns:
        The index of the first of each of the distinct digests in their order, and for each digest
        its place in that order; both int64.
    """
    digests = np.asarray(digests)
    order = np.argsort(digests, kind="stable")
    differs = np.ones(len(digests), bool)
    for start in range(1, len(digests), _BLOCK):
        block = digests[order[start - 1 : start + _BLOCK]]
        differs[start : start + _BLOCK] = block[1:] != block[:-1]
    ranks = np.empty(len(digests), np.int64)
    ranks[order] = np.cumsum(differs) - 1
    return order[differs], ranks


class _Vocabulary:
    """Texts and their numbers; "" is 0."""

    def __init__(self, texts: Iterable[str] = ("",)):
        self.texts = list(texts)
        self._numbers = {text: number for number, text in enumerate(self.texts)}

    def number(self, text: str) -> int:
        """Return the number of a text, which may be new."""
        found = self._numbers.setdefault(text, len(self.texts))
        if found == len(self.texts):
            self.texts.append(text)
        return found


class ImageTable(Sequence[ImageInfo]):
    """Files, and what is known of them; a sequence of the descriptions of images.

    Attributes:
        rows: a `ROW` array, which may be changed. `source` and `name` say where the file is,
            `label`, `group` and `split` stand for `texts`, `cluster` is the index of the
            first of a cluster of duplicates, and `copy` as in `shards.ExampleSpec`. The others are
            those of `ImageInfo`.
    """

    def __init__(
        self, rows: np.ndarray, names: Sequence[str], vocabulary: _Vocabulary | None = None
    ):
        """Make a table of rows whose fields `name` are indices into `names`."""
        self.rows, self._names = rows, names
        self._vocabulary = vocabulary or _Vocabulary()

    @classmethod
    def of_refs(cls, refs: Iterable[ImageRef]) -> "ImageTable":
        """Return a table of files that are not described yet."""
        refs = list(refs)
        return cls.of_names([each.source for each in refs], [each.name for each in refs])

    @classmethod
    def of_names(cls, sources: Sequence[int], names: Sequence[str]) -> "ImageTable":
        """Return a table of files by the index of the source of each, and its name there."""
        rows = np.zeros(len(names), ROW)
        rows["source"], rows["name"] = sources, np.arange(len(names))
        return cls(rows, names)

    @classmethod
    def of_infos(cls, infos: Sequence[ImageInfo]) -> "ImageTable":
        """Return a table of images."""
        table = cls.of_refs(info.ref for info in infos)
        table.describe(range(len(infos)), infos)
        return table

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ImageInfo:
        return self._info(*self.rows[index].item())

    def __iter__(self) -> Iterator[ImageInfo]:
        for start in range(0, len(self), _BLOCK):
            yield from itertools.starmap(self._info, self.rows[start : start + _BLOCK].tolist())

    def _info(self, source: int, name: int, *columns: Any) -> ImageInfo:
        """Describe a row, whose values come in the order of `ROW`."""
        *_, form, converted, spool, _fold, _copy, _cluster, height, width, size = columns[:12]
        file_bytes, file_height, file_width, offset, *color = columns[12:-3]
        sha256, file_sha256, look = columns[-3:]
        texts = self._vocabulary.texts
        return ImageInfo(
            ImageRef(source, self._names[name]),
            texts[form],
            height,
            width,
            size,
            to_hex(sha256),
            texts[converted],
            to_hex(file_sha256),
            file_bytes,
            file_height,
            file_width,
            tuple(color),
            to_hex(look),
            texts[spool],
            offset,
        )

    def ref(self, index: int) -> ImageRef:
        """Return where the file of a row is."""
        row = self.rows[index]
        return ImageRef(int(row["source"]), self._names[row["name"]])

    def take(self, indices: np.ndarray | Sequence[int]) -> "ImageTable":
        """Return a table of some rows, in this order; names and texts are shared."""
        return ImageTable(self.rows[indices], self._names, self._vocabulary)

    def describe(self, indices: Sequence[int], infos: Sequence[ImageInfo]) -> None:
        """Fill rows from descriptions."""
        number = self._vocabulary.number
        values = [
            (
                *(number(text) for text in (info.format, info.converted, info.spool)),
                *(info.height, info.width, info.bytes),
                *(info.file_bytes, info.file_height, info.file_width),
                *(info.offset, *info.color),
                *map(bytes.fromhex, (info.sha256, info.file_sha256, info.hash)),
            )
            for info in infos
        ]
        described = self.rows[list(_DESCRIPTION)]
        described[indices] = np.array(values, described.dtype)

    def number(self, text: str) -> int:
        """Return the number that stands for a text in a column."""
        return self._vocabulary.number(text)

    def texts(self, column: str) -> list[str]:
        """Return the texts of a column, such as the label of each row."""
        return list(map(self._vocabulary.texts.__getitem__, self.rows[column].tolist()))

    def set_texts(self, column: str, texts: Iterable[str]) -> None:
        """Fill a column with a text for each row."""
        self.rows[column] = np.fromiter(map(self._vocabulary.number, texts), np.uint32, len(self))

    def save(self, file: BinaryIO) -> None:
        """Write the table without what it shares with others; `load` reads it."""
        rows = self.rows.copy()
        rows["name"] = np.arange(len(rows))
        names = [self._names[i] for i in self.rows["name"].tolist()]
        kept = _Vocabulary()
        for column in _TEXT_COLUMNS:
            rows[column] = list(map(kept.number, self.texts(column)))
        np.save(file, rows)
        np.save(file, np.frombuffer(json.dumps([names, kept.texts]).encode(), np.uint8))

    @classmethod
    def load(cls, file: BinaryIO) -> "ImageTable":
        """Read a table that `save` wrote."""
        rows = np.load(file)
        names, texts = json.loads(np.load(file).tobytes())
        return cls(rows, names, _Vocabulary(texts))
