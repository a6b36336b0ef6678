"""Features of some records, as batches for the trained layers."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.input import pipeline
from tfpipe.records.label_encoding import LabelEncoding
from tfpipe.records.subset import Subset
from tfpipe.training.feature_cache import Column

# Fields of the records that an entry of the cache keeps beside the features.
_FIELDS = ("label", "example_id", "fold", "copy")


def fields_of(encoding: LabelEncoding) -> list[Column]:
    """Return the columns of these fields: the label as it is encoded, the others int64 []."""
    label, *others = _FIELDS
    return [
        Column(label, encoding.shape, encoding.dtype),
        *(Column(name, (), "int64") for name in others),
    ]


@dataclasses.dataclass(frozen=True)
class FeatureDataset:
    """Some rows of an entry of the cache, one for each record."""

    columns: list[Column]  # of the entry; those of `fields_of` are the last
    arrays: list[np.ndarray]  # of each column, as stored, with all rows of the entry
    rows: np.ndarray  # indices of the rows in use

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray:
        """Labels of the rows, int64 [N]."""
        return self.arrays[-len(_FIELDS)][self.rows]

    def only(self, part: Subset) -> "FeatureDataset":
        """Return the rows of the folds that a part of the records holds."""
        fold, copy = self.arrays[-2], self.arrays[-1]
        chosen = np.broadcast_to(part.holds(fold, copy), fold.shape)
        return dataclasses.replace(self, rows=np.flatnonzero(chosen))

    def without_copies(self) -> "FeatureDataset":
        """Return the rows of images, without transformed copies of them."""
        return dataclasses.replace(self, rows=self.rows[self.arrays[-1][self.rows] == 0])

    def batches(self, size: int, part: slice = slice(None)) -> Iterator[dict[str, Any]]:
        """Yield all rows in their order, in batches like those of `batch`."""
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))), size, part)

    def batch(
        self, indices: np.ndarray, size: int | None = None, part: slice = slice(None)
    ) -> dict[str, Any]:
        """Return rows as a batch.

        Args:
            indices: of the rows.
            size: pads the batch to this size, as `pipeline.pad_batch` does; None for no padding.
            part: rows of the padded batch to return.

        Returns:
            "features", a list of tensors [B, ...]; each of `fields_of`; and
            "sample_weight", float32 [B], 1, and 0 for padding.
        """
        chosen, weight = pipeline.pad_batch(self.rows[indices], size or len(indices))
        tensors = {
            column.name: column.tensor(np.take(array, chosen[part], axis=0))
            for column, array in zip(self.columns, self.arrays, strict=True)
        }
        fields = {name: tensors.pop(name) for name in _FIELDS}
        return {
            "features": list(tensors.values()),
            **fields,
            "sample_weight": tf.constant(weight[part]),
        }
