"""Read the records behind predictions. Only the shown ones stay in memory."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfpipe.core.errors import UserError, one_line
from tfpipe.input import decoded_batches
from tfpipe.records.example import ImageExample
from tfpipe.records.manifest import ALL_SPLITS, Manifest
from tfpipe.records.subset import Subset
from tfpipe.runs.loaded_run import LoadedRun
from tfpipe.training import resolve
from tfpipe.training.run_folder import RunFolder

BATCH_SIZE = 32

_OTHER_RECORDS = "these are not the records that the run was validated on"


def validation_parts(trained: LoadedRun, manifest: Manifest) -> list[Subset]:
    """Return the records behind predictions.csv, in its order."""
    if isinstance(trained, RunFolder):
        return [trained.validation(manifest)]
    if trained.cross_validated:
        return [member.validation(manifest) for member in trained.members]
    return validation_parts(trained.members[0], manifest)


def training_part(trained: LoadedRun, manifest: Manifest) -> Subset:
    """Return the training records; those of a cross-validation are all records."""
    if isinstance(trained, RunFolder):
        return resolve.parts(trained.config, manifest)[0]
    if trained.out_of_fold:
        return Subset(manifest, (ALL_SPLITS,))
    return training_part(trained.members[0], manifest)


def read(parts: Sequence[Subset], chosen: Collection[int]) -> dict[int, ImageExample]:
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


def check(fields: ImageExample, name: str, label: tuple[int, ...], where: object) -> None:
    """Raise UserError unless a record is the image that a prediction belongs to."""
    if (one_line(fields.filename), fields.labels) != (name, label):
        raise UserError(
            f"{where} has {one_line(fields.filename)} where the predictions have {name}:"
            f" {_OTHER_RECORDS}"
        )


def sample(part: Subset, most: int) -> Iterator[ImageExample]:
    """Yield the first records without copies: a random sample, because records are shuffled."""
    return itertools.islice((fields for fields in part.records() if not fields.copy), most)


def batches(records: Iterable[ImageExample], size: int) -> Iterator[tuple[tf.Tensor, int]]:
    """Decode records in batches of `BATCH_SIZE`; see `decoded_batches.batches`."""
    return decoded_batches.batches(map(_image, records), size, BATCH_SIZE)


def decoded(fields: ImageExample, size: int) -> np.ndarray:
    """Return the model's input for a record: uint8 [size, size, 3]."""
    return decoded_batches.decode(_image(fields), size).numpy()


def _image(fields: ImageExample) -> decoded_batches.Image:
    return fields.encoded, fields.format, fields.height, fields.width
