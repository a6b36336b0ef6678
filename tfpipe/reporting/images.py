"""The records behind predictions: only those that are shown are kept, however many there are."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import PIL.Image
import tensorflow as tf

from tfpipe.core.errors import UserError, one_line
from tfpipe.images import preprocess
from tfpipe.input import pipeline, tuning
from tfpipe.page import contact_sheet
from tfpipe.records.example import Fields
from tfpipe.records.manifest import ALL_SPLITS, Manifest
from tfpipe.records.part import Part
from tfpipe.runs.trained import Trained
from tfpipe.training import resolve
from tfpipe.training.run import Run

BATCH_SIZE = 32

# Of a record, as `ingest.example.parse` names what `preprocess.decode_record` takes.
_KEYS = ("image/encoded", "image/format", "image/height", "image/width")


def predicted(trained: Trained, manifest: Manifest) -> list[Part]:
    """Returns the records that predictions.csv is of, in its order."""
    if isinstance(trained, Run):
        return [trained.validation(manifest)]
    if trained.cross_validated:
        return [member.validation(manifest) for member in trained.members]
    return predicted(trained.members[0], manifest)


def learned(trained: Trained, manifest: Manifest) -> Part:
    """Returns the records that were trained on; of a cross-validation all."""
    if isinstance(trained, Run):
        return resolve.parts(trained.config, manifest)[0]
    if trained.out_of_fold:
        return Part(manifest, (ALL_SPLITS,))
    return learned(trained.members[0], manifest)


def read(parts: Sequence[Part], chosen: Collection[int]) -> dict[int, Fields]:
    """Returns records without copies by their number, counted through the parts.

    Raises:
        UserError: a shard is damaged, or there are fewer records.
    """
    wanted, last = set(chosen), max(chosen, default=-1)
    records = itertools.chain.from_iterable(part.records() for part in parts)
    numbered = enumerate(fields for fields in records if not fields.copy)
    found = {}
    for number, fields in itertools.islice(numbered, last + 1):
        if number in wanted:
            found[number] = fields
    if len(found) < len(wanted):
        raise UserError(
            f"{parts[0].manifest.folder} has fewer images than there are predictions: it is not"
            " what the run was validated on"
        )
    return found


def check(fields: Fields, name: str, label: int, where: object) -> None:
    """Raises UserError unless a record is the image that a prediction is of."""
    if (one_line(fields.filename), fields.label) != (name, label):
        raise UserError(
            f"{where} has {one_line(fields.filename)} where the predictions have {name}: it is not"
            " what the run was validated on"
        )


def sample(part: Part, most: int) -> Iterator[Fields]:
    """Yields the first records without copies: a random sample, as records are shuffled."""
    return itertools.islice((fields for fields in part.records() if not fields.copy), most)


def batches(records: Iterable[Fields], size: int) -> Iterator[tuple[tf.Tensor, int]]:
    """Decodes records as evaluation does, several at a time.

    Args:
        records: read as they are needed.
        size: the side of the model's input in pixels, S.

    Yields:
        uint8 [BATCH_SIZE, S, S, 3], and how many of them are images; the last ones may be filling.

    Raises:
        UserError: a record cannot be read, or its image not be decoded.
    """
    failures: list[UserError] = []

    def read() -> Iterator[dict[str, object]]:
        try:
            for fields in records:
                yield _features(fields)
        except UserError as error:  # which would come out of TensorFlow as its own
            failures.append(error)

    @tf.autograph.experimental.do_not_convert
    def decode(fields: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        weight = tf.constant(1, tf.int64)
        return {"image": preprocess.decode_record(fields, size), "sample_weight": weight}

    text, number = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)
    signature = dict(zip(_KEYS, (text, text, number, number), strict=True))
    dataset = tf.data.Dataset.from_generator(read, output_signature=signature)
    dataset = dataset.map(decode, tuning.cores(), deterministic=True)
    try:
        for batch in pipeline.padded_batches(dataset, BATCH_SIZE):
            yield batch["image"], int(tf.reduce_sum(batch["sample_weight"]))
    except tf.errors.InvalidArgumentError as error:
        raise UserError(f"an image cannot be decoded ({one_line(error.message)[:200]})") from None
    if failures:
        raise failures[0]


def thumbnail(fields: Fields, side: int) -> PIL.Image.Image:
    """Returns the image of a record in RGB, its longer side at most `side` pixels.

    Raises:
        UserError: it cannot be decoded.
    """
    try:
        return contact_sheet.thumbnail(fields, side)
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise UserError(f"{one_line(fields.filename)} cannot be decoded ({error})") from None


def decoded(fields: Fields, size: int) -> np.ndarray:
    """Returns what a model with this input gets of a record: uint8 [size, size, 3]."""
    return preprocess.decode_record(
        {key: tf.constant(value) for key, value in _features(fields).items()}, size
    ).numpy()


def _features(fields: Fields) -> dict[str, object]:
    values = fields.encoded, fields.format, np.int64(fields.height), np.int64(fields.width)
    return dict(zip(_KEYS, values, strict=True))
