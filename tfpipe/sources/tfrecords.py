"""Read images from TFRecord files of tfpipe or other programs."""

import functools
import io
import json
import os
import re
import weakref
from typing import NamedTuple

import PIL.Image
from google.protobuf.message import DecodeError

from tfpipe.core import remote, storage
from tfpipe.core.errors import Rejected, UserError
from tfpipe.records import example, label_set, tfrecord
from tfpipe.records import manifest as manifests
from tfpipe.sources import label_names, record_keys, shards, unpack
from tfpipe.sources.file import is_file, is_folder
from tfpipe.sources.list_columns import FOUND, Columns
from tfpipe.sources.member import COPY
from tfpipe.sources.options import DEFAULTS, Options
from tfpipe.sources.source import MAX_BYTES, Annotation, Source, check_size
from tfpipe.sources.unpack import compression_of

NOT_A_RECORD = "not an image record"

# Common names: x.tfrecord, x.tfrec, x.record, x.tfrecord-00000-of-00008, x-00000-of-00008, x.gz.
_SHARD_NAME = re.compile(r"\.(tfrecords?|tfrec|records?)(-\d+-of-\d+)?(\.gz)?$|[-_]\d+-of-\d+$")

# An image of MAX_BYTES, with its name and label.
_MAX_RECORD_BYTES = MAX_BYTES + 2**16


class _Place(NamedTuple):
    """The place of a record.

    Attributes:
        shard: name of its file.
        offset: byte where its frame starts.
        length: bytes of the record.
        stamp: SHA-256 of the file from the manifest, or its modification time without a manifest.
    """

    shard: str
    offset: int
    length: int
    stamp: str


class _Contents(NamedTuple):
    members: dict[str, _Place]
    skipped: list[tuple[str, str, str]]
    annotations: dict[str, Annotation]
    unpacked: dict[str, str]  # the temporary file of each compressed shard
    notes: list[str]
    warnings: list[str]


