"""Read images from Parquet files, as the `datasets` library of Hugging Face writes them."""

import functools
import json
import os
from typing import TYPE_CHECKING, NamedTuple

from tfpipe.core import storage
from tfpipe.core.errors import Rejected, UserError
from tfpipe.sources import record_keys, shards
from tfpipe.sources.file import is_file, is_folder
from tfpipe.sources.list_columns import FOUND, Columns
from tfpipe.sources.options import DEFAULTS, Options
from tfpipe.sources.source import Annotation, Source, check_size

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_SUFFIX = ".parquet"

# A row group is read at once. The `datasets` library writes 100 images to each.
_MAX_GROUP_BYTES = 2**30


class _Row(NamedTuple):
    """The place of an image, and a stamp that changes with the file."""

    file: str
    group: int
    row: int
    stamp: tuple[int, int]


class Parquet(Source):
    """The images of Parquet files, in one column of bytes or of structs of `bytes` and `path`.

    The names of the classes come from the metadata of the `datasets` library. The split comes from
    the name of the file or its folder, as in train-00000-of-00002.parquet.
    """

    kind = "Parquet files"
    holds_images_only = True

    def __init__(self, path: str, options: Options = DEFAULTS):
        super().__init__(path, options)
        self._opened: tuple[str, pq.ParquetFile | None] = ("", None)
        self._group: tuple[str, int, list] = ("", -1, [])

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        return bool(_files_in(path)) if is_folder(path) else _is_parquet(path)

    def prepare(self) -> None:  # noqa: D102
        _ = self._contents

    def read(self, name: str) -> bytes:  # noqa: D102
        place = self._contents[0].get(name)
        if place is None:
            raise Rejected("unreadable", "the file has changed")
        file, group = place.file, place.group
        if self._group[:2] != (file, group):
            table = self._open(file).read_row_group(group, columns=[self._columns(file)[0]])
            self._group = (file, group, table.column(0))
        value = self._group[2][place.row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise Rejected("unreadable", "the row has no bytes of an image")
        check_size(len(data))
        return data

    def annotations(self, columns: Columns = FOUND) -> dict[str, Annotation]:
        """Return the label and split of every row; raise UserError if no column has labels."""
        path = next(iter(self._contents[0].values())).file
        if not self._columns(path)[1]:
            raise _unknown(path, self._open(path).schema_arrow, "label", "")
        return self._contents[1]

    @functools.cached_property
    def _keys(self) -> record_keys.Keys:
        return record_keys.parse(self.options.record_keys)

    @property
    def _listing(self):
        return self._contents[0], []

    @functools.cached_property
    def _contents(self) -> tuple[dict[str, _Row], dict[str, Annotation]]:
        rows: dict[str, _Row] = {}
        annotations: dict[str, Annotation] = {}
        whole = is_folder(self.path)
        for file in _files_in(self.path) if whole else [self.path]:
            path = os.path.join(self.path, file) if whole else file
            parquet, changed = self._open(path), storage.stamp(path)
            _, label, path_of = self._columns(path)
            names = _class_names(parquet.schema_arrow, label)
            first = 0
            for group in range(parquet.num_row_groups):
                if parquet.metadata.row_group(group).total_byte_size > _MAX_GROUP_BYTES:
                    raise UserError(f"{path}: a row group has more than 1 GiB: write smaller ones")
                table = parquet.read_row_group(group, columns=[c for c in (label, path_of) if c])
                titles = table.column(path_of.split(".")[0]).to_pylist() if path_of else []
                labels = table.column(label).to_pylist() if label else []
                for row in range(parquet.metadata.row_group(group).num_rows):
                    found = titles[row] if titles else ""
                    found = found.get("path") if isinstance(found, dict) else found
                    name = shards.unique(str(found or ""), file, first + row, rows)
                    rows[name] = _Row(path, group, row, changed)
                    label_text = _name(labels[row] if labels else None, names)
                    annotations[name] = Annotation(label_text, split=shards.split_of(file))
                first += parquet.metadata.row_group(group).num_rows
        return rows, annotations

    def _open(self, path: str) -> "pq.ParquetFile":
        if self._opened[0] == path:  # its end, which lists the row groups, is read once
            return self._opened[1]
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise UserError(
                f"{path}: Parquet files need pyarrow: pip install 'tfpipe[parquet]'"
            ) from None
        try:
            self._opened = (path, pq.ParquetFile(storage.open_to_read(path)))
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} is a damaged Parquet file ({error}): copy it again") from None
        return self._opened[1]

    def _columns(self, path: str) -> tuple[str, str, str]:
        """Return the columns of the image, the label ("" for none) and the name."""
        schema = self._open(path).schema_arrow
        image = self._keys.image or _image_column(schema)
        if image not in schema.names:
            raise _unknown(path, schema, "image", image)
        label = self._keys.label or _label_column(schema)
        if label and label not in schema.names:
            raise _unknown(path, schema, "label", label)
        has_path = image in schema.names and "path" in [
            field.name for field in getattr(schema.field(image).type, "fields", [])
        ]
        return image, label, self._keys.name or (f"{image}.path" if has_path else "")


def _image_column(schema: "pa.Schema") -> str:
    import pyarrow as pa

    def holds_files(kind: "pa.DataType") -> bool:
        return (
            pa.types.is_binary(kind)
            or pa.types.is_large_binary(kind)
            or (pa.types.is_struct(kind) and "bytes" in [field.name for field in kind.fields])
        )

    found = [field.name for field in schema if holds_files(field.type)]
    return found[0] if len(found) == 1 else next((n for n in ("image", "img") if n in found), "")


def _label_column(schema: "pa.Schema") -> str:
    numbered = [name for name, feature in _features(schema).items() if "names" in feature]
    known = [name for name in record_keys.LABELS if name in schema.names]
    return numbered[0] if len(numbered) == 1 else known[0] if known else ""


def _name(label: int | str | None, names: list[str]) -> str:
    """Return the name of a class; "" for None and for -1, which stands for no label."""
    if isinstance(label, int) and names:
        return names[label] if 0 <= label < len(names) else ""
    return "" if label is None else str(label)


def _class_names(schema: "pa.Schema", label: str) -> list[str]:
    return _features(schema).get(label, {}).get("names", [])


def _features(schema: "pa.Schema") -> dict[str, dict]:
    """Return what the `datasets` library says about the columns."""
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = said.get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        return {}
    return {name: each for name, each in features.items() if isinstance(each, dict)}


def _unknown(path: str, schema: "pa.Schema", what: str, column: str) -> UserError:
    named = f"no column {column!r} for" if column else "no known column for"
    return UserError(
        f"{path}: {named} the {what} among {', '.join(schema.names)}: name it, as in"
        f" `record_keys={what}:{schema.names[-1]}`"
    )


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(_SUFFIX) and is_file(path)


def _files_in(folder: str) -> list[str]:
    return shards.below(folder, lambda name: name.lower().endswith(_SUFFIX))
