"""Images in TFRecord files, of tfpipe or of others, to be split, sharded or stored anew."""

import functools
import io
import json
import os
import re
from collections.abc import Container, Sequence
from typing import NamedTuple

import PIL.Image

from tfpipe.core import remote, storage
from tfpipe.core.errors import Rejected, UserError
from tfpipe.records import example, tfrecord
from tfpipe.records import manifest as manifests
from tfpipe.sources import member
from tfpipe.sources.labels import is_image_name
from tfpipe.sources.source import MAX_BYTES, Source, check_size

# The reason for a record that is a transformed copy; its image is there too, so nothing is lost.
COPY = "copy"

# The names in use: x.tfrecord, x.tfrecords, x.tfrecord-00000-of-00008 and x-00000-of-00008.
# Compressed ones are not read, but whoever names one is told so.
_SHARD_NAME = re.compile(r"\.tfrecords?(-\d+-of-\d+)?(\.gz)?$|-\d+-of-\d+$")

# An image of MAX_BYTES is stored with its name and label.
_MAX_RECORD_BYTES = MAX_BYTES + 2**16


class _Place(NamedTuple):
    """Where a record is.

    Attributes:
        shard: the name of its file.
        offset: of its frame.
        length: of the record, in bytes.
        stamp: changes with the file: its SHA-256 if a manifest has that, else its time.
    """

    shard: str
    offset: int
    length: int
    stamp: str


class _Contents(NamedTuple):
    members: dict[str, _Place]
    skipped: list[tuple[str, str, str]]
    labels: dict[str, str]


class TFRecords(Source):
    """The images of a data set of tfpipe, of a folder that holds only TFRecord files, or of one.

    Every record is a tf.train.Example with `image/encoded`, of any image format, or `raw`: then
    `read` gives a PNG of the pixels. Its name is `image/filename`, or its shard and number, also
    where two have one name; its label is `image/class/text`, or the number in `image/class/label`
    or `label`; without any of these, it is labelled by its name like a file. In the folder of a
    data set only the shards that its manifest lists count. What is not a shard, as a list of
    classes beside them, is passed over.

    To list the records they are all read once, and their checksums checked. Copies in other
    processes are given the list.
    """

    kind = "TFRecords"

    def __init__(self, path: str, contents: _Contents | None = None):
        super().__init__(path)
        if contents is not None:
            self._contents = contents

    def __reduce__(self):
        return type(self), (self.path, self._contents)

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        if os.path.isdir(path):
            return is_data_set(path) or _holds_only_shards(path)
        return os.path.isfile(path) and (is_shard_name(path) or begins_with_frame(path))

    def read(self, name: str) -> bytes:  # noqa: D102
        place = self._contents.members.get(name)
        if place is None:
            raise Rejected("unreadable", "the records have changed")
        try:
            with storage.open_to_read(os.path.join(self._folder, place.shard)) as file:
                fields = example.deserialize(tfrecord.read_at(file, place.offset))
        except OSError as error:
            raise Rejected("unreadable", error.strerror or str(error)) from None
        except (tfrecord.FrameError, ValueError) as error:
            raise Rejected("damaged member", str(error)) from None
        check_size(len(fields.encoded))
        return _to_png(fields) if fields.format == "raw" else fields.encoded

    @property
    def labels(self) -> dict[str, str]:  # noqa: D102
        return self._contents.labels

    @property
    def _listing(self):
        return self._contents.members, self._contents.skipped

    @functools.cached_property
    def _is_folder(self) -> bool:
        return os.path.isdir(self.path)

    def _shard_names(self) -> list[str]:
        return sorted(
            entry.name
            for entry in os.scandir(self.path)
            if is_shard_name(entry.name) and not member.is_ignored(entry.name) and entry.is_file()
        )

    def _stamp(self, path: str) -> str:
        return str(os.stat(path).st_mtime_ns)

    @property
    def _folder(self) -> str:
        return self.path if self._is_folder else os.path.dirname(self.path)

    @functools.cached_property
    def _contents(self) -> _Contents:
        contents = _Contents({}, [], {})
        classes: tuple[str, ...] = ()
        if is_data_set(self.path):
            manifest = manifests.load(self.path)
            manifest.check()
            classes = manifest.classes
            stamps = {shard.name: shard.sha256 for shard in manifest.shards}
            for name in sorted(set(self._shard_names()).difference(stamps)):
                detail = f"{manifests.MANIFEST} does not list it; name the file itself as a source"
                contents.skipped.append((name, "unlisted shard", detail))
        elif self._is_folder:
            stamps = dict.fromkeys(self._shard_names(), "")
        else:
            stamps = {os.path.basename(self.path): ""}
        for shard, stamp in stamps.items():
            path = os.path.join(self._folder, shard)
            try:
                _list_shard(path, stamp or self._stamp(path), classes, contents)
            except OSError as error:
                raise UserError(f"{path}: {error.strerror}: make it readable") from None
            except tfrecord.FrameError as error:
                hint = (
                    f"`python -m tfpipe.verify_records --records={self.path}` lists all that is"
                    if classes
                    else "copy the file again, or uncompress it if it is compressed"
                )
                raise UserError(
                    f"{path} is damaged or no TFRecord file: {error}, and what follows cannot be"
                    f" trusted: {hint}"
                ) from None
        return contents


