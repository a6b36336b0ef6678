"""Convert one image to a tf.train.Example and back; `records/README.md` lists the keys."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError

from tfpipe.protocol.generated import Example
from tfpipe.records import label_set

if TYPE_CHECKING:
    import tensorflow as tf


class ImageExample(NamedTuple):
    """The contents of a record. Records of other programs may lack all fields but `encoded`.

    Attributes:
        encoded: the image; for "raw" uint8 RGB values [height, width, 3].
        format: "jpeg", "png" or "raw"; "" if missing.
        height: in pixels; 0 if missing.
        width: in pixels; 0 if missing.
        label: index of the class in the manifest's `classes`; None if missing. Of several, all of
            them, ascending.
        text: name of the class; "" if missing. Of several, or of none where other images have
            several, as of `label_set`.
        filename: path relative to the source; "" if missing.
        sha256: hex digest of `encoded`; "" if missing.
        fold: number of the fold; -1 without folds.
        copy: whether the image is a transformed copy of another record.
    """

    encoded: bytes
    format: str
    height: int
    width: int
    label: int | tuple[int, ...] | None
    text: str
    filename: str
    sha256: str
    fold: int
    copy: bool

    @property
    def labels(self) -> tuple[int, ...]:
        """Indices of all classes of the image, ascending."""
        return _as_tuple(self.label)


def _as_tuple(label: int | Sequence[int] | None) -> tuple[int, ...]:
    if label is None:
        return ()
    return (label,) if isinstance(label, int) else tuple(label)


def _as_label(indices: Sequence[int]) -> int | tuple[int, ...] | None:
    """Return the field `label` for the values of a record."""
    return indices[0] if len(indices) == 1 else tuple(indices) or None


def serialize(
    encoded: bytes,
    *,
    format: str,
    height: int,
    width: int,
    label: int | Sequence[int] | None,
    text: str,
    filename: str,
    sha256: str,
    fold: int = -1,
    copy: bool = False,
) -> bytes:
    """Return a record; equal arguments give equal bytes.

    The arguments are the fields of `ImageExample`. `fold=-1` and `copy=False` write no key. Without
    a label, the keys of the class have no value.
    """
    example = Example()
    features = example.features.feature
    for key, value in (
        ("image/encoded", encoded),
        ("image/format", format.encode()),
        # surrogateescape keeps the bytes of a file name that is not UTF-8.
        ("image/filename", filename.encode("utf-8", "surrogateescape")),
        ("image/key/sha256", sha256.encode()),
    ):
        features[key].bytes_list.value.append(value)
    for key, value in (("image/height", height), ("image/width", width)):
        features[key].int64_list.value.append(value)
    names = features["image/class/text"].bytes_list
    names.SetInParent()  # the key is there without values too
    names.value.extend(name.encode("utf-8", "surrogateescape") for name in label_set.names(text))
    indices = features["image/class/label"].int64_list
    indices.SetInParent()
    indices.value.extend(_as_tuple(label))
    if fold >= 0:
        features["image/fold"].int64_list.value.append(fold)
    if copy:
        features["image/copy"].int64_list.value.append(1)
    # By default, the order of a protobuf map differs between processes.
    return example.SerializeToString(deterministic=True)


def deserialize(record: bytes) -> ImageExample:
    """Return the contents of a record, which another program may have written.

    The label may have the key `label` instead of `image/class/label`.

    Raises:
        ValueError: the record is not a tf.train.Example, or has no image.
    """
    try:
        features = Example.FromString(record).features.feature
    except DecodeError:
        raise ValueError("not a tf.train.Example") from None

    def every(key: str, kind: str) -> Sequence[Any]:
        return getattr(features[key], kind).value if key in features else ()

    def first(key: str, kind: str, default: Any) -> Any:
        values = every(key, kind)
        return values[0] if values else default

    def text(key: str) -> str:
        return first(key, "bytes_list", b"").decode("utf-8", "surrogateescape")

    encoded = first("image/encoded", "bytes_list", None)
    if encoded is None:
        raise ValueError("no image/encoded of type bytes")
    names = [
        each.decode("utf-8", "surrogateescape") for each in every("image/class/text", "bytes_list")
    ]
    is_set = len(names) > 1 or (not names and "image/class/text" in features)
    labels = every("image/class/label", "int64_list") or every("label", "int64_list")
    return ImageExample(
        encoded=encoded,
        format=text("image/format"),
        height=first("image/height", "int64_list", 0),
        width=first("image/width", "int64_list", 0),
        label=_as_label(labels),
        text=label_set.join(names) if is_set else "".join(names),
        filename=text("image/filename"),
        sha256=text("image/key/sha256"),
        fold=first("image/fold", "int64_list", -1),
        copy=bool(first("image/copy", "int64_list", 0)),
    )


def deserialize_image(record: bytes) -> ImageExample:
    """Return the fields that decoding needs, without `text`, `fold` and `copy`.

    Takes half the time of `deserialize`, and reads only records from `serialize`.
    """
    features = Example.FromString(record).features.feature

    def text(key: str) -> str:
        return features[key].bytes_list.value[0].decode("utf-8", "surrogateescape")

    def number(key: str) -> int:
        return features[key].int64_list.value[0]

    return ImageExample(
        encoded=features["image/encoded"].bytes_list.value[0],
        format=text("image/format"),
        height=number("image/height"),
        width=number("image/width"),
        label=_as_label(features["image/class/label"].int64_list.value),
        text="",
        filename=text("image/filename"),
        sha256=text("image/key/sha256"),
        fold=-1,
        copy=False,
    )


def features(*, many: bool = False) -> "dict[str, tf.io.FixedLenFeature | tf.io.RaggedFeature]":
    """Return the keys of a record for `tf.io.parse_single_example`; older records parse too.

    `many` is whether an image may have several classes, or none.
    """
    import tensorflow as tf  # here, because building records does not need it

    text, number = tf.io.FixedLenFeature([], tf.string), tf.io.FixedLenFeature([], tf.int64)
    label, name = number, text
    if many:
        label, name = tf.io.RaggedFeature(tf.int64), tf.io.RaggedFeature(tf.string)
    return {
        "image/encoded": text,
        "image/format": text,
        "image/height": number,
        "image/width": number,
        "image/class/label": label,
        "image/class/text": name,
        "image/filename": text,
        "image/key/sha256": text,
        "image/fold": tf.io.FixedLenFeature([], tf.int64, default_value=-1),
        "image/copy": tf.io.FixedLenFeature([], tf.int64, default_value=0),
    }


def parse(
    serialized: "tf.Tensor", keys: Iterable[str] | None = None, *, many: bool = False
) -> "dict[str, tf.Tensor]":
    """Parse one record into a scalar tensor for each key.

    Args:
        serialized: the record, a scalar string.
        keys: keys of `features()`; None for all.
        many: whether an image may have several classes; then these are vectors.
    """
    import tensorflow as tf

    known = features(many=many)
    chosen = known if keys is None else {key: known[key] for key in keys}
    return tf.io.parse_single_example(serialized, chosen)
