"""Read the records behind predictions. Only the shown ones stay in memory."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfpipe.core.errors import UserError, one_line
from tfpipe.images import preprocess
from tfpipe.input import pipeline, tuning
from tfpipe.records.example import Fields
from tfpipe.records.manifest import ALL_SPLITS, Manifest
from tfpipe.records.part import Part
from tfpipe.runs.trained import Trained
from tfpipe.training import resolve
from tfpipe.training.run import Run

BATCH_SIZE = 32

_KEYS = ("image/encoded", "image/format", "image/height", "image/width")  # of `decode_record`
_OTHER_RECORDS = "these are not the records that the run was validated on"


def validation_parts(trained: Trained, manifest: Manifest) -> list[Part]:
    """Return the records behind predictions.csv, in its order."""
    if isinstance(trained, Run):
        return [trained.validation(manifest)]
    if trained.cross_validated:
        return [member.validation(manifest) for member in trained.members]
    return validation_parts(trained.members[0], manifest)


def training_part(trained: Trained, manifest: Manifest) -> Part:
    """Return the training records; those of a cross-validation are all records."""
    if isinstance(trained, Run):
        return resolve.parts(trained.config, manifest)[0]
    if trained.out_of_fold:
        return Part(manifest, (ALL_SPLITS,))
    return training_part(trained.members[0], manifest)


def read(parts: Sequence[Part], chosen: Collection[int]) -> dict[int, Fields]:
    """Return the chosen records by their number; numbers count originals through all parts.

    Raises:
        UserError: a shard is damaged, or there are fewer records.
    """
    wanted, last = set(chosen), max(chosen, default=-1)
    records = itertools.chain.from_iterable(part.records() for part in parts)
    numbered = enumerate(fields for fields in records if not fields.copy)
    found = {
        number: fields
        for number, fields in itertools.islice(numbered, last + 1)
        if number in wanted
    }
    if len(found) < len(wanted):
        raise UserError(
            f"{parts[0].manifest.folder} has fewer images than predictions: {_OTHER_RECORDS}"
        )
    return found


def check(fields: Fields, name: str, label: int, where: object) -> None:
    """Raise UserError unless a record is the image that a prediction belongs to."""
    if (one_line(fields.filename), fields.label) != (name, label):
        raise UserError(
            f"{where} has {one_line(fields.filename)} where the predictions have {name}:"
            f" {_OTHER_RECORDS}"
        )


def sample(part: Part, most: int) -> Iterator[Fields]:
    """Yield the first records without copies: a random sample, because records are shuffled."""
    return itertools.islice((fields for fields in part.records() if not fields.copy), most)


def batches(records: Iterable[Fields], size: int) -> Iterator[tuple[tf.Tensor, int]]:
    """Decode records as evaluation does.

    Args:
        records: read when needed.
        size: the side of the model's input in pixels, S.

    Yields:
        uint8 [BATCH_SIZE, S, S, 3], and the number of its images; the other rows are padding.

    Raises:
        UserError: a record cannot be read, or its image cannot be decoded.
    """
    failures: list[UserError] = []

    def read_features() -> Iterator[dict[str, object]]:
        try:
            for fields in records:
                yield _features(fields)
        except UserError as error:  # TensorFlow would turn it into its own error
            failures.append(error)

    @tf.autograph.experimental.do_not_convert
    def decode(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        weight = tf.constant(1, tf.int64)
        return {"image": preprocess.decode_record(features, size), "weight": weight}

    text, number = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)
    signature = dict(zip(_KEYS, (text, text, number, number), strict=True))
    dataset = tf.data.Dataset.from_generator(read_features, output_signature=signature)
    dataset = dataset.map(decode, tuning.cores(), deterministic=True)
    try:
        for batch in pipeline.padded_batches(dataset, BATCH_SIZE):
            yield batch["image"], int(tf.reduce_sum(batch["weight"]))
    except tf.errors.InvalidArgumentError as error:
        raise UserError(f"an image cannot be decoded ({one_line(error.message)[:200]})") from None
    if failures:
        raise failures[0]


def decoded(fields: Fields, size: int) -> np.ndarray:
    """Return the model's input for a record: uint8 [size, size, 3]."""
    features = {key: tf.constant(value) for key, value in _features(fields).items()}
    return preprocess.decode_record(features, size).numpy()


def _features(fields: Fields) -> dict[str, object]:
    values = fields.encoded, fields.format, np.int64(fields.height), np.int64(fields.width)
    return dict(zip(_KEYS, values, strict=True))
