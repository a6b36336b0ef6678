"""Predictions for labelled images that were not trained on: read from the run, or computed."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.evaluation import label_sets, metrics
from tfpipe.input import pipeline
from tfpipe.model import inference
from tfpipe.records.manifest import Manifest
from tfpipe.reporting.target import ReportTarget
from tfpipe.runs import loaded_run, predictions_file, run_calibration
from tfpipe.training.run_folder import RunFolder

MAX_COMPUTED = 2_000  # images that a report classifies itself

_TRAIN_ON = "run tfpipe.train there again to continue"


@dataclasses.dataclass(frozen=True)
class NamedPredictions:
    """Predictions for labelled images.

    Attributes:
        names: str [n], as in predictions.csv.
        labels: int64 [n], or float32 [n, C] where images may have several classes.
        probabilities: float32 [n, C], calibrated and clipped.
        raw: float32 [n, C], before calibration and clipping.
        thresholds: of the classes, where images may have several; else None.
        note: a remark for the reader; "" if none.
    """

    names: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    raw: np.ndarray
    thresholds: tuple[float, ...] | None = None
    note: str = ""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def many(self) -> bool:
        """Whether an image may have several classes, or none."""
        return self.labels.ndim == 2

    @functools.cached_property
    def labeled(self) -> label_sets.SetPredictions | metrics.LabeledPredictions:
        """The predictions, for `tfpipe.evaluation`."""
        return label_sets.labeled(self.probabilities, self.labels, self.thresholds)

    def label(self, number: int) -> tuple[int, ...]:
        """Return the right classes of an image, one unless it may have several."""
        return tuple(_indices(self.labels[number]))

    def guess(self, number: int) -> tuple[int, ...]:
        """Return the answered classes of an image, one unless it may have several."""
        return tuple(_indices(self.labeled.guess[number]))

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The names and labels, for `compare.order`."""
        return {"name": self.names, "label": self.labels}

    @property
    def guesses(self) -> np.ndarray:
        """The most probable class of each image, int64 [n]."""
        return self.probabilities.argmax(axis=1)

    @property
    def losses(self) -> np.ndarray:
        """The log loss of each image in nats, float64 [n]."""
        return metrics.losses(self.probabilities, self.labels)


def _indices(value: np.ndarray) -> list[int]:
    return np.flatnonzero(value).tolist() if np.ndim(value) else [int(value)]


def text(indices: Sequence[int], classes: Sequence[str]) -> str:
    """Return the names of an image's classes as one text."""
    return "|".join(classes[index] for index in indices) or "(none)"


def load(target: ReportTarget, manifest: Manifest | None) -> NamedPredictions:
    """Return the predictions that the target is evaluated by.

    Reads predictions.csv. For a run without it, classifies up to `MAX_COMPUTED` images.

    Args:
        target: the run or ensemble.
        manifest: of its records; None if they are not available.

    Raises:
        UserError: there are none; the message names the command that makes them.
    """
    trained = target.trained
    if trained is None:
        raise UserError(f"it is not finished: {_TRAIN_ON}")
    is_run, path = isinstance(trained, RunFolder), trained.predictions_file
    if path.is_file() and (not is_run or run_calibration.is_current(trained)):
        return _from_logits(trained, predictions_file.read(path))
    if not is_run:
        raise UserError(f"{path} is missing: run the command that made it")
    if not trained.best_weights.is_file():
        raise UserError(f"it has no trained weights yet: {_TRAIN_ON}")
    if manifest is None:
        raise UserError(f"{path} and the records are missing: give `records`")
    loaded_run.labels_in(trained, manifest)  # raises UserError, before the images are classified
    part = trained.validation(manifest)
    if part.images > MAX_COMPUTED:
        raise UserError(f"{part.images:,} images are not classified yet: {_TRAIN_ON}")
    predictor = trained.uncalibrated()
    batches = pipeline.eval_batches(
        part, image_size=predictor.image_size, batch_size=inference.BATCH_SIZE
    )
    found = inference.predict(predictor, batches, part.images, f"classifying {part.name}")
    names = predictions_file.text(found["name"])
    return _from_logits(
        trained,
        found | {"name": names, "label": loaded_run.renumbered(trained, manifest, found["label"])},
        "The training has not ended: these are uncalibrated predictions of its best weights so"
        " far.",
    )


def _from_logits(
    run: loaded_run.LoadedRun, found: dict[str, np.ndarray], note: str = ""
) -> NamedPredictions:
    raw = loaded_run.raw_probabilities(run, found["logits"])
    columns = found["name"], found["label"], found["probabilities"]
    return NamedPredictions(*columns, raw, run.thresholds, note)
