"""Evaluates a loaded run: its predictions of labelled images, and their metrics."""

import dataclasses
from typing import Any

import numpy as np

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation import bootstrap, compare, unfamiliar
from tfpipe.evaluation.label_sets import SetPredictions, labeled
from tfpipe.evaluation.metrics import LabeledPredictions
from tfpipe.evaluation.slices import ImageProperties, slices
from tfpipe.evaluation.summary import summary
from tfpipe.input import pipeline
from tfpipe.model import inference
from tfpipe.model.familiarity import NAME
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.records import label_set
from tfpipe.records.manifest import ALL_SPLITS, Manifest
from tfpipe.records.subset import Subset
from tfpipe.runs import (
    loaded_run,
    predictions_file,
    run_calibration,
    trained_images,
)
from tfpipe.runs.loaded_run import LoadedRun
from tfpipe.runs.trained_images import KnownImages

OUT_OF_FOLD = "out-of-fold"
TEST = "test"  # the split that no training uses

_SIDE = 64  # of images that only their brightness is read from


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A run's predictions of at least one image.

    Attributes:
        run: that made them.
        what: the images, in words.
        found: "name" str [n], escaped to one line, "label" int64 [n] or float32 [n, C], "logits"
            float32 [n, 1 or C] and "probabilities" float32 [n, C].
        before: probabilities [n, C] before steps of the calibration, by the name of their log loss.
        images: their attributes, for slices; None if unknown.
        reason: why `images` is None.
        shares: of each class in training, for warnings; None if not comparable.
        described: keys of `metrics.json` that describe the images and the calibration.
        thresholds: of the classes, where images may have several; None for the run's.
    """

    run: LoadedRun
    what: str
    found: dict[str, np.ndarray]
    before: dict[str, np.ndarray]
    images: ImageProperties | None
    reason: str
    shares: tuple[float, ...] | None
    described: dict[str, Any]
    thresholds: tuple[float, ...] | None = None

    @property
    def _used_thresholds(self) -> tuple[float, ...] | None:
        return self.thresholds or self.run.thresholds

    @property
    def predictions(self) -> LabeledPredictions | SetPredictions:
        """The predictions, for `tfpipe.evaluation`."""
        found = self.found
        return labeled(found["probabilities"], found["label"], self._used_thresholds)

    def metrics(self, rounds: int = bootstrap.ROUNDS) -> dict[str, Any]:
        """Return the contents of `metrics.json`: `described`, `summary`, and "slices"."""
        found = summary(
            self.found["probabilities"],
            self.found["label"],
            self.run.classes,
            rounds=rounds,
            before=self.before,
            shares=self.shares,
            thresholds=self._used_thresholds,
        )
        parts = None
        if self.images is None:
            found["reasons"]["slices"] = self.reason
        else:
            parts = slices(self.predictions, self.images, rounds=rounds)
        return self.described | found | {"slices": parts}

    def against(self, other: "Evaluation", rounds: int = bootstrap.ROUNDS) -> dict[str, Any]:
        """Compare with another run's predictions; see `compare.compare`.

        Raises:
            UserError: the images or labels differ.
        """
        first, second = self.run.folder, other.run.folder
        order = compare.order(first, self.found, second, other.found)
        return compare.compare(self.predictions, other.predictions[order], rounds=rounds)


def part_of(run: LoadedRun, records: str = "", split: str = "") -> Subset:
    """Return the records to evaluate a run on.

    Args:
        run: to be evaluated.
        records: their folder; empty for the run's own.
        split: of the records, or "all"; empty for the test split, or without one for the run's
            validation split.

    Raises:
        UserError: the records are missing or damaged, have an unknown class, or are none.
    """
    manifest = loaded_run.open_records(run, records)
    part = Subset(manifest, (split,)) if split else default_part(run, manifest)
    if not part.images:
        raise UserError(
            f"{manifest.folder} has no images of {part.name}: give another `split`, one of"
            f" {', '.join(manifest.splits)} and {ALL_SPLITS}"
        )
    if manifest.classes != run.classes:
        there, known = len(manifest.classes), len(run.classes)
        what = f"{there:,} of the {known:,} classes" if there < known else "the classes, reordered,"
        others = "; its images count as showing none of the others"
        more = others if there < known and manifest.labels == label_set.MANY else ""
        terminal.say(
            f"{manifest.folder} has {what} of {run.folder}: labels are matched by name{more}"
        )
    return part


def default_part(run: LoadedRun, manifest: Manifest) -> Subset:
    """Return the test split of records if there is one that served no training, else validation."""
    used = {split for each in loaded_run.members(run) for split in each.splits}
    if TEST in manifest.splits and TEST not in used and manifest.images(TEST):
        return Subset(manifest, (TEST,))
    return run.validation(manifest)


def on_part(run: LoadedRun, part: Subset, tta: str = "") -> Evaluation:
    """Evaluate a run on records.

    Args:
        run: to be evaluated.
        part: the records.
        tta: test-time views in place of the run's, "none" for none; empty for the run's.

    Raises:
        UserError: the run has no weights, they are damaged, or a view is unknown.
    """
    predictor = run.restore(tta=tta)
    batches = pipeline.eval_batches(
        part,
        image_size=predictor.image_size,
        batch_size=inference.BATCH_SIZE,
        described=True,
    )
    found = inference.predict(predictor, batches, part.images, f"evaluating {part.name}")
    found["name"] = predictions_file.text(found["name"])
    found["label"] = loaded_run.renumbered(run, part.manifest, found["label"])
    before = run_calibration.steps(predictor.calibration, found["logits"], predictor.output)
    del before["log_loss"]
    known = trained_images.count(run, found["example_id"])
    _tell_known(run, part, known)
    return Evaluation(
        run,
        f"{part.name} of {part.manifest.folder}",
        found,
        before,
        found,
        "",
        loaded_run.usual_shares(run, part.manifest),
        {
            "records": str(part.manifest.folder),
            "records_fingerprint": part.manifest.fingerprint,
            "split": part.name,
            "images_trained_on": known and known.trained,
            "images_validated_on": known and known.validated,
            "calibration": predictor.calibration.to_json(),
            **_unfamiliar(predictor, found),
        },
    )


def _unfamiliar(
    predictor: Predictor | EnsemblePredictor, found: dict[str, np.ndarray]
) -> dict[str, Any]:
    if predictor.familiarity is None:
        return {}
    return {NAME: unfamiliar.measure(found[NAME], predictor.familiarity.reject_rate)}


def _tell_known(run: LoadedRun, part: Subset, known: KnownImages | None) -> None:
    """Say how many of the evaluated images a run knows, and what that means."""
    if known is None:
        if not loaded_run.was_trained_on(run, part.manifest):
            terminal.warn(
                f"{run.folder} has no list of the images that it was trained on, as older versions"
                f" wrote none: some of these {part.images:,} may be among them"
            )
    elif known.trained:
        terminal.warn(
            f"{run.folder} was trained on {known.trained:,} of these {part.images:,} images, so its"
            " metrics are too good"
        )
    elif known.validated:
        terminal.say(
            f"{known.validated:,} of these {part.images:,} images chose the best epoch and the"
            f" calibration of {run.folder}, so its metrics are a little too good"
        )
    else:
        terminal.say(f"{run.folder} was trained on none of these {part.images:,} images")


def out_of_fold(run: LoadedRun) -> Evaluation:
    """Evaluate the out-of-fold predictions of a cross-validation.

    Raises:
        UserError: its predictions are missing or damaged.
    """
    found = predictions_file.read(run.predictions_file)
    images, reason = _images(run, found["name"])
    # A cross-validation holds out each image once, so the shares are those of training.
    return Evaluation(
        run,
        f"out-of-fold predictions of {run.folder}",
        found,
        {"log_loss_raw": loaded_run.raw_probabilities(run, found["logits"])},
        images,
        reason,
        None,
        {"records": run.records, "split": OUT_OF_FOLD},
    )


def _images(run: LoadedRun, names: np.ndarray) -> tuple[ImageProperties | None, str]:
    """Return the attributes of the run's images, by name; or None and the reason."""
    try:
        manifest = loaded_run.open_records(run)
    except UserError as error:
        return None, str(error)
    batches = pipeline.eval_batches(
        Subset(manifest, (ALL_SPLITS,)),
        image_size=_SIDE,
        batch_size=inference.BATCH_SIZE,
        described=True,
    )
    columns = inference.gather(batches, manifest.images(), "reading the images")
    columns["name"] = predictions_file.text(columns["name"])
    rows = {name: row for row, name in enumerate(columns["name"])}
    if len(rows) < len(columns["name"]):
        return None, f"{manifest.folder} has several images with one name"
    missing = [name for name in names if name not in rows]
    if missing:
        return None, f"{manifest.folder} has no image {missing[0]}"
    order = np.array([rows[name] for name in names])
    return {key: column[order] for key, column in columns.items()}, ""
