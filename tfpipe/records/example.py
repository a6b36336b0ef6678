"""One image as a tf.train.Example, and back; `records/README.md` lists the keys."""

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError

if TYPE_CHECKING:
    import tensorflow as tf


@contextlib.contextmanager
def _hollow(package: str) -> Iterator[None]:
    """Lets modules of `package` be imported without running its `__init__`.

    An empty package with its search path stands in for it and leaves again, so that a later import
    runs as usual and finds the same message classes.
    """
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None:  # loaded already, or not installed, which the imports themselves report best
        yield
        return
    stand_in = types.ModuleType(package)
    stand_in.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[package] = stand_in
    try:
        yield
    finally:
        del sys.modules[package]


with _hollow("tensorflow"):  # which takes seconds to import
    from tensorflow.core.example.example_pb2 import Example


class ImageExample(NamedTuple):
    """What a record holds; a record that others wrote may lack all but `encoded`.

    Attributes:
        encoded: the image.
        format: "jpeg", "png" or "raw", "" if the record does not say.
        height: in pixels, 0 if the record does not say.
        width: in pixels, 0 if the record does not say.
        label: the index of its class, None if the record does not say.
        text: the name of its class, "" if the record does not say.
        filename: its path relative to its source, "" if the record does not say.
        sha256: hex digest of `encoded`, "" if the record does not say.
        fold: the number of its fold, -1 without folds.
        copy: whether it is a transformed copy of another record.
    """

    encoded: bytes
    format: str
    height: int
    width: int
    label: int | None
    text: str
    filename: str
    sha256: str
    fold: int
    copy: bool


def serialize(
    encoded: bytes,
    *,
    format: str,
    height: int,
    width: int,
    label: int,
    text: str,
    filename: str,
    sha256: str,
    fold: int = -1,
    copy: bool = False,
) -> bytes:
    """Returns a record, the same bytes for the same arguments.

    Args:
        encoded: the image; for "raw" uint8 RGB values [height, width, 3].
        format: "jpeg", "png" or "raw".
        height: in pixels.
        width: in pixels.
        label: the index of its class in the manifest's `classes`.
        text: the name of its class.
        filename: its path relative to its source.
        sha256: hex digest of `encoded`.
        fold: the number of its fold; -1 without folds, which leaves the key out.
        copy: whether it is a transformed copy of another record; False leaves the key out.
    """
    example = Example()
    features = example.features.feature
    for key, value in (
        ("image/encoded", encoded),
        ("image/format", format.encode()),
        # A file name that is not UTF-8 keeps its bytes.
        ("image/class/text", text.encode("utf-8", "surrogateescape")),
        ("image/filename", filename.encode("utf-8", "surrogateescape")),
        ("image/key/sha256", sha256.encode()),
    ):
        features[key].bytes_list.value.append(value)
    for key, value in (
        ("image/height", height),
        ("image/width", width),
        ("image/class/label", label),
    ):
        features[key].int64_list.value.append(value)
    if fold >= 0:
        features["image/fold"].int64_list.value.append(fold)
    if copy:
        features["image/copy"].int64_list.value.append(1)
    # Without this a protobuf map is written in any order, another in every process.
    return example.SerializeToString(deterministic=True)


def deserialize(record: bytes) -> ImageExample:
    """Returns what a record holds, also one that another program wrote.

    The index of a class may have the key `label` instead of `image/class/label`.

    Raises:
        ValueError: it is no tf.train.Example, or has no image.
    """
    try:
        features = Example.FromString(record).features.feature
    except DecodeError:
        raise ValueError("not a tf.train.Example") from None

    def first(key: str, kind: str, default: Any) -> Any:
        values = getattr(features[key], kind).value if key in features else ()
        return values[0] if values else default

    def text(key: str) -> str:
        return first(key, "bytes_list", b"").decode("utf-8", "surrogateescape")

    encoded = first("image/encoded", "bytes_list", None)
    if encoded is None:
        raise ValueError("no image/encoded of type bytes")
    return ImageExample(
        encoded=encoded,
        format=text("image/format"),
        height=first("image/height", "int64_list", 0),
        width=first("image/width", "int64_list", 0),
        label=first("image/class/label", "int64_list", first("label", "int64_list", None)),
        text=text("image/class/text"),
        filename=text("image/filename"),
        sha256=text("image/key/sha256"),
        fold=first("image/fold", "int64_list", -1),
        copy=bool(first("image/copy", "int64_list", 0)),
    )


def deserialize_image(record: bytes) -> ImageExample:
    """Does the same in half the time with a record that `serialize` wrote.

    Returns:
        What is needed to decode its image; `text`, `fold` and `copy` are left out.
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
        label=number("image/class/label"),
        text="",
        filename=text("image/filename"),
        sha256=text("image/key/sha256"),
        fold=-1,
        copy=False,
    )


def features() -> "dict[str, tf.io.FixedLenFeature]":
    """Returns the keys of a record, for `tf.io.parse_single_example`; older records parse too."""
    import tensorflow as tf  # here, because building records needs nothing of it

    text, number = tf.io.FixedLenFeature([], tf.string), tf.io.FixedLenFeature([], tf.int64)
    return {
        "image/encoded": text,
        "image/format": text,
        "image/height": number,
        "image/width": number,
        "image/class/label": number,
        "image/class/text": text,
        "image/filename": text,
        "image/key/sha256": text,
        "image/fold": tf.io.FixedLenFeature([], tf.int64, default_value=-1),
        "image/copy": tf.io.FixedLenFeature([], tf.int64, default_value=0),
    }


def parse(serialized: "tf.Tensor", keys: Iterable[str] | None = None) -> "dict[str, tf.Tensor]":
    """Parses one record (a scalar string) into a scalar tensor for each key.

    Args:
        serialized: the record.
        keys: some of `features()`; None for all.
    """
    import tensorflow as tf

    known = features()
    chosen = known if keys is None else {key: known[key] for key in keys}
    return tf.io.parse_single_example(serialized, chosen)
