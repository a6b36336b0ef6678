"""Describe a records folder to TensorFlow Datasets, which then reads its shards as they are.

The files are those that TFDS writes beside a data set of its own: `dataset_info.json` has the
splits and the shards, `features.json` the keys of a record and their types, and a text file the
names of the classes. https://www.tensorflow.org/datasets/external_tfrecord
"""

from typing import Any

from tfpipe.core import remote, storage
from tfpipe.core.errors import one_line
from tfpipe.records.label_set import MANY
from tfpipe.records.manifest import Manifest

INFO, FEATURES = "dataset_info.json", "features.json"

IMAGE, LABEL = "image/encoded", "image/class/label"

# TFDS looks for the names of a class label in KEY.labels.txt, with a dot for each slash of the key.
NAMES = "image.class.label.labels.txt"

_PACKAGE = "tensorflow_datasets.core.features"
_TEXT = {"pythonClassName": f"{_PACKAGE}.text_feature.Text", "text": {}}
_NUMBER = {
    "pythonClassName": f"{_PACKAGE}.scalar.Scalar",
    "tensor": {"shape": {}, "dtype": "int64", "encoding": "none"},
}


def save(folder: remote.Path, manifest: Manifest) -> None:
    """Write the files that TFDS needs to read a data set whose images are JPEG or PNG files."""
    storage.write_json(folder / INFO, _info(manifest))
    storage.write_json(folder / FEATURES, _features(manifest))
    with storage.atomic_file(folder / NAMES) as file:
        file.writelines(f"{one_line(name)}\n" for name in manifest.classes)


def _info(manifest: Manifest) -> dict[str, Any]:
    """Return a `DatasetInfo` message of TFDS, as protobuf's JSON has it: 64-bit numbers as text."""
    return {
        "name": "records",
        "version": "1.0.0",
        "description": f"Images of {len(manifest.classes)} classes, built by tfpipe.build_records.",
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
                "numBytes": str(sum(shard.bytes for shard in manifest.shards_of(split))),
                "shardLengths": [str(shard.records) for shard in manifest.shards_of(split)],
            }
            for split in manifest.splits
        ],
        "supervisedKeys": {"tuple": {"items": [{"featureKey": IMAGE}, {"featureKey": LABEL}]}},
    }


def _sequence(feature: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a list of values, of any length."""
    return {
        "pythonClassName": f"{_PACKAGE}.sequence_feature.Sequence",
        "sequence": {"feature": feature, "length": "-1"},
    }


def _features(manifest: Manifest) -> dict[str, Any]:
    """Return TFDS's description of the keys that every record of the data set has."""
    image = {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8"}
    label: dict[str, Any] = {
        "pythonClassName": f"{_PACKAGE}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(len(manifest.classes))},
    }
    text: dict[str, Any] = _TEXT
    if manifest.labels == MANY:
        label, text = _sequence(label), _sequence(text)
    features = {
        IMAGE: {"pythonClassName": f"{_PACKAGE}.image_feature.Image", "image": image},
        LABEL: label,
        "image/class/text": text,
        "image/filename": _TEXT,
        "image/format": _TEXT,
        "image/height": _NUMBER,
        "image/key/sha256": _TEXT,
        "image/width": _NUMBER,
    }
    # Records of no fold, as of a test split, lack the key.
    if manifest.folds and "-1" not in {f for by in manifest.fold_records.values() for f in by}:
        features["image/fold"] = _NUMBER
    return {
        "type": f"{_PACKAGE}.features_dict.FeaturesDict",
        "content": {"features": features},
        "proto_cls": "tensorflow_datasets.FeaturesDict",
    }
