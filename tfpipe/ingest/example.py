"""One image as a tf.train.Example, and back; `records/README.md` lists the keys."""

import tensorflow as tf

from tfpipe.ingest import scan

FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/format": tf.io.FixedLenFeature([], tf.string),
    "image/height": tf.io.FixedLenFeature([], tf.int64),
    "image/width": tf.io.FixedLenFeature([], tf.int64),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    "image/class/text": tf.io.FixedLenFeature([], tf.string),
    "image/filename": tf.io.FixedLenFeature([], tf.string),
    "image/key/sha256": tf.io.FixedLenFeature([], tf.string),
}


def serialize(image: scan.Image, *, label: int, text: str, filename: str) -> bytes:
    """Returns a record.

    Args:
        image: the picture.
        label: the index of its class in the manifest's `classes`.
        text: the name of its class.
        filename: its path relative to its source.
    """
    features = {
        "image/encoded": _bytes(image.encoded),
        "image/format": _bytes(image.format),
        "image/height": _int64(image.height),
        "image/width": _int64(image.width),
        "image/class/label": _int64(label),
        "image/class/text": _bytes(text),
        "image/filename": _bytes(filename),
        "image/key/sha256": _bytes(image.sha256),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    # Without this a protobuf map is written in any order, another in every process.
    return example.SerializeToString(deterministic=True)


def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses one record (a scalar string) into a scalar tensor for each key of `FEATURES`."""
    return tf.io.parse_single_example(serialized, FEATURES)


def _bytes(value: bytes | str) -> tf.train.Feature:
    if isinstance(value, str):
        # A file name that is not UTF-8 keeps its bytes.
        value = value.encode("utf-8", "surrogateescape")
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int64(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
