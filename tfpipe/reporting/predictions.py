"""What a classifier answers for images that it was not trained on: read, or computed if need be."""

import dataclasses

import numpy as np

from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.evaluation import metrics
from tfpipe.input import pipeline
from tfpipe.model import inference
from tfpipe.model.calibration import Calibration
from tfpipe.model.classifier import SIGMOID, SOFTMAX
from tfpipe.records.manifest import Manifest
from tfpipe.reporting.subject import Subject
from tfpipe.runs import predictions_file, run_calibration
from tfpipe.training.run import Run

MAX_COMPUTED = 2_000  # images that a report classifies itself; more are for the command to do


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Answers for labelled images.

    Attributes:
        names: str [n], as in predictions.csv.
        labels: int64 [n].
        probabilities: float32 [n, C], as the classifier gives them.
        raw: float32 [n, C], before calibration and clipping.
        note: what a reader has to know of them besides; "" if nothing.
    """

    names: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    raw: np.ndarray
    note: str = ""

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.labels)

    @property
    def guesses(self) -> np.ndarray:
        """The most probable class of each image, int64 [n]."""
        return self.probabilities.argmax(axis=1)

    @property
    def losses(self) -> np.ndarray:
        """The log loss of each image in nats, float64 [n]."""
        return metrics.losses(self.probabilities, self.labels)


def find(subject: Subject, manifest: Manifest | None) -> Predictions:
    """Returns the answers that the subject is judged by.

    Args:
        subject: what is reported.
        manifest: of its records; None if they are not there.

    Raises:
        UserError: there are none, and they cannot be computed here; it says which command does.
    """
    trained = subject.trained
    if trained is None:
        raise UserError("it is not finished: run tfpipe.train there again, which goes on with it")
    if trained.predictions_file.is_file() and (
        not isinstance(trained, Run) or run_calibration.is_current(trained)
    ):
        return _of(predictions_file.read(trained.predictions_file))
    if not isinstance(trained, Run):
        raise UserError(f"{trained.predictions_file} is missing: run the command that made it")
    if not trained.best_weights.is_file():
        raise UserError(
            "it has no trained weights yet: run tfpipe.train there again, which goes on with it"
        )
    if manifest is None:
        raise UserError(f"{trained.predictions_file} is missing, and so are the records: give them")
    part = trained.validation(manifest)
    if part.images > MAX_COMPUTED:
        raise UserError(
            f"{part.images:,} images are not classified yet: run tfpipe.train there to its end"
        )
    predictor = trained.uncalibrated()
    batches = pipeline.eval_batches(
        part, image_size=predictor.image_size, batch_size=inference.BATCH_SIZE
    )
    found = inference.predict(predictor, batches, part.images, f"classifying {part.name}")
    return _of(
        found | {"name": np.array([_text(name) for name in found["name"]])},
        "The training has not ended: these are the answers of its best weights so far, not"
        " calibrated.",
    )


def usable(subject: Subject, manifest: Manifest | None) -> Predictions | str:
    """Does as `find`, but returns as text why there are none, after a warning."""
    try:
        return find(subject, manifest)
    except UserError as error:
        terminal.warn(f"{subject.folder} has no result: {error}")
        return str(error)


def _of(found: dict[str, np.ndarray], note: str = "") -> Predictions:
    output = SIGMOID if found["logits"].shape[1] == 1 else SOFTMAX
    raw = Calibration().apply(found["logits"], output).numpy()
    return Predictions(found["name"], found["label"], found["probabilities"], raw, note)


def _text(name: bytes) -> str:
    """Returns a name as predictions.csv has it."""
    return one_line(name.decode("utf-8", "surrogateescape"))