class TFRecords(Source):
    """The images of a data set of tfpipe, a folder of TFRecord files, or one such file.

    Every record is a tf.train.Example that holds an image file; `record_keys` finds its keys.
    `read` returns a PNG for the format `raw` of tfpipe. The name of a member is the record's file
    name; shard and number replace a missing name and extend a repeated one. The names of numbered
    classes come from the manifest or from a file beside the records, such as labels.txt. In a data
    set, only the shards in its manifest are read.

    Listing reads every record once and checks its checksums. Pickled copies hold the list. A
    compressed file is unpacked once to a temporary file.
    """

    kind = "TFRecords"

    def __init__(self, path: str, options: Options = DEFAULTS, contents: _Contents | None = None):
        super().__init__(path, options)
        if contents is not None:
            self._contents = contents

    def __reduce__(self):
        return type(self), (self.path, self.options, self._contents)

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        if is_folder(path):
            return _is_data_set(path) or bool(shards.below(path, _is_shard_name))
        return is_file(path) and (_is_shard_name(path) or _begins_with_frame(path))

    def read(self, name: str) -> bytes:  # noqa: D102
        place = self._contents.members.get(name)
        if place is None:
            raise Rejected("unreadable", "the records have changed")
        path = self._contents.unpacked.get(place.shard) or os.path.join(self._folder, place.shard)
        try:
            with storage.open_to_read(path) as file:
                record = tfrecord.read_at(file, place.offset)
            values = record_keys.values(record)
            found = record_keys.find(values, self._keys)
        except OSError as error:
            raise Rejected("unreadable", error.strerror or str(error)) from None
        except (tfrecord.FrameError, DecodeError, ValueError) as error:
            raise Rejected("damaged member", str(error)) from None
        check_size(len(found.encoded))
        is_raw = found.image == "image/encoded" and values.get("image/format", [])[:1] == [b"raw"]
        return _to_png(record) if is_raw else found.encoded

    def annotations(self, columns: Columns = FOUND) -> dict[str, Annotation]:  # noqa: D102
        return self._contents.annotations

    def notes(self, columns: Columns | None) -> list[str]:  # noqa: D102
        return self._contents.notes if columns else []

    def warnings(self) -> list[str]:  # noqa: D102
        return [*super().warnings(), *self._contents.warnings]

    @functools.cached_property
    def _keys(self) -> record_keys.Keys:
        return record_keys.parse(self.options.record_keys)

    @property
    def _listing(self):
        return self._contents.members, self._contents.skipped

    @functools.cached_property
    def _folder(self) -> str:
        return self.path if is_folder(self.path) else os.path.dirname(self.path)

    @functools.cached_property
    def _contents(self) -> _Contents:
        contents = _Contents({}, [], {}, {}, [], [])
        names: dict[int, str] = {}
        beside = ""
        in_data_set = _is_data_set(self.path)
        if in_data_set:
            manifest = manifests.load(self.path)
            manifest.check()
            names = dict(enumerate(manifest.classes))
            digests = {shard.name: shard.sha256 for shard in manifest.shards}
            for name in sorted(set(shards.below(self.path, _is_shard_name)).difference(digests)):
                detail = f"{manifests.MANIFEST} does not list it; name the file as a source"
                contents.skipped.append((name, "unlisted shard", detail))
        else:
            whole = self._folder == self.path
            found = (
                shards.below(self.path, _is_shard_name) if whole else [os.path.basename(self.path)]
            )
            beside, names = label_names.read(os.path.dirname(os.path.join(self._folder, found[0])))
            digests = dict.fromkeys(found, "")
        labels: dict[str, int | str] = {}
        many = in_data_set and manifest.labels == label_set.MANY
        for shard, digest in digests.items():
            path = os.path.join(self._folder, shard)
            try:
                stamp = digest or str(storage.stamp(path)[1])
                self._list_shard(shard, stamp, contents, labels, many=many)
            except OSError as error:
                raise UserError(f"{path}: {error.strerror}: make it readable") from None
            except tfrecord.FrameError as error:
                hint = (
                    f"`python -m tfpipe.verify_records --records={self.path}` lists all damage"
                    if in_data_set
                    else "copy the file again"
                )
                raise UserError(
                    f"{path} is damaged or not a TFRecord file: {error}: {hint}"
                ) from None
        self._annotate(contents, labels, beside, names)
        return contents

    def _list_shard(
        self,
        shard: str,
        stamp: str,
        contents: _Contents,
        labels: dict[str, int | str],
        *,
        many: bool,
    ) -> None:
        """Add the records of one file, holding one record in memory at a time.

        `many` is whether the names in their labels are of all classes of the image.
        """
        path = os.path.join(self._folder, shard)
        if compression := _compression(path):
            if remote.is_remote(path):
                raise UserError(f"{path} is compressed and at a URL: name a local copy")
            contents.unpacked[shard] = path = unpack.unpack(path, compression, "TFRecord file")
            weakref.finalize(self, unpack.remove, path)
        with storage.open_to_read(path) as file:
            for number, (offset, length) in enumerate(tfrecord.frames(file)):
                title = f"{shard}#{number:05d}"
                if length > _MAX_RECORD_BYTES:
                    detail = f"more than {MAX_BYTES // 2**20} MiB"
                    contents.skipped.append((title, "too large", detail))
                    continue
                record = tfrecord.read_at(file, offset)
                try:
                    values = record_keys.values(record)
                    found = record_keys.find(values, self._keys)
                except DecodeError:
                    contents.skipped.append((title, NOT_A_RECORD, "not a tf.train.Example"))
                    continue
                except ValueError as error:
                    contents.skipped.append((title, NOT_A_RECORD, str(error)))
                    continue
                if values.get("image/copy", [0])[0]:
                    detail = f"{title} is a transformed copy; its image is read instead"
                    contents.skipped.append((found.name or title, COPY, detail))
                    continue
                if len(found.labels) > 1 and not many:
                    shown = " and ".join(map(repr, found.labels))
                    detail = f"it shows {shown}: crop it, or name its classes in a list of labels"
                    contents.skipped.append((found.name or title, "several labels", detail))
                    continue
                kind = values.get("image/format", [b""])[0].lower()
                ending = ".png" if kind in (b"png", b"raw") else ".jpg"
                name = shards.unique(found.name, shard, number, contents.members, ending)
                contents.members[name] = _Place(shard, offset, length, stamp)
                if many:
                    labels[name] = label_set.join(map(str, found.labels))
                elif found.labels:
                    labels[name] = found.labels[0]

    def _annotate(
        self,
        contents: _Contents,
        labels: dict[str, int | str],
        beside: str,
        names: dict[int, str],
    ) -> None:
        """Name the numbered classes, and take the splits from the names of the shards."""
        numbers = {label for label in labels.values() if isinstance(label, int)}
        if beside and numbers:
            if missing := sorted(numbers - set(names)):
                contents.warnings.append(
                    f"{beside} has no name for class {missing[0]} of {self.path}, so the classes"
                    " keep their numbers: complete it, or remove it"
                )
                names = {}
            else:
                contents.notes.append(f"classes of {self.path}: named by {beside}")
        for name, place in contents.members.items():
            label = labels.get(name, "")
            text = names.get(label, str(label)) if isinstance(label, int) else label
            contents.annotations[name] = Annotation(text, split=shards.split_of(place.shard))


def _to_png(record: bytes) -> bytes:
    """Return a PNG of an image that is stored as uint8 RGB values."""
    fields = example.deserialize(record)
    size = (fields.width, fields.height)
    if min(size) < 1 or len(fields.encoded) != 3 * fields.width * fields.height:
        detail = f"{len(fields.encoded)} bytes are not {size[0]} x {size[1]} pixels of 3 bytes"
        raise Rejected("damaged", detail)
    file = io.BytesIO()
    PIL.Image.frombytes("RGB", size, fields.encoded).save(file, "PNG")
    return file.getvalue()


def _is_data_set(path: str) -> bool:
    """Return whether a folder has a manifest of tfpipe; other programs use the same file name."""
    file = os.path.join(path, manifests.MANIFEST)
    if not remote.is_remote(path) and not os.path.isfile(file):  # opening a pipe would block
        return False
    try:
        data = storage.read_whole(file)
        value = None if data is None else json.loads(data)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and {"schema_version", "shards"} <= value.keys()


def _is_shard_name(name: str) -> bool:
    """Return whether a file is a shard, by its name."""
    return bool(_SHARD_NAME.search(name))


def _begins_with_frame(path: str) -> bool:
    """Return whether a file of any name begins with a frame; its checksum makes this certain."""
    try:
        with storage.open_to_read(path) as file:
            return next(tfrecord.frames(file), None) is not None
    except (OSError, tfrecord.FrameError):
        return False


def _compression(path: str) -> str:
    """Return the compression of a shard, "gzip" or "zlib"; "" for none."""
    if _begins_with_frame(path):
        return ""
    with storage.open_to_read(path) as file:
        head = file.read(2)
    if head[:1] == b"x" and len(head) == 2 and int.from_bytes(head, "big") % 31 == 0:
        return "zlib"  # RFC 1950
    return compression_of(head)
