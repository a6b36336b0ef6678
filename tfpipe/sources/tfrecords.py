"""Read images from TFRecord files of tfpipe or other programs."""

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
from tfpipe.sources.file import is_file, is_folder
from tfpipe.sources.list_columns import FOUND, Columns
from tfpipe.sources.member import COPY, is_image_name
from tfpipe.sources.options import DEFAULTS, Options
from tfpipe.sources.source import MAX_BYTES, Annotation, Source, check_size

# Common names: x.tfrecord, x.tfrecords, x.tfrecord-00000-of-00008 and x-00000-of-00008. A
# compressed shard matches too, so that its error message can say why it is refused.
_SHARD_NAME = re.compile(r"\.tfrecords?(-\d+-of-\d+)?(\.gz)?$|-\d+-of-\d+$")

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
    labels: dict[str, str]


class TFRecords(Source):
    """The images of a data set of tfpipe, a folder of TFRecord files, or one such file.

    Every record is a tf.train.Example with `image/encoded` in any image format. `read` returns a
    PNG for the format `raw`. The name of a member is `image/filename`; shard and number replace a
    missing name and extend a repeated one. The label is `image/class/text`, or the number in
    `image/class/label` or `label`; without them, the rule for file names applies. In a data set,
    only the shards in its manifest are read. Other files, such as a list of classes, are ignored.

    Listing reads every record once and checks its checksums. Pickled copies hold the list.
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
            return _is_data_set(path) or _holds_only_shards(path)
        return is_file(path) and (_is_shard_name(path) or _begins_with_frame(path))

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

    def annotations(self, columns: Columns = FOUND) -> dict[str, Annotation]:  # noqa: D102
        return {name: Annotation(label) for name, label in self._contents.labels.items()}

    @property
    def _listing(self):
        return self._contents.members, self._contents.skipped

    @functools.cached_property
    def _folder(self) -> str:
        return self.path if is_folder(self.path) else os.path.dirname(self.path)

    def _shard_names(self) -> list[str]:
        return sorted(name for name in _names_in(self.path) if _is_shard_name(name))

    @functools.cached_property
    def _contents(self) -> _Contents:
        contents = _Contents({}, [], {})
        classes: tuple[str, ...] = ()
        if _is_data_set(self.path):
            manifest = manifests.load(self.path)
            manifest.check()
            classes = manifest.classes
            digests = {shard.name: shard.sha256 for shard in manifest.shards}
            for name in sorted(set(self._shard_names()).difference(digests)):
                detail = f"{manifests.MANIFEST} does not list it; name the file as a source"
                contents.skipped.append((name, "unlisted shard", detail))
        elif self._folder == self.path:
            digests = dict.fromkeys(self._shard_names(), "")
        else:
            digests = {os.path.basename(self.path): ""}
        for shard, digest in digests.items():
            path = os.path.join(self._folder, shard)
            try:
                _list_shard(path, digest or str(storage.stamp(path)[1]), classes, contents)
            except OSError as error:
                raise UserError(f"{path}: {error.strerror}: make it readable") from None
            except tfrecord.FrameError as error:
                hint = (
                    f"`python -m tfpipe.verify_records --records={self.path}` lists all damage"
                    if classes
                    else "copy the file again, or uncompress it if it is compressed"
                )
                raise UserError(
                    f"{path} is damaged or not a TFRecord file: {error}: {hint}"
                ) from None
        return contents


def _list_shard(path: str, stamp: str, classes: Sequence[str], contents: _Contents) -> None:
    """Add the records of one file, holding one record in memory at a time."""
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
                detail = f"{title} is a transformed copy; its image is read instead"
                contents.skipped.append((fields.filename or title, COPY, detail))
                continue
            name = _unique(fields, title, contents.members)
            contents.members[name] = _Place(shard, offset, length, stamp)
            label = _label(fields, classes)
            if label:
                contents.labels[name] = label


def _unique(fields: example.ImageExample, title: str, taken: Container[str]) -> str:
    """Return a name that no other record has and that ends as an image's."""
    name = fields.filename or title
    if not is_image_name(name):
        name += ".png" if fields.format.lower() in ("png", "raw") else ".jpg"
    while name in taken:  # loops only for names that collide on purpose
        stem, suffix = os.path.splitext(name)
        name = f"{stem}@{title}{suffix}"
    return name


def _label(fields: example.ImageExample, classes: Sequence[str]) -> str:
    if fields.text or fields.label is None:
        return fields.text
    return classes[fields.label] if 0 <= fields.label < len(classes) else str(fields.label)


def _to_png(fields: example.ImageExample) -> bytes:
    """Return a PNG of an image that is stored as uint8 RGB values."""
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


def _names_in(folder: str) -> list[str]:
    return [name for name in storage.names_in(folder) if not member.is_ignored(name)]


def _holds_only_shards(path: str) -> bool:
    """Return whether a folder has a shard, but no image and no subfolder."""
    try:
        names = _names_in(path)
        if not any(map(_is_shard_name, names)) or any(map(is_image_name, names)):
            return False
        # Costs a request for each name at a URL, so it comes last.
        return not any(is_folder(os.path.join(path, name)) for name in names)
    except OSError:
        return False


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