def _list_shard(path: str, stamp: str, classes: Sequence[str], contents: _Contents) -> None:
    """Enters the records of one file; memory for one of them is needed at a time."""
    shard = os.path.basename(path)
    with storage.open_to_read(path) as file:
        for number, (offset, length) in enumerate(tfrecord.frames(file)):
            title = f"{shard}#{number:05d}"
            if length > _MAX_RECORD_BYTES:
                detail = f"more than {MAX_BYTES // 2**20} MiB"
                contents.skipped.append((title, "too large", detail))
                continue
            try:
                fields = example.deserialize(tfrecord.read_at(file, offset))
            except ValueError as error:
                contents.skipped.append((title, "not an image record", str(error)))
                continue
            if fields.copy:
                detail = f"{title} is a transformed copy; the image that it was made of counts"
                contents.skipped.append((fields.filename or title, COPY, detail))
                continue
            name = _unique(fields, title, contents.members)
            contents.members[name] = _Place(shard, offset, length, stamp)
            label = _label(fields, classes)
            if label:
                contents.labels[name] = label


def _unique(fields: example.ImageExample, title: str, taken: Container[str]) -> str:
    """Returns a name that no other record has, and that ends like an image's."""
    name = fields.filename or title
    if not is_image_name(name):
        name += ".png" if fields.format.lower() in ("png", "raw") else ".jpg"
    while name in taken:  # once, unless somebody chose names to make it hard
        stem, suffix = os.path.splitext(name)
        name = f"{stem}@{title}{suffix}"
    return name


def _label(fields: example.ImageExample, classes: Sequence[str]) -> str:
    if fields.text or fields.label is None:
        return fields.text
    return classes[fields.label] if 0 <= fields.label < len(classes) else str(fields.label)


def _to_png(fields: example.ImageExample) -> bytes:
    """Returns a PNG with the same pixels as an image that is stored as uint8 RGB values."""
    size = (fields.width, fields.height)
    if min(size) < 1 or len(fields.encoded) != 3 * fields.width * fields.height:
        detail = f"{len(fields.encoded)} bytes are not {size[0]} x {size[1]} pixels of 3 bytes"
        raise Rejected("damaged", detail)
    file = io.BytesIO()
    PIL.Image.frombytes("RGB", size, fields.encoded).save(file, "PNG")
    return file.getvalue()


def is_data_set(path: str) -> bool:
    """Returns whether a folder has a manifest of tfpipe; other programs write a file so named."""
    file = os.path.join(path, manifests.MANIFEST)
    if not remote.is_remote(path) and not os.path.isfile(file):  # a FIFO would be waited for
        return False
    try:
        data = storage.read_whole(file)
        value = None if data is None else json.loads(data)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and {"schema_version", "shards"} <= value.keys()


def _holds_only_shards(path: str) -> bool:
    """Returns whether a folder has a shard, and neither a folder nor an image, by their names."""
    found = False
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if member.is_ignored(entry.name):
                    continue
                if entry.is_dir() or is_image_name(entry.name):
                    return False
                found = found or is_shard_name(entry.name)
    except OSError:
        return False
    return found


def is_shard_name(name: str) -> bool:
    """Returns whether a file is a shard, by its name."""
    return bool(_SHARD_NAME.search(name))


def begins_with_frame(path: str) -> bool:
    """Returns whether a file of any name begins like TFRecords; the checksum leaves no doubt."""
    try:
        with storage.open_to_read(path) as file:
            return next(tfrecord.frames(file), None) is not None
    except (OSError, tfrecord.FrameError):
        return False
