"""The teacher of a training: a run whose predictions are mixed into the labels.

This is distillation (Hinton et al. 2015, arXiv:1503.02531) from probabilities that are computed
once. Those of a cross-validation are out of fold, so a wrong label has not taught its own image.
"""

import dataclasses
import os
import pathlib

import numpy as np

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.input.stateless_random import example_id
from tfpipe.records.label_encoding import LabelEncoding
from tfpipe.records.subset import Subset
from tfpipe.runs import crossval, predictions_file
from tfpipe.training.train_config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Probabilities of training images.

    Attributes:
        ids: of the images that have some, int64 [n], sorted.
        probabilities: float32 [n, C].
        weight: their part of an image's target, 0 to 1; the rest is its label.
        encoding: of the labels.
    """

    ids: np.ndarray
    probabilities: np.ndarray
    weight: float
    encoding: LabelEncoding

    def targets(self, ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the targets of images: label and probabilities mixed, else the label alone.

        Args:
            ids: of the images, int64 [B].
            labels: int64 [B], or float32 [B, C] where images may have several classes.

        Returns:
            float32 [B, C].
        """
        shares = labels
        if not self.encoding.many:
            shares = labels[:, np.newaxis] == np.arange(self.encoding.classes)
        place = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        weight = np.where(self.ids[place] == ids, self.weight, 0)[:, None]
        return np.float32((1 - weight) * shares + weight * self.probabilities[place])


def check(config: TrainConfig, classes: tuple[str, ...]) -> None:
    """Raise UserError if the option `teacher` does not name predictions of these classes."""
    if not config.teacher:
        return
    path = _file(config.teacher)
    try:
        found = predictions_file.classes(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"`teacher={config.teacher}`: {path} cannot be read ({error}): name a finished"
            " cross-validation, or a file of `tfpipe evaluate --predictions`"
        ) from None
    if found != classes:
        raise UserError(
            f"`teacher={config.teacher}` knows the classes {', '.join(found) or '(none)'}, the"
            f" records have {', '.join(classes)}: give a run of the same classes"
        )


def load(config: TrainConfig, part: Subset) -> Teacher | None:
    """Return the teacher of a run's training images, or None without the option `teacher`.

    Raises:
        UserError: it knows none of the images.
    """
    if not config.teacher:
        return None
    found = predictions_file.read(_file(config.teacher))
    rows = {name: row for row, name in enumerate(found["name"].tolist())}
    ids, taken, images = [], [], 0
    for record in part.records():
        images += 1
        row = rows.get(predictions_file.text([record.filename])[0])
        if row is not None:
            ids.append(example_id(record.sha256))
            taken.append(row)
    if not taken:
        raise UserError(
            f"`teacher={config.teacher}` has predictions of none of the {images:,} training images,"
            " by their names: name a cross-validation of the same images, or a file of"
            " `tfpipe evaluate --predictions`"
        )
    rest = f"; the other {images - len(taken):,} have their labels" if images > len(taken) else ""
    terminal.say(
        f"teacher {config.teacher}: predictions of {len(taken):,} training images, with weight"
        f" {config.teacher_weight:g}{rest}"
    )
    order = np.argsort(ids)
    probabilities = found["probabilities"][np.array(taken)[order]]
    encoding = part.manifest.encoding
    return Teacher(np.array(ids)[order], probabilities, config.teacher_weight, encoding)


def _file(teacher: str) -> str | pathlib.Path:
    return pathlib.Path(teacher, crossval.PREDICTIONS) if os.path.isdir(teacher) else teacher
