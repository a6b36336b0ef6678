"""Labels as numbers, for training and evaluation: an index, or a multi-hot vector."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfpipe.records import example

if TYPE_CHECKING:
    import tensorflow as tf

_LABEL = "image/class/label"


@dataclasses.dataclass(frozen=True)
class LabelEncoding:
    """How the labels of a data set become numbers.

    The label of an image is the index of its class, int64 []. Where images may have several
    classes, it is float32 [C]: 1 for each class that the image has, 0 for the others.

    Attributes:
        classes: the number of classes, C.
        many: whether an image may have several classes, or none.
    """

    classes: int
    many: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one label."""
        return (self.classes,) if self.many else ()

    @property
    def dtype(self) -> str:
        """The dtype of a label."""
        return "float32" if self.many else "int64"

    def encode(self, examples: Sequence[example.ImageExample]) -> np.ndarray:
        """Return the labels of some examples, [N] or [N, C]."""
        if not self.many:
            return np.array([each.label for each in examples], np.int64)
        found = np.zeros([len(examples), self.classes], np.float32)
        for row, each in zip(found, examples, strict=True):
            row[list(each.labels)] = 1
        return found

    def parsed(self, fields: "Mapping[str, tf.Tensor]") -> "tf.Tensor":
        """Return the label of a record that `example.parse` parsed, [] or [C]."""
        if not self.many:
            return fields[_LABEL]
        import tensorflow as tf

        held = tf.reduce_any(tf.range(self.classes, dtype=tf.int64) == fields[_LABEL][:, None], 0)
        return tf.cast(held, tf.float32)

    def shares(self, labels: "tf.Tensor") -> "tf.Tensor":
        """Return labels [N] or [N, C] as the share of each class, float32 [N, C]."""
        import tensorflow as tf

        return labels if self.many else tf.one_hot(labels, self.classes)
