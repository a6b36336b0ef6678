"""Find the image, the label and the name in records of any program.

A record has keys and values. Which keys hold what depends on the program that wrote it:

    ours, slim          image/encoded    image/class/text, image/class/label    image/filename
    TensorFlow Datasets image            label                                  image/filename
    Object Detection    image/encoded    image/object/class/text                image/filename
    Kaggle's flowers    image            class                                  id
    by hand             image_raw, ...   label, target, ...

Parquet files of the `datasets` library have columns of the same kind.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tfpipe.core.errors import UserError
from tfpipe.records.example import Example

_IMAGE = ("image/encoded", "image", "image_raw", "img", "image_bytes", "encoded", "jpeg", "png")
LABELS = (
    *("image/class/text", "image/class/label", "label", "class", "image/object/class/text"),
    *("image/object/class/label", "class/label", "fine_label", "labels", "target", "category"),
)
_NAME = ("image/filename", "filename", "file_name", "image/source_id", "image/key", "id")

_HOW = "write keys as in `record_keys=image:image/encoded,label:image/class/label`"


class Keys(NamedTuple):
    """Which keys of a record to read; "" for the first known one that the record has."""

    image: str = ""
    label: str = ""
    name: str = ""


ANY = Keys()


class Fields(NamedTuple):
    """What was found in a record.

    Attributes:
        image: key of the image.
        encoded: the image file.
        labels: distinct names or numbers of its classes; one for most records, none without.
        name: file name; "" if the record has none.
    """

    image: str
    encoded: bytes
    labels: tuple[str | int, ...]
    name: str


def parse(text: str) -> Keys:
    """Parse `record_keys`: "image:KEY,label:KEY,name:KEY", each at most once; "" for none.

    Raises:
        UserError: the text has another form.
    """
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        what, _, key = (piece.strip() for piece in part.partition(":"))
        if what not in Keys._fields or not key or what in found:
            raise UserError(f"`record_keys={text}`: {part!r} is not of this form: {_HOW}", status=2)
        found[what] = key
    return Keys(**found)


def values(record: bytes) -> dict[str, list[bytes] | list[int]]:
    """Return the bytes and integers of a tf.train.Example by key; other kinds are empty.

    Raises:
        google.protobuf.message.DecodeError: the record is no tf.train.Example.
    """
    return {
        key: list(feature.bytes_list.value) or list(feature.int64_list.value)
        for key, feature in Example.FromString(record).features.feature.items()
    }


def find(record: Mapping[str, Sequence], keys: Keys = ANY) -> Fields:
    """Find the image and its labels in the values of a record.

    Args:
        record: values by key, bytes, text or integers.
        keys: where to look; by default at the known keys, in the order of this module.

    Raises:
        ValueError: no key holds an image file.
    """
    image = _find_image(record, keys.image)
    label = keys.label or _first(record, LABELS)
    if keys.label and keys.label not in record:
        raise ValueError(f"no key {keys.label!r}, {_describe(record)}")
    name = keys.name or _first(record, _NAME)
    names = [_text(value) for value in record.get(name, ())]
    return Fields(
        image=image,
        encoded=record[image][0],
        labels=tuple(dict.fromkeys(_text(value) for value in record.get(label, ()))),
        name=str(names[0]) if names else "",
    )


def is_image(data: object) -> bool:
    """Return whether a value begins as an image file that a build reads."""
    return isinstance(data, bytes) and bool(
        data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*"))
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
        or data[4:12] in (b"ftypavif", b"ftypheic", b"ftypmif1")
    )


def _find_image(record: Mapping[str, Sequence], key: str) -> str:
    if key:
        if len(record.get(key, ())) and isinstance(record[key][0], bytes):
            return key
        raise ValueError(f"no image file in {key!r}, {_describe(record)}")
    if record.get(_IMAGE[0]):  # its name says that it is a file; decoding judges it
        return _IMAGE[0]
    holders = [name for name, value in record.items() if len(value) and is_image(value[0])]
    known = next((name for name in _IMAGE if name in holders), "")
    if not known and len(holders) != 1:
        raise ValueError(f"no image file, {_describe(record)}")
    return known or holders[0]


def _first(record: Mapping[str, Sequence], keys: Sequence[str]) -> str:
    """Return the first key that has a value; "" if none has."""
    return next((key for key in keys if len(record.get(key, ())) and record[key][0] != b""), "")


def _describe(record: Mapping[str, Sequence]) -> str:
    parts = []
    for key, value in sorted(record.items())[:20]:
        kind = type(value[0]).__name__ if len(value) else "empty or float"
        size = f" of {len(value[0])}" if kind == "bytes" else ""
        parts.append(f"{key!r} ({kind}{size})")
    return f"only {', '.join(parts) or 'no keys'}; known are {', '.join(_IMAGE)}; {_HOW}"


def _text(value: bytes | str | int) -> str | int:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
